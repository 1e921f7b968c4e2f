"""What becomes of a job, for every way in which a handler can end. In memory, on the mock clock."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import msgspec
import pytest
import trio
from pydantic import AfterValidator
from structlog.testing import capture_logs
from trio.testing import MockClock

from queue_trio import App, Retry
from queue_trio.context import JobContext
from queue_trio.core.dequeue import Priority
from queue_trio.core.job import MAX_LIMIT, NewJob, Record, State, encode_record
from queue_trio.errors import NoClient, NoResult
from queue_trio.runtime.endings import MAX_TRACEBACK
from queue_trio.runtime.worker import Worker
from tests.runtime.rig import LANE, WatchedStore, assert_audit, at_rest, make_app, memory_store, working
from tests.support import eventually


def history(job: Any) -> list[dict[str, Any]]:
    return [json.loads(line.partition(" ")[2]) for line in job.errors]


async def test_done(autojump_clock: MockClock) -> None:
    app, store, seen = make_app(), memory_store(), []

    @app.task
    async def add(a: int, b: int = 2) -> None:
        seen.append(a + b)

    async with working(app, store) as worker:
        await add.enqueue(1)
        await add.enqueue(1, b=1)
        await at_rest(store, 2)
    assert sorted(seen) == [2, 3]
    assert worker.counts.claimed == worker.counts.completed == 2
    await assert_audit(store)
    assert (await store.stats(LANE)).workers == 0


async def test_a_failure_is_tried_again_with_backoff_and_dead_after_the_budget(
    autojump_clock: MockClock,
) -> None:
    app, store, times = make_app(retry_base=1.0, retry_cap=600.0, poll_interval=60.0), memory_store(), []

    @app.task(max_retries=3)
    async def fail() -> None:
        times.append(trio.current_time())
        raise ValueError(f"number {len(times)}")

    async with working(app, store) as worker:
        await fail.enqueue()
        await at_rest(store, 1)
    waits = [after - before for before, after in pairwise(times)]
    assert len(times) == 4
    assert all(wait <= most + 0.02 for wait, most in zip(waits, (1, 2, 4), strict=True)), waits
    assert (worker.counts.retried, worker.counts.dead) == (3, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert dead.tries == 3
    errors = history(dead)
    assert [error["message"] for error in errors] == ["number 1", "number 2", "number 3", "number 4"]
    assert [error["attempt"] for error in errors] == [1, 2, 3, 4]
    assert {error["type"] for error in errors} == {"ValueError"}
    assert {error["worker"] for error in errors} == {worker.id}
    assert "raise ValueError" in errors[0]["traceback"]


async def test_retry_chooses_its_delay_and_uses_a_try(autojump_clock: MockClock) -> None:
    app, store, attempts = make_app(), memory_store(), []

    @app.task(max_retries=1)
    async def later(context: JobContext) -> None:
        attempts.append((context.attempt, trio.current_time()))
        raise Retry("not yet", delay=7.0)

    async with working(app, store):
        await later.enqueue()
        await at_rest(store, 1)
    assert [attempt for attempt, _ in attempts] == [1, 2]
    assert attempts[1][1] - attempts[0][1] == pytest.approx(7.0, abs=0.02)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert [error["type"] for error in history(dead)] == ["Retry", "Retry"]


async def test_a_timeout_cancels_the_handler_and_is_a_failure(autojump_clock: MockClock) -> None:
    app, store, ended = make_app(), memory_store(), []

    @app.task(timeout=5, max_retries=0)
    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with working(app, store):
        await hang.enqueue()
        await client_enqueue(app, hang.job().options(timeout=2))
        await at_rest(store, 2)
    assert ended == [pytest.approx(2, abs=0.02), pytest.approx(5, abs=0.02)]
    dead = await store.peek(LANE, State.DEAD, count=9)
    assert sorted(history(job)[0]["message"] for job in dead) == [
        "ran longer than its timeout of 2 s",
        "ran longer than its timeout of 5 s",
    ]


async def client_enqueue(app: App, job: Any) -> str:
    return str(await app.open_client.enqueue(job))


async def test_a_nursery_that_fails_while_it_is_timed_out_fails_the_job_and_not_the_worker(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(), memory_store()

    async def bad_cleanup() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("cleanup failed")

    @app.task(timeout=1, max_retries=0)
    async def hang() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bad_cleanup)
            nursery.start_soon(trio.sleep_forever)

    @app.task
    async def fine() -> None: ...

    async with working(app, store) as worker:
        await hang.enqueue()
        await at_rest(store, 1)
        await fine.enqueue()
        await at_rest(store, 2)
    assert worker.counts.completed == 1
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (error,) = history(dead)
    assert error["type"] == "JobTimeout"
    assert "cleanup failed" in error["traceback"]


class Odd(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


async def raise_in_nursery(error: BaseException) -> None:
    async def child() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SystemExit(3), "SystemExit"),
        (Odd("odd"), "Odd"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("several", [ValueError("a"), OSError("b")]), "ExceptionGroup"),
        (BaseExceptionGroup("several", [Odd("a"), SystemExit("b")]), "BaseExceptionGroup"),
        (ConnectionResetError("theirs, not ours"), "ConnectionResetError"),
        (NoResult("from a client"), "NoResult"),
        (Unprintable(), "Unprintable"),
        (FileNotFoundError(2, "gone", b"caf\xe9".decode("utf-8", "surrogateescape")), "FileNotFoundError"),
        (RecursionError("deep"), "RecursionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("where", ["itself", "its nursery"])
async def test_whatever_a_handler_raises_is_its_failure(
    autojump_clock: MockClock, error: BaseException, kind: str, where: str
) -> None:
    app, store = make_app(), memory_store()

    @app.task(max_retries=0)
    async def fail() -> None:
        if where == "itself":
            raise error
        await raise_in_nursery(error)

    @app.task
    async def fine() -> None: ...

    async with working(app, store) as worker:
        await fail.enqueue()
        await at_rest(store, 1)
        await fine.enqueue()
        await at_rest(store, 2)
    assert (worker.counts.dead, worker.counts.completed) == (1, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (failure,) = history(dead)
    assert failure["type"] == (kind if where == "itself" else type(group_of(error)).__name__)
    assert kind in failure["traceback"]
    await assert_audit(store)


def group_of(error: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("", [error])


async def test_ctrl_c_in_a_handler_ends_the_worker_and_gives_the_job_back(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with working(app, store):
            await interrupted.enqueue()
            await trio.sleep_forever()
    stats = await store.stats(LANE)
    assert (stats.ready_total, stats.leased, stats.workers) == (1, 0, 0)


async def test_an_unknown_task_is_released_with_a_delay_and_uses_no_try(autojump_clock: MockClock) -> None:
    app, store = make_app(unknown_task_delay=10.0), memory_store()
    await store.enqueue(LANE, [NewJob("new", encode_record(Record(v=1, task="of-a-newer-release")))])
    async with working(app, store) as worker:
        await eventually(lambda: worker.counts.unknown == 3, 60)
        assert trio.current_time() == pytest.approx(20, abs=1)
        await eventually(lambda: worker.counts.released == 3, 60)
        (job,) = await store.peek(LANE, State.SCHEDULED, count=9)
        assert (job.id, job.tries, job.crashes, job.errors) == ("new", 0, 0, ())
    await assert_audit(store)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"v": 2, "task": "t"}',
        b'{"v": 1}',
        b'{"v": 1, "task": "t", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["empty", "not UTF-8", "not an object", "later version", "no task", "too deep"],
)
async def test_an_undecodable_record_is_quarantined_as_it_is(autojump_clock: MockClock, raw: bytes) -> None:
    app, store = make_app(), memory_store()

    @app.task(name="t")
    async def task(x: int = 0) -> None: ...

    await store.enqueue(LANE, [NewJob("broken", raw)])
    async with working(app, store) as worker:
        await at_rest(store, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert dead.raw == raw
    assert worker.counts.dead == 1


@pytest.mark.parametrize("limit", [-1, MAX_LIMIT + 1, 2**63, 10**30])
@pytest.mark.parametrize("name", ["timeout_ms", "max_retries", "keep_result_ms"])
async def test_a_record_with_a_senseless_limit_is_quarantined_and_the_worker_goes_on(
    autojump_clock: MockClock, name: str, limit: int
) -> None:
    app, store, ran = make_app(), memory_store(), []

    @app.task(name="t")
    async def task() -> int:
        ran.append(1)
        return 1

    raw = json.dumps({"v": 1, "task": "t", name: limit}).encode()
    farthest = Record(v=1, task="t", timeout_ms=MAX_LIMIT, max_retries=MAX_LIMIT, keep_result_ms=MAX_LIMIT)
    async with working(app, store) as worker:
        await store.enqueue(LANE, [NewJob("bad", raw)])
        await at_rest(store, 1)
        assert ran == []
        await store.enqueue(LANE, [NewJob("good", encode_record(farthest))])
        await at_rest(store, 2)
        assert await app.open_client.result("good") == 1
    assert (worker.counts.dead, worker.counts.completed) == (1, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert (dead.id, dead.raw) == ("bad", raw)
    assert [error["type"] for error in history(dead)] == ["UndecodableRecord"]


@pytest.mark.parametrize("args", [b'{"x": "no"}', b"{}", b'{"x": 1, "y": 2}', b"[1]", b"7"])
async def test_arguments_that_do_not_fit_are_dead_at_once(autojump_clock: MockClock, args: bytes) -> None:
    app, store = make_app(), memory_store()

    @app.task(name="t", max_retries=5)
    async def task(x: int) -> None: ...

    await store.enqueue(LANE, [NewJob("bad", encode_record(Record(v=1, task="t", args=msgspec.Raw(args))))])
    async with working(app, store):
        await at_rest(store, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert [error["type"] for error in history(dead)] == ["InvalidArguments"]


def explode(value: int) -> NoReturn:
    raise LookupError(f"the service that knows {value} is down")


async def test_a_validator_that_breaks_is_a_failure_like_any_other(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task(name="t", max_retries=1)
    async def task(x: Annotated[int, AfterValidator(explode)]) -> None: ...

    await store.enqueue(
        LANE, [NewJob("x", encode_record(Record(v=1, task="t", args=msgspec.Raw(b'{"x":1}'))))]
    )
    async with working(app, store):
        await at_rest(store, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    assert [error["type"] for error in history(dead)] == ["LookupError", "LookupError"]


async def test_a_result_is_kept_if_asked_for(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task(keep_result=60)
    async def double(x: int) -> dict[str, int]:
        return {"double": 2 * x}

    @app.task
    async def forget(x: int) -> int:
        return x

    async with working(app, store):
        client = app.open_client
        kept, lost = await double.enqueue(4), await forget.enqueue(1)
        asked = await client.enqueue(forget.job(5).options(keep_result=60))
        assert await client.result(kept, wait=10) == {"double": 8}
        assert await client.result(asked, wait=10) == 5
        await at_rest(store, 3)
        with pytest.raises(NoResult):
            await client.result(lost)
        await trio.sleep(61)
        with pytest.raises(NoResult):
            await client.result(kept)


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("result", [object(), circle(), "caf\udce9"], ids=["object", "circle", "surrogate"])
async def test_a_result_that_is_no_json_is_dead_and_not_run_again(
    autojump_clock: MockClock, result: Any
) -> None:
    app, store, runs = make_app(), memory_store(), []

    @app.task(keep_result=60, max_retries=5)
    async def odd() -> Any:
        runs.append(1)
        return result

    async with working(app, store):
        await odd.enqueue()
        await at_rest(store, 1)
    assert runs == [1]
    assert (await store.stats(LANE)).dead == 1


async def test_a_result_that_is_too_large_is_dead_and_not_run_again(autojump_clock: MockClock) -> None:
    app, store, runs = make_app(max_result=1024), memory_store(), []

    @app.task(max_retries=5)
    async def text(size: int) -> str:
        runs.append(size)
        return "x" * (size - 2)  # and two quotes

    def keeping(size: int) -> Any:
        return text.job(size).options(keep_result=60)

    async with working(app, store) as worker:
        client = app.open_client
        await client.enqueue(keeping(1025))
        await at_rest(store, 1)
        largest = await client.enqueue(keeping(1024))
        await at_rest(store, 2)
        await client.enqueue(text.job(100_000))  # nobody keeps it
        await at_rest(store, 3)
        assert len(await client.result(largest)) == 1022
    assert runs == [1025, 1024, 100_000]
    assert (worker.counts.dead, worker.counts.completed) == (1, 2)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (error,) = history(dead)
    assert error["type"] == "ResultTooLarge"
    assert "1025 bytes" in error["message"]
    assert "worker.max_result (1024)" in error["message"]


@pytest.mark.parametrize("run_in", ["trio", "thread"])
async def test_a_traceback_begins_with_the_handler(run_in: str) -> None:
    """On the real clock, because of the thread."""
    app, store = make_app(), memory_store()

    def deeper() -> NoReturn:
        raise LookupError("deep down")

    if run_in == "trio":

        @app.task(name="t", max_retries=0)
        async def handler() -> None:
            deeper()

    else:

        @app.task(name="t", max_retries=0)
        def handler() -> None:
            deeper()

    async with working(app, store) as worker:
        await store.enqueue(LANE, [NewJob("a", encode_record(Record(v=1, task="t")))])
        await at_rest(store, 1)
    assert worker.counts.dead == 1
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (error,) = history(dead)
    head, *lines = error["traceback"].splitlines()
    assert head == "Traceback (most recent call last):"
    frames = [line.strip() for line in lines if line.startswith("  File ")]
    assert [(__file__ in frame, frame.rpartition(" ")[2]) for frame in frames] == [
        (True, "handler"),
        (True, "deeper"),
    ]
    assert lines[-1] == "LookupError: deep down"


async def test_a_failure_before_the_handler_keeps_its_traceback(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task(name="t", max_retries=0)
    async def task(x: Annotated[int, AfterValidator(explode)]) -> None: ...

    await store.enqueue(
        LANE, [NewJob("x", encode_record(Record(v=1, task="t", args=msgspec.Raw(b'{"x":1}'))))]
    )
    async with working(app, store):
        await at_rest(store, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (error,) = history(dead)
    assert "in explode" in error["traceback"]


def test_a_context_has_no_client_outside_a_worker() -> None:
    context = JobContext(id="a", task="mail", queue="default", attempt=1, fencing_token=1, deadline=0.0)
    with pytest.raises(NoClient, match="task mail was called directly"):
        _ = context.client


async def test_the_context(autojump_clock: MockClock) -> None:
    app, store, contexts = make_app(timeout=77.0), memory_store(), []

    @app.task(queue="default", priority="high")
    async def task(context: JobContext) -> None:
        contexts.append((context, trio.current_time()))
        if context.attempt == 1:
            raise Retry(delay=1)

    async with working(app, store):
        job = task.job().options(id="mine", headers={"tenant": "a"})
        await app.open_client.enqueue(job)
        await at_rest(store, 1)
        client = app.open_client
    (first, began), (second, _) = contexts
    assert (first.id, first.queue, first.attempt, first.headers) == ("mine", "default", 1, {"tenant": "a"})
    assert first.task.endswith("task")
    assert first.deadline == began + 77
    assert first.client is client
    assert second.attempt == 2
    assert second.fencing_token > first.fencing_token


async def test_a_handler_enqueues_through_its_context(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task
    async def child() -> None: ...

    @app.task
    async def parent(context: JobContext) -> None:
        await context.client.enqueue(child.job())

    async with working(app, store):
        await parent.enqueue()
        await at_rest(store, 2)


# --- leases that are lost ------------------------------------------------------------------------------------------


async def test_a_lost_lease_cancels_the_handler_and_nothing_is_settled(autojump_clock: MockClock) -> None:
    app, store = make_app(lease=30.0), WatchedStore()
    ended: list[float] = []

    @app.task
    async def work() -> None:
        try:
            await trio.sleep(1000)
        finally:
            ended.append(trio.current_time())

    async with working(app, store) as worker:
        await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 1)
        # Nobody sweeps for an hour in this store, so another's claim is what takes the lease away.
        await steal(store, worker.id)
        await eventually(lambda: worker.counts.lost == 1, 60)
        assert ended == [pytest.approx(10, abs=1)]
        assert store.batches == []
        assert worker._executor.held == {LANE: {}}
        assert worker._executor.in_flight == 0
        assert (await store.stats(LANE)).leased == 1
        await give_back(store)
        await eventually(lambda: worker.counts.claimed == 2, 60)
        worker.cancel()


async def steal(store: WatchedStore, from_worker: str) -> None:
    """Expire every lease, and claim the jobs as somebody else."""
    at = store._lanes[LANE]
    for job_id in list(at.leased):
        at.leased[job_id] = 0
    at.sweep(store._clock(), 1000, 100, 100)
    at.lease(list(at.ready[Priority.NORMAL]), "thief", store._clock() + 3_600_000)
    at.ready[Priority.NORMAL].clear()
    await trio.lowlevel.checkpoint()


async def give_back(store: WatchedStore) -> None:
    at = store._lanes[LANE]
    for job_id in list(at.leased):
        at.leased[job_id] = 0
    at.swept_ms = store._clock()
    at.hold_until_ms = 0
    at.sweep(store._clock(), 1000, 100, 100)
    await trio.lowlevel.checkpoint()


async def test_a_lease_lost_after_the_handler_has_ended_is_found_out_by_settling(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(lease=3.0, sweep_interval=1.5), WatchedStore()
    proceed = trio.Event()

    @app.task
    async def work() -> None:
        await proceed.wait()

    async with working(app, store) as worker:
        await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 1)
        store.go_down()
        proceed.set()
        await eventually(lambda: worker._settler.backlog == 1)
        await steal(store, worker.id)
        store.come_back()
        await eventually(lambda: worker.counts.stale == 1, 60)
        assert (worker.counts.lost, worker.counts.completed) == (0, 0)
        assert worker._executor.held == {LANE: {}}


async def test_a_job_that_comes_back_to_the_worker_that_lost_it_runs_once_at_a_time(
    autojump_clock: MockClock,
) -> None:
    app, store = make_app(lease=3.0, sweep_interval=1.5, concurrency=4), WatchedStore()
    running, most = 0, 0

    @app.task
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep(1.5)
        finally:
            running -= 1

    async with working(app, store) as worker:
        await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 1)
        await give_back(store)  # expired, and ready again, before any renewal
        await eventually(lambda: worker.counts.claimed == 2)
        await eventually(lambda: running == 1)
        most = 1
        # We are alive, so the lease we lost is no crash of ours: enough of those would make the job poison.
        await eventually(lambda: worker.counts.stale == 1)
        (job,) = await store.peek(LANE, State.LEASED, count=9)
        assert (job.crashes, job.tries) == (0, 0)
        await at_rest(store, 1)
    assert most == 1
    assert (worker.counts.lost, worker.counts.completed) == (1, 1)
    assert worker._executor.held == {LANE: {}}


async def test_a_bug_of_ours_costs_the_job_and_not_the_worker(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, store = make_app(), memory_store()

    @app.task
    async def task() -> None: ...

    async with working(app, store) as worker:
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(worker._executor._endings, "done", explode)
            await task.enqueue()
            await at_rest(store, 1)
        await task.enqueue()
        await at_rest(store, 2)
    assert (worker.counts.dead, worker.counts.completed) == (1, 1)
    assert worker._executor.held == {LANE: {}}


async def test_long_texts_are_cut(autojump_clock: MockClock) -> None:
    app, store = make_app(), memory_store()

    @app.task(max_retries=0)
    async def fail() -> None:
        raise ValueError("x" * 100_000)

    async with working(app, store):
        await fail.enqueue()
        await at_rest(store, 1)
    (dead,) = await store.peek(LANE, State.DEAD, count=9)
    (error,) = history(dead)
    assert len(error["message"]) == len(error["traceback"]) == MAX_TRACEBACK


async def test_a_job_is_started_even_if_the_worker_is_cancelled_in_that_moment(
    autojump_clock: MockClock,
) -> None:
    """The claim is answered and the outer scope cancelled in the same step: the job is released, never forgotten."""
    app, store = make_app(), WatchedStore()

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    worker = Worker(app, store=store)
    async with trio.open_nursery() as nursery:
        store.on_claimed = nursery.cancel_scope.cancel
        await nursery.start(worker.run)
        await work.enqueue()
    assert worker.counts.released == 1
    stats = await store.stats(LANE)
    assert (stats.ready_total, stats.leased, stats.workers) == (1, 0, 0)
    await assert_audit(store)
