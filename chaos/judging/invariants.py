"""The promises, each judged over a whole run: who broke it, how many, and why. No bound in time is judged here.

N U S F A D P Z C are those of the design. What may be forgiven is `causes`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from chaos.judging.bounds import CONNECTS_LATE_S, CONNECTS_S
from chaos.judging.budgets import burned
from chaos.judging.fencing import dropped, stale_accepted, uncounted
from chaos.verdict import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chaos.history import AtRest, Observation
    from chaos.judging.causes import Case
    from chaos.judging.facts import Attempt, Job

NAMES: Final = {
    "N": "nothing lost",
    "U": "nothing invented",
    "S": "one state per job, and the books balance",
    "F": "fenced",
    "A": "faults are not failures",
    "D": "duplicates only where they must be",
    "P": "priority is exact",
    "Z": "no stampede, no mass reap",
    "C": "cancellation is clean",
}
OFFENDERS_MAX: Final = 5
WAITING: Final = frozenset({"scheduled", "ready", "leased"})

Broken = list[tuple[str, str]]
"""Who (a job's id, or "" for the queue as a whole) and why."""


@dataclass
class Findings:
    """Everything that was found. `at_rest` is what the queue said at the end."""

    case: Case
    at_rest: AtRest
    duplicated: list[str] = field(default_factory=list)
    without_cause: Broken = field(default_factory=list)
    ran_again: Broken = field(default_factory=list)
    """As `without_cause`, but the runs before had not returned."""
    unexplained: list[tuple[Job, Attempt, Attempt]] = field(default_factory=list)
    """Jobs whose lease was lost to nothing that is known: the run that had it, and the next."""

    def __post_init__(self) -> None:
        for job in self.case.facts.jobs.values():
            self._judge_leases(job)

    def _judge_leases(self, job: Job) -> None:
        unexplained = [
            (run, after) for run, after in self.case.lost_leases(job) if not self.case.cause(run, after)
        ]
        self.unexplained += [(job, run, after) for run, after in unexplained]
        # An endless handler that returns has been given up before: that completes nothing.
        twice = len(job.returned) > 1 and job.task not in self.case.expectations.endless
        if any(run.outcome == "returned" for run, _ in unexplained):
            self.without_cause.append(
                (job.id, f"ran to its end {len(job.returned)} times, and no fault explains it")
            )
        elif unexplained:
            self.ran_again.append((job.id, "ran again, and no fault explains that it lost its lease"))
        if twice and not any(run.outcome == "returned" for run, _ in unexplained):
            self.duplicated.append(job.id)

    # --- N ---------------------------------------------------------------------------------------------------------

    @cached_property
    def completed(self) -> set[str]:
        """Whose handler has returned, and who is nowhere in the queue any more."""
        return {j.id for j in self.case.facts.jobs.values() if j.returned and j.id not in self.at_rest.places}

    @cached_property
    def gone(self) -> list[str]:
        """Acknowledged, not completed, and nowhere."""
        return [
            job.id
            for job in self.case.facts.jobs.values()
            if job.acknowledged and not job.returned and job.id not in self.at_rest.places
        ]

    @cached_property
    def lost(self) -> Broken:
        # An operator's cancel and purge have no names in the history: as many as they were may be missing.
        taken = self.at_rest.cancelled + self.at_rest.purged
        gone = [(id, "acknowledged, and in the end nowhere") for id in self.gone[taken:]]
        return [*gone, *dropped(self.case, self.at_rest)]

    # --- U ---------------------------------------------------------------------------------------------------------

    @cached_property
    def unexpected(self) -> Broken:
        places = self.at_rest.places
        known = self.case.facts.jobs
        found: Broken = [(id, "is in the queue, and nobody enqueued it") for id in places if id not in known]
        for job in known.values():
            if not job.phases:
                found.append((job.id, "ran, and nobody enqueued it"))
            elif not (job.acknowledged or job.unknown) and (job.runs or job.id in places):
                found.append((job.id, "was certainly not queued, as its client was told, and yet it was"))
        return found

    # --- S ---------------------------------------------------------------------------------------------------------

    @cached_property
    def books(self) -> Broken:
        rest, jobs = self.at_rest, self.case.facts.jobs.values()
        found = self._named(rest.violations)
        sum_ = rest.completed + rest.cancelled + rest.purged + len(rest.places)
        if rest.enqueued != sum_:
            found.append(
                ("", f"{rest.enqueued} enqueued, but completed, cancelled, purged and present are {sum_}")
            )
        least = sum(job.acknowledged for job in jobs)
        most = least + sum(job.unknown for job in jobs)
        if not least <= rest.enqueued <= most:
            found.append(
                ("", f"the queue has counted {rest.enqueued} enqueues; clients know of {least} to {most}")
            )
        if self.excess < 0:
            found.append(
                ("", f"{-self.excess} jobs whose handler returned are gone and not counted as completed")
            )
        if self.excess > 0:
            found.append(
                ("", f"{self.excess} more are counted as completed than jobs whose handler returned")
            )
        return [*found, *(("", what) for what in uncounted(self.case, rest))]

    @cached_property
    def excess(self) -> int:
        """Completions that the queue has counted beyond one for each job that can have had one."""
        # Also without a name: jobs that an operator took after their handler had returned.
        surplus = self.at_rest.completed - len(self.completed)
        return min(0, surplus + self.at_rest.cancelled + self.at_rest.purged) if surplus < 0 else surplus

    @cached_property
    def stuck(self) -> Broken:
        """What cannot move any more: all is healed, and nothing has happened to it for longer than J."""
        rest, facts = self.at_rest, self.case.facts
        waiting = [id for id, place in rest.places.items() if place in WAITING]
        if rest.drained:
            return [(id, f"{rest.places[id]}, though the queue says that it is empty") for id in waiting]
        quiet_since = max(
            (w.healed_s for w in facts.windows if not math.isinf(w.healed_s)), default=facts.began_s
        )
        before = rest.at_s - self.case.bounds.orphan.seconds
        if quiet_since > before:
            return []
        lively = any(max(run.started_s, run.ended_s or 0.0) > before for run in facts.runs)
        still = [
            id
            for id in waiting
            if not lively or (rest.places[id] == "leased" and self._untouched(id, before))
        ]
        return [(id, f"{rest.places[id]}, and nothing moves it") for id in still]

    def _untouched(self, id: str, before: float) -> bool:
        job = self.case.facts.jobs.get(id)
        return job is None or all(max(run.started_s, run.ended_s or 0.0) <= before for run in job.runs)

    # --- F ---------------------------------------------------------------------------------------------------------

    @cached_property
    def stale_accepted(self) -> Broken:
        return stale_accepted(self.case)

    @cached_property
    def fencing(self) -> Broken:
        twice = [
            (run.id, f"two runs under one lease (fence {run.fence})") for run in self.case.facts.twice_begun
        ]
        return [*twice, *self.stale_accepted]

    # --- A ---------------------------------------------------------------------------------------------------------

    @cached_property
    def dead(self) -> list[str]:
        return [id for id, place in self.at_rest.places.items() if place == "dead"]

    # --- Z ---------------------------------------------------------------------------------------------------------

    @cached_property
    def stampede(self) -> Broken:
        return [*self._reaped(), *self._rushed()]

    def _reaped(self) -> Iterator[tuple[str, str]]:
        """Jobs that living workers lost to an outage which hit everyone: then nobody's silence means anything."""
        for job, run, after in self.unexplained:
            for window, rule in self.case.overlapping(run, self.case.at_stake(run, after)):
                if rule.total and self.case.everybody(window, rule):
                    yield (
                        job.id,
                        f"reaped from a living worker by {window.name}, which hit all of them alike",
                    )
                    break

    def _rushed(self) -> Iterator[tuple[str, str]]:
        """Processes that tried to connect more often than backoff and breaker let them, in any second."""
        bounds = self.case.bounds
        seen: dict[str, deque[tuple[float, int]]] = {}
        for observation in self.case.facts.observations:
            for who, count in observation.connects.items():
                recent = seen.setdefault(who, deque())
                if recent and count < recent[-1][1]:
                    recent.clear()  # it has been started anew
                recent.append((observation.at_s, count))
                while len(recent) > 2 and recent[1][0] <= observation.at_s - CONNECTS_S:
                    recent.popleft()
                for from_s, before in recent:
                    took_s = observation.at_s - from_s
                    within_s = max(took_s, CONNECTS_S) + CONNECTS_LATE_S
                    if count - before > bounds.connects_free + within_s / bounds.connects_max.seconds:
                        yield "", f"{who} has tried to connect {count - before} times in {took_s:.1f} s"
                        return

    def _named(self, lines: Iterable[str]) -> Broken:
        """Lines that begin with the id of a job are about that job."""
        parts = [(line, *line.partition(": ")) for line in lines]
        return [(id, why) if id in self.case.facts.jobs else ("", line) for line, id, _, why in parts]

    # --- C ---------------------------------------------------------------------------------------------------------

    def _ended_badly(self) -> Iterator[str]:
        for window in self.case.facts.windows:
            for who, code in window.exits.items():
                if code:
                    yield f"{who} ended with exit code {code} after SIGTERM ({window.name})"

    def _in_flight(self) -> Iterator[int]:
        """Under way at the begin of each fault that hits every worker alike."""
        for window, rule in self.case.rules:
            if rule.total and self.case.everybody(window, rule):
                yield sum(
                    run.started_s < window.begin_s < (run.ended_s or math.inf) for run in self.case.facts.runs
                )

    # --- all -------------------------------------------------------------------------------------------------------

    def by_letter(self) -> dict[str, Broken]:
        """Who broke which promise."""
        return {
            "N": self.lost,
            "U": self.unexpected,
            "S": [*self.books, *self.stuck],
            "F": self.fencing,
            "A": burned(self.case, self.dead),
            "D": [*self.without_cause, *self.ran_again],
            "P": self._named(self.at_rest.inversions),
            "Z": self.stampede,
            "C": [("", leftover) for leftover in (*self.at_rest.leftovers, *self._ended_badly())],
        }

    def counts(self) -> Counts:
        """The numbers of the report."""
        jobs = list(self.case.facts.jobs.values())
        tried = [job for job in jobs if job.phases]
        open_ = [job for job in tried if not job.acknowledged and not job.unknown]
        places = self.at_rest.places.values()
        return Counts(
            attempted=len(tried),
            acknowledged=sum(job.acknowledged for job in tried),
            failed=sum(not job.said("refused") for job in open_),
            unknown=sum(job.unknown for job in tried),
            refused=sum(job.said("refused") for job in open_),
            completed=len(self.completed),
            dead=len(self.dead),
            cancelled=self.at_rest.cancelled,
            purged=self.at_rest.purged,
            still_queued=sum(place in WAITING for place in places),
            lost=len(self.lost),
            unexpected=len(self.unexpected),
            duplicated=len(self.duplicated),
            duplicated_without_cause=len(self.without_cause),
            recovered=sum(job.unknown and bool(job.runs) for job in tried),
            reclaimed=self.at_rest.reclaimed,
            poisoned=self.at_rest.poisoned,
            stale_refused=self.at_rest.stale,
            stale_accepted=len(self.stale_accepted),
            inverted=len(self.at_rest.inversions),
            stuck=len(self.stuck),
            manual_interventions=sum(action.manual for action in self.case.facts.actions),
            in_flight=max(self._in_flight(), default=0),
            deepest=max((_waiting(seen) for seen in self.case.facts.observations), default=0),
        )


def _waiting(seen: Observation) -> int:
    return sum(seen.ready.values()) + (seen.scheduled or 0)
