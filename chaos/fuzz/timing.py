"""When each fault of a schedule is planned to come and go, and which of them may meet. By what is written, no clock.

A run is never faster than its plan; where it is slower, a fault that goes on may meet what was to come after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from chaos.scenario.faults import Misconf, RedisKill, RedisLoading, WorkerClock, WorkerKill, WorkerTerm

if TYPE_CHECKING:
    from chaos.scenario.faults import Fault
    from chaos.scenario.model import Scenario

PROBE_S: Final = 0.6
"""From its begin until a fault of the network has shown itself on its routes, beside what it is late."""
SLACK_S: Final = 2.5
"""A heal may take so long: a server or a worker has to start again."""


class Planned(NamedTuple):
    """One fault with all its times: seconds since the first step."""

    name: str
    fault: Fault
    begin_s: float
    end_s: float


def length_s(fault: Fault) -> float:
    """How long it lasts, all its times with the pauses between them."""
    return (fault.for_s or 0.0) * fault.times + fault.pause * (fault.times - 1)


def planned(scenario: Scenario) -> list[Planned]:
    """Every fault, in the order of the steps."""
    now_s = 0.0
    names = iter(scenario.faults)
    found: list[Planned] = []
    for step in scenario.steps:
        if step.wait is not None:
            now_s += step.wait.seconds or 0.0
        if step.fault is not None:
            end_s = now_s + length_s(step.fault)
            found.append(Planned(next(names), step.fault, now_s, end_s))
            now_s = now_s if step.fault.go_on else end_s
    return found


def pairs(plan: list[Planned]) -> list[tuple[Planned, Planned]]:
    """Those that may be there at the same time; the one that comes first is first."""
    return [
        (one, other)
        for number, one in enumerate(plan)
        for other in plan[number + 1 :]
        if one.fault.go_on and other.begin_s < one.end_s + SLACK_S
    ]


def span_s(scenario: Scenario) -> float:
    """From the first step until the last fault is gone and the last wait is over."""
    waited = sum(step.wait.seconds or 0.0 for step in scenario.steps if step.wait is not None)
    held = sum(length_s(fault) for fault in scenario.faults.values() if not fault.go_on)
    return max([waited + held, *(one.end_s for one in planned(scenario))])


def lag_s(fault: Fault) -> float:
    """How much longer than planned it may hold up what comes after it, roughly.

    To start a process takes its time on a busy machine, and a worker that is to end finishes what it runs first.
    """
    match fault:
        case WorkerTerm() | WorkerClock():
            return 6.0 * fault.times
        case WorkerKill() | RedisKill() | RedisLoading() | Misconf():
            return 3.0 * fault.times
    return 0.5 * fault.times


def load_outlasts_faults(scenario: Scenario) -> bool:
    """Whether some load is planned to go on after the last fault: without any, no recovery can be measured."""
    now_s, loaded_s = 0.0, 0.0
    for step in scenario.steps:
        if step.load is not None:
            loaded_s = max(loaded_s, now_s + step.load.jobs / (step.load.rate or 1e9))
        if step.wait is not None:
            now_s += step.wait.seconds or 0.0
        if step.fault is not None and not step.fault.go_on:
            now_s += length_s(step.fault)
    return loaded_s > max([0.0, *(one.end_s for one in planned(scenario))])
