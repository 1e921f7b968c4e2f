"""How a worker ends, in memory, on the mock clock: what finishes, what is given back, and when it is over."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from queue_trio.client import QueueClient
from queue_trio.core.job import Lane, State
from queue_trio.errors import InternalError, ServerUnusable
from queue_trio.runtime.worker import FINISH_MIN_S, Worker
from tests.runtime.rig import LANE, WatchedStore, assert_audit, at_rest, make_app, memory_store, working
from tests.support import eventually

if TYPE_CHECKING:
    from queue_trio.app import App
    from queue_trio.core.job import Claim
    from queue_trio.core.store import Store


async def ready_ids(store: Any) -> list[str]:
    return [job.id for job in await store.peek(LANE, State.READY, count=10_000)]


async def test_handlers_may_finish_within_the_grace(autojump_clock: MockClock) -> None:
    app, store = make_app(shutdown_grace=25.0), memory_store()

    @app.task
    async def work() -> None:
        await trio.sleep(20)

    async with working(app, store) as worker:
        for _ in range(3):
            await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 3)
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(20, abs=0.1)
    assert worker.counts.completed == 3
    assert (await store.stats(LANE)).workers == 0


@pytest.mark.parametrize("concurrency", [10, 1200])
async def test_what_does_not_finish_goes_back_to_the_front_in_order(
    autojump_clock: MockClock, concurrency: int
) -> None:
    app, store = make_app(shutdown_grace=25.0, concurrency=concurrency), memory_store()
    rng = random.Random(3)

    @app.task
    async def work(cleanup: float) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)

    async with working(app, store) as worker:
        jobs = [work.job(rng.uniform(0, 0.5)) for _ in range(concurrency + 5)]
        await app.open_client.enqueue_many(jobs)
        await eventually(lambda: worker.counts.claimed == concurrency)
        began = trio.current_time()
    assert 22 <= trio.current_time() - began < 25
    assert await ready_ids(store) == [job.id for job in jobs]
    assert worker.counts.released == concurrency
    for job in await store.peek(LANE, State.READY, count=10_000):
        assert (job.tries, job.crashes) == (0, 0)
    await assert_audit(store)


async def test_a_handler_that_hangs_while_it_cleans_up_keeps_only_its_own_job(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(shutdown_grace=10.0), memory_store()

    @app.task
    async def work(cleanup: float) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)

    async with working(app, store) as worker:
        await work.enqueue(0)
        await work.enqueue(100)
        await work.enqueue(0)
        await eventually(lambda: worker.counts.claimed == 3)
        began = trio.current_time()
        worker.drain()
        await eventually(lambda: worker.counts.released == 2, 20)
        assert trio.current_time() - began < 10
    assert worker.counts.released == 3


async def test_cancel_does_not_wait(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    async with working(app, store) as worker:
        await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 1)
        worker.drain()
        began = trio.current_time()
        await trio.sleep(5)
        worker.cancel()
        worker.cancel()
    assert trio.current_time() - began == pytest.approx(5, abs=0.2)
    assert len(await ready_ids(store)) == 1


async def test_a_worker_cancelled_from_outside_gives_its_jobs_back_too(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()
    jobs = []

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        worker = Worker(app, store=store)
        await nursery.start(worker.run)
        jobs = [work.job() for _ in range(5)]
        await app.open_client.enqueue_many(jobs)
        await eventually(lambda: worker.counts.claimed == 5)
        nursery.cancel_scope.cancel()
    assert await ready_ids(store) == [job.id for job in jobs]
    assert (await store.stats(LANE)).workers == 0
    await assert_audit(store)


async def test_a_claim_that_is_cut_off_is_asked_for_and_given_back(autojump_clock: MockClock) -> None:
    """The store acts on the claim, and the worker is cancelled before it hears the answer."""
    app, store = make_app(), WatchedStore()
    claim = store.claim
    unheard: list[Claim] = []

    async def unanswered(lane: Lane, **options: Any) -> Any:
        if unheard:  # asked again: the same answer
            return unheard.pop()
        found = await claim(lane, **options)
        if found.jobs:
            unheard.append(found)
            await trio.sleep_forever()
        return found

    store.claim = unanswered  # type: ignore[method-assign]

    @app.task
    async def work() -> None: ...

    async with trio.open_nursery() as nursery:
        worker = Worker(app, store=store)
        await nursery.start(worker.run)
        jobs = [work.job() for _ in range(5)]
        await app.open_client.enqueue_many(jobs)
        await eventually(lambda: unheard)
        nursery.cancel_scope.cancel()
    assert await ready_ids(store) == [job.id for job in jobs]
    assert (await store.stats(LANE)).leased == 0


@pytest.mark.parametrize("grace", [0.0, 1.0, 10.0, 25.0])
@pytest.mark.parametrize("handler", ["running", "none"])
async def test_with_the_store_gone_it_ends_within_the_grace(
    autojump_clock: MockClock, grace: float, handler: str
) -> None:
    app, store = make_app(shutdown_grace=grace), WatchedStore()

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    async with working(app, store) as worker:
        if handler == "running":
            await work.enqueue()
            await eventually(lambda: worker.counts.claimed == 1)
        store.go_down()
        await trio.sleep(10)
        began = trio.current_time()
    assert trio.current_time() - began <= max(grace, 2 * FINISH_MIN_S)


async def test_drain_while_waiting_for_the_store_at_start(autojump_clock: MockClock) -> None:
    app, store = make_app(), WatchedStore()
    store.go_down()
    worker = Worker(app, store=store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, worker.run)
        await trio.sleep(100)
        began = trio.current_time()
        worker.drain()
    assert trio.current_time() - began <= 3


async def test_drained_before_it_began(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()
    worker = Worker(app, store=store)
    worker.drain()
    await worker.run()
    assert (await store.stats(LANE)).workers == 0


async def test_an_error_while_registering_leaves_no_registry_entry(autojump_clock: MockClock) -> None:
    app, store = make_app(queues="a,b"), WatchedStore()
    register = store.register

    async def refuse(lane: Lane, **options: Any) -> None:
        if lane.queue == "b":
            raise ServerUnusable("NOPERM", "no")
        await register(lane, **options)

    store.register = refuse  # type: ignore[method-assign]
    with pytest.raises(ServerUnusable):
        await Worker(app, store=store).run()
    assert (await store.stats(Lane("a"))).workers == 0


@pytest.mark.parametrize("service", ["claim", "settle", "renew", "sweep"])
async def test_an_error_nobody_can_wait_out_ends_the_worker_and_comes_out_as_itself(
    autojump_clock: MockClock, service: str
) -> None:
    app, store = make_app(lease=30), WatchedStore()

    async def fail(*args: Any, **options: Any) -> Any:
        await trio.sleep(1)
        raise ServerUnusable("WRONGPASS", "the password has been changed")

    setattr(store, service, fail)
    if service == "settle":  # a claim that takes outcomes along settles them, too
        claim = store.claim

        async def fail_to_settle(*args: Any, **options: Any) -> Claim:
            return await (fail if options.get("outcomes") else claim)(*args, **options)

        store.claim = fail_to_settle  # type: ignore[method-assign]

    @app.task
    async def work() -> None: ...

    async with client_of(app, store) as client:
        await client.enqueue(work.job())
    with pytest.raises(ServerUnusable, match="changed"):
        await Worker(app, store=store).run()


async def test_a_bug_in_a_service_does_not_vanish(autojump_clock: MockClock) -> None:
    """Also if what is done at the end fails as well."""
    app, store = make_app(), WatchedStore()

    async def buggy(*args: Any, **options: Any) -> Any:
        raise KeyError("a bug in a sweep")

    async def failing(*args: Any, **options: Any) -> Any:
        raise InternalError("and then this")

    store.sweep = buggy  # type: ignore[method-assign]
    store.deregister = failing  # type: ignore[method-assign]
    with pytest.RaisesGroup(pytest.RaisesExc(KeyError, match="a bug"), flatten_subgroups=True):
        await Worker(app, store=store).run()


async def test_started_and_stopped_at_random_moments_nothing_is_lost(autojump_clock: MockClock) -> None:
    store, ran = memory_store(), set()
    rng = random.Random(11)
    app = make_app(concurrency=7, shutdown_grace=1.0, lease=4.0, sweep_interval=1.0, stall_limit=60)

    @app.task
    async def work(n: int, seconds: float) -> None:
        await trio.sleep(seconds)
        ran.add(n)

    total = 400
    async with client_of(app, store) as client:
        await client.enqueue_many([work.job(n, rng.expovariate(3)) for n in range(total)])
    for _ in range(100):
        worker = Worker(app, store=store, rng=rng)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            await trio.sleep(rng.uniform(0, 2))
            ending = rng.choice([worker.drain, worker.cancel, nursery.cancel_scope.cancel])
            ending()
        stats = await store.stats(LANE)
        assert (stats.leased, stats.workers) == (0, 0)
        await assert_audit(store)
    async with working(app, store):
        await at_rest(store, total, seconds_max=300)
    assert ran == set(range(total))
    assert (await store.stats(LANE)).completed == total


def client_of(app: App, store: Store) -> QueueClient:
    return QueueClient(app, store=store)
