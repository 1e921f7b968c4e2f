"""What the checker is told of a scenario: which counts must come out, and what its tasks are known to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from chaos.scenario.faults import BadRecord
from chaos.scenario.model import Amount

if TYPE_CHECKING:
    from chaos.scenario.model import Scenario

ENDLESS: Final = frozenset({"hang", "uncancellable"})
KILLERS: Final = frozenset({"crash", "poison"})
FAILURES: Final = {"fail": 2, "hang": 2, "uncancellable": 1}
"""So often each of these tasks runs until it is dead: its retries and once more (`tasks`)."""
MUST_BE_NONE: Final = (
    "failed",
    "unknown",
    "refused",
    "dead",
    "cancelled",
    "purged",
    "duplicated",
    "reclaimed",
    "poisoned",
    "manual_interventions",
)
"""Counts that must be 0 unless the scenario says otherwise."""


class Expectations(msgspec.Struct, frozen=True):
    """Tasks are called as their kind."""

    amounts: dict[str, Amount] = {}
    """Fields of `Counts` to what each must be."""
    tasks: frozenset[str] = frozenset()
    """Of each of these one run at least must have begun."""
    endless: frozenset[str] = ENDLESS
    """Tasks that are stopped by their timeout: for them being cancelled is a failure of their own."""
    killers: frozenset[str] = KILLERS
    """Tasks that kill their worker, and with it whatever else it runs."""
    failures: dict[str, int] = msgspec.field(default_factory=lambda: dict(FAILURES))
    """Tasks that end among the dead letters, every time, to how often each fails before."""
    bad_records: int = 0
    """So many other jobs may, because their records are made unreadable."""
    refusals: tuple[str, ...] = ()
    """Texts that must be among the reasons of workers that refused to start."""
    completed_during: dict[str, Amount] = {}
    """Faults to how many jobs must be settled as done while each is there."""

    def amount(self, count: str) -> Amount | None:
        """What `count` must be; None if it may be anything."""
        given = self.amounts.get(count)
        return Amount(compare="==", number=0) if given is None and count in MUST_BE_NONE else given


def expectations_of(scenario: Scenario) -> Expectations:
    """What the scenario expects."""
    return Expectations(
        amounts=dict(scenario.expect.counts),
        tasks=frozenset(load.kind for load in scenario.loads if load.kind in ENDLESS | KILLERS | {"fail"}),
        failures=FAILURES | {"poison": scenario.all_settings().worker.max_crashes + 1},
        bad_records=sum(fault.count for fault in scenario.faults.values() if isinstance(fault, BadRecord)),
        refusals=tuple(step.start.refuses for step in scenario.steps if step.start and step.start.refuses),
        completed_during=dict(scenario.expect.completed_during),
    )
