"""Slots and the timekeeper: what jobs that share a nursery, one after the other, do not share. On the mock clock."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from queue_trio import App
from queue_trio.core.job import State
from queue_trio.runtime import slots
from queue_trio.runtime.running import Ending
from queue_trio.runtime.timekeeper import Timekeeper
from tests.runtime.rig import LANE, WatchedStore, assert_audit, at_rest, make_app, memory_store, working
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queue_trio.runtime.running import Running


def nursery_here() -> Any:
    return trio.lowlevel.current_task().parent_nursery


async def one_after_the_other(app: App, store: Any, *jobs: Any) -> None:
    for number, job in enumerate(jobs, 1):
        await app.open_client.enqueue(job)
        await at_rest(store, number)


async def test_jobs_one_after_the_other_run_in_the_same_slot(autojump_clock: MockClock) -> None:
    app, store, found, tasks = make_app(), memory_store(), [], []

    @app.task
    async def look() -> None:
        found.append(nursery_here())
        tasks.append(trio.lowlevel.current_task())

    async with working(app, store):
        await one_after_the_other(app, store, *(look.job() for _ in range(3)))
    assert len(set(found)) == 1
    assert len(set(tasks)) == 3


async def test_jobs_at_once_run_in_slots_of_their_own(autojump_clock: MockClock) -> None:
    app, store, found = make_app(concurrency=3), memory_store(), []

    @app.task
    async def look() -> None:
        found.append(nursery_here())
        await trio.sleep(1)

    async with working(app, store):
        for _ in range(9):
            await look.enqueue()
        await at_rest(store, 9)
    assert len(set(found)) == 3
    assert all(found.count(slot) == 3 for slot in found)


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_job_cancelled_in_a_slot_is_nothing_to_the_next(
    autojump_clock: MockClock, swallows: bool
) -> None:
    app, store, found, slept = make_app(concurrency=1), memory_store(), [], []

    @app.task(timeout=1, max_retries=0)
    async def hang() -> None:
        found.append(nursery_here())
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if not swallows:
                raise

    @app.task(timeout=1)
    async def rest() -> None:
        found.append(nursery_here())
        await trio.sleep(0.9)
        slept.append(True)

    async with working(app, store) as worker:
        await one_after_the_other(app, store, hang.job(), rest.job(), rest.job())
        assert worker._executor.in_flight == 0
    assert slept == [True, True]
    assert found[0] is not found[1]
    assert found[1] is found[2]
    assert (worker.counts.dead, worker.counts.completed) == ((0, 3) if swallows else (1, 2))


async def test_each_job_ends_at_its_own_time_in_whatever_order_they_began(autojump_clock: MockClock) -> None:
    app, store, ended = make_app(concurrency=9), memory_store(), []

    @app.task(max_retries=0)
    async def hang(name: str) -> None:
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            ended.append((name, trio.current_time() - began))

    timeouts = {"a": 9.0, "b": 300.0, "c": 2.0, "d": 20.0, "e": 2.0, "f": 0.5}
    async with working(app, store):
        for name, timeout_s in timeouts.items():
            await app.open_client.enqueue(hang.job(name).options(timeout=timeout_s))
            await trio.sleep(0.3)
        await at_rest(store, len(timeouts), seconds_max=400)
    assert dict(ended) == {name: pytest.approx(timeout_s, abs=1e-6) for name, timeout_s in timeouts.items()}
    assert len(ended) == len(timeouts)


async def test_a_timekeeper_with_nothing_to_do_sleeps(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task(timeout=5)
    async def task() -> None: ...

    async with working(app, store) as worker:
        looks, jobs = [], worker._executor.timekeeper._jobs

        def look() -> Iterable[Running]:
            looks.append(trio.current_time())
            return jobs()

        worker._executor.timekeeper._jobs = look
        begun = trio.current_time()
        await one_after_the_other(app, store, *(task.job() for _ in range(20)))
        await trio.sleep(3600)
    # Once, when the first job's time would have been up. That others have begun since is no reason to look, and as they
    # have ended by then, nor is their deadline.
    assert [at - begun for at in looks] == [pytest.approx(5, abs=0.1)]


async def test_a_timekeeper_hears_of_deadlines_before_it_runs_and_in_the_moment_it_looks(
    autojump_clock: MockClock,
) -> None:
    ended: list[tuple[float, Ending]] = []

    class Job:
        finished = False

        def __init__(self, deadline: float) -> None:
            self.deadline = deadline

        def end(self, ending: Ending) -> None:
            ended.append((trio.current_time(), ending))
            self.finished = True
            if len(ended) == 1:
                begin(6.0)  # before the one that it knows of
                begin(2.0)  # now

    jobs: list[Any] = []
    keeper = Timekeeper(lambda: [job for job in jobs if not job.finished])

    def begin(deadline: float) -> None:
        jobs.append(Job(deadline))
        if deadline < keeper.looks_at:
            keeper.expect(deadline)

    begin(9.0)
    begin(2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert ended == [(at, Ending.TIMEOUT) for at in (2.0, 2.0, 6.0, 9.0)]


async def test_a_handler_that_leaves_a_nursery_open_spoils_its_slot_and_no_other_job(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(concurrency=2), memory_store()

    @app.task
    async def careless() -> None:
        # As an async generator does that is not closed.
        await trio.open_nursery().__aenter__()

    @app.task
    async def careful() -> None:
        await trio.sleep(1)

    async with working(app, store) as worker:
        with capture_logs() as logs:
            for _ in range(4):
                await careless.enqueue()
                await careful.enqueue()
            await at_rest(store, 8)
    assert worker.counts.completed == 8
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["job.left_nursery_open"] * 4
    await assert_audit(store)


async def end_of_another() -> BaseException:
    """A Cancelled that was another task's."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError("it was not cancelled")


@pytest.mark.parametrize("how", ["scope", "nursery", "foreign"])
async def test_a_job_cancelled_by_what_it_did_itself_fails_and_nothing_is_held(
    autojump_clock: MockClock, how: str
) -> None:
    app, store = make_app(concurrency=2), memory_store()
    kept: list[Any] = []

    async def fails() -> None:
        raise ValueError("in a nursery that was left open")

    @app.task(max_retries=1, retry_base=0.01)
    async def careless() -> None:
        if how == "scope":
            kept.append(scope := trio.CancelScope(deadline=trio.current_time() + 1))
            scope.__enter__()
        elif how == "nursery":
            kept.append(manager := trio.open_nursery())
            (await manager.__aenter__()).start_soon(fails)
        else:
            raise await end_of_another()
        await trio.sleep(2)

    @app.task
    async def careful() -> None:
        await trio.sleep(0.1)

    async with working(app, store) as worker:
        with capture_logs():
            await careless.enqueue()
            await at_rest(store, 1)
        for _ in range(4):
            await careful.enqueue()
        await at_rest(store, 5)
        assert worker._executor.held == {LANE: {}}
        assert worker._executor.in_flight == 0
    assert (worker.counts.retried, worker.counts.dead, worker.counts.completed) == (1, 1, 4)
    await assert_audit(store)


async def test_a_slot_gets_a_new_nursery_now_and_then(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, store, nurseries = make_app(concurrency=1), memory_store(), []
    monkeypatch.setattr(slots, "JOBS_MAX", 3)

    @app.task
    async def look() -> None:
        nurseries.append(nursery_here())

    async with working(app, store):
        await app.open_client.enqueue_many([look.job() for _ in range(9)])
        await at_rest(store, 9)
    assert [nurseries.count(one) for one in dict.fromkeys(nurseries)] == [3, 3, 3]


@pytest.mark.parametrize("how", ["returns", "hangs"])
async def test_a_worker_ends_though_handlers_left_nurseries_open(autojump_clock: MockClock, how: str) -> None:
    app, store = make_app(concurrency=2, shutdown_grace=5), memory_store()

    @app.task
    async def careless() -> None:
        await trio.open_nursery().__aenter__()
        if how == "hangs":
            await trio.sleep_forever()
        await trio.sleep(1)

    with capture_logs(), trio.fail_after(60):
        async with working(app, store) as worker:
            for _ in range(2):
                await careless.enqueue()
            await eventually(lambda: worker.in_flight == 2)
    stats = await store.stats(LANE)
    assert (stats.completed, stats.ready_total, stats.leased) == (
        (2, 0, 0) if how == "returns" else (0, 2, 0)
    )
    await assert_audit(store)


async def test_a_lease_lost_after_the_timeout_has_one_outcome(autojump_clock: MockClock) -> None:
    app, store, goes_on = make_app(lease=30, concurrency=4), WatchedStore(), trio.Event()

    @app.task(timeout=1, max_retries=5)
    async def lingers() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await goes_on.wait()

    async with working(app, store) as worker:
        with capture_logs() as logs:
            await lingers.enqueue()
            await trio.sleep(2)
            (running,) = worker._executor.held[LANE].values()
            assert running.ending is Ending.TIMEOUT
            worker._executor.lost(LANE, running.job.id, running.job.token)
            goes_on.set()
            await eventually(lambda: worker.in_flight == 0)
        assert (worker.counts.lost, worker.counts.retried) == (1, 0)
        assert "job.failed" not in [line["event"] for line in logs]


async def test_an_error_that_cannot_be_described_costs_the_job_its_retries_and_no_more(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(), memory_store()

    async def odd_cleanup() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SyntaxError("odd", ("file", 1, 1, 5))  # type: ignore[arg-type]  # format_exception stumbles over it

    @app.task(timeout=1)
    async def hangs() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(odd_cleanup)

    async with working(app, store) as worker:
        with capture_logs():
            await hangs.enqueue()
            await at_rest(store, 1)
        assert worker._executor.held == {LANE: {}}
    assert worker.counts.dead == 1
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert dead.crashes == 0


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_handlers_do_each_job_has_one_outcome(autojump_clock: MockClock, seed: int) -> None:
    app, store, rng = make_app(concurrency=5, retry_base=0.01), memory_store(), random.Random(seed)

    @app.task(max_retries=0)
    async def wild(pause_s: float, how: str) -> None:
        try:
            await trio.sleep(pause_s)
        except trio.Cancelled:
            if how == "swallow":
                return
            if how == "fail":
                raise ValueError("on the way out") from None
            raise
        finally:
            if how == "linger":
                with trio.move_on_after(0.1, shield=True):
                    await trio.sleep_forever()

    count = 200
    # As long as some timeouts, so that jobs end in the tick in which their time is up.
    times = (0.0, 0.05, 0.1, 0.15)
    async with working(app, store) as worker:
        for _ in range(count):
            job = wild.job(rng.choice(times), rng.choice(["", "swallow", "fail", "linger"]))
            await app.open_client.enqueue(job.options(timeout=rng.choice(times[1:])))
        await at_rest(store, count, seconds_max=1000)
        assert worker._executor.in_flight == 0
        assert worker._executor.held == {LANE: {}}
    assert worker.counts.completed + worker.counts.dead == count
    assert len(await store.peek(LANE, State.DEAD, count=count)) == worker.counts.dead > 0
    await assert_audit(store)


@pytest.mark.parametrize("seed", range(12))
async def test_a_worker_cancelled_at_any_time_holds_nothing(autojump_clock: MockClock, seed: int) -> None:
    app, store, rng = make_app(concurrency=5), memory_store(), random.Random(seed)

    @app.task(timeout=0.1)
    async def nap(pause_s: float) -> None:
        await trio.sleep(pause_s)

    with trio.move_on_after(rng.uniform(0.0, 1.0)):
        async with working(app, store) as worker:
            for _ in range(100):
                await nap.enqueue(rng.choice([0.0, 0.05, 0.1]))
            await trio.sleep_forever()
    assert worker.held == 0
    stats = await store.stats(LANE)
    assert stats.leased == 0
    assert stats.completed + sum(stats.ready.values()) + stats.scheduled == stats.enqueued > 0
    await assert_audit(store)
