"""Every bound from the settings, and what each fault may cause."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.actors.tasks import STOP_S as TASKS_STOP_S
from chaos.judging.bounds import EVERYBODY, STOP_S, bounds_of
from queue_trio.core.settings import Settings
from tests.chaos.histories import scenario

LONG: dict[str, Any] = {"for": 1.0}


def rule(kind: str, **attributes: Any) -> Any:
    (found,) = bounds_of(scenario({"kind": kind} | LONG | attributes)).faults.values()
    return found


def test_the_formulas_for_the_settings_of_a_run() -> None:
    bounds = bounds_of(scenario())
    assert bounds.recovery.seconds == pytest.approx(0.5 + 0.3 + 1.5 * 0.2)
    assert bounds.orphan.seconds == pytest.approx(2 * 2 + 0.4 + 1.1)
    assert (bounds.recovery.formula, bounds.orphan.formula) == ("C = T + B + 1.5 O", "J = 2 L + S + C")
    assert bounds.drain.seconds == 20
    assert (bounds.lease_s, bounds.command_s, bounds.slots) == (2.0, 0.5, 8)


def test_c_is_what_the_product_promises_itself() -> None:
    settings = scenario().all_settings()
    assert bounds_of(scenario()).recovery.seconds == pytest.approx(settings.redis.recovery)


def test_bounds_follow_the_settings() -> None:
    slow = scenario(settings={"worker": {"lease": 10}, "redis": {"read_timeout": 3}})
    bounds = bounds_of(slow)
    assert bounds.recovery.seconds == pytest.approx(3.6)
    assert bounds.orphan.seconds == pytest.approx(20 + 0.4 + 3.6)
    assert slow.all_settings(redis={"read_timeout": 1}).redis.read_timeout == 1
    assert slow.all_settings().redis.backoff_cap == 0.3 != Settings().redis.backoff_cap


def test_an_orphan_may_wait_for_the_slowest_handler() -> None:
    bounds = bounds_of(scenario(load={"kind": "slow", "seconds": 3.0}))
    assert bounds.orphan.seconds == pytest.approx(5.5 + 3)
    assert "slowest handler" in bounds.orphan.formula


def test_the_timeout_of_endless_tasks_is_theirs() -> None:
    assert STOP_S == TASKS_STOP_S
    assert bounds_of(scenario(load={"kind": "hang"})).handler.seconds == STOP_S + 0.5


@pytest.mark.parametrize(
    ("kind", "attributes", "disrupts", "excuses"),
    [
        ("proxy_down", {}, True, True),
        ("latency", {"latency": 499}, False, False),
        ("latency", {"latency": 500}, True, True),
        ("latency", {"latency": 250, "stream": "both"}, True, True),
        ("jitter_script", {"low": 0, "high": 499}, False, False),
        ("jitter_script", {"low": 0, "high": 800}, True, True),
        ("slicer", {"average_size": 1, "delay": 10}, False, False),
        ("slicer", {"average_size": 1, "delay": 1000}, True, True),
        ("slow_close", {"delay": 5000}, False, False),
        ("bandwidth", {"rate": 50}, True, False),
        ("out_of_memory", {}, True, False),
        ("redis_kill", {}, True, True),
        ("worker_kill", {}, False, True),
        ("worker_clock", {"ahead": 3600.0}, False, False),
        ("eviction_policy", {}, False, False),
    ],
)
def test_what_a_fault_may_cause(kind: str, attributes: dict[str, Any], disrupts: bool, excuses: bool) -> None:
    found = rule(kind, **attributes)
    assert (found.disrupts, found.excuses) == (disrupts, excuses)
    assert (found.first_success is not None) == disrupts


@pytest.mark.parametrize("kind", ["script_flush", "bad_record"])
def test_what_is_over_at_once_disrupts_nobody(kind: str) -> None:
    (found,) = bounds_of(scenario({"kind": kind})).faults.values()
    assert (found.instant, found.disrupts, found.excuses) == (True, False, False)


def test_a_black_hole_has_to_be_given_up_first() -> None:
    hole = rule("timeout", timeout=0, stream="both")
    assert hole.first_success.seconds == pytest.approx(2 * 0.5 + 1.1)
    assert hole.total
    assert rule("timeout", timeout=0).first_success.seconds == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("kind", "attributes", "hits"),
    [
        ("proxy_down", {}, ("worker-1", "worker-2", "producer-1")),
        ("proxy_down", {"proxies": ["clients"]}, ("producer-1",)),
        ("proxy_down", {"proxies": ["workers"]}, ("worker-1", "worker-2")),
        ("redis_kill", {}, EVERYBODY),
        ("worker_kill", {}, None),
        ("worker_kill", {"names": ["worker-2"]}, ("worker-2",)),
    ],
)
def test_whom_a_fault_hits(kind: str, attributes: dict[str, Any], hits: Any) -> None:
    assert rule(kind, **attributes).hits == hits


def test_a_worker_can_have_a_proxy_of_its_own() -> None:
    routes = {"workers": "workers", "worker-2": "second", "producers": "direct"}
    apart = scenario({"kind": "proxy_down", "proxies": ["second"]} | LONG, processes={"routes": routes})
    assert apart.processes.proxies == ("workers", "second")
    assert bounds_of(apart).faults["proxy_down"].hits == ("worker-2",)


def test_faults_of_one_kind_are_numbered() -> None:
    down = {"kind": "proxy_down"} | LONG
    twice = scenario(down, down, down | {"name": "last"})
    assert list(bounds_of(twice).faults) == ["proxy_down-1", "proxy_down-2", "last"]


def test_leaving_takes_no_longer_than_its_grace() -> None:
    assert rule("worker_term").exit.seconds == 3.0 + 1.0
    assert rule("worker_kill").exit is None
