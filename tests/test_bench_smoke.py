"""The guard against slow-downs: what it calls a fall, which baselines it refuses, and one whole run of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.setup import ROOT
from bench.smoke import (
    BASELINE,
    FIGURES,
    ROUNDS_MIN,
    Baseline,
    BaselineUnusable,
    complaints,
    main,
    ratios_of,
    read_baseline,
)
from queue_trio.bench import LABELS

if TYPE_CHECKING:
    from pathlib import Path

RUN, BULK = "run_jobs_per_s", "enqueue_bulk_per_s"
RATIOS = dict.fromkeys(FIGURES, 1.0)
DOCUMENT: dict[str, Any] = {"when": "", "python": "", "server": "", "jobs": 40, "ratios": RATIOS}


# --- comparing ------------------------------------------------------------------------------------------------------


@given(st.floats(1e-3, 1e3))
def test_half_of_the_baseline_is_no_fall_and_less_is(was: float) -> None:
    assert complaints({RUN: was / 2}, {RUN: was}) == []
    assert len(complaints({RUN: was / 2 * 0.999}, {RUN: was})) == 1


def test_a_fall_says_of_what_from_where_to_where_and_what_to_do() -> None:
    (line,) = complaints({RUN: 0.3, BULK: 2.0}, {RUN: 0.75, BULK: 2.0})
    assert line == (
        "run (jobs/s, one worker) fell to 40% of its baseline, from ratio 0.75 to 0.30: measure again, alone on the "
        "machine; if it stays, find the change that did it, or `./dev perf-smoke --update` stores a new one"
    )


def test_each_fallen_figure_has_a_line_of_its_own() -> None:
    lines = complaints(dict.fromkeys(FIGURES, 0.1), RATIOS)
    assert [line.partition(" fell to ")[0] for line in lines] == [LABELS[name] for name in FIGURES]


@pytest.mark.parametrize(
    ("ratios", "baseline"), [({RUN: 1.0}, {RUN: 1.0, BULK: 1.0}), ({RUN: 1.0, BULK: 1.0}, {RUN: 1.0})]
)
def test_a_figure_that_only_one_side_has_is_an_error(
    ratios: dict[str, float], baseline: dict[str, float]
) -> None:
    with pytest.raises(BaselineUnusable, match=f"^not both measured and in the baseline: {BULK}; "):
        complaints(ratios, baseline)


def test_a_ratio_is_of_the_best_rates_not_the_best_of_ratios() -> None:
    # The calibration was disturbed in the second round. That makes nobody faster.
    samples = {name: [80.0, 90.0] for name in (*FIGURES, *FIGURES.values())}
    samples["calibration_mix"] = [200.0, 10.0]
    assert ratios_of(samples) == {**dict.fromkeys(FIGURES, 0.45), "enqueue_one_by_one_per_s": 1.0}


# --- the baseline ---------------------------------------------------------------------------------------------------


def test_the_stored_baseline_has_every_figure() -> None:
    stored = msgspec.json.decode(BASELINE.read_bytes(), type=Baseline)
    assert read_baseline(BASELINE, stored.jobs).ratios.keys() == FIGURES.keys()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file or directory"),
        ("", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"when": "\xff"}', "utf-8"),
        (json.dumps({**DOCUMENT, "ratios": {**RATIOS, RUN: 0}}), "Expected `float` > 0.0"),
        (json.dumps({**DOCUMENT, "ratios": {RUN: 1.0}}), "not both measured and in the baseline: enqueue_"),
        (json.dumps({**DOCUMENT, "ratios": {**RATIOS, "speed": 1}}), "in the baseline: speed;"),
        (json.dumps({**DOCUMENT, "speed": 1}), "unknown field `speed`"),
        (json.dumps({**DOCUMENT, "jobs": 41}), "is of 41 jobs a round, not 40;"),
    ],
)
def test_an_unusable_baseline_is_one_line_and_exit_code_2(
    text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "baseline.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    assert main(["--jobs", "40", "--baseline", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("perf-smoke: ")
    assert err.endswith("; `./dev perf-smoke --update` stores a new one\n")
    assert err.count("\n") == 1
    assert why in err


# --- the whole program ----------------------------------------------------------------------------------------------


def smoke(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.smoke", "--seconds", "0", "--jobs", "40", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def store(file: Path, baseline: Baseline, ratios: dict[str, float]) -> None:
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(baseline, ratios=ratios)))


def test_it_stores_what_it_measures_and_fails_for_what_fell(tmp_path: Path) -> None:
    file, every = tmp_path / "baseline.json", tmp_path / "every.json"
    stored = smoke("--update", "--baseline", file, "--json", every)
    assert (stored.returncode, stored.stderr) == (0, "")
    assert stored.stdout.count("100%") == len(FIGURES)
    baseline = read_baseline(file, 40)
    samples = json.loads(every.read_bytes())["samples"]
    assert ratios_of(samples) == baseline.ratios
    assert {len(samples[name]) for name in (*FIGURES, *FIGURES.values())} == {ROUNDS_MIN}

    # By far, so that no noise can make it otherwise.
    slower = {name: ratio / 1000 for name, ratio in baseline.ratios.items()}
    store(file, baseline, slower)
    assert smoke("--baseline", file).returncode == 0
    store(file, baseline, {**slower, BULK: baseline.ratios[BULK] * 1000})
    fell = smoke("--baseline", file)
    assert fell.returncode == 1
    assert fell.stderr.startswith(f"perf-smoke: {LABELS[BULK]} fell to 0% of its baseline, from ratio ")
    assert fell.stderr.count("\n") == 1
    assert all(LABELS[name] in fell.stdout for name in FIGURES)
