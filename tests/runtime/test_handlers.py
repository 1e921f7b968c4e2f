"""Sync handlers: threads, which nobody can cancel, and processes, which can be killed. On the real clock."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import trio

from queue_trio import App
from queue_trio.core.job import Lane, State
from queue_trio.core.settings import Settings, WorkerSettings
from queue_trio.errors import UsageError
from queue_trio.runtime.plan import make_plan
from queue_trio.runtime.worker import _code
from tests.runtime import jobs
from tests.runtime.rig import LANE, assert_audit, at_rest, make_app, memory_store, working
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queue_trio.core.job import ClaimedJob
    from queue_trio.memory.store import MemoryStore
    from queue_trio.tracing.spans import Receipt

JOIN_S = 10


async def last_errors(store: MemoryStore) -> list[tuple[str, str]]:
    dead = await store.peek(LANE, State.DEAD, count=99)
    errors = [json.loads(job.errors[-1].partition(" ")[2]) for job in dead]
    return [(error["type"], error["message"]) for error in errors]


# --- threads ---------------------------------------------------------------------------------------------------------


async def test_a_thread_runs_the_handler_and_its_end_is_the_outcome() -> None:
    app, store, seen = make_app(), memory_store(), []

    @app.task
    def work(x: int) -> None:
        seen.append(threading.current_thread() is threading.main_thread())

    @app.task(max_retries=0)
    def leave() -> None:
        raise SystemExit("bye")

    async with working(app, store) as worker:
        await work.enqueue(1)
        await leave.enqueue()
        await at_rest(store, 2)
        assert worker._executor.in_flight == 0
    assert seen == [False]
    assert await last_errors(store) == [("SystemExit", "bye")]


async def test_an_abandoned_thread_keeps_its_slot_until_it_ends() -> None:
    app, store, go = make_app(concurrency=2, threads=2), memory_store(), threading.Event()

    @app.task(timeout=0.05, max_retries=0)
    def hang() -> None:
        go.wait(JOIN_S)

    @app.task
    async def quick() -> None: ...

    try:
        async with working(app, store) as worker:
            executor = worker._executor
            await hang.enqueue()
            await at_rest(store, 1)
            assert await last_errors(store) == [("JobTimeout", "ran longer than its timeout of 0.05 s")]
            assert (worker.counts.abandoned, executor.in_flight, executor.free) == (1, 1, 1)
            await quick.enqueue()
            await at_rest(store, 2)  # the other slot works
            await hang.enqueue()
            await at_rest(store, 3)
            assert (worker.counts.abandoned, executor.free) == (2, 0)
            await quick.enqueue()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert worker.counts.claimed == 3  # no slot, no claim
            go.set()
            await at_rest(store, 4)
            await eventually(lambda: executor.in_flight == 0)
            assert executor._threads.borrowed_tokens == 0
    finally:
        go.set()


async def test_a_thread_job_waits_for_a_thread_without_running_out_of_time() -> None:
    app, store, go = make_app(concurrency=4, threads=1), memory_store(), threading.Event()
    first = trio.Event()

    @app.task
    def hold() -> None:
        trio.from_thread.run_sync(first.set)
        go.wait(JOIN_S)

    @app.task(timeout=0.1, max_retries=0)
    def short() -> None: ...

    try:
        async with working(app, store) as worker:
            await hold.enqueue()
            await first.wait()
            await short.enqueue()
            await eventually(lambda: worker._executor._threads.statistics().tasks_waiting == 1)
            await trio.sleep(0.2)  # longer than its timeout, which is what this is about
            go.set()
            await at_rest(store, 2)
            assert worker.counts.completed == 2
    finally:
        go.set()


async def test_a_thread_job_cancelled_before_it_has_a_thread_gives_everything_back() -> None:
    """Cancelled in the queue for a thread, or in the step before one is started: no slot is lost, nothing abandoned."""
    app, store, go = make_app(concurrency=8, threads=1), memory_store(), threading.Event()
    ran: list[int] = []

    @app.task
    def hold(x: int) -> None:
        ran.append(x)
        go.wait(JOIN_S)

    try:
        async with working(app, store) as worker:
            executor = worker._executor
            for x in range(4):
                await hold.enqueue(x)
            await eventually(lambda: executor._threads.statistics().tasks_waiting == 3 and ran)
            executor.cancel_all()
            await eventually(lambda: executor.in_flight == 1)
            assert worker.counts.abandoned == 1
            go.set()
            await eventually(lambda: executor.in_flight == 0)
            assert executor._threads.borrowed_tokens == 0
            executor.let_go()
            await eventually(lambda: worker.counts.released == 4)
            await at_rest(store, 4)
    finally:
        go.set()
    assert (len(ran), set(ran)) == (5, {0, 1, 2, 3})  # the one that was abandoned ran again


async def test_cancelled_in_its_first_step_no_thread_is_started() -> None:
    app, store = make_app(concurrency=8), memory_store()
    ran: list[int] = []

    @app.task
    def work() -> None:
        ran.append(1)

    async with working(app, store) as worker:
        executor = worker._executor
        start = executor.start

        def start_and_cancel(lane: Lane, jobs: Sequence[ClaimedJob], receipt: Receipt | None = None) -> None:
            start(lane, jobs, receipt)
            executor.cancel_all()

        executor.start = start_and_cancel  # type: ignore[method-assign]
        await work.enqueue()
        await eventually(lambda: worker.counts.claimed == 1)
        await eventually(lambda: executor.in_flight == 0)
        executor.start = start  # type: ignore[method-assign]
        assert (worker.counts.abandoned, ran) == (0, [])
        executor.let_go()
        await at_rest(store, 1)


async def test_threads_that_end_as_their_time_is_up_are_counted_once() -> None:
    """The end of the handler and of its time race on purpose; slots must come out even."""
    app, store = make_app(concurrency=8, threads=8), memory_store()
    barrier = threading.Event()

    @app.task(timeout=0.01, max_retries=0)
    def race() -> None:
        barrier.wait(0.01)

    async with working(app, store) as worker:
        await app.open_client.enqueue_many([race.job() for _ in range(200)])
        await at_rest(store, 200)
        await eventually(lambda: worker._executor.in_flight == 0)
        assert worker._executor._threads.borrowed_tokens == 0
    assert worker.counts.completed + worker.counts.dead == 200


async def test_an_abandoned_thread_that_outlives_the_worker_harms_nobody() -> None:
    app, store, go = make_app(shutdown_grace=0.2), memory_store(), threading.Event()
    ended = threading.Event()

    @app.task
    def hang() -> None:
        go.wait(JOIN_S)
        ended.set()

    began = trio.current_time()
    async with working(app, store) as worker:
        await hang.enqueue()
        await eventually(lambda: worker._executor.in_flight == 1)
    assert trio.current_time() - began < 2
    assert worker.counts.released == 1
    assert (await store.stats(LANE)).ready_total == 1
    go.set()
    await eventually(ended.is_set)
    await eventually(lambda: worker._executor.in_flight == 0)


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[App]:
    before = jobs.app._settings
    jobs.app._settings = Settings(worker=WorkerSettings(processes=2, concurrency=4, shutdown_grace=2))
    yield jobs.app
    jobs.app._settings = before


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "anyio.to_process" in " ".join(child.cmdline())]


async def test_a_process_runs_the_handler_is_used_again_and_ends_with_the_worker(app: App) -> None:
    store = memory_store()
    async with working(app, store):
        client = app.open_client
        assert await client.result(await jobs.square.enqueue(7), wait=20) == 49
        used = {await client.result(await jobs.pid.enqueue(), wait=20) for _ in range(3)}
        assert len(used) == 1
        assert os.getpid() not in used
        await at_rest(store, 4)
    assert all(is_gone(pid) for pid in used)
    assert children() == []


@pytest.mark.parametrize("name", ["fail", "leave", "die"])
async def test_a_process_that_fails_or_dies_fails_its_job_and_no_other(app: App, name: str) -> None:
    store = memory_store()
    async with working(app, store) as worker:
        client = app.open_client
        await client.enqueue(app.tasks[name].job())
        await at_rest(store, 1)
        for x in range(3):
            assert await client.result(await jobs.square.enqueue(x), wait=20) == x * x
        assert worker._executor.in_flight == 0
    kind = {"fail": "LookupError", "leave": "SystemExit", "die": "BrokenWorkerProcess"}[name]
    assert [error for error, _ in await last_errors(store)] == [kind]
    assert worker.counts.completed == 3


async def test_an_idle_process_that_was_killed_costs_no_job(app: App) -> None:
    store = memory_store()
    async with working(app, store) as worker:
        client = app.open_client
        pid = await client.result(await jobs.pid.enqueue(), wait=20)
        os.kill(pid, signal.SIGKILL)
        assert await client.result(await jobs.square.enqueue(3), wait=20) == 9
    assert worker.counts.retried == worker.counts.dead == 0


async def test_ctrl_c_and_sigterm_to_the_whole_group_leave_running_processes_alone(app: App) -> None:
    store = memory_store()
    async with working(app, store) as worker:
        client = app.open_client
        idle = await client.result(await jobs.pid.enqueue(), wait=20)
        job_id = await jobs.sleep.enqueue(0.3)
        await eventually(lambda: worker._executor.in_flight == 1)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(idle, number)  # the same process: it runs `sleep` now
        assert await client.result(job_id, wait=20) == "slept"
        os.kill(idle, signal.SIGINT)
        assert await client.result(await jobs.square.enqueue(3), wait=20) == 9


async def test_a_process_that_takes_too_long_is_killed_and_waiting_for_one_is_not_running(app: App) -> None:
    store = memory_store()
    async with working(app, store) as worker:
        client = app.open_client
        for _ in range(4):  # two at once
            await client.enqueue(jobs.sleep.job(60).options(timeout=0.3))
        await at_rest(store, 4)
        assert worker._executor.in_flight == 0
        await eventually(lambda: not children())
    assert await last_errors(store) == [("JobTimeout", "ran longer than its timeout of 0.3 s")] * 4


async def test_drain_kills_what_still_runs_in_a_process_and_releases_it(app: App) -> None:
    store = memory_store()
    async with working(app, store) as worker:
        await jobs.sleep.enqueue(60)
        await eventually(lambda: len(children()) == 1)
        worker.cancel()
    assert worker.counts.released == 1
    assert children() == []
    assert (await store.stats(LANE)).ready_total == 1
    await assert_audit(store)


def test_a_process_task_that_no_process_could_run() -> None:
    app = App("main")

    def local() -> None: ...

    local.__module__ = "__main__"
    task = app.task(run_in="process")(local)
    with pytest.raises(UsageError, match="__main__"):
        make_plan(task, WorkerSettings())


def test_a_process_task_that_is_not_what_its_module_has_under_its_name() -> None:
    app = App("local")

    def local() -> None: ...

    for function in (local, jobs.helper):
        task = app.task(run_in="process")(function)
        with pytest.raises(UsageError, match=r"is not the task; declare it with @app\.task at the top"):
            make_plan(task, WorkerSettings())


def test_a_handler_that_is_not_written_in_python_has_no_frames_to_find() -> None:
    assert _code(len) is None
