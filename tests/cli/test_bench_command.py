"""`queue-trio admin bench`: figures as text and as JSON, what a load needs, and never the configured Redis."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from queue_trio.bench import LABELS

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

TINY = ("admin", "bench", "--seconds", "0.1", "--jobs", "30")


def test_it_measures_without_the_configured_redis_and_says_how_much(invoke: Invoke) -> None:
    ended = invoke(*TINY)  # whose Redis is nowhere
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].split() == ["figure", "median", "min", "max"]
    labels = [line for line in LABELS.values() if not line.startswith("idle")]
    assert [line.partition("  ")[0] for line in lines[1:-1]] == labels
    assert re.fullmatch(
        r"\S+ [\d.]+, Python [\d.]+, \d+ cores?, [\d.]+ s: [\d,]+ jobs in \d rounds?, each ran exactly once\.",
        lines[-1],
    )


def test_a_load_is_answered_with_workers_and_the_sums(invoke: Invoke) -> None:
    ended = invoke(*TINY, "--load", "100", "--job-ms", "400")
    assert ended.code == 0, ended.err
    answer, at_once, processes, redis, note = ended.out.rpartition("\n\n")[2].splitlines()
    found = re.fullmatch(
        r"100 jobs/s of 400 ms: 1 worker process with --concurrency (\d+), 50% headroom", answer
    )
    assert found is not None, answer
    assert 60 <= int(found[1]) <= 75  # 40 at once × 1.5, and what picking up takes
    assert f"jobs; × 1.5 / 1 = {found[1]}" in at_once
    assert re.search(r"100/s × \(1 / [\d,]+/s\) = [\d.]+ busy; × 1\.5 = [\d.]+$", processes)
    assert re.search(r"100/s × [\d.,]+ µs = [\d.]+ % of its one core", redis)
    assert "--cpu-ms" in note


def test_as_json(invoke: Invoke) -> None:
    ended = invoke(*TINY, "--json", "--load", "1000", "--job-ms", "100", "--cpu-ms", "10")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert set(found["figures"]) == {name for name in LABELS if not name.startswith("idle")}
    for figure in found["figures"].values():
        assert figure["min"] <= figure["median"] <= figure["max"]
    assert found["jobs"] >= found["rounds"] * 30
    assert 10 < found["need"]["busy_processes"] < 50
    assert found["need"]["processes"] * found["need"]["concurrency"] >= 150
    assert found["need"]["redis_busy"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--load", "5"), "--load needs --job-ms"),
        (("--job-ms", "5"), "--load needs --job-ms"),
        (("--load", "5", "--job-ms", "5", "--cpu-ms", "6"), "--cpu-ms is a part of --job-ms"),
        (("--seconds", "0"), "--seconds"),
    ],
)
def test_flags_that_make_no_sense(invoke: Invoke, flags: tuple[str, ...], words: str) -> None:
    ended = invoke("admin", "bench", *flags)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.error
