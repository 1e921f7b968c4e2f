"""Scenario files: those there are, and what is said about those that are wrong."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from chaos.judging.bounds import bounds_of
from chaos.judging.expectations import expectations_of
from chaos.scenario.faults import Toxic
from chaos.scenario.loading import FOLDER, find_scenario, load_all, load_scenario
from chaos.scenario.model import Amount, Scenario
from chaos.verdict import Counts, Verdict
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Problems = Callable[[str], list[str]]

HEAD = "name: it\ntitle: It\npromises: N\n"
ROWS = {*range(1, 21), 22, 23, 25, 26, 27, 28, 30, 31, 32, 33, 34, 36, 37, 38, 39, 40, 41, 43, 44, 46, 47, 48}
"""Of the catalogue."""
NOT_IN_A_FILE = {48}
"""Drawn from a seed instead: `python -m chaos fuzz`."""


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """What is said about a file, without the names of folders: (it.yaml:3)."""

    def problems(text: str) -> list[str]:
        file = tmp_path / "it.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_scenario(file)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return problems


# --- those there are -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every() -> list[Scenario]:
    return load_all()


def test_every_row_of_the_catalogue_has_a_scenario(every: list[Scenario]) -> None:
    table: dict[int, list[str]] = defaultdict(list)
    for scenario in every:
        for row in scenario.rows:
            table[row].append(scenario.name)
    assert set(table) - ROWS == set()
    assert ROWS - set(table) == NOT_IN_A_FILE, f"missing rows; there are {dict(sorted(table.items()))}"


def test_every_scenario_has_bounds_and_expectations(every: list[Scenario]) -> None:
    for scenario in every:
        assert bounds_of(scenario).faults.keys() == scenario.faults.keys()
        assert set(expectations_of(scenario).amounts) <= set(Counts.__struct_fields__)


def test_the_short_suite_is_long_enough(every: list[Scenario]) -> None:
    assert sum(scenario.smoke for scenario in every) >= 10


def test_every_promise_is_what_some_scenario_is_about(every: list[Scenario]) -> None:
    assert {letter for scenario in every for letter in scenario.promises} == set("NUSFADPZC")


def test_only_a_broken_harness_is_expected_not_to_pass(every: list[Scenario]) -> None:
    assert [s.name for s in every if s.expect.verdict is not Verdict.PASS] == ["toxiproxy-hangs"]


def test_nothing_that_a_promise_forbids_is_expected(every: list[Scenario]) -> None:
    forbidden = {"lost", "unexpected", "duplicated_without_cause", "stale_accepted", "inverted", "stuck"}
    assert not [s.name for s in every for count in s.expect.counts if count in forbidden]


def test_load_goes_on_after_the_last_heal(every: list[Scenario]) -> None:
    """By the times that are written down; otherwise recovery could not be measured."""
    for scenario in every:
        if scenario.expect.verdict is not Verdict.PASS:
            continue
        now, loaded, healed = 0.0, 0.0, 0.0
        for step in scenario.steps:
            if step.load is not None:
                work_s = step.load.seconds if step.load.kind in ("slow", "thread") else 0.0
                loaded = max(loaded, now + step.load.jobs / (step.load.rate or 1e9) + work_s)
            if step.wait is not None:
                now += step.wait.seconds or 0.0
            if step.fault is not None:
                lasts = (step.fault.for_s or 0.0) * step.fault.times + step.fault.pause * (
                    step.fault.times - 1
                )
                if (
                    bounds_of(scenario)
                    .faults[next(n for n, f in scenario.faults.items() if f is step.fault)]
                    .disrupts
                ):
                    healed = max(healed, now + lasts)
                now += 0 if step.fault.go_on else lasts
        assert loaded > healed, scenario.name


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_scenario_is_found_by_its_name_or_its_file() -> None:
    assert find_scenario("short-outage").rows == (1,)
    assert find_scenario(str(FOLDER / "short-outage.yaml")) == find_scenario("short-outage")


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="there is no such scenario: did you mean short-outage"):
        find_scenario("shrot-outage")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        find_scenario("missing.yaml")


def test_everything_that_is_wrong_is_told_at_once(problems: Problems) -> None:
    text = """\
name: it
title: It
promises: NX
setps: 3
settings:
  worker: {leese: 2, concurrency: 0}
processes: {workers: 2, routes: {worker-3: x}}
steps:
  - load: {jobs: true}
  - fault:
      kind: latency
      latency: 50
      jitter: 5
      toxcity: 4
  - fault: {kind: latncy}
  - fault: {kind: proxy_down, proxies: [worker], for: 1}
  - fault: {latency: 3}
  - settle: {}
  - wait: {}
  - wiat: {seconds: 3}
  - load: {jobs: 3, kind: quik}
expect: {counts: {ded: 3, dead: "~3"}}
"""
    assert problems(text) == [
        "promises (it.yaml:3): is 'NX', should match pattern '^[NUSFADPZC]+$'",
        "setps (it.yaml:4): there is no such key: did you mean steps?",
        "settings.worker.concurrency (it.yaml:6): is 0, should be a whole number from 1 to 10000",
        "settings.worker.leese (it.yaml:6): there is no such setting: did you mean lease?",
        "processes.routes.worker-3 (it.yaml:7): there is no such process: did you mean worker-2?",
        "step 1, load.jobs (it.yaml:9): is True, should be a valid integer",
        "step 2, fault.jitter (it.yaml:13): is 5, should be 0",
        "step 2, fault.toxcity (it.yaml:14): there is no such key: did you mean toxicity?",
        "step 3, fault (it.yaml:15): there is no such fault: did you mean latency?",
        "step 4, fault.proxies (it.yaml:16): there is no such proxy: did you mean workers?",
        "step 5, fault (it.yaml:17): must say its kind, such as kind: proxy_down",
        "step 6, settle (it.yaml:18): must be the last step",
        "step 7, wait (it.yaml:19): must name exactly one thing to wait for, such as {completed: 0.5}",
        "step 8, wiat (it.yaml:20): there is no such key: did you mean wait?",
        (
            "step 9, load.kind (it.yaml:21): is 'quik', should be 'quick', 'slow', 'thread', 'fail', 'hang', "
            "'uncancellable', 'crash' or 'poison': did you mean quick?"
        ),
        "expect.counts.dead (it.yaml:22): is '~3', must be a number, or a comparison with one, such as \"> 0\"",
    ]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kind: bandwidth, rate: 0", "rate (it.yaml:6): is 0, should be greater than or equal to 1"),
        ("kind: bandwidth, rate: -5", "rate (it.yaml:6): is -5, should be greater than or equal to 1"),
        ("kind: latency, latency: -1", "latency (it.yaml:6): is -1, should be greater than or equal to 1"),
        ("kind: latency, latency: 5, jitter: 3", "jitter (it.yaml:6): is 3, should be 0"),
        ("kind: latency, latency: 5, toxicity: 0.5", "toxicity (it.yaml:6): is 0.5, should be 1"),
        ("kind: timeout, timeout: -1", "timeout (it.yaml:6): is -1, should be greater than or equal to 0"),
        ("kind: timeout, timeout: 1.5", "timeout (it.yaml:6): is 1.5, should be a valid integer"),
        ("kind: limit_data, bytes: 0", "bytes (it.yaml:6): is 0, should be greater than or equal to 1"),
        ("kind: limit_data", "bytes (it.yaml:6): is missing"),
        (
            "kind: slicer, average_size: 0",
            "average_size (it.yaml:6): is 0, should be greater than or equal to 1",
        ),
        (
            "kind: latency, latency: 5, delay: 3",
            "delay (it.yaml:6): there is no such key: choose one of name, for",
        ),
        (
            "kind: timeout, timeout: 5, timout: 3",
            "timout (it.yaml:6): there is no such key: did you mean timeout?",
        ),
        (
            "kind: proxy_down, latency: 5",
            "latency (it.yaml:6): there is no such key: choose one of name, for",
        ),
        (
            "kind: latency, latency: 5, stream: up",
            "stream (it.yaml:6): is 'up', should be 'downstream', 'upstream'",
        ),
    ],
)
def test_dangerous_and_unknown_attributes_are_refused(problems: Problems, fault: str, said: str) -> None:
    (line,) = problems(
        f"{HEAD}steps:\n  - load: {{jobs: 1}}\n  - fault: {{{fault}, for: 1}}\n  - settle: {{}}\n"
    )
    assert line.startswith(f"step 2, fault.{said}")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("{kind: proxy_down}", "must heal: give it either for (seconds) or until (a condition)"),
        ("{kind: proxy_down, for: 1, until: {completed: 0.5}}", "must heal: give it either"),
        ("{kind: script_flush, for: 1}", "is over at once: it takes neither for nor until"),
        (
            "{kind: slicer, average_size: 4, size_variation: 4, for: 1}",
            "size_variation (4) must be less than",
        ),
        ("{kind: jitter_script, low: 5, high: 5, for: 1}", "low (5) must be less than high (5)"),
        ("{kind: proxy_down, until: {completed: 0.5, dead: 1}}", "must name exactly one thing to wait for"),
        ("{kind: worker_kill, count: 3, for: 1}", "is more than the 2 workers"),
        ("{kind: worker_kill, names: [worker-9], for: 1}", "there is no such worker: did you mean worker-"),
    ],
)
def test_attributes_that_do_not_go_together(problems: Problems, fault: str, said: str) -> None:
    (line,) = problems(f"{HEAD}steps:\n  - load: {{jobs: 1}}\n  - fault: {fault}\n  - settle: {{}}\n")
    assert said in line
    assert "it.yaml:6)" in line


def test_what_every_scenario_must_have(problems: Problems) -> None:
    assert problems(f"{HEAD}steps:\n  - wait: {{seconds: 1}}\n") == [
        "it.yaml: must have a load: without one nothing can be judged",
        "it.yaml: must end with a settle step: what is not given time to recover cannot be judged",
    ]
    assert problems("title: It\n")[:2] == ["name (it.yaml:1): is missing", "promises (it.yaml:1): is missing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it.yaml:1: must hold a scenario"),
        ("- 1\n", "it.yaml:1: must hold a scenario"),
        ("name: it\n  x: [\n", "it.yaml:2: not YAML"),
        (
            HEAD + "title: Again\nsteps: [{load: {jobs: 1}}, {settle: {}}]\n",
            "title (it.yaml:4): is there twice, first",
        ),
        (
            HEAD + "settings: 3\nsteps: [{load: {jobs: 1}}, {settle: {}}]\n",
            "settings (it.yaml:4): must hold sections",
        ),
        (
            HEAD.replace("it", "other", 1) + "steps: [{load: {jobs: 1}}, {settle: {}}]\n",
            "name (it.yaml): is 'other', must",
        ),
        (HEAD + "steps: 3\n", "steps (it.yaml:4): is 3, should be a valid"),
    ],
)
def test_files_that_are_no_scenarios(problems: Problems, text: str, said: str) -> None:
    assert problems(text)[0].startswith(said)


@pytest.mark.parametrize(
    ("text", "holds", "fails"),
    [
        ("3", 3, 2),
        (0, 0, 1),
        ("== 3", 3, 4),
        ("> 0", 1, 0),
        (">=2", 2, 1),
        ("<= 2", 2, 3),
        ("!= 1", 2, 1),
        ("< 1", 0, 1),
    ],
)
def test_amounts(text: str | int, holds: int, fails: int) -> None:
    amount = Amount.model_validate(text)
    assert (amount.holds(holds), amount.holds(fails)) == (True, False)


@pytest.mark.parametrize("text", ["", "~3", "-1", "> x", True, None, 1.5, [3]])
def test_amounts_that_are_none(text: object) -> None:
    with pytest.raises(ValidationError):
        Amount.model_validate(text)


def test_toxics_have_the_attributes_that_toxiproxy_knows(every: list[Scenario]) -> None:
    faults = {name: fault for scenario in every for name, fault in scenario.faults.items()}
    assert faults["latency"].model_dump()["jitter"] == 0
    told = {fault.kind: fault.attributes() for fault in faults.values() if isinstance(fault, Toxic)}
    assert told["slicer"] == {"average_size": 1, "delay": 5, "size_variation": 0}
    assert told["timeout"] == {"timeout": 0}
    assert set(told) == {
        "latency",
        "timeout",
        "limit_data",
        "slicer",
        "reset_peer",
        "slow_close",
        "bandwidth",
    }
