"""What must come of a schedule, from its loads and faults alone: which counts may be anything, and up to what.

A count is let go only where chance decides it; everything else keeps the checker's default, which is none at all. That
each acknowledged job ends, and no job dies, runs again or is refused without cause, is judged job by job all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chaos.judging.bounds import EVERYBODY, bounds_of
from chaos.judging.expectations import KILLERS
from chaos.scenario.model import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.bounds import FaultRule

DEAD_EACH: Final = frozenset({"fail", "hang", "uncancellable", "poison"})
"""Kinds whose jobs end among the dead letters, every one. Not all need be enqueued, so their number is a limit."""
UNANSWERED: Final = ("failed", "unknown")
"""What an enqueue may come to while a fault is on its client."""
LOST_LEASES: Final = ("duplicated", "reclaimed")
"""What may come of a lease that is lost to a fault."""


def with_expectations(scenario: Scenario) -> Scenario:
    """The same schedule, expecting what its loads and faults may come to."""
    counts = dict(_counts(scenario))
    told = scenario.model_dump(by_alias=True, exclude_unset=True)
    told.pop("expect", None)
    return Scenario.model_validate(told | ({"expect": {"counts": counts}} if counts else {}))


def _counts(scenario: Scenario) -> Iterator[tuple[str, str]]:
    dead = sum(load.jobs for load in scenario.loads if load.kind in DEAD_EACH)
    dead += sum(
        getattr(fault, "count", 1) for fault in scenario.faults.values() if fault.kind == "bad_record"
    )
    if dead:
        yield "dead", f"<= {dead}"
    poison = sum(load.jobs for load in scenario.loads if load.kind == "poison")
    if poison:
        yield "poisoned", f"<= {poison}"
    rules = bounds_of(scenario).faults.values()
    if any(rule.disrupts and _hits(rule, "producer-") for rule in rules):
        yield from ((name, ">= 0") for name in UNANSWERED)
    killed = any(load.kind in KILLERS for load in scenario.loads)
    if killed or any(rule.excuses and _hits(rule, "worker-") for rule in rules):
        yield from ((name, ">= 0") for name in LOST_LEASES)


def _hits(rule: FaultRule, group: str) -> bool:
    """Whether it is on anybody of that group. What says nothing is a fault of workers that the run will draw."""
    if rule.hits is None:
        return group == "worker-"
    return rule.hits == EVERYBODY or any(name.startswith(group) for name in rule.hits)
