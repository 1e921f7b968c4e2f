"""Real workers, killed and stopped where they are told to be; and load, journal and observer that go with them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chaos.actors.producer_main import Load, phase_of, produce
from chaos.actors.producer_main import open_client as open_chaos_client
from chaos.actors.tasks import make_job
from chaos.driving.processes import START_S, open_processes
from chaos.errors import HarnessError
from chaos.history import SUFFIX, AtRest, Enqueue, Journal, Observation, Run, read_history
from chaos.playing.observer import open_observer
from queue_trio import errors
from queue_trio.core.job import Lane, State
from queue_trio.core.settings import Settings
from queue_trio.redis.operations import RedisOperations
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from chaos.actors.worker_main import Phase
    from chaos.driving.processes import Child, Processes
    from queue_trio.client import QueueClient

SETTINGS: dict[str, dict[str, Any]] = {
    "redis": {"read_timeout": 0.4, "connect_timeout": 0.4, "backoff_cap": 0.1, "breaker_open_wait": 0.1},
    "worker": {
        "lease": 0.4,
        "sweep_interval": 0.1,
        "poll_interval": 0.1,
        "concurrency": 8,
        "shutdown_grace": 2.0,
    },
    "client": {"timeout": 1.0},
}


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with open_processes(tmp_path) as processes:
        yield processes


def settings(url: str) -> dict[str, dict[str, Any]]:
    return {**SETTINGS, "redis": {**SETTINGS["redis"], "url": url}}


def open_client(url: str) -> AbstractAsyncContextManager[QueueClient]:
    return open_chaos_client(Settings.model_validate(settings(url)))


def told(worker: Child) -> dict[str, Any]:
    found = worker.said("started")
    assert found is not None
    return found


async def enqueue(url: str, kind: str, seconds: float = 0.2) -> str:
    async with open_client(url) as client:
        return await client.enqueue(make_job(kind, seconds=seconds))


def runs(folder: Path, job_id: str) -> list[Run]:
    return [event for event in read_history(folder) if isinstance(event, Run) and event.id == job_id]


def ended(folder: Path, job_id: str) -> list[str]:
    return [run.outcome for run in runs(folder, job_id) if run.phase == "end"]


async def drain(*workers: Child) -> None:
    for worker in workers:
        assert "exit code 0" in await worker.terminate(5)


async def test_a_worker_writes_down_every_run(processes: Processes, redis_url: str, tmp_path: Path) -> None:
    worker = await processes.start_worker("worker-1", settings(redis_url))
    for kind, outcomes in {
        "quick": ["returned"],
        "thread": ["returned"],
        "fail": ["raised", "raised"],
    }.items():
        job_id = await enqueue(redis_url, kind, 0.01)
        await eventually(lambda: ended(tmp_path, job_id) == outcomes, 5, what=kind)  # noqa: B023
        start, end, *_ = runs(tmp_path, job_id)
        assert (start.phase, start.attempt, start.pid) == ("start", 1, worker.pid)
        assert start.fence == end.fence > 0
        assert start.worker == told(worker)["worker"]
    async with open_client(redis_url) as client:
        from queue_trio.redis.operations import RedisOperations

        store: Any = client.store
        await eventually(lambda: _dead(client), 5)
        dead = await store.peek(Lane(), State.DEAD, count=9)
        await RedisOperations(store).purge(Lane(), [job.id for job in dead])
    await drain(worker)


async def _dead(client: QueueClient) -> int:
    return (await client.store.stats(Lane())).dead


PHASES: list[Phase] = ["idle", "before_claim", "claimed", "running", "before_settle", "settled"]


@pytest.mark.parametrize("phase", PHASES)
async def test_a_worker_dies_in_the_phase_it_is_told_to(
    processes: Processes, redis_url: str, tmp_path: Path, phase: Phase
) -> None:
    victim = await processes.start_worker("worker-1", settings(redis_url))
    await victim.order(phase, "kill")
    job_id = await enqueue(redis_url, "quick")
    report = await victim.wait_said("at", within_s=3)
    assert await victim.wait(3) == -signal.SIGKILL
    assert report["phase"] == phase
    began_ended = [run.phase for run in runs(tmp_path, job_id)]
    assert began_ended == {
        "running": ["start"],
        "before_settle": ["start", "end"],
        "settled": ["start", "end"],
    }.get(phase, [])

    await left_to_an_heir(processes, redis_url)
    assert ended(tmp_path, job_id)


async def test_a_sweeper_dies_with_its_sweep_done(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    victim = await processes.start_worker("worker-1", settings(redis_url), at=("running", "kill"))
    job_id = await enqueue(redis_url, "quick")
    assert await victim.wait(3) == -signal.SIGKILL
    sweeper = await processes.start_worker(
        "worker-2", settings(redis_url), ready=False, at=("sweeping", "kill")
    )
    assert (await sweeper.wait_said("at", within_s=4))["reclaimed"] == 1
    assert await sweeper.wait(3) == -signal.SIGKILL
    await left_to_an_heir(processes, redis_url)
    assert ended(tmp_path, job_id) == ["returned"]


async def left_to_an_heir(processes: Processes, url: str) -> None:
    """One more worker does what is left, and buries those that are gone."""
    heir = await processes.start_worker("heir", settings(url))

    async def done() -> bool:
        async with open_client(url) as client:
            stats = await client.store.stats(Lane())
            return stats.completed == stats.enqueued and stats.workers == 1

    await eventually(done, 8)
    await drain(heir)


async def test_a_worker_stops_and_goes_on(processes: Processes, redis_url: str, tmp_path: Path) -> None:
    worker = await processes.start_worker("worker-1", settings(redis_url))
    await worker.order("running", "stop")
    job_id = await enqueue(redis_url, "quick")
    assert await worker.wait_stopped() == f"pid {worker.pid} is stopped"
    assert ended(tmp_path, job_id) == []
    worker.go_on()
    await eventually(lambda: "returned" in ended(tmp_path, job_id))
    assert await worker.stop()
    assert worker.alive
    worker.go_on()
    await drain(worker)


async def test_a_thread_that_was_given_up_on_does_not_count_as_returned(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    worker = await processes.start_worker("worker-1", settings(redis_url))
    job_id = await enqueue(redis_url, "uncancellable")
    await eventually(lambda: ended(tmp_path, job_id), 4)
    assert ended(tmp_path, job_id) == ["cancelled"]
    async with open_client(redis_url) as client:
        from queue_trio.redis.operations import RedisOperations

        store: Any = client.store
        await eventually(lambda: _dead(client), 3)
        await RedisOperations(store).purge(Lane(), [job_id])
    await drain(worker)


async def test_a_job_that_crashes_its_worker_once_is_done_by_the_next(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    victim = await processes.start_worker("worker-1", settings(redis_url))
    job_id = await enqueue(redis_url, "crash")
    assert await victim.wait(5) == -signal.SIGABRT
    await left_to_an_heir(processes, redis_url)
    assert ended(tmp_path, job_id) == ["returned"]


async def test_a_worker_with_a_wrong_clock_writes_the_right_time(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    worker = await processes.start_worker("worker-1", settings(redis_url), clock_off_s=3600)
    job_id = await enqueue(redis_url, "quick")
    await eventually(lambda: ended(tmp_path, job_id))
    assert abs(runs(tmp_path, job_id)[0].at_s - time.time()) < 60
    await drain(worker)


async def test_a_worker_that_refuses_to_start_says_why(processes: Processes, redis_url: str) -> None:
    wrong = settings(redis_url) | {"worker": {"lease": "soon"}}
    child_error = "ended with exit code 3 before 'registered'.*lease"
    with pytest.RaisesGroup(
        pytest.RaisesExc(HarnessError, match=child_error), allow_unwrapped=True, flatten_subgroups=True
    ):
        await processes.start_worker("worker-1", wrong)


async def test_the_observer_sees_queue_and_workers(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    worker = await processes.start_worker("worker-1", settings(redis_url))
    journal = Journal(tmp_path / f"observer{SUFFIX}", clock=time.time)
    async with open_observer(journal, redis_url, workers={"worker-1": told(worker)["url"]}) as observer:
        await enqueue(redis_url, "slow", 0.8)
        await eventually(lambda: observer.last.leased == 1 and observer.last.in_flight == {"worker-1": 1}, 3)
        assert observer.last.breaker == {"worker-1": "closed"}
        assert observer.last.errors == {"worker-1": 0}
        await eventually(lambda: observer.last.completed == 1 and observer.last.leased == 0, 3)
        await worker.stop()
        await eventually(lambda: observer.last.breaker == {}, 3)
        worker.go_on()
    await drain(worker)
    journal.close()
    seen = [event for event in read_history(tmp_path) if isinstance(event, Observation)]
    assert len(seen) > 5
    assert not any(isinstance(event, AtRest) for event in seen)


async def test_a_load_is_written_down_before_and_after(redis_url: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / f"load{SUFFIX}", clock=time.time)
    load = Load(jobs=50, rate=None, priorities={"high": 1, "low": 1}, payload=10)
    async with open_client(redis_url) as client:
        tally = await produce(client, load, journal, random.Random(1))
        queued = await client.store.peek(Lane(), State.READY, count=100)
        assert tally.ended == {"ok": 50, "fail": 0, "info": 0, "refused": 0}
        store: Any = client.store
        for job in queued:
            await RedisOperations(store).cancel(Lane(), job.id)
    journal.close()
    events = [event for event in read_history(tmp_path) if isinstance(event, Enqueue)]
    assert {event.id for event in events if event.phase == "ok"} == {job.id for job in queued}
    assert [event.phase for event in events if event.id == events[0].id] == ["invoke", "ok"]
    assert {event.priority for event in events} == {"high", "low"}


async def test_enqueues_that_are_cancelled_are_unknown(tmp_path: Path) -> None:
    journal = Journal(tmp_path / f"load{SUFFIX}", clock=time.time)
    async with open_client(f"unix://{tmp_path}/nobody.sock") as client:
        with trio.move_on_after(0.2):
            await produce(client, Load(jobs=3, rate=None), journal, random.Random(1))
    journal.close()
    phases = [event.phase for event in read_history(tmp_path) if isinstance(event, Enqueue)]
    assert sorted(phases) == ["info"] * 3 + ["invoke"] * 3


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (errors.CircuitOpen("x", 1.0), "fail"),
        (errors.DeadlineExceeded("x"), "fail"),
        (errors.NotSent("x"), "fail"),
        (errors.ServerRefused("OOM", "x"), "fail"),
        (errors.PayloadTooLarge("x"), "fail"),
        (errors.OutcomeUnknown("x"), "info"),
        (errors.Indeterminate("x"), "info"),
        (errors.ProtocolError("x"), "info"),
        (errors.ServerError("ERR", "x"), "info"),
        (errors.QueueFull("x"), "refused"),
    ],
)
def test_what_an_error_says_about_the_job(error: Exception, phase: str) -> None:
    assert phase_of(error) == phase


async def test_a_producer_process_reports_what_it_did(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    load = Load(jobs=5, rate=None)
    producer = await processes.start_producer("producer-1", settings(redis_url), load, seed=1)
    report = await producer.wait_said("loaded", within_s=5)
    assert report["ok"] == 5
    assert await producer.wait(5) == 0
    worker = await processes.start_worker("worker-1", settings(redis_url))
    await eventually(
        lambda: sum(isinstance(e, Run) and e.phase == "end" for e in read_history(tmp_path)) == 5
    )
    await drain(worker)


async def test_nothing_is_left_when_the_block_ends_with_an_error(redis_url: str, tmp_path: Path) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with open_processes(tmp_path) as processes:
            worker = await processes.start_worker("worker-1", settings(redis_url), ready=False)
            await worker.stop()
            pids.append(worker.pid)
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await fail()
    assert all(map(is_gone, pids))


HARNESS = """
import pathlib, sys, trio
from chaos.driving.processes import open_processes
async def main():
    async with open_processes(pathlib.Path(sys.argv[1])) as processes:
        settings = {"redis": {"url": f"unix://{sys.argv[1]}/nobody.sock"}}
        worker = await processes.start_worker("worker-1", settings, ready=False)
        await worker.stop()
        print(worker.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def test_nothing_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        harness = await trio.lowlevel.open_process(
            [sys.executable, "-c", HARNESS, str(tmp_path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        try:
            await eventually(lambda: (tmp_path / "out").read_text().strip(), START_S)
            pid = int((tmp_path / "out").read_text())
            assert not is_gone(pid)
        finally:
            harness.kill()
            await harness.wait()
    await eventually(lambda: is_gone(pid), 5)


async def test_two_clients_may_go_two_ways(redis_url: str, tmp_path: Path) -> None:
    async with open_client(redis_url) as near, open_client(f"unix://{tmp_path}/nobody.sock") as far:
        await near.connect()
        with pytest.raises(errors.NotSent):
            await far.connect()
        await near.connect()


async def test_a_producer_that_is_killed_leaves_what_it_had_begun(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    away = settings(f"unix://{tmp_path}/nobody.sock")
    producer = await processes.start_producer("producer-1", away, Load(jobs=3, rate=None), seed=1)

    def phases() -> list[str]:
        return [event.phase for event in read_history(tmp_path) if isinstance(event, Enqueue)]

    await eventually(lambda: len(phases()) == 3, 0.9)
    await producer.kill()
    assert phases() == ["invoke"] * 3
