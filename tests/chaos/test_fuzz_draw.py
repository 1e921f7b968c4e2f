"""Schedules drawn from seeds: each can be run, judged and written to a file; and all kinds of faults come up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.fuzz.clashes import NEVER_DRAWN, clashes
from chaos.fuzz.draw import FAULTS_MAX, draw, unfit
from chaos.fuzz.expected import DEAD_EACH, LOST_LEASES, UNANSWERED, with_expectations
from chaos.fuzz.kinds import INSTANT, NETWORK, REDIS, WORKERS
from chaos.fuzz.loads import WAITING
from chaos.fuzz.timing import load_outlasts_faults, pairs, planned, span_s
from chaos.judging.bounds import bounds_of
from chaos.judging.expectations import expectations_of
from chaos.scenario import faults
from chaos.scenario.loading import parse_scenario
from chaos.scenario.model import RUN_SETTINGS, Scenario
from chaos.scenario.writing import to_yaml

if TYPE_CHECKING:
    from chaos.fuzz.timing import Planned

SEEDS = st.integers(min_value=0, max_value=10**9)


def schedule(*faults_: dict[str, Any], load: dict[str, Any] | None = None, **more: Any) -> Scenario:
    """A schedule written by hand: three workers, a load that outlasts all."""
    steps: list[dict[str, Any]] = [{"load": load}] if load else []
    for number, fault in enumerate(faults_):
        steps += [{"wait": {"seconds": fault.pop("after", 0.5)}}] if number else []
        steps.append({"fault": fault if fault["kind"] in INSTANT else {"for": 1.0, **fault}})
    steps += [{"load": {"jobs": 1000}}, {"settle": {"within": 20}}]
    head = {"name": "by-hand", "title": "By hand", "promises": "N", "processes": {"workers": 3}}
    return Scenario.model_validate({**head, **more, "steps": steps})


# --- what is drawn -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_what_is_drawn_can_be_run_and_judged(seed: int) -> None:
    scenario = draw(seed)
    assert unfit(scenario) == []
    assert 1 <= len(scenario.faults) <= FAULTS_MAX + 1  # slow_close brings something to close
    assert 1 <= len(scenario.loads) <= 5
    assert load_outlasts_faults(scenario)
    assert bounds_of(scenario).faults.keys() == scenario.faults.keys()
    assert scenario.settle.within == bounds_of(scenario).drain.seconds
    assert span_s(scenario) < 20


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_the_same_seed_draws_the_same_schedule(seed: int) -> None:
    assert draw(seed) == draw(seed)
    assert draw(seed) != draw(seed + 1)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_what_is_drawn_is_expected_to_end_as_its_kinds_do(seed: int) -> None:
    scenario = draw(seed)
    dead = sum(load.jobs for load in scenario.loads if load.kind in DEAD_EACH)
    dead += expectations_of(scenario).bad_records
    amount = expectations_of(scenario).amount("dead")
    assert amount is not None
    assert amount.holds(dead)
    assert not amount.holds(dead + 1)
    assert set(scenario.expect.counts) <= {"dead", "poisoned", *UNANSWERED, *LOST_LEASES}


@pytest.mark.parametrize(
    ("free", "scenario"),
    [
        (set(), schedule({"kind": "script_flush"})),
        (set(), schedule({"kind": "latency", "latency": 50})),
        (set(UNANSWERED), schedule({"kind": "proxy_down", "proxies": ["clients"]})),
        (set(LOST_LEASES), schedule({"kind": "proxy_down", "proxies": ["workers"]})),
        (set(LOST_LEASES), schedule({"kind": "worker_kill"})),
        (set(UNANSWERED), schedule({"kind": "out_of_memory"})),
        ({*UNANSWERED, *LOST_LEASES}, schedule({"kind": "redis_kill"})),
        ({"dead"}, schedule({"kind": "bad_record"})),
        ({"dead", "poisoned", *LOST_LEASES}, schedule(load={"jobs": 1, "kind": "poison"})),
    ],
)
def test_a_count_is_free_only_where_chance_decides_it(free: set[str], scenario: Scenario) -> None:
    assert set(with_expectations(scenario).expect.counts) == free


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_what_is_drawn_comes_back_from_its_file(seed: int) -> None:
    scenario = draw(seed)
    file = Path(f"{scenario.name}.yaml")
    assert parse_scenario(to_yaml(scenario, "why\nit is here"), file) == scenario


def test_every_kind_of_fault_and_load_is_drawn() -> None:
    drawn = [draw(seed) for seed in range(250)]
    kinds = {fault.kind for scenario in drawn for fault in scenario.faults.values()}
    every = {
        get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(faults.Fault)[0])
    }
    assert kinds == every - NEVER_DRAWN.keys()
    assert kinds == {*NETWORK, *REDIS, *WORKERS}
    assert {load.kind for scenario in drawn for load in scenario.loads} >= {
        "quick",
        "slow",
        "crash",
        "poison",
    }
    strategies = {scenario.all_settings().worker.dequeue_strategy for scenario in drawn}
    assert strategies == {"strict", "weighted", "looped"}


def test_faults_meet_often_and_repeat() -> None:
    drawn = [draw(seed) for seed in range(100)]
    assert sum(bool(pairs(planned(scenario))) for scenario in drawn) > 40
    assert sum(any(fault.times > 1 for fault in scenario.faults.values()) for scenario in drawn) > 10


# --- what may not be drawn -----------------------------------------------------------------------------------------

ON: dict[str, Any] = {"go_on": True}


@pytest.mark.parametrize(
    ("why", "scenario"),
    [
        ("verdict is ERROR", schedule({"kind": "toxiproxy_stopped"})),
        ("must refuse to", schedule({"kind": "eviction_policy"})),
        ("what the server says", schedule({"kind": "misconf", **ON}, {"kind": "read_only"})),
        ("what the server says", schedule({"kind": "redis_kill", **ON}, {"kind": "script_flush"})),
        ("one switch", schedule({"kind": "proxy_down", **ON}, {"kind": "proxy_down"})),
        (
            "adds them up",
            schedule({"kind": "latency", "latency": 50, **ON}, {"kind": "latency", "latency": 50}),
        ),
        (
            "in hand",
            schedule({"kind": "worker_kill", **ON}, {"kind": "worker_freeze", "names": ["worker-1"]}),
        ),
        ("nobody may be left", schedule({"kind": "worker_kill", "count": 3})),
        (
            "nobody may be left",
            schedule(
                {"kind": "worker_freeze", "names": ["worker-1"], **ON},
                {"kind": "proxy_down", "proxies": ["own"]},
                processes={"workers": 3, "routes": {"worker-1": "own"}},
            ),
        ),
        ("longer than T", schedule({"kind": "bandwidth", "rate": 100}, load={"jobs": 9, "payload": 20000})),
        ("longer than T", schedule({"kind": "slicer", "average_size": 1})),
        ("do not fit in C", schedule({"kind": "latency", "latency": 300})),
        ("just be gone", schedule({"kind": "worker_kill"}, load={"jobs": 1, "kind": "crash"})),
        ("stop a handler", schedule({"kind": "worker_freeze"}, load={"jobs": 1, "kind": "hang"})),
        (
            "cannot show itself",
            schedule({"kind": "redis_kill", "for": 3.0, **ON}, {"kind": "timeout", "timeout": 0}),
        ),
        ("no time to show", schedule({"kind": "timeout", "timeout": 0, **ON}, {"kind": "redis_kill"})),
        (
            "nothing is closed",
            schedule({"kind": "slow_close", "delay": 100, "for": 3.0, **ON}, {"kind": "redis_pause"}),
        ),
        (
            "closes at once",
            schedule({"kind": "slow_close", "delay": 100, "for": 3.0, **ON}, {"kind": "proxy_down"}),
        ),
        ("certain to be waiting", schedule({"kind": "bad_record"})),
        ("knows for certain", schedule({"kind": "redis_pause"}, {"kind": "bad_record"}, load=WAITING)),
        ("K J", schedule({"kind": "proxy_down", "for": 3.0}, load={"jobs": 1, "kind": "poison"})),
        (
            "give back",
            schedule({"kind": "worker_clock", "ahead": 5}, load={"jobs": 1, "kind": "slow", "seconds": 4}),
        ),
    ],
)
def test_what_cannot_be_judged_is_told(why: str, scenario: Scenario) -> None:
    assert [reason for reason in clashes(scenario) if why in reason]


@pytest.mark.parametrize(
    "scenario",
    [
        schedule({"kind": "misconf"}, {"kind": "read_only"}),
        schedule({"kind": "bad_record", "count": 5}, {"kind": "redis_pause"}, load=WAITING),
        schedule(
            {"kind": "slow_close", "delay": 100, "for": 3.0, **ON}, {"kind": "redis_kill", "after": 1.0}
        ),
        schedule({"kind": "timeout", "timeout": 0, **ON}, {"kind": "redis_kill", "after": 0.8}),
        schedule({"kind": "redis_pause", **ON}, {"kind": "redis_kill"}),
        schedule({"kind": "redis_kill", **ON}, {"kind": "worker_term"}),
        schedule(
            {"kind": "proxy_down", "proxies": ["workers"], **ON},
            {"kind": "timeout", "timeout": 0, "proxies": ["clients"]},
        ),
        schedule(
            {"kind": "worker_kill", "names": ["worker-1"], **ON},
            {"kind": "worker_freeze", "names": ["worker-2"]},
        ),
        schedule({"kind": "latency", "latency": 50, **ON}, {"kind": "latency", "latency": 50, "after": 9.0}),
    ],
)  # fmt: skip
def test_what_can_be_judged_clashes_with_nothing(scenario: Scenario) -> None:
    assert list(clashes(scenario)) == []


def test_a_plan_follows_the_steps() -> None:
    told = schedule(
        {"kind": "proxy_down", "times": 2, "pause": 0.5, **ON},
        {"kind": "worker_kill", "after": 0.2},
        {"kind": "worker_term", "after": 9.0},
    )
    plan: list[Planned] = planned(told)
    assert [(one.name, one.begin_s, one.end_s) for one in plan] == [
        ("proxy_down", 0.0, 2.5),
        ("worker_kill", 0.2, 1.2),
        ("worker_term", pytest.approx(10.2), pytest.approx(11.2)),
    ]
    assert [(a.name, b.name) for a, b in pairs(plan)] == [("proxy_down", "worker_kill")]
    assert span_s(told) == pytest.approx(11.2)


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_file_reads_like_those_that_are_there(tmp_path: Path) -> None:
    told = Scenario.model_validate(
        {
            "name": "it",
            "title": "It",
            "promises": "N",
            "settings": {"worker": {"lease": 3.0}},
            "steps": [
                {"load": {"jobs": 3, "priorities": {"high": 1}}},
                {"fault": {"for": 1.0, "kind": "latency", "latency": 9}},
                {"settle": {"within": 20}},
            ],
            "expect": {"counts": {"dead": "<= 2"}},
        }
    )
    text = to_yaml(told, "found\nby chance")
    assert text.splitlines() == [
        "# found",
        "# by chance",
        "name: it",
        "title: It",
        "promises: N",
        "settings: {worker: {lease: 3.0}}",
        "steps:",
        "  - load: {jobs: 3, priorities: {high: 1}}",
        "  - fault: {kind: latency, for: 1.0, latency: 9}",
        "  - settle: {within: 20.0}",
        "expect: {counts: {dead: <= 2}}",
    ]
    assert parse_scenario(text, tmp_path / "it.yaml") == told
    assert told.all_settings().redis.read_timeout == RUN_SETTINGS["redis"]["read_timeout"]
