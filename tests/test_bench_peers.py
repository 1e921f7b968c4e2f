"""The bench of many queues: what it computes is right, what it refuses is told, and ours goes through the same path.

The peers themselves are not run here: their environments are not part of a checkout.
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.__main__ import Plan, choose_queues, choose_workloads, measure
from bench.catalogue import (
    BARS,
    ENVIRONMENTS,
    LABELS,
    OURS,
    PEERS,
    QUEUES,
    RUN_S_MAX,
    RUN_S_MIN,
    WORKLOADS,
    Queue,
    jobs_for,
    seconds_for,
)
from bench.chart import draw
from bench.driver import RunFailed, Sample, Use, open_driver
from bench.figures import (
    Spread,
    fault_in,
    latency_figures,
    overtaken_percent,
    percentile,
    ratios_to_best,
    round_ratios,
)
from bench.peers.harness import LEDGER, Order, level
from bench.peers.ways import shares
from bench.report import number, show
from bench.results import Gap, Results, versions_of, write_results
from bench.setup import REQUIREMENTS, ROOT, is_installed, pins_of
from queue_trio.server_binary import ServerBinary

ADAPTERS = ROOT / "bench" / "peers"
ORDER = Order(url="", file="", variant="", jobs=10, concurrency=4, threads=2, timeout_s=5)


def results_with(samples: dict[str, list[float]], workload: str = "noop") -> Results:
    """Results of one workload, its first figure given per queue and round."""
    queues = [QUEUES[name] for name in samples]
    results = Results("2030-01-02T03:04:05+00:00", "Redis 7.0.0", 2, versions_of(queues))
    figure = WORKLOADS[workload].figures[0]
    for queue, values in samples.items():
        for number_of_round, value in enumerate(values, start=1):
            use = Use(1.5, 2**20)
            sample = Sample(100, {figure: value}, {"worker": use, "enqueuer": use, "redis": use})
            results.add(number_of_round, workload, queue, sample)
    return results


# --- exactly once ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.randoms(use_true_random=False))
def test_each_job_once_in_any_order_is_right(jobs: int, rng: random.Random) -> None:
    ran = list(range(jobs))
    rng.shuffle(ran)
    assert fault_in(ran, jobs) is None


@pytest.mark.parametrize(
    ("ran", "fault"),
    [
        ([0, 2], "1 of 3 jobs did not run, such as number 1"),
        ([0, 1, 2, 1], "1 of 3 jobs ran more than once, such as number 1"),
        ([0, 1, 2, 3], "1 of 3 jobs were never enqueued, such as number 3"),
        (
            [0, 0, 7],
            (
                "2 of 3 jobs did not run, such as number 1; 1 of 3 jobs ran more than once, such as number 0; "
                "1 of 3 jobs were never enqueued, such as number 7"
            ),
        ),
        ([], "3 of 3 jobs did not run, such as number 0"),
    ],
)
def test_what_is_not_exactly_once_is_told(ran: list[int], fault: str) -> None:
    assert fault_in(ran, 3) == fault


# --- statistics -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], percent: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    needed = percent / 100 * len(ordered)
    assert sum(value <= found for value in ordered) >= needed - 1e-6
    assert sum(value < found for value in ordered) < needed


def test_percentiles_are_exact_at_their_edges() -> None:
    thousand = [float(value) for value in range(1, 1001)]
    assert [percentile(thousand, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 500, 990, 999, 1000]
    assert percentile([7.0], 99.9) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_latency_counts_from_when_a_job_was_due() -> None:
    due_s = [10.0, 10.1, 10.2]
    figures = latency_figures(due_s, [(1, 10.6), (0, 10.001), (2, 10.202)])
    assert figures["max_ms"] == pytest.approx(500)
    assert figures["p50_ms"] == pytest.approx(2)


def test_overtaking_counts_from_more_lower_jobs_than_can_run_at_once() -> None:
    assert overtaken_percent([2, 2, 1, 1, 0, 0], at_once=0) == 0
    assert overtaken_percent([0, 2, 1, 0], at_once=0) == 50
    assert overtaken_percent([0, 0, 2, 0], at_once=1) == 25
    assert overtaken_percent([0, 0, 2, 0], at_once=2) == 0
    assert [level(job) for job in range(4)] == [0, 1, 2, 0]


def test_the_spread_is_median_lowest_and_highest() -> None:
    assert Spread.of([3, 1, 2]) == (2, 1, 3)
    with pytest.raises(ValueError, match="no samples"):
        Spread.of([])


def test_ratios_pair_rounds_and_above_one_is_in_our_favour() -> None:
    ours, theirs = {1: 100.0, 2: 90.0, 3: 80.0}, {1: 10.0, 3: 160.0, 4: 1.0}
    assert round_ratios("run_per_s", ours, theirs) == [10, 0.5]
    assert round_ratios("p99_ms", ours, theirs) == [0.1, 2]


def test_the_best_peer_may_be_another_in_each_round() -> None:
    peers = {"one": {1: 10.0, 2: 20.0}, "two": {1: 50.0, 3: 1.0}}
    ours = {1: 100.0, 2: 100.0, 3: 100.0, 4: 100.0}
    assert ratios_to_best("run_per_s", ours, peers) == [2, 5, 100]
    assert ratios_to_best("p50_ms", ours, peers) == [0.1, 0.2, 0.01]


# --- what is measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES.values(), ids=QUEUES)
def test_a_run_takes_one_to_three_seconds_at_the_pace_of_its_queue(queue: Queue) -> None:
    jobs = jobs_for(queue, WORKLOADS["noop"], None)
    assert RUN_S_MIN - 0.01 <= jobs / queue.pace_per_s <= RUN_S_MAX + 0.01
    assert jobs == 3000 or not RUN_S_MIN < 3000 / queue.pace_per_s < RUN_S_MAX
    assert jobs_for(queue, WORKLOADS["noop"], 500) == 500
    assert 2 < seconds_for(queue, WORKLOADS["noop"], None, 5) < 20


def test_the_catalogue_names_only_what_exists() -> None:
    assert {queue.program for queue in QUEUES.values()} <= {file.stem for file in ADAPTERS.glob("*.py")}
    assert set(ENVIRONMENTS) == {file.stem for file in REQUIREMENTS.glob("*.in")}
    assert {figure for workload in WORKLOADS.values() for figure in workload.figures} == set(LABELS)
    assert all(figure in WORKLOADS[workload].figures for workload, figure in BARS)
    assert not OURS.lacks


@pytest.mark.parametrize("program", sorted({queue.program for queue in QUEUES.values()}))
def test_an_adapter_works_and_enqueues_and_says_how(program: str) -> None:
    tree = ast.parse((ADAPTERS / f"{program}.py").read_text())
    assert {"work", "enqueue"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert len(ast.get_docstring(tree) or "") > 100


@pytest.mark.parametrize("name", ["__init__", "__main__", "harness", "ways"])
def test_what_every_environment_imports_needs_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((ADAPTERS / f"{name}.py").read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    foreign = {
        module
        for module in imported
        if module.partition(".")[0] not in sys.stdlib_module_names and not module.startswith("bench.peers.")
    }
    assert foreign == set()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_package_of_a_peer_is_pinned_with_hashes(environment: str) -> None:
    text = (REQUIREMENTS / f"{environment}.txt").read_text()
    pins = re.findall(r"^(?!#)\S.*(?:\n .*)*", text, re.MULTILINE)
    assert pins
    assert [pin for pin in pins if not re.match(r"[\w.-]+==\S+", pin) or "--hash=sha256:" not in pin] == []
    assert not re.search(r"://|^-", text, re.MULTILINE)
    peers = [queue for queue in PEERS if queue.environment == environment]
    assert "?" not in versions_of(peers).values()


def test_peers_are_chosen_by_name_or_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.setup.HOME", tmp_path)
    assert choose_queues([]) == [OURS]
    assert choose_queues([OURS.name]) == [OURS]
    with pytest.raises(ValueError, match="not installed as pinned: rq; run `just bench-setup`"):
        choose_queues(["rq"])
    with pytest.raises(ValueError, match="no such queue: nobody; there are dramatiq, "):
        choose_queues(["nobody"])
    monkeypatch.setattr("bench.__main__.is_installed", lambda _environment: True)
    assert [queue.name for queue in choose_queues(["taskiq", "rq"])] == [
        OURS.name,
        "taskiq-list",
        "taskiq-stream",
        "rq",
    ]


def test_an_environment_counts_as_installed_while_its_pins_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.setup.HOME", tmp_path)
    stamp = tmp_path / "rq" / "pins.sha256"
    stamp.parent.mkdir()
    stamp.write_text("those of yesterday")
    assert not is_installed("rq")
    stamp.write_text(pins_of("rq"))
    assert is_installed("rq")


def test_latency_brings_what_tells_the_capacity_and_goes_after_it() -> None:
    names = [workload.name for workload in choose_workloads("latency-50, noop")]
    assert names == ["noop", "together", "latency-50"]
    assert [workload.name for workload in choose_workloads(None)] == list(WORKLOADS)
    with pytest.raises(ValueError, match="no such workload: nothing; there are noop, "):
        choose_workloads("nothing")


# --- the adapters' side ---------------------------------------------------------------------------------------------


def test_the_plan_of_an_open_loop_is_the_same_each_time_and_of_the_ordered_rate() -> None:
    order = replace(ORDER, jobs=5000, rate_per_s=200.0)
    plan = order.plan()
    assert plan == order.plan() == sorted(plan)
    assert plan != replace(order, seed=1).plan()
    assert 5000 / plan[-1] == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize("size", [0, 1, 1024, 100 * 1024])
def test_a_payload_has_the_ordered_size(size: int) -> None:
    order = replace(ORDER, payload_bytes=size)
    assert len(order.payload) == size
    assert order.payload == order.payload


def test_concurrent_enqueuers_share_all_jobs() -> None:
    parts = list(shares(replace(ORDER, jobs=100, enqueuers=32)))
    assert len(parts) == 32
    assert sorted(job for part in parts for job in part) == list(range(100))


def test_a_payload_that_did_not_come_through_is_refused() -> None:
    LEDGER.open(replace(ORDER, payload_bytes=4))
    with pytest.raises(ValueError, match="job 3 came with 2 bytes of 4"):
        LEDGER.run(3, "no")
    assert LEDGER.entries == []


def work_as_told(tmp_path: Path, jobs: int, numbers: list[int]) -> tuple[list[str], list[int]]:
    """Run a worker process that runs these numbers; what it said, and what it wrote down."""
    order = replace(ORDER, jobs=jobs, timeout_s=1.0, file=str(tmp_path / "ran.json"))
    program = f"""
import threading
from bench.peers.harness import LEDGER, Order, serve
def work(order):
    print("a library talks")
    LEDGER.ready()
    for number in {numbers}:
        LEDGER.run(number, "")
    threading.Event().wait()
serve(Order(**{asdict(order)}), work)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=True, text=True
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said[-1]["peak_bytes"] > 2**20
    return [line["said"] for line in said], [
        entry[0] for entry in json.loads((tmp_path / "ran.json").read_text())
    ]


def test_a_job_that_runs_again_after_the_last_one_is_written_down(tmp_path: Path) -> None:
    assert work_as_told(tmp_path, 3, [2, 0, 1, 0]) == (["ready", "done"], [2, 0, 1, 0])


def test_a_worker_that_gets_too_few_jobs_ends_and_says_which_it_got(tmp_path: Path) -> None:
    assert work_as_told(tmp_path, 3, [2]) == (["ready", "done"], [2])


# --- the whole path, with ours --------------------------------------------------------------------------------------


async def test_ours_goes_through_the_same_path(server_binary: ServerBinary, tmp_path: Path) -> None:
    told: list[str] = []
    kept: list[Path] = []

    def keep(results: Results) -> None:
        write_results(results, tmp_path / "results" / "all.json")
        kept.append(tmp_path / "results" / "all.json")

    names = ("noop", "priorities", "together", "latency-50")
    plan = Plan([OURS], [WORKLOADS[name] for name in names], rounds=1, jobs=90, latency_s=0.3)
    with trio.fail_after(100):
        results = await measure(
            plan, server=server_binary, tell=lambda what, _seconds: told.append(what), keep=keep
        )
    assert told == [f"round 1: {name}, queue_trio" for name in names]
    assert results.gaps == []
    assert [run.workload for run in results.runs] == list(names)
    for run in results.runs:
        assert set(run.figures) == set(WORKLOADS[run.workload].figures)
        assert set(run.cpu_s) == set(run.peak_bytes) == {"worker", "enqueuer", "redis"}
        assert run.cpu_s["worker"] > 0
        assert 2**20 < run.peak_bytes["worker"] < 2**30
    priorities, latency = results.runs[1], results.runs[3]
    assert priorities.figures["overtaken_percent"] == 0
    assert 0 < latency.figures["p50_ms"] <= latency.figures["p99_ms"] <= latency.figures["max_ms"]
    assert Results.from_json(kept[0].read_bytes()) == results


async def test_a_program_that_fails_is_told_with_its_last_words(server_binary: ServerBinary) -> None:
    missing = Queue("nowhere", "nowhere", "nowhere", 100)
    async with open_driver(server_binary) as driver:
        with pytest.raises(
            RunFailed, match=r"the enqueuer ended before it was ready: ModuleNotFoundError: .*nowhere"
        ):
            await driver.run(missing, WORKLOADS["noop"], 10)


async def test_a_failed_run_is_left_out_and_told_and_the_others_go_on(server_binary: ServerBinary) -> None:
    missing = replace(QUEUES["rq"], program="nowhere", environment=None, package="queue-trio")
    plan = Plan([missing], [WORKLOADS["waiting"], WORKLOADS["noop"], WORKLOADS["latency-10"]], 1, 10, 0.1)
    with trio.fail_after(100):
        results = await measure(plan, server=server_binary)
    assert results.runs == []
    assert [(gap.workload, gap.round) for gap in results.gaps] == [
        ("waiting", None),
        ("noop", 1),
        ("latency-10", 1),
    ]
    assert results.gaps[0].why == "one job at a time"
    assert [gap.workload for gap in results.failures] == ["noop", "latency-10"]


# --- what is shown --------------------------------------------------------------------------------------------------


def test_results_survive_json_and_say_the_ratios() -> None:
    results = results_with({"queue_trio": [1000, 1200], "rq": [100, 200], "huey": [500, 100]})
    results.gaps.append(Gap("waiting", "rq", "one job at a time"))
    text = results.to_json()
    assert Results.from_json(text) == results
    summary = json.loads(text)["summary"]["noop"]["run_per_s"]
    assert summary["queues"]["rq"] == {"median": 150, "low": 100, "high": 200, "ratios": [10, 6]}
    assert summary["ratios_to_best_peer"] == [2, 6]


def test_the_tables_show_medians_spread_ratios_bars_and_gaps() -> None:
    results = results_with({"queue_trio": [1000, 1200], "rq": [100, 200]})
    results.versions["arq"] = "9.9"
    results.gaps += [Gap("noop", "arq", "cannot do it"), Gap("noop", "rq", "2 of 100 jobs did not run", 2)]
    console = Console(file=io.StringIO(), width=220, record=True)
    show(results, console)
    text = console.export_text()
    assert "1,100 (1,000–1,200)" in text
    assert "8.00 (6.00–10.0) ×" in text
    assert "10 ×: not met" in text
    assert "– arq: cannot do it" in text
    assert "✗ rq, round 2: 2 of 100 jobs did not run" in text
    assert "1.50  1.50  1.50" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (98765.4, "98,765")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_the_chart_is_valid_and_draws_to_scale_best_first() -> None:
    svg = draw(results_with({"rq": [100, 300], "queue_trio": [1000, 1000], "huey": [500, 500]}))
    root = ET.fromstring(svg)
    space = {"svg": "http://www.w3.org/2000/svg"}
    bars = root.findall("svg:rect", space)
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert [bar.attrib["class"] for bar in bars] == ["bar ours", "bar", "bar"]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.01)
    assert widths[2] == pytest.approx(widths[0] / 5, rel=0.01)
    texts = [text.text or "" for text in root.findall("svg:text", space)]
    assert [text for text in texts if text in QUEUES] == ["queue_trio", "huey", "rq"]
    assert "2030-01-02" in texts[-1]
    assert "queue_trio 1,000, huey 500, rq 200" in root.attrib["aria-label"]


def test_nothing_measured_draws_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to draw: run at least one of "):
        draw(results_with({"rq": [1.0]}, workload="waiting"))


def test_what_cannot_be_drawn_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    words = ["--workloads", "waiting", "--svg", str(tmp_path / "chart.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: --svg: only enqueue-concurrent, enqueue-one, noop are drawn; measure one of them\n"
    )
