"""A worker that an operator asks to drain, and what its fetcher tells of itself. In memory, on the mock clock."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.core.job import Lane, NewJob, Record, encode_record
from queue_trio.memory.operations import MemoryOperations
from queue_trio.runtime.worker import Worker
from tests.runtime.rig import LANE, WatchedStore, assert_audit, make_app, working
from tests.support import eventually

if TYPE_CHECKING:
    from trio.testing import MockClock

    from queue_trio.core.job import Claim
    from queue_trio.runtime.fetcher import Fetcher

SLOW = NewJob("slow", encode_record(Record(v=1, task="slow")))


class SlowToClaim(WatchedStore):
    """Looks at the fetcher while a claim of its is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.fetcher: Fetcher | None = None
        self.seen: list[tuple[str, float | None]] = []

    async def claim(self, lane: Lane, **options: object) -> Claim:
        if self.fetcher is not None:
            self.seen.append((self.fetcher.activity, self.fetcher.due_at))
        await trio.sleep(0.5)
        return await super().claim(lane, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["strict", "weighted", "looped"])
async def test_an_idle_worker_asked_to_drain_ends(autojump_clock: MockClock, strategy: str) -> None:
    app, store = make_app(dequeue_strategy=strategy, poll_interval=1.0), WatchedStore()
    worker = Worker(app, store=store, rng=random.Random(1))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            assert await MemoryOperations(store).request_drain(LANE, worker.id)
    assert worker.fetcher.activity == "stopped"
    assert await MemoryOperations(store).workers(LANE) == []


async def test_a_full_worker_learns_it_with_its_heartbeat_and_finishes_what_runs(
    autojump_clock: MockClock,
) -> None:
    """It does not claim, so only a renewal can tell."""
    app, store = make_app(concurrency=1, lease=6.0, shutdown_grace=60.0), WatchedStore()
    ended: list[float] = []

    @app.task(name="slow")
    async def slow() -> None:
        await trio.sleep(30)
        ended.append(trio.current_time())

    await store.enqueue(LANE, [SLOW, NewJob("next", SLOW.record)])
    worker = Worker(app, store=store, rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await trio.sleep(1)
        assert worker.fetcher.activity == "waiting for a slot"
        asked_at = trio.current_time()
        assert await MemoryOperations(store).request_drain(LANE, worker.id)
        await trio.sleep(2.5)  # a third of the lease, and a bit
        assert worker.fetcher.activity in ("stopping", "stopped")
        assert ended == []
        (seen,) = await MemoryOperations(store).workers(LANE)
        assert (seen.leased, seen.draining) == (1, True)
    assert len(ended) == 1
    assert trio.current_time() - asked_at < 35
    stats = await store.stats(LANE)
    assert (stats.completed, stats.ready_total, stats.workers) == (1, 1, 0)
    await assert_audit(store)


async def test_jobs_that_came_with_the_word_to_drain_are_run(autojump_clock: MockClock) -> None:
    app, store = make_app(concurrency=3, poll_interval=1.0), WatchedStore()
    ran: list[str] = []

    @app.task(name="slow")
    async def slow() -> None:
        ran.append("slow")

    worker = Worker(app, store=store, rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await trio.testing.wait_all_tasks_blocked()
        await MemoryOperations(store).request_drain(LANE, worker.id)
        await store.enqueue(LANE, [SLOW])
    assert ran == ["slow"]
    assert (await store.stats(LANE)).completed == 1


async def test_another_worker_of_the_queue_goes_on(autojump_clock: MockClock) -> None:
    app, store = make_app(), WatchedStore()

    @app.task(name="slow")
    async def slow() -> None:
        await trio.sleep(5)

    leaver = Worker(app, store=store, rng=random.Random(1))
    async with working(app, store) as other, trio.open_nursery() as nursery:
        await nursery.start(leaver.run)
        await MemoryOperations(store).request_drain(LANE, leaver.id)
        await trio.sleep(30)
        assert [one.id for one in await MemoryOperations(store).workers(LANE)] == [other.id]
        await store.enqueue(LANE, [SLOW])
        await trio.sleep(10)
    assert (await store.stats(LANE)).completed == 1


async def test_the_fetcher_tells_what_it_is_doing(autojump_clock: MockClock) -> None:
    app, store = make_app(concurrency=1, poll_interval=3.0), SlowToClaim()
    running = trio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        running.set()
        await trio.sleep(5)

    worker = Worker(app, store=store, rng=random.Random(1))
    fetcher = store.fetcher = worker.fetcher
    assert (fetcher.activity, fetcher.last_claim_at, fetcher.due_at) == ("starting", None, math.inf)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        began_at = trio.current_time()
        await trio.sleep(1)
        assert store.seen == [("claiming", began_at)]
        assert (fetcher.activity, fetcher.due_at) == ("waiting for jobs", began_at + 0.5 + 3.0)
        assert fetcher.last_claim_at == began_at + 0.5
        await store.enqueue(LANE, [SLOW])
        await running.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (fetcher.activity, fetcher.due_at) == ("waiting for a slot", math.inf)
        worker.drain()
        assert fetcher.activity == "stopping"
    assert fetcher.activity == "stopped"


async def test_threads_that_handlers_use_up_do_not_hold_up_the_last_spans() -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    hanging = [object() for _ in range(int(limiter.total_tokens))]
    for each in hanging:
        limiter.acquire_on_behalf_of_nowait(each)
    flushed: list[bool] = []
    worker = Worker(make_app(), store=WatchedStore(), rng=random.Random(1))
    worker.spans = SimpleNamespace(flush=lambda: flushed.append(True))  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(worker.run)
            worker.drain()
            await eventually(lambda: flushed, 3)
        finally:
            for each in hanging:
                limiter.release_on_behalf_of(each)


@pytest.mark.parametrize("strategy", ["strict", "looped"])
async def test_the_fetcher_tells_which_lanes_are_paused(autojump_clock: MockClock, strategy: str) -> None:
    app, store = make_app(queues="a,b", dequeue_strategy=strategy, poll_interval=1.0), WatchedStore()
    await store.pause(Lane("a"), True)
    async with working(app, store) as worker:
        await trio.sleep(5)
        assert worker.fetcher.paused == {Lane("a")}
        await store.pause(Lane("b"), True)
        await trio.sleep(5)
        assert worker.fetcher.paused == {Lane("a"), Lane("b")}
        await store.pause(Lane("a"), False)
        await trio.sleep(5)
        assert worker.fetcher.paused == {Lane("b")}
