"""One look at Redis for one command: connects or fails at once, and gives up soon if Redis goes away.

Everything here is asked for by operators, often because something is wrong: no command may hang.
"""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from queue_trio.cli.errors import say
from queue_trio.cli.state import configure_logs, read_settings
from queue_trio.errors import NotSent, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import trio
    import typer

    from queue_trio.core.job import Lane
    from queue_trio.core.operations import Operations
    from queue_trio.core.settings import Settings
    from queue_trio.redis.client import Client
    from queue_trio.redis.keys import LaneKeys
    from queue_trio.redis.store import RedisStore

T = TypeVar("T")

PATIENCE_S: Final = 3.0
"""A command that reached Redis, and then does not any more, gives up after so long."""


@dataclass(frozen=True)
class Reach:
    """What a command has of Redis while it runs."""

    client: Client
    prefix: str

    @cached_property
    def store(self) -> RedisStore:
        from queue_trio.redis.store import RedisStore

        return RedisStore(self.client, prefix=self.prefix)

    @cached_property
    def operations(self) -> Operations:
        from queue_trio.redis.operations import RedisOperations

        return RedisOperations(self.store)

    def keys(self, lane: Lane) -> LaneKeys:
        from queue_trio.redis.keys import LaneKeys

        return LaneKeys(lane, self.prefix)

    async def now_ms(self) -> int:
        """The server's clock, which all times in Redis are from."""
        seconds, micros = await self.client.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def lanes(self, queue: str | None) -> list[Lane]:
        """The lanes of `queue`, or all. Raises UsageError for a queue that has none."""
        from difflib import get_close_matches

        lanes = await self.store.lanes()
        if queue is None:
            return lanes
        found = [lane for lane in lanes if lane.queue == queue]
        if not found:
            known = sorted({lane.queue for lane in lanes})
            close = get_close_matches(queue, known, n=1)
            if close:
                hint = f"did you mean {close[0]}?"
            else:
                hint = f"there are {', '.join(known)}" if known else "there are no queues yet"
            raise UsageError(f"queue {queue!r} never had a job or a worker: {hint}")
        return found


def prepare(ctx: typer.Context) -> Settings:
    """The settings of this run, with the log going where they say. Raises ConfigError."""
    settings = read_settings(ctx)
    configure_logs(settings)
    return settings


def ask(settings: Settings, question: Callable[[Reach], Awaitable[T]]) -> T:
    """What `question` finds out. Raises at once if Redis cannot be reached, and soon if it goes away."""
    import trio

    async def run() -> T:
        async with reach_redis(settings) as redis:
            return await question(redis)

    return trio.run(run)


@asynccontextmanager
async def reach_redis(settings: Settings) -> AsyncIterator[Reach]:
    """Redis, for as long as it is there. Raises NotSent, maybe in a group, if it is away for PATIENCE_S."""
    import trio

    from queue_trio.cli.enqueue import reach

    async with open_client(settings) as client:
        await reach(client.connect)
        redis = Reach(client, settings.redis.prefix)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_give_up, client)
                yield redis
                nursery.cancel_scope.cancel()
        finally:
            await redis.store.aclose()


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """A client that is closed at the end."""
    from queue_trio.redis.client import Client

    client = Client.from_settings(settings.redis, name="queue-trio:admin")
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def stop_on_signals() -> AsyncIterator[trio.Event]:
    """Yields what the first Ctrl-C or SIGTERM sets, so that a batch under way can end. A second one interrupts."""
    import trio

    stop = trio.Event()

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            async for _ in received:
                if stop.is_set():
                    raise KeyboardInterrupt
                stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        yield stop
        nursery.cancel_scope.cancel()


async def _give_up(client: Client) -> None:
    """Raise once Redis has been gone for too long: the calls themselves would wait for ever, as a worker's must."""
    import trio

    while True:
        await trio.sleep(PATIENCE_S / 10)
        since = client.down_since
        if since is not None and trio.current_time() - since > PATIENCE_S:
            raise NotSent(f"Redis went away and did not come back within {PATIENCE_S:g} s")


def split_lane(name: str) -> tuple[str, int]:
    """The queue and the partition of a lane's name."""
    queue, _, partition = name.rpartition(".")
    return queue, int(partition)


def queue_name(name: str) -> str:
    """How a lane is called in text: with its partition only where there are several."""
    return name.removesuffix(".0")


def where_text(settings: Settings) -> str:
    """The address of Redis and the prefix, without a password."""
    from queue_trio.redis.endpoint import parse_url

    where = parse_url(settings.redis.url.get_secret_value()).display
    return f"{where} with the prefix {settings.redis.prefix!r}"


def say_empty(settings: Settings) -> None:
    """That there is nothing at all, and where we looked."""
    say(f"no queues yet: no job or worker ever came to {where_text(settings)}")
