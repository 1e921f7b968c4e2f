"""The bench of scale: what it refuses is told, what it computes is right, and each part goes its whole way, tiny."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import msgspec
import pytest
import trio
from rich.console import Console

from bench.driver import RunFailed
from bench.scale import __main__ as scale
from bench.scale.__main__ import measure
from bench.scale.crew import LANE, Order
from bench.scale.parts import PARTS, Part
from bench.scale.parts import soak as soaked
from bench.scale.report import LABELS, LOOKS, Results, Run, Sample, Soak, draw, show
from bench.scale.rig import Rig, Shift, ledger_fault, open_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.server_binary import ServerBinary

JOBS = 12


@pytest.fixture
async def rig(server_binary: ServerBinary) -> AsyncIterator[Rig]:
    async with open_rig(server_binary) as rig:
        yield rig


def results_with(rates: dict[int, list[float]], part: str = "depth", group: str = "scheduled") -> Results:
    """Results of one group: jobs/s by size and round."""
    results = Results("2030-01-02T03:04:05+00:00", "Redis 7.0.0", 2)
    for size, values in rates.items():
        for round_, value in enumerate(values, start=1):
            results.runs.append(Run(part, group, size, round_, {"run_per_s": value}))
    return results


def shown(results: Results) -> str:
    console = Console(file=io.StringIO(), width=220, record=True)
    show(results, console)
    return console.export_text()


# --- exactly once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ledgers", "queued"),
    [
        ([b"\1\1\1\0"], 0),
        ([b"\1\0\1\0"], 1),
        ([b"\0\0\0\0"], 3),
        ([b"\1\0\0\0", b"\0\1\0\0", b"\0\0\1\0"], 0),
    ],
)
def test_each_job_once_or_still_queued_is_right(ledgers: list[bytes], queued: int) -> None:
    assert ledger_fault(ledgers, 3, queued) is None


@pytest.mark.parametrize(
    ("ledgers", "queued", "fault"),
    [
        ([b"\1\0\1\0"], 0, "1 of 3 jobs neither ran nor are queued"),
        ([b"\1\1\1\0"], 2, "2 of 3 jobs ran and are queued all the same"),
        ([b"\1\2\1\0"], 0, "1 of 3 jobs ran more than once"),
        ([b"\1\1\0\0", b"\0\1\1\0"], 0, "1 of 3 jobs ran more than once"),
        ([b"\xff\1\1\0", b"\xff\0\0\0"], 0, "1 of 3 jobs ran more than once"),
        ([b"\1\1\1\1"], 0, "1 of 3 jobs ran and were never enqueued"),
        ([b"\0\2\1\0"], 0, "1 of 3 jobs neither ran nor are queued; 1 of 3 jobs ran more than once"),
    ],
)
def test_what_is_not_exactly_once_is_told(ledgers: list[bytes], queued: int, fault: str) -> None:
    assert ledger_fault(ledgers, 3, queued) == fault


async def test_a_wrong_ledger_is_refused_by_what_the_server_holds(rig: Rig) -> None:
    async with rig.queue() as queue:
        await queue.send(2)
        await queue.send(1, delay=60)
        await queue.check([b"\0\0\0"])
        with pytest.raises(RunFailed, match="1 of 3 jobs ran and are queued all the same"):
            await queue.check([b"\0\1\0"])
        claim = await queue._client.store.claim(
            LANE, worker="w", want=1, lease_ms=60_000, order=list((await queue.stats()).ready)
        )
        assert len(claim.jobs) == 1
        with pytest.raises(RunFailed, match=r"the audit failed: .*leased=1"):
            await queue.check([b"\1\0\0"])


async def test_a_job_that_really_runs_twice_fails_the_run(rig: Rig) -> None:
    async with rig.queue() as queue:
        await queue.send(JOBS)
        await queue._client.enqueue(queue._task.job(7))
        with pytest.raises(RunFailed, match=f"^1 of {JOBS} jobs ran more than once$"):
            async with rig.shift(queue, Order(rig.url, JOBS)) as shift:
                await shift.until(lambda stats: stats.completed > JOBS)


async def test_a_standstill_and_a_program_that_fails_are_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scale.rig.STALL_S", 0.05)
    async with rig.queue() as queue:
        await queue.send(2)
        with pytest.raises(RunFailed, match="after 0 of 2 jobs none ended"):
            await Shift(rig, queue, [], Order(rig.url, 2, mark=2)).run()
        with pytest.raises(RunFailed, match="the nobody-0 ended before it was ready: KeyError: 'nobody'"):
            async with rig.shift(queue, Order(rig.url, 2), role="nobody"):
                pytest.fail("there is no such role")


# --- the whole path -------------------------------------------------------------------------------------------------


async def test_each_part_gives_its_figures_and_a_failed_run_is_left_out(server_binary: ServerBinary) -> None:
    async def fail(_rig: Rig, group: str, size: int, jobs: int) -> dict[str, float]:
        raise RunFailed(f"{group} {size} {jobs}")

    told: list[str] = []
    kept: list[int] = []
    parts = {
        "depth": replace(PARTS["depth"], groups=("ready, lower priority", "scheduled"), sizes=(2000,)),
        "concurrency": replace(PARTS["concurrency"], groups=("await 10 ms",), sizes=(4,)),
        "broken": Part(("none",), (1000,), fail),
        "processes": replace(PARTS["processes"], sizes=(2,)),
        "saturation": replace(PARTS["saturation"], groups=("1 process",), sizes=(16,)),
    }
    with trio.fail_after(100):
        results = await measure(
            parts,
            rounds=1,
            jobs=JOBS,
            server=server_binary,
            tell=told.append,
            keep=lambda results: kept.append(len(results.runs)),
        )
    assert results.failures == [f"round 1 of 1: broken, none, 1,000: none 1000 {JOBS}"]
    assert told[0] == "round 1 of 1: depth, ready, lower priority, 2,000"
    assert kept == [5, 5]
    assert [(run.part, run.group, run.size) for run in results.runs] == [
        ("depth", "ready, lower priority", 2000),
        ("depth", "scheduled", 2000),
        ("concurrency", "await 10 ms", 4),
        ("processes", "no-op", 2),
        ("saturation", "1 process", 16),
    ]
    for run in results.runs:
        assert set(LOOKS[run.part].figures) <= set(run.figures)
        assert min(run.figures.values()) > 0
    for run in results.runs[:2]:
        assert 0 < run.figures["pickup_p50_ms"] <= run.figures["pickup_p99_ms"] < 10_000
        assert 100 < run.figures["redis_bytes_per_job"] < 1000
    assert results.runs[2].figures["ideal_percent"] < 101


async def test_a_soak_samples_at_the_same_depth_and_runs_each_job_once(server_binary: ServerBinary) -> None:
    seen: list[int] = []
    async with open_rig(server_binary) as rig:
        soak = await soaked(rig, 400, lambda soak: seen.append(len(soak.samples)), low=20, high=100)
    assert soak.jobs == 400
    assert seen == [1, 2, 3, 4, 5]
    assert all(sample.queued <= 20 for sample in soak.samples)
    assert [sample.jobs + sample.queued for sample in soak.samples] == [80, 160, 240, 320, 400]
    for sample in soak.samples:
        assert min(sample.redis_bytes, sample.worker_bytes, sample.producer_bytes) > 2**19
        assert 0 < sample.keys < 50
    assert soak.cpu_us_per_job > 0


# --- what is shown --------------------------------------------------------------------------------------------------


def test_every_part_has_a_look_and_every_figure_a_label() -> None:
    assert set(PARTS) == set(LOOKS)
    assert {figure for look in LOOKS.values() for figure in look.figures} == set(LABELS)


def test_the_table_pairs_rounds_and_says_whether_the_bar_is_met() -> None:
    results = results_with({10_000: [1000, 2000], 100_000: [900, 2200], 1_000_000: [600, 1000]})
    results.failures.append("round 2 of 2: depth: a reason")
    assert results.ratios("depth", "scheduled", 100_000) == [0.9, 1.1]
    text = shown(results)
    assert "1,500 (1,000–2,000)" in text
    assert "1.00 (0.90–1.10) ×, 0.8 ×: met" in text
    assert "0.55 (0.50–0.60) ×, 0.8 ×: not met" in text
    assert "✗ round 2 of 2: depth: a reason" in text
    assert "0.8" not in shown(results_with({1: [100], 4: [10]}, "processes", "no-op"))


def test_the_trend_of_a_soak_is_medians_of_quarters_and_a_slope() -> None:
    soak = Soak(low=20_000, high=50_000)
    for at in range(1, 9):
        soak.samples.append(Sample(at * 1000, at / 2, 19_900, 2**20 * 5 + at * 2000, 2**26, 2**25, 12))
    first, last, slope = soak.trend("redis_bytes")
    assert (first, last) == (2**20 * 5 + 3000, 2**20 * 5 + 15_000)
    assert slope == pytest.approx(2)
    assert soak.trend("keys") == (12, 12, 0)
    results = results_with({})
    results.soak = soak
    assert "soak: not complete: 8,000 jobs; 2,000 jobs/s, 8 samples" in shown(results)
    soak.jobs = 8000
    assert "2.000000 bytes" in shown(results)
    assert "soak: 8,000 jobs ran, each exactly once" in shown(results)


def test_the_chart_draws_each_group_to_scale() -> None:
    root = ET.fromstring(draw(results_with({10_000: [1000, 1000], 100_000: [500, 500]})))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.01)
    with pytest.raises(ValueError, match="nothing to draw: measure at least one of depth, concurrency"):
        draw(results_with({1: [10]}, "processes", "no-op"))


def test_the_command_measures_what_is_asked_for_and_writes_it_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def given(_rig: Rig, _group: str, size: int, jobs: int) -> dict[str, float]:
        if size == 3:
            raise RunFailed("no three")
        return {"run_per_s": size * jobs}

    parts = {"depth": Part(("any",), (1,), given), "concurrency": Part(("any",), (1, 2, 3), given)}
    monkeypatch.setattr(scale, "PARTS", parts)
    monkeypatch.setattr("structlog.configure", lambda **_settings: None)
    json, svg = tmp_path / "new" / "scale.json", tmp_path / "scale.svg"
    words = ["concurrency", "--rounds", "2", "--jobs", "10", "--json", str(json), "--svg", str(svg)]
    monkeypatch.setattr(sys, "argv", ["bench-scale", *words])
    assert scale.main() == 1
    results = msgspec.json.decode(json.read_bytes(), type=Results)
    assert [(run.size, run.round, run.figures["run_per_s"]) for run in results.runs] == [
        (1, 1, 10),
        (2, 1, 20),
        (1, 2, 10),
        (2, 2, 20),
    ]
    assert len(results.failures) == 2
    assert svg.read_text().startswith("<svg ")
    out, err = capsys.readouterr()
    assert "2.00 ×" in out
    assert "round 2 of 2: concurrency, any, 3" in err
