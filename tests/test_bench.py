"""The bench measures what happened: every job counted, run exactly once, the figures of this run; it stops in time."""

from __future__ import annotations

import pytest
import trio

from queue_trio.bench import FEW_MIN, LABELS, PICKUPS, PICKUPS_MIN, ROUNDS_MAX, measure, open_bench
from queue_trio.core.job import Lane
from queue_trio.errors import InternalError
from queue_trio.server_binary import ServerBinary

IDLE = {"idle_cpu_percent", "idle_round_trips_per_s"}


async def test_a_round_runs_each_job_once_and_leaves_nothing(server_binary: ServerBinary) -> None:
    # So many that their memory shows beside the buffers of connections, some 50 kB, which Redis frees when it likes.
    jobs = 1000
    everything = jobs + 2 * (jobs // 10)
    async with open_bench(server=server_binary) as bench:
        await bench.round(jobs)
        stats = await bench._client.store.stats(Lane())
        assert (stats.completed, stats.enqueued) == (everything, everything)
        assert (stats.ready_total, stats.leased, stats.dead) == (0, 0, 0)
        assert bench.jobs == everything
        assert bench._ran == dict.fromkeys(range(jobs), 1)
        assert 0 < bench.figures["round_trips_per_job"][0] < 1
        assert 50 < bench.figures["memory_bytes_per_job"][0] < 2000


async def test_every_figure_has_a_label_and_a_value(server_binary: ServerBinary) -> None:
    async with open_bench(server=server_binary) as bench:
        await bench.round(50)
        await bench.pickup(deadline=trio.current_time())
        await bench.idle(0.05)
        assert set(bench.figures) == set(LABELS)
        assert bench.jobs == 50 + 2 * FEW_MIN + PICKUPS_MIN
        assert 0 < bench.figures["pickup_p50_ms"][0] <= bench.figures["pickup_p99_ms"][0]


async def test_a_job_that_runs_twice_or_not_at_all_is_told(server_binary: ServerBinary) -> None:
    async with open_bench(server=server_binary) as bench:
        await bench.round(10)
        await bench._check(10, 0, numbered=True)
        bench._ran[7] += 1
        with pytest.raises(InternalError, match="1 of 10 jobs did not run exactly once, such as number 7"):
            await bench._check(10, 0, numbered=True)
        with pytest.raises(InternalError, match="8 jobs ran, of 10"):
            await bench._check(10, 2, numbered=False)


@pytest.mark.parametrize(("seconds", "jobs"), [(0.1, 40), (1.0, None)])
async def test_a_measurement_ends_in_time(seconds: float, jobs: int | None) -> None:
    said: list[str] = []
    with trio.fail_after(60):
        results = await measure(seconds=seconds, jobs=jobs, concurrency=8, tell=said.append)
    assert said[0] == "starting a private server"
    assert f"round {results.rounds}: " in said[-2]
    assert 1 <= results.rounds <= ROUNDS_MAX
    assert {len(samples) for name, samples in results.figures.items() if "pickup" not in name} == {
        results.rounds
    }
    assert set(results.figures) == set(LABELS) - IDLE
    if jobs is not None:
        pickups = results.jobs - results.rounds * (jobs + 2 * FEW_MIN)
        assert PICKUPS_MIN <= pickups <= PICKUPS
    samples = results.figures["run_jobs_per_s"]
    assert min(samples) <= results.median("run_jobs_per_s") <= max(samples)
