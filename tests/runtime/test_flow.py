"""Fetcher, settler, renewer, reaper and watchdog: what each does when, in memory, on the mock clock."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from queue_trio.core.dequeue import DEFAULT_WEIGHTS, Priority
from queue_trio.core.job import Claim, Lane, NewJob, Outcome, Record, encode_record
from queue_trio.core.settings import WorkerSettings
from queue_trio.core.store import MAX_BATCH, Swept
from queue_trio.runtime.counts import Counts
from queue_trio.runtime.reaper import Reaper
from queue_trio.runtime.settler import MAX_BATCH_BYTES, Settler
from queue_trio.runtime.watchdog import StallWatchdog
from tests.runtime.rig import LANE, WatchedStore, at_rest, make_app, memory_store, working
from tests.support import eventually

# --- fetcher ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["strict", "weighted", "looped"])
async def test_never_more_jobs_than_slots(autojump_clock: MockClock, strategy: str) -> None:
    app, store = make_app(concurrency=3, dequeue_strategy=strategy), WatchedStore()
    running, most = 0, 0

    @app.task
    async def work(seconds: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(seconds)
        running -= 1

    async with working(app, store) as worker:
        rng = random.Random(1)
        await app.open_client.enqueue_many([work.job(rng.uniform(0, 2)) for _ in range(100)])
        while (await store.stats(LANE)).completed < 100:
            assert (await store.stats(LANE)).leased <= 3 + worker._settler.backlog
            assert 0 <= worker._executor.in_flight <= 3
            await trio.sleep(0.1)
    assert most == 3
    assert all(want <= 3 and got <= want for _, want, got in store.wanted)


async def test_a_job_of_higher_priority_goes_first(autojump_clock: MockClock) -> None:
    app, store, order = make_app(concurrency=1), memory_store(), []

    @app.task
    async def work(name: str) -> None:
        order.append(name)
        await trio.sleep(1)

    async with working(app, store):
        await work.enqueue("first")
        await eventually(lambda: order)
        for name in ("low", "normal", "high", "critical"):
            await app.open_client.enqueue(work.job(name).options(priority=Priority(name)))
        await at_rest(store, 5)
    assert order == ["first", "critical", "high", "normal", "low"]


def fill(*ids: str) -> list[NewJob]:
    return [NewJob(id_, encode_record(Record(v=1, task="work"))) for id_ in ids]


@pytest.mark.parametrize(
    ("queues", "expected"),
    [("b,a", ["b"] * 4 + ["a"] * 4), ("a:3,b:1", ["a", "a", "b", "a", "a", "b", "b", "b"])],
)
async def test_queues_in_order_and_by_weight(
    autojump_clock: MockClock, queues: str, expected: list[str]
) -> None:
    app, store, order = make_app(concurrency=1, queues=queues), memory_store(), []

    @app.task(name="work")
    async def work() -> None:
        order.append(1)

    for queue in ("a", "b"):
        await store.enqueue(Lane(queue), fill(*(f"{queue}{n}" for n in range(4))))
    claims: list[str] = []
    claim = store.claim

    async def watch(lane: Lane, **options: Any) -> Any:
        found = await claim(lane, **options)
        claims.extend(lane.queue for _ in found.jobs)
        return found

    store.claim = watch  # type: ignore[method-assign]
    async with working(app, store):
        await at_rest(store, 4, lane=Lane("a"))
        await at_rest(store, 4, lane=Lane("b"))
    assert claims == expected


async def test_low_jobs_of_every_queue_have_their_turn_however_many_urgent_ones_there_are(
    autojump_clock: MockClock,
) -> None:
    """By weight among the queues as well: both turns together must leave no queue without a low one's turn."""
    app = make_app(concurrency=1, queues="a:1,b:1,c:1", dequeue_strategy="weighted")
    store, bound = WatchedStore(), sum(DEFAULT_WEIGHTS.values())

    @app.task(name="work")
    async def work() -> None: ...

    lanes = [Lane(queue) for queue in "abc"]
    for lane in lanes:
        for priority in Priority:
            jobs = 1 if priority is Priority.LOW else 4 * bound
            raw = encode_record(Record(v=1, task="work", priority=priority))
            await store.enqueue(lane, [NewJob(f"{priority}-{n}", raw, priority) for n in range(jobs)])
    claimed: dict[Lane, list[str]] = {lane: [] for lane in lanes}
    claim = store.claim

    async def watch(lane: Lane, **options: Any) -> Any:
        found = await claim(lane, **options)
        claimed[lane] += (job.id for job in found.jobs)
        return found

    store.claim = watch  # type: ignore[method-assign]
    async with working(app, store):
        for lane in lanes:
            await at_rest(store, 3 * 4 * bound + 1, lane=lane)
    places = {lane.queue: ids.index("low-0") for lane, ids in claimed.items()}
    assert max(places.values()) < bound, places


async def test_looped_works_a_backlog_off_without_waiting_at_priorities_that_have_none(
    autojump_clock: MockClock,
) -> None:
    app = make_app(concurrency=1, dequeue_strategy="looped", looped_wait=1.0)
    store = memory_store()

    @app.task(name="work")
    async def work() -> None: ...

    await store.enqueue(LANE, fill(*map(str, range(50))))
    began = trio.current_time()
    async with working(app, store):
        await at_rest(store, 50)
        assert trio.current_time() - began < 1.0  # not even one wait


@pytest.mark.parametrize("strategy", ["strict", "looped"])
async def test_a_paused_queue_is_left_alone_and_does_not_spin_or_hold_up_others(
    autojump_clock: MockClock, strategy: str
) -> None:
    app, store = make_app(queues="a,b", dequeue_strategy=strategy, poll_interval=1.0), WatchedStore()

    @app.task(name="work")
    async def work() -> None: ...

    await store.pause(Lane("a"), True)
    await store.enqueue(Lane("a"), fill("1"))
    async with working(app, store) as worker:
        await store.enqueue(Lane("b"), fill("2", "3"))
        await at_rest(store, 2, lane=Lane("b"))
        await store.pause(Lane("b"), True)
        rounds = counted(store)
        await trio.sleep(60)
        assert worker.counts.claimed == 2
        assert rounds() <= 2 * 65
        await store.pause(Lane("a"), False)
        await at_rest(store, 1, lane=Lane("a"))


def counted(store: WatchedStore) -> Any:
    """How often the fetcher has asked the store from now on."""
    asked = 0
    for name in ("claim", "adopt"):
        method = getattr(store, name)

        async def count(*args: Any, method: Any = method, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return await method(*args, **options)

        setattr(store, name, count)
    return lambda: asked


async def test_an_idle_worker_sleeps_until_the_next_job_is_due(autojump_clock: MockClock) -> None:
    app, store, times = make_app(poll_interval=60.0, sweep_interval=15.0), WatchedStore(), []

    @app.task
    async def work() -> None:
        times.append(trio.current_time())

    async with working(app, store):
        await trio.sleep(1)
        began = trio.current_time()
        await app.open_client.enqueue(work.job().options(delay=7.5))
        await at_rest(store, 1)
    assert times == [pytest.approx(began + 7.5, abs=0.002)]
    assert len(store.waits) <= 6


async def test_no_claims_while_too_many_outcomes_wait(autojump_clock: MockClock) -> None:
    app, store = make_app(concurrency=MAX_BATCH), WatchedStore()
    settle, claim = store.settle, store.claim
    answering = trio.Event()

    async def slow(lane: Lane, outcomes: Any) -> list[bool]:
        await answering.wait()
        return await settle(lane, outcomes)

    async def alone(lane: Lane, *, outcomes: Any = (), **options: Any) -> Claim:
        return await claim(lane, **options)

    store.settle, store.claim = slow, alone  # type: ignore[method-assign]

    @app.task
    async def work() -> None: ...

    total = 10 * MAX_BATCH
    async with working(app, store) as worker:
        await app.open_client.enqueue_many([work.job() for _ in range(total)])
        await trio.sleep(10)
        assert 2 * MAX_BATCH <= worker._settler.backlog < 3 * MAX_BATCH
        assert worker.counts.claimed == worker._settler.backlog
        answering.set()
        await at_rest(store, total)
        assert max(store.batches) == MAX_BATCH


async def test_a_busy_worker_settles_with_its_claims_and_an_idle_one_at_once(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(concurrency=10), WatchedStore()
    settle, claim, alone = store.settle, store.claim, []

    async def settled(lane: Lane, outcomes: Any) -> list[bool]:
        alone.append(trio.current_time())
        await trio.sleep(0.001)
        return await settle(lane, outcomes)

    async def claimed(lane: Lane, **options: Any) -> Claim:
        await trio.sleep(0.001)  # as a round trip does, and jobs that do nothing do not
        return await claim(lane, **options)

    store.settle, store.claim = settled, claimed  # type: ignore[method-assign]

    @app.task
    async def work(seconds: float = 0.0) -> None:
        await trio.sleep(seconds)

    async with working(app, store) as worker:
        await app.open_client.enqueue_many([work.job() for _ in range(200)])
        await at_rest(store, 200)
        assert len(alone) <= 4
        assert len(store.batches) >= 20
        # With nothing more to claim nobody waits for a claim.
        await work.enqueue(30.0)
        await work.enqueue(1.0)
        await trio.sleep(1.01)
        assert worker.counts.completed == 201


# --- settler ---------------------------------------------------------------------------------------------------------


class Sink:
    """Takes outcomes, one call at a time, when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[Lane, list[Outcome]]] = []
        self.gate = trio.Semaphore(1)
        self.refused: set[str] = set()

    async def settle(self, lane: Lane, outcomes: list[Outcome]) -> list[bool]:
        async with self.gate:
            self.calls.append((lane, outcomes))
            return [outcome.id not in self.refused for outcome in outcomes]


async def test_what_has_ended_during_a_round_trip_is_settled_in_one_call(autojump_clock: MockClock) -> None:
    sink = Sink()
    settler = Settler(sink)  # type: ignore[arg-type]
    heard: list[tuple[str, bool]] = []
    settler.on_settled = lambda lane, outcomes, accepted: heard.extend(
        zip((outcome.id for outcome in outcomes), accepted, strict=True)
    )
    sink.refused = {"3"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        async with sink.gate:
            settler.add(LANE, Outcome("0", "t"))
            await trio.testing.wait_all_tasks_blocked()
            for n in range(1, 8):
                settler.add(LANE, Outcome(str(n), "t"))
            assert settler.backlog == 8
        await settler.wait_below(1)
        nursery.cancel_scope.cancel()
    assert [len(outcomes) for _, outcomes in sink.calls] == [1, 7]
    assert heard == [(str(n), n != 3) for n in range(8)]


async def test_batches_are_bounded_in_number_and_bytes(autojump_clock: MockClock) -> None:
    sink = Sink()
    settler = Settler(sink)  # type: ignore[arg-type]
    for n in range(2 * MAX_BATCH + 1):
        settler.add(LANE, Outcome(str(n), "t"))
    await settler.flush()
    assert [len(outcomes) for _, outcomes in sink.calls] == [MAX_BATCH, MAX_BATCH, 1]
    sink.calls.clear()
    for n in range(3):
        settler.add(LANE, Outcome(str(n), "t", detail=b"x" * (MAX_BATCH_BYTES // 2 + 1)))
    settler.add(LANE, Outcome("large", "t", detail=b"x" * (2 * MAX_BATCH_BYTES)))
    await settler.flush()
    assert [len(outcomes) for _, outcomes in sink.calls] == [1, 1, 1, 1]
    assert settler.backlog == 0


async def test_lanes_take_turns_and_a_new_one_may_join_in_the_middle(autojump_clock: MockClock) -> None:
    sink = Sink()
    settler = Settler(sink)  # type: ignore[arg-type]
    one, two, three = Lane("one"), Lane("two"), Lane("three")
    for n in range(3 * MAX_BATCH):
        settler.add(one, Outcome(str(n), "t"))
    settler.add(two, Outcome("two", "t"))
    async with trio.open_nursery() as nursery, sink.gate:
        nursery.start_soon(settler.flush)
        await trio.testing.wait_all_tasks_blocked()
        settler.add(three, Outcome("three", "t"))
    assert [lane.queue for lane, _ in sink.calls] == ["one", "two", "one", "three", "one"]


async def test_a_flush_that_was_cancelled_forgets_nothing(autojump_clock: MockClock) -> None:
    sink = Sink()
    settler = Settler(sink)  # type: ignore[arg-type]
    for n in range(5):
        settler.add(LANE, Outcome(str(n), "t"))
    async with sink.gate:
        with trio.move_on_after(1):
            await settler.flush()
    assert settler.backlog == 5
    await settler.flush()
    assert settler.backlog == 0
    assert [[outcome.id for outcome in outcomes] for _, outcomes in sink.calls] == [["0", "1", "2", "3", "4"]]


# --- renewer, reaper -------------------------------------------------------------------------------------------------


async def test_leases_are_renewed_every_third_of_a_lease_until_they_are_settled(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(lease=30.0, sweep_interval=5.0), WatchedStore()

    @app.task
    async def work() -> None:
        await trio.sleep(200)

    began = trio.current_time()
    async with working(app, store) as worker:
        await work.enqueue()
        await at_rest(store, 1, seconds_max=300)
    assert worker.counts.completed == 1
    assert worker.counts.reclaimed == 0
    assert [at - began for at in store.renewals] == pytest.approx([10.0 * n for n in range(21)], abs=0.1)


async def test_sweeps_are_jittered_and_never_so_rare_as_to_look_like_an_outage(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(lease=10.0, sweep_interval=5.0), WatchedStore()
    async with working(app, store):
        await trio.sleep(2000)
    gaps = [after - before for before, after in pairwise(store.sweeps)]
    assert max(gaps) < 5.0
    assert min(gaps) < 2.6
    assert max(gaps) > 4.0


class Sweeps:
    def __init__(self, *answers: Swept) -> None:
        self.answers = list(answers)

    async def sweep(self, lane: Lane, **options: Any) -> Swept:
        await trio.lowlevel.checkpoint()
        return self.answers.pop(0)


async def test_what_a_reaper_tells(autojump_clock: MockClock) -> None:
    sweeps = Sweeps(
        Swept(hold_ms=500),
        Swept(hold_ms=400),
        Swept(promoted=200),
        Swept(reclaimed=("a", "b"), poisoned=("c",), buried_workers=("w",)),
    )
    counts = Counts()
    reaper = Reaper(sweeps, [LANE], WorkerSettings(), counts, rng=random.Random(0))  # type: ignore[arg-type]
    with capture_logs() as logs:
        assert [await reaper.sweep(LANE) for _ in range(4)] == [False, False, True, False]
    assert [line["event"] for line in logs] == [
        "sweep.holding",
        "jobs.reclaimed",
        "job.poison",
        "worker.gone",
    ]
    assert (counts.reclaimed, counts.poisoned) == (2, 1)


async def test_jobs_of_a_worker_that_is_gone_are_run_by_another(autojump_clock: MockClock) -> None:
    app, store, ran = make_app(lease=10.0), memory_store(), []

    @app.task(name="work")
    async def work() -> None:
        ran.append(trio.current_time())

    await store.enqueue(LANE, fill("a", "b"))
    await store.register(LANE, worker="ghost", info="{}")
    await store.claim(LANE, worker="ghost", want=1, lease_ms=10_000, order=list(Priority))
    began = trio.current_time()
    async with working(app, store) as worker:
        await at_rest(store, 2)
        assert trio.current_time() - began < 10 + 2 * 2.5
        assert worker.counts.reclaimed == 1
        await eventually(lambda: store_workers(store) == 1, 60)


def store_workers(store: Any) -> int:
    return len(store._lanes[LANE].workers)


# --- watchdog, on the real clock -------------------------------------------------------------------------------------


async def test_a_handler_that_blocks_the_loop_is_named() -> None:
    app, store = make_app(stall_limit=0.1), memory_store()

    @app.task(name="the-culprit")
    async def block() -> None:
        time.sleep(0.5)  # noqa: ASYNC251  # this is the fault

    with capture_logs() as logs:
        async with working(app, store) as worker:
            await block.enqueue()
            await at_rest(store, 1)
    stalls = [line for line in logs if line["event"] == "loop.stalled"]
    assert [line["task"] for line in stalls] == ["the-culprit"]
    assert "time.sleep" in stalls[0]["stack"]
    assert worker.watchdog.stalls == 1


async def test_lateness_is_seen_however_high_the_limit() -> None:
    watchdog = StallWatchdog(60.0, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run)
        await trio.sleep(0.15)
        time.sleep(0.5)  # noqa: ASYNC251  # this is the fault
        await trio.sleep(0.15)
        nursery.cancel_scope.cancel()
    assert watchdog.worst_lag_s > 0.3
    assert watchdog.stalls == 0


async def test_a_watchdog_made_long_before_it_runs_reports_nothing() -> None:
    now = 0.0
    watchdog = StallWatchdog(0.05, {}, clock=lambda: now)
    now = 1000.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run)
        await trio.sleep(0.1)  # a few looks of the thread
        nursery.cancel_scope.cancel()
    assert watchdog.stalls == 0
