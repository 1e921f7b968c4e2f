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
from tests.runtime.rig import LANE, assert_audit, at_rest, make_app, memory_store, working

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
    app, store, slots, tasks = make_app(), memory_store(), [], []

    @app.task
    async def look() -> None:
        slots.append(nursery_here())
        tasks.append(trio.lowlevel.current_task())

    async with working(app, store):
        await one_after_the_other(app, store, *(look.job() for _ in range(3)))
    assert len(set(slots)) == 1
    assert len(set(tasks)) == 3


async def test_jobs_at_once_run_in_slots_of_their_own(autojump_clock: MockClock) -> None:
    app, store, slots = make_app(concurrency=3), memory_store(), []

    @app.task
    async def look() -> None:
        slots.append(nursery_here())
        await trio.sleep(1)

    async with working(app, store):
        for _ in range(9):
            await look.enqueue()
        await at_rest(store, 9)
    assert len(set(slots)) == 3
    assert all(slots.count(slot) == 3 for slot in slots)


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_job_cancelled_in_a_slot_is_nothing_to_the_next(
    autojump_clock: MockClock, swallows: bool
) -> None:
    app, store, slots, slept = make_app(concurrency=1), memory_store(), [], []

    @app.task(timeout=1, max_retries=0)
    async def hang() -> None:
        slots.append(nursery_here())
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if not swallows:
                raise

    @app.task(timeout=1)
    async def rest() -> None:
        slots.append(nursery_here())
        await trio.sleep(0.9)
        slept.append(True)

    async with working(app, store) as worker:
        await one_after_the_other(app, store, hang.job(), rest.job(), rest.job())
        assert worker._executor.in_flight == 0
    assert slept == [True, True]
    assert slots[0] is not slots[1]
    assert slots[1] is slots[2]
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
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["job.left_open"] * 4
    await assert_audit(store)


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
