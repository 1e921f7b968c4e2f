"""A private Redis for chaos, and questions to it that are answered, or not, within a moment.

Each question has a connection and a thread of its own and goes past every proxy: what a fault has done to the server
must not depend on what another has done to the network. The faults are in `redis_faults`.
"""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.errors import HarnessError
from queue_trio.embedded import open_embedded_redis
from queue_trio.errors import QueueTrioError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis, Fsync
    from queue_trio.server_binary import ServerBinary

ASK_S: Final = 2.0
"""For one command of ours."""
PROBE_S: Final = 0.25
"""A server that does not answer a probe within this is stalled."""
HEAL_S: Final = 15.0
POLL_S: Final = 0.01


class ChaosRedis:
    """Made by `open_chaos_redis`. `background`: for calls that are not waited for; it ends with the block."""

    def __init__(self, server: EmbeddedRedis, background: trio.Nursery) -> None:
        self.server = server
        self.background = background

    @property
    def address(self) -> str:
        """HOST:PORT, for a proxy in front of it."""
        return f"127.0.0.1:{self.server.port}"

    @property
    def url(self) -> str:
        """Straight to it, past every proxy."""
        return f"unix://{self.server.unix_socket}"

    @property
    def folder(self) -> Path:
        """With its append-only file, which tells in which order things really happened."""
        return self.server.folder

    async def ask(self, *command: str, timeout_s: float = ASK_S) -> Any:
        """One command, sent once, on a connection of its own. Raises redis.RedisError."""
        work = functools.partial(_ask, self.server.unix_socket, command, timeout_s)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def info(self, section: str) -> dict[str, Any]:
        """INFO of one section. Raises redis.RedisError."""
        found = await self.ask("INFO", section)
        assert isinstance(found, dict)
        return found

    async def config(self, name: str, value: str) -> str:
        """CONFIG SET, and what CONFIG GET says then. Raises HarnessError if that is something else."""
        try:
            await self.ask("CONFIG", "SET", name, value)
            told = await self.ask("CONFIG", "GET", name)
        except redis.RedisError as error:
            raise HarnessError(f"redis: {name} cannot be set to {value!r}: {error}") from error
        if told.get(name) != value:
            raise HarnessError(f"redis: {name} was set to {value!r}, and is {told.get(name)!r}")
        return f"CONFIG GET {name} says {value!r}"

    async def refusal(self, *command: str) -> str:
        """The error that `command` gets now, or "" if it gets none; "no answer" after PROBE_S. Raises nothing else."""
        try:
            await self.ask(*command, timeout_s=PROBE_S)
        except redis.TimeoutError:
            return "no answer"
        except redis.RedisError as error:
            return str(error) or type(error).__name__
        return ""

    async def until_refused(self, word: str, *command: str) -> str:
        """Wait until `command` is refused with an error that has `word` in it. Raises HarnessError."""
        told = ""
        with trio.move_on_after(HEAL_S):
            while word not in (told := await self.refusal(*command)):  # noqa: ASYNC110, a server is asked
                await trio.sleep(POLL_S)
            return (
                f"{command[0]} is refused: {told}" if told != "no answer" else f"{command[0]} gets no answer"
            )
        raise HarnessError(
            f"redis: {command[0]} should be refused with {word!r}, and got {told or 'an answer'!r}"
        )

    async def until_accepted(self, *command: str) -> str:
        """Wait until `command` gets an answer. Raises HarnessError."""
        told = "it was not asked"
        with trio.move_on_after(HEAL_S):
            while told := await self.refusal(*command):  # noqa: ASYNC110, a server is asked
                await trio.sleep(POLL_S)
            return f"{command[0]} is accepted"
        raise HarnessError(f"redis: {command[0]} is still refused {HEAL_S:g} s after the heal: {told}")

    async def command(self, *command: str) -> Any:
        """As `ask`, but raises HarnessError."""
        try:
            return await self.ask(*command)
        except redis.RedisError as error:
            raise HarnessError(f"redis: {' '.join(command[:2])}: {error}") from error

    async def bounded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something to the process, though we be cancelled; the server's own deadlines bound it."""
        with trio.CancelScope(shield=True):
            try:
                await work()
            except QueueTrioError as error:
                raise HarnessError(f"redis: {error}") from error


def open_client(unix_socket: Path, timeout_s: float) -> redis.Redis:
    """A plain client that tries once. The caller closes it."""
    return redis.Redis(
        unix_socket_path=str(unix_socket),
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, ASK_S),
        retry=Retry(NoBackoff(), retries=0),
    )


def _ask(unix_socket: Path, command: tuple[str, ...], timeout_s: float) -> Any:
    client = open_client(unix_socket, timeout_s)
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


@asynccontextmanager
async def open_chaos_redis(
    *, server: ServerBinary | None = None, appendfsync: Fsync = "always", databases: int = 16
) -> AsyncIterator[ChaosRedis]:
    """Run a server inside the block, on a port and a unix socket; nothing is left after it. Raises ConfigError."""
    # No rewrite: the append-only file is read afterwards, from its beginning.
    settings = {"databases": str(databases), "rdbcompression": "no", "auto-aof-rewrite-percentage": "0"}
    if server is None or server.version.product == "valkey" or server.version.major >= 7:
        settings["enable-debug-command"] = "yes"  # DEBUG SLEEP; before 7 it is always allowed
    async with open_embedded_redis(
        server=server, port=True, appendfsync=appendfsync, settings=settings
    ) as embedded:
        async with trio.open_nursery() as background:
            yield ChaosRedis(embedded, background)
            background.cancel_scope.cancel()
        # Whatever state a fault has left it in: its data is nobody's any more.
        with trio.CancelScope(shield=True):
            await embedded.kill()
