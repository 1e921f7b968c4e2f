"""Whether a fault has bitten: what the probes of its routes met, and who was touched, in histories written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chaos.history import Dropped, Enqueue, Observation
from chaos.judging.bounds import bounds_of
from chaos.verdict import Proof, Verdict
from tests.chaos.histories import OUTAGE, Tale, scenario

if TYPE_CHECKING:
    from chaos.verdict import Judgement
    from tests.chaos.histories import Met

SLOW: dict[str, Any] = {"kind": "latency", "latency": 100, "for": 2.0, "name": "slow"}
LATE: dict[str, Any] = SLOW | {"latency": 900, "name": "late"}
LOST: dict[str, Any] = {"kind": "timeout", "timeout": 0, "for": 2.0, "name": "lost"}


def tale(*, meanwhile: bool = True) -> Tale:
    """Jobs before and after a fault from 101 to 103, and one that is enqueued and run while it is there."""
    told = Tale()
    told.job("before", 100.5)
    if meanwhile:
        told.job("meanwhile", 102.0)
    for number in range(4):
        told.job(f"after-{number}", 103.1 + number / 5)
    return told


def judged(told: Tale, *faults: dict[str, Any], **more: Any) -> Judgement:
    """As the tale stands: it can go on afterwards."""
    so_far = list(told.events)
    told.rest()
    judgement = told.judged(scenario(*faults, **more))
    told.events = so_far
    return judgement


def only_reason(judgement: Judgement) -> str:
    assert judgement.verdict is Verdict.INVALID, judgement.reasons
    (reason,) = judgement.reasons
    return reason


# --- the routes ----------------------------------------------------------------------------------------------------


def test_a_fault_on_whose_route_nothing_changed_did_not_bite() -> None:
    told = tale()
    told.fault("outage", 101, 103, met="answered")
    reason = only_reason(judged(told, OUTAGE))
    assert reason.startswith("fault outage did not bite: route workers: 0 of 1 probes refused")


def test_every_route_of_the_fault_must_show_it() -> None:
    told = tale()
    told.fault("outage", 101, 103, met=None)
    for route, met in (("workers", "refused"), ("clients", "answered")):
        told.probe("outage", route, 101.1, met)  # type: ignore[arg-type]
    assert "route clients: 0 of 1 probes refused" in only_reason(judged(told, OUTAGE))
    told.events.pop()
    judgement = judged(told, OUTAGE | {"proxies": ["workers"]})
    assert judgement.verdict is Verdict.PASS, judgement.reasons


def test_a_route_that_nobody_asked_on_proves_nothing() -> None:
    told = tale()
    told.fault("outage", 101, 103, met=None)
    assert "nobody asked on route workers" in only_reason(judged(told, OUTAGE))


def test_what_was_so_before_is_not_this_faults_doing() -> None:
    told = tale()
    told.fault("outage", 101, 103, met=None)
    for route in ("workers", "clients"):
        told.probe("outage", route, 101.01, "refused", before=True)
        told.probe("outage", route, 101.1, "refused")
    assert "(before: refused after 1 ms)" in only_reason(judged(told, OUTAGE))


@pytest.mark.parametrize(
    ("fault", "met", "more", "bites"),
    [
        ({"kind": "upstream_gone"}, "cut", {}, True),
        ({"kind": "upstream_gone"}, "refused", {}, False),
        ({"kind": "reset_peer"}, "cut", {}, True),
        ({"kind": "limit_data", "bytes": 700}, "cut", {"got": 700}, True),
        ({"kind": "limit_data", "bytes": 700}, "answered", {"got": 710}, False),
        ({"kind": "timeout", "timeout": 0}, "silent", {"took_s": 0.25}, True),
        ({"kind": "timeout", "timeout": 0}, "silent", {"took_s": 0.01}, False),
        ({"kind": "timeout", "timeout": 100}, "cut", {}, True),
        ({"kind": "timeout", "timeout": 100}, "cut", {"got": 3}, False),
        ({"kind": "slicer", "average_size": 1}, "answered", {"pieces": 40}, True),
        ({"kind": "slicer", "average_size": 1}, "answered", {"pieces": 1}, False),
        ({"kind": "latency", "latency": 100}, "answered", {"took_s": 0.101}, True),
        ({"kind": "latency", "latency": 100}, "answered", {"took_s": 0.099}, False),
        ({"kind": "latency", "latency": 100, "stream": "both"}, "answered", {"took_s": 0.101}, False),
        ({"kind": "latency", "latency": 100}, "silent", {}, False),
        ({"kind": "bandwidth", "rate": 400}, "answered", {"took_s": 0.101}, True),
        ({"kind": "bandwidth", "rate": 400}, "answered", {"took_s": 0.05}, False),
        ({"kind": "slow_close", "delay": 400}, "answered", {"closing_s": 0.41}, True),
        ({"kind": "slow_close", "delay": 400}, "answered", {"took_s": 0.41}, False),
        ({"kind": "jitter_script", "low": 0, "high": 800}, "answered", {"took_s": 0.21}, True),
        ({"kind": "jitter_script", "low": 0, "high": 800}, "answered", {"took_s": 0.19}, False),
    ],
)
def test_what_a_route_must_be_like(
    fault: dict[str, Any], met: Met, more: dict[str, Any], bites: bool
) -> None:
    told = tale()
    told.fault("it", 101, 103, met=None)
    for route in ("workers", "clients"):
        told.probe("it", route, 101.01, "answered", before=True, pieces=1)
        told.probe("it", route, 101.2, met, **more)
    judgement = judged(told, fault | {"for": 2, "name": "it"})
    assert judgement.verdict is (Verdict.PASS if bites else Verdict.INVALID), judgement.reasons


def test_when_most_answers_are_in_time_a_latency_is_not_proven() -> None:
    told = tale()
    told.fault("slow", 101, 103, met="answered", took_s=0.11)
    told.probe("slow", "workers", 102, "answered", 0.02)
    assert judged(told, SLOW).verdict is Verdict.PASS
    told.probe("slow", "workers", 102.2, "answered", 0.02)
    assert "route workers: 3 probes answered in 20 ms" in only_reason(judged(told, SLOW))


def test_a_route_that_was_slow_before_must_be_slower() -> None:
    told = tale()
    told.fault("slow", 101, 103, met=None)
    for route in ("workers", "clients"):
        told.probe("slow", route, 101.01, "answered", 0.12, before=True)
        told.probe("slow", route, 101.2, "answered", 0.13)
    assert "did not bite: route workers" in only_reason(judged(told, SLOW))


# --- those it should hit -------------------------------------------------------------------------------------------


def test_a_fault_that_nobody_felt_did_not_bite() -> None:
    told = tale()
    told.fault("outage", 101, 103, trouble=False)
    reason = only_reason(judged(told, OUTAGE))
    assert reason == (
        "fault outage did not bite: nobody it should hit had any trouble (worker-1, worker-2, producer-1)"
    )


@pytest.mark.parametrize(("who", "bites"), [("producer-1#4", True), ("worker-1", False), ("stranger", False)])
def test_only_those_it_should_hit_can_tell(who: str, bites: bool) -> None:
    told = tale()
    told.fault("outage", 101, 103, trouble=False)
    told.trouble(who, 101.4)
    judgement = judged(told, OUTAGE | {"proxies": ["clients"]})
    assert judgement.verdict is (Verdict.PASS if bites else Verdict.INVALID), judgement.reasons


def test_clients_that_had_ended_before_are_not_missed_while_workers_felt_it() -> None:
    told = tale()
    told.fault("outage", 101, 103)
    told.events.append(Observation(100.8, errors={"producer-1#2": 0}))
    assert judged(told, OUTAGE).verdict is Verdict.PASS


def test_errors_from_before_it_are_not_its_doing() -> None:
    told = tale()
    told.fault("outage", 101, 103, trouble=False)
    told.trouble("worker-1", 100.6)
    told.events.append(Observation(101.4, errors={"worker-1": 1}))
    judgement = judged(told, OUTAGE)
    assert judgement.verdict is Verdict.INVALID
    assert "nobody it should hit had any trouble" in judgement.reasons[0]


def test_who_is_started_anew_counts_from_nothing() -> None:
    told = tale()
    told.fault("outage", 101, 103, trouble=False)
    told.events += [
        Observation(100.6, errors={"worker-1": 7}),
        Observation(101.4, errors={"worker-1": 0}),
        Observation(102.4, errors={"worker-1": 2}),
    ]
    judgement = judged(told, OUTAGE)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.proofs[0].seen[-1] == "worker-1: 2 errors"


@pytest.mark.parametrize(("at_s", "bites"), [(101.6, False), (105.5, True)])
def test_trouble_that_another_fault_explains_is_no_proof(at_s: float, bites: bool) -> None:
    told = tale()
    told.fault("outage", 101, 102, trouble=False)
    told.trouble("worker-1", 101.5)
    told.fault("late", 101.2, 106, met="answered", took_s=0.95, trouble=False)
    told.trouble("worker-1", at_s)
    told.job("at last", 107)
    judgement = judged(told, OUTAGE | {"go_on": True}, LATE)
    assert judgement.verdict is (Verdict.PASS if bites else Verdict.INVALID), judgement.reasons
    assert bites or "fault late did not bite: nobody it should hit" in judgement.reasons[0]


def test_a_fault_that_was_never_alone_shares_the_trouble() -> None:
    told = tale()
    told.fault("outage", 101, 106)
    told.fault("late", 101.2, 103, met="answered", took_s=0.95, trouble=False)
    for at_s in (102, 105):
        told.trouble("worker-1", at_s)
    told.job("at last", 107)
    judgement = judged(told, OUTAGE | {"go_on": True, "for": 5}, LATE)
    assert judgement.verdict is Verdict.PASS, judgement.reasons


def test_bytes_that_were_dropped_touched_somebody() -> None:
    told = tale()
    told.fault("lost", 101, 103, met="silent", took_s=0.25, trouble=False)
    told.events.append(Dropped(103.1, "lost", "clients", 1234))
    judgement = judged(told, LOST)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.proofs[0].seen[-1] == "1,234 bytes of theirs dropped"


def test_a_server_that_refuses_nobodys_calls_has_proven_nothing() -> None:
    full = {"kind": "out_of_memory", "headroom": 1000, "for": 2, "name": "full"}
    told = tale()
    told.fault("full", 101, 103, met=None, trouble=False)
    assert "fault full did not bite" in only_reason(judged(told, full))
    told.trouble("producer-1#2", 102)
    judgement = judged(told, full)
    assert judgement.verdict is Verdict.PASS, judgement.reasons


# --- faults that break nothing -------------------------------------------------------------------------------------


def test_slow_is_proven_by_work_that_went_on() -> None:
    told = tale()
    told.fault("slow", 101, 103, met="answered", took_s=0.11, trouble=False)
    judgement = judged(told, SLOW)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.proofs[0].seen[-1] == "1 enqueue answered and 1 handler begun"


def test_slow_with_nobody_at_work_has_proven_nothing() -> None:
    told = tale(meanwhile=False)
    told.fault("slow", 101, 103, met="answered", took_s=0.11, trouble=False)
    assert "nobody it should hit did anything meanwhile" in only_reason(judged(told, SLOW))


def test_work_that_went_another_way_proves_nothing() -> None:
    told = tale(meanwhile=False)
    told.fault("slow", 101, 103, met="answered", took_s=0.11, trouble=False)
    told.events += [
        Enqueue(102, "b", "invoke", client="producer-2"),
        Enqueue(102.1, "b", "ok", client="producer-2"),
    ]
    told.run("b", 104)
    routes = {"producer-2": "elsewhere"}
    apart = {"producers": 2, "routes": routes}
    only = SLOW | {"proxies": ["clients"]}
    assert "did anything meanwhile (producer-1)" in only_reason(judged(told, only, processes=apart))


def test_a_slow_close_needs_somebodys_connection_to_end() -> None:
    fault = {"kind": "slow_close", "delay": 400, "for": 2, "name": "it"}
    told = tale()
    told.fault("it", 101, 103, met=None, trouble=False)
    for route in ("workers", "clients"):
        told.probe("it", route, 101.2, "answered", closing_s=0.5)
    assert "nobody's connection ended" in only_reason(judged(told, fault))
    told.events.append(Observation(102, errors={"worker-1": 0}, connects={"worker-1": 1}))
    judgement = judged(told, fault)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.proofs[0].seen[-1] == "worker-1: 1 new connection"


def test_scripts_that_are_gone_need_somebody_who_calls_them() -> None:
    told = tale(meanwhile=False)
    told.enqueue("long", 100.8)
    told.run("long", 100.9, took_s=1)
    told.fault("gone", 101, 101.2, met=None, trouble=False)
    gone = {"kind": "script_flush", "name": "gone"}
    assert "nobody it should hit did anything" in only_reason(judged(told, gone))
    told.job("soon", 101.5)
    judgement = judged(told, gone)
    assert judgement.verdict is Verdict.PASS, judgement.reasons


def test_a_process_that_is_gone_is_proof_enough() -> None:
    told = tale()
    told.fault("kill", 101, 103, "worker-1", proof="pid 7 is gone", met=None, trouble=False)
    judgement = judged(told, {"kind": "worker_kill", "name": "kill", "for": 2})
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.proofs == (Proof("kill", ("pid 7 is gone",)),)


# --- clients are judged like workers -------------------------------------------------------------------------------


def test_a_rush_of_a_clients_connections() -> None:
    told = tale()
    told.fault("outage", 101, 103)
    for at_s, count in ((101.1, 0), (102.9, 5000)):
        told.events.append(Observation(at_s, connects={"producer-1#2": count}))
    judgement = judged(told, OUTAGE)
    assert "producer-1#2 has tried to connect 5000 times" in judgement.reasons[0]


def test_an_outage_may_be_noticed_by_a_client() -> None:
    told = tale()
    told.fault("outage", 101, 103, trouble=False)
    told.trouble("producer-1#2", 101.25)
    (noticed,) = [found for found in judged(told, OUTAGE).recoveries if "noticed" in found.name]
    assert noticed.measured_s == pytest.approx(0.2)


def test_what_is_seen_of_a_fault_that_never_began_is_a_contradiction() -> None:
    told = tale()
    told.probe("ghost", "workers", 101, "refused")
    assert "something was seen of it before it began" in only_reason(judged(told))


# --- what each kind needs ------------------------------------------------------------------------------------------

NETWORK: dict[str, dict[str, Any]] = {
    "proxy_down": {},
    "upstream_gone": {},
    "latency": {"latency": 100},
    "jitter_script": {"low": 0, "high": 50},
    "timeout": {"timeout": 0},
    "limit_data": {"bytes": 100},
    "slicer": {"average_size": 1},
    "reset_peer": {},
    "slow_close": {"delay": 10},
    "bandwidth": {"rate": 100},
}
REDIS = (
    "redis_kill",
    "redis_freeze",
    "redis_stall",
    "redis_pause",
    "read_only",
    "min_replicas",
    "redis_loading",
    "redis_busy",
    "misconf",
    "out_of_memory",
)


def test_every_fault_of_the_network_needs_its_routes_and_somebody_touched() -> None:
    for kind, attributes in NETWORK.items():
        (rule,) = bounds_of(scenario({"kind": kind, "for": 1, **attributes})).faults.values()
        assert rule.bite.route, kind
        assert rule.bite.touched, kind
        assert rule.routes == ("workers", "clients")
        assert rule.bite.patience_s > rule.bite.late_ms / 1000


@pytest.mark.parametrize("kind", REDIS)
def test_every_server_that_refuses_needs_somebody_refused(kind: str) -> None:
    (rule,) = bounds_of(scenario({"kind": kind, "for": 1})).faults.values()
    assert (rule.bite.touched, rule.bite.route, rule.routes) == ("trouble", "", ())
