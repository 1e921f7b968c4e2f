"""What a real worker writes down of its outcomes, and what it says when it dies with a job in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chaos.actors.producer_main import open_client
from chaos.actors.tasks import make_job
from chaos.driving.processes import open_processes
from chaos.history import Run, Settle, read_history
from queue_trio.core.settings import Settings
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chaos.driving.processes import Processes
    from queue_trio.embedded import EmbeddedRedis

WORKER: dict[str, Any] = {"lease": 0.4, "sweep_interval": 0.1, "poll_interval": 0.1, "concurrency": 8}


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with open_processes(tmp_path) as processes:
        yield processes


def settings(url: str) -> dict[str, dict[str, Any]]:
    return {"redis": {"url": url}, "worker": WORKER}


async def enqueue(url: str, kind: str, seconds: float = 0.2) -> str:
    async with open_client(Settings.model_validate(settings(url))) as client:
        return await client.enqueue(make_job(kind, seconds=seconds))


def settles(folder: Path, job_id: str) -> list[Settle]:
    return [event for event in read_history(folder) if isinstance(event, Settle) and event.id == job_id]


@pytest.mark.parametrize(
    ("kind", "verdicts"), [("quick", ["done"]), ("thread", ["done"]), ("fail", ["retry", "dead"])]
)
async def test_a_worker_writes_down_what_it_has_settled(
    kind: str, verdicts: list[str], processes: Processes, private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    await processes.start_worker("worker-1", settings(private_redis.url))
    job_id = await enqueue(private_redis.url, kind, 0.01)
    await eventually(lambda: len(settles(tmp_path, job_id)) == len(verdicts), 5, what=kind)
    found = settles(tmp_path, job_id)
    assert [(settle.verdict, settle.accepted) for settle in found] == [(each, True) for each in verdicts]
    runs = [event for event in read_history(tmp_path) if isinstance(event, Run) and event.phase == "end"]
    assert [settle.fence for settle in found] == [run.fence for run in runs]
    assert all(run.at_s <= settle.sent_s <= settle.at_s for run, settle in zip(runs, found, strict=True))


async def test_a_worker_that_was_frozen_writes_down_that_it_is_refused(
    processes: Processes, private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    frozen = await processes.start_worker("worker-1", settings(private_redis.url))
    job_id = await enqueue(private_redis.url, "thread", 0.3)
    await eventually(lambda: any(isinstance(event, Run) for event in read_history(tmp_path)), 5)
    await frozen.stop()
    await processes.start_worker("worker-2", settings(private_redis.url))
    await eventually(lambda: len(settles(tmp_path, job_id)) == 1, 10)
    frozen.go_on()
    await eventually(lambda: len(settles(tmp_path, job_id)) == 2, 10)
    taken, stale = sorted(settles(tmp_path, job_id), key=lambda settle: not settle.accepted)
    assert (taken.accepted, stale.accepted) == (True, False)
    assert taken.fence > stale.fence


@pytest.mark.parametrize("phase", ["claimed", "running", "before_settle"])
async def test_a_victim_says_which_job_it_had_in_hand_and_when(
    phase: Any, processes: Processes, private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    worker = await processes.start_worker("worker-1", settings(private_redis.url), at=(phase, "kill"))
    job_id = await enqueue(private_redis.url, "quick")
    told = await worker.wait_said("at", within_s=5)
    assert told["job"] == job_id
    last_s = max((event.at_s for event in read_history(tmp_path)), default=0.0)
    assert told["at_s"] >= last_s
    assert settles(tmp_path, job_id) == []
