"""What may not be drawn together, and why: where no verdict could be given, or a wrong one would be.

Each rule is about the harness, its drivers and its bounds; none is about what queue_trio can stand. Whoever teaches
the harness to judge one of these deletes the rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chaos.fuzz.timing import PROBE_S, SLACK_S, pairs, planned
from chaos.judging.bites import PATIENCE_S
from chaos.judging.bounds import EVERYBODY, bounds_of
from chaos.judging.expectations import KILLERS
from chaos.scenario import faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chaos.fuzz.timing import Planned
    from chaos.judging.bounds import Bounds, FaultRule
    from chaos.scenario.model import Scenario

NEVER_DRAWN: Final[Mapping[str, str]] = {
    "toxiproxy_stopped": "nothing can be injected or proven while it lasts: its verdict is ERROR, as it must be",
    "eviction_policy": "a worker that starts meanwhile must refuse to; its scenario is about nothing else",
}
"""Kinds of faults."""
SURVIVES_KILL: Final = (
    faults.RedisFreeze,
    faults.RedisPause,
    faults.OutOfMemory,
    faults.ReadOnly,
    faults.MinReplicas,
)
"""A server may be killed while one of these lasts: its heal waits for the restart, and finds it healed."""
SLOW: Final = (faults.Latency, faults.JitterScript, faults.Slicer, faults.Bandwidth)
SWITCHES: Final = (faults.ProxyDown, faults.UpstreamGone)

AT_ONCE_MAX: Final = 64
"""Enqueues that a producer has under way at most; after an outage they go out as one call."""
RECORD_BYTES: Final = 400
"""Of one job without payload, roughly."""
SLICE_US: Final = 100
"""What one more slice costs Toxiproxy, roughly, beside its delay."""
POISON_OUTAGE_S_MAX: Final = 2.0


def clashes(scenario: Scenario) -> Iterator[str]:
    """Everything for which this schedule cannot be judged."""
    plan = planned(scenario)
    bounds = bounds_of(scenario)
    yield from (
        f"{one.fault.kind}: {NEVER_DRAWN[one.fault.kind]}" for one in plan if one.fault.kind in NEVER_DRAWN
    )
    for one, other in pairs(plan):
        yield from _pair(one, other, scenario)
    for one in plan:
        yield from _workers_left(one, scenario, bounds.faults)
        yield from _slower_than_thought(one, scenario, bounds)
    yield from _closings(plan)
    yield from _with_loads(plan, scenario, bounds)


# --- two faults ----------------------------------------------------------------------------------------------------


def _pair(one: Planned, other: Planned, scenario: Scenario) -> Iterator[str]:
    a, b = one.fault, other.fault
    both = f"{one.name} and {other.name}"
    if isinstance(a, faults.RedisFault) and isinstance(b, faults.RedisFault):
        killed = isinstance(b, faults.RedisKill) and isinstance(a, SURVIVES_KILL)
        if not killed:
            yield f"{both}: each is proven by what the server says, and the other changes that"
    if isinstance(a, faults.NetworkFault) and isinstance(b, faults.NetworkFault):
        common = set(_proxies(a, scenario)) & set(_proxies(b, scenario))
        if common and isinstance(a, SWITCHES) and a.kind == b.kind:
            yield f"{both}: one switch; the first heal would undo the second fault too"
        if common and isinstance(a, SLOW) and isinstance(b, SLOW):
            yield f"{both}: each is judged by its own delay, and nobody adds them up"
    yield from _masked(one, other, scenario)
    if isinstance(a, faults.WorkerFault) and isinstance(b, faults.WorkerFault):
        one_by_one = a.names and b.names and not set(a.names) & set(b.names)
        if not one_by_one:
            yield f"{both}: a worker that one has in hand cannot be hit by the other"


def _masked(one: Planned, other: Planned, scenario: Scenario) -> Iterator[str]:
    """Faults of the network are proven by questions on their routes, which another fault may answer in their stead."""
    rules = bounds_of(scenario).faults
    first, second = rules[one.name], rules[other.name]
    hasty = other.begin_s - one.begin_s < PROBE_S + first.bite.late_ms / 1000 or one.fault.times > 1
    if hasty and first.bite.route and _mutes(other, second) and _meet(first, second):
        yield f"{one.name} and {other.name}: the first has no time to show itself on its routes"
    once_s = other.begin_s + (other.fault.for_s or 0.0)
    outlasts = once_s - one.end_s > SLACK_S and first.bite.route != second.bite.route
    if second.bite.route and _mutes(one, first) and _meet(first, second) and not outlasts:
        yield f"{one.name} and {other.name}: the second cannot show itself on routes that the first has cut"


def _mutes(one: Planned, rule: FaultRule) -> bool:
    """Whether questions on its routes are not answered, or so late that it looks like that."""
    silent = isinstance(one.fault, faults.RedisFreeze | faults.RedisStall | faults.RedisKill)
    return silent or rule.bite.route in ("refused", "cut", "silent") or rule.bite.late_ms >= PATIENCE_S * 1000


def _meet(first: FaultRule, second: FaultRule) -> bool:
    """Whether there is a route that both are on; a fault of the server is on all of them."""
    return not first.routes or not second.routes or bool(set(first.routes) & set(second.routes))


def _proxies(fault: faults.NetworkFault, scenario: Scenario) -> tuple[str, ...]:
    return fault.proxies or scenario.processes.proxies


# --- somebody must be left -----------------------------------------------------------------------------------------


def _workers_left(one: Planned, scenario: Scenario, rules: Mapping[str, FaultRule]) -> Iterator[str]:
    """Recovery is promised for when there is a worker to recover: always one, and one that the fault is on."""
    rule = rules[one.name]
    processes = scenario.processes
    if isinstance(one.fault, faults.WorkerFault):
        there = set(processes.worker_names)
    else:
        hits = rule.hits or ()
        there = {name for name in processes.worker_names if name in hits or hits == EVERYBODY}
        if not rule.disrupts or not there:
            return
    named, counted = _taken(one, scenario)
    killers = sum(load.jobs for load in scenario.loads if load.kind in KILLERS)
    if len(there - named) <= counted + killers:
        yield f"{one.name}: nobody may be left to go on, or to show that it is noticed"


def _taken(one: Planned, scenario: Scenario) -> tuple[set[str], int]:
    """Workers that faults may have in hand while `one` lasts: by name, and how many more."""
    meeting = [one]
    for first, second in pairs(planned(scenario)):
        meeting += [second] if first.name == one.name else [first] if second.name == one.name else []
    hands = [each.fault for each in meeting if isinstance(each.fault, faults.WorkerFault)]
    named = {name for fault in hands for name in fault.names}
    return named, sum(fault.count for fault in hands if not fault.names)


# --- one fault -----------------------------------------------------------------------------------------------------


def _slower_than_thought(one: Planned, scenario: Scenario, bounds: Bounds) -> Iterator[str]:
    """A link over which calls take longer than T is an outage, for which its rule would give no leave."""
    fault = one.fault
    payload = max(load.payload for load in scenario.loads)
    call_bytes = AT_ONCE_MAX * (RECORD_BYTES + payload)
    if isinstance(fault, faults.Bandwidth):
        took_s = call_bytes / (1000 * fault.rate)
    elif isinstance(fault, faults.Slicer):
        smallest = fault.average_size - fault.size_variation
        took_s = call_bytes / smallest * (fault.delay + SLICE_US) / 1e6
    elif isinstance(fault, faults.Latency | faults.JitterScript) and not bounds.faults[one.name].disrupts:
        late_ms = fault.latency if isinstance(fault, faults.Latency) else fault.high
        took_s = late_ms * (2 if fault.stream == "both" else 1) / 1000
        if took_s > bounds.command_s / 4:
            yield f"{one.name}: so late that after another fault's heal three round trips do not fit in C"
        return
    else:
        return
    if took_s > bounds.command_s / 2:
        yield f"{one.name}: the biggest call may take longer than T, which no rule knows"


def _closings(plan: list[Planned]) -> Iterator[str]:
    """A slow close shows only where something is closed, and not by its proxy: that closes at once."""
    for one in plan:
        closed = any(
            a is one and isinstance(b.fault, faults.RedisKill) and b.begin_s < a.end_s for a, b in pairs(plan)
        )
        if isinstance(one.fault, faults.SlowClose) and not closed:
            yield f"{one.name}: nothing is closed while it is there"
        if any(
            a is one and isinstance(a.fault, faults.SlowClose) and isinstance(b.fault, SWITCHES)
            for a, b in pairs(plan)
        ):
            yield f"{one.name}: a proxy that goes down closes at once, questions on its route too"


# --- faults and loads ----------------------------------------------------------------------------------------------


def _with_loads(plan: list[Planned], scenario: Scenario, bounds: Bounds) -> Iterator[str]:
    kinds = {load.kind for load in scenario.loads}
    hands = [one for one in plan if isinstance(one.fault, faults.WorkerFault)]
    if kinds & KILLERS and hands:
        yield "a task that kills, and a fault of workers: the one that is to be hit may just be gone"
    if "hang" in kinds and any(isinstance(one.fault, faults.WorkerFreeze) for one in hands):
        yield "a worker that is stopped cannot stop a handler in time"
    outages = [one for one in plan if bounds.faults[one.name].disrupts]
    outage_s = sum((one.fault.for_s or 0.0) * one.fault.times for one in outages)
    if "poison" in kinds and (outage_s > POISON_OUTAGE_S_MAX or sum(o.fault.times for o in outages) > 1):
        yield "the bound for poison, K J, knows of no outages; a short one fits in"
    if any(isinstance(one.fault, faults.WorkerClock) for one in hands):
        grace_s = scenario.all_settings().worker.shutdown_grace
        if any(load.seconds >= grace_s - 0.5 for load in scenario.loads if load.kind in ("slow", "thread")):
            yield "a worker that gets another clock is ended first, and may have to give back what takes longer"
    yield from _records_to_spoil(plan, scenario)


def _records_to_spoil(plan: list[Planned], scenario: Scenario) -> Iterator[str]:
    spoils = [one for one in plan if isinstance(one.fault, faults.BadRecord)]
    if not spoils:
        return
    waiting = sum(load.jobs for load in scenario.loads if load.rate is None and load.delay >= 5000)
    if len(spoils) > 1 or plan[0] is not spoils[0] or spoils[0].fault.times > 1:
        yield "bad_record: only the first fault knows for certain that jobs are waiting"
    elif sum(one.fault.count for one in spoils if isinstance(one.fault, faults.BadRecord)) > waiting // 2:
        yield "bad_record: not enough jobs are certain to be waiting"
