"""A worker under test: on a store in memory and Trio's mock clock, or on a real Redis."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from queue_trio.app import App
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.memory.store import MemoryStore
from queue_trio.runtime.worker import Worker
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import Claim, Outcome
    from queue_trio.core.store import Renewed, Store

LANE = Lane()


def memory_store() -> MemoryStore:
    """A store whose time is Trio's."""
    return MemoryStore(lambda: round(trio.current_time() * 1000))


def make_app(redis: dict[str, Any] | None = None, **worker: Any) -> App:
    """An app with settings for its worker, and for Redis if one is used."""
    return App("test", settings=Settings(redis=RedisSettings(**redis or {}), worker=WorkerSettings(**worker)))


@asynccontextmanager
async def working(app: App, store: Store | None = None, *, seed: int = 0) -> AsyncIterator[Worker]:
    """A worker that runs inside the block, and is drained at its end."""
    worker = Worker(app, store=store, rng=random.Random(seed))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        try:
            yield worker
        except BaseException:
            worker.cancel()
            raise
        worker.drain()


async def at_rest(store: Store, ended: int, *, lane: Lane = LANE, seconds_max: float = 100.0) -> None:
    """Wait until so many jobs are completed or dead, and none is left."""

    async def is_so() -> Any:
        stats = await store.stats(lane)
        return stats.completed + stats.dead == ended and stats.records == stats.dead

    await eventually(is_so, seconds_max, what=f"{ended} jobs completed or dead")


async def assert_audit(store: Store, lane: Lane = LANE) -> None:
    """Promise S and the conservation law hold."""
    report = await store.audit(lane)
    assert report.ok, report


class WatchedStore(MemoryStore):
    """Remembers its claims and the size of each settle call. `gate`: calls of that name wait while it is shut."""

    def __init__(self) -> None:
        super().__init__(lambda: round(trio.current_time() * 1000))
        self.wanted: list[tuple[Lane, int, int]] = []
        """Per claim: the lane, how many it wanted, how many it got."""
        self.batches: list[int] = []
        self.waits: list[float] = []
        self.renewals: list[float] = []
        self.sweeps: list[float] = []
        self.down: trio.Event | None = None
        self.on_claimed: Callable[[], None] = lambda: None

    def go_down(self) -> None:
        """From now on no call gets through."""
        self.down = trio.Event()

    def come_back(self) -> None:
        assert self.down is not None
        self.down.set()
        self.down = None

    async def enter(self, lane: Lane) -> Any:
        if self.down is not None:
            await self.down.wait()
        return await super().enter(lane)

    async def claim(
        self,
        lane: Lane,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        order: Sequence[Priority],
        outcomes: Sequence[Outcome] = (),
    ) -> Claim:
        claim = await super().claim(
            lane, worker=worker, want=want, lease_ms=lease_ms, order=order, outcomes=outcomes
        )
        if outcomes:
            self.batches.append(len(outcomes))
        self.wanted.append((lane, want, len(claim.jobs)))
        if claim.jobs:
            self.on_claimed()
        return claim

    async def wait(self, lanes: Sequence[Lane], *, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        await super().wait(lanes, timeout_s=timeout_s)

    async def settle(self, lane: Lane, outcomes: Sequence[Any]) -> list[bool]:
        answers = await super().settle(lane, outcomes)
        self.batches.append(len(outcomes))
        return answers

    async def renew(
        self, lane: Lane, *, worker: str, lease_ms: int, held: Sequence[tuple[str, str]]
    ) -> Renewed:
        self.renewals.append(trio.current_time())
        return await super().renew(lane, worker=worker, lease_ms=lease_ms, held=held)

    async def sweep(self, lane: Lane, **options: Any) -> Any:
        self.sweeps.append(trio.current_time())
        return await super().sweep(lane, **options)
