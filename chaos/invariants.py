"""The promises, each judged over a whole run: who broke it, how many, and why. No bound in time is judged here.

N U S F A D P Z C are those of the design. What may be forgiven is `causes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from chaos.verdict import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.causes import Case
    from chaos.history import AtRest
    from chaos.jobs import Attempt, Job, Window

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

    def __post_init__(self) -> None:
        for job in self.case.facts.jobs.values():
            self._judge_leases(job)

    def _judge_leases(self, job: Job) -> None:
        unexplained = [
            (run, after) for run, after in self.case.lost_leases(job) if not self.case.cause(run, after)
        ]
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
        return [(id, "acknowledged, and in the end nowhere") for id in self.gone[taken:]]

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
        found: Broken = [("", violation) for violation in rest.violations]
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
        if self.excess > self.stale_accepted:
            found.append(
                (
                    "",
                    f"{self.excess - self.stale_accepted} jobs are counted as completed whose handler never returned",
                )
            )
        return found

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
    def stale_accepted(self) -> int:
        """Settles that the queue took from someone whose lease was gone: it has counted them."""
        return max(0, min(self.excess, sum(count for _, count in self._settled_more_than_once)))

    @property
    def _settled_more_than_once(self) -> Iterator[tuple[str, int]]:
        for job in self.case.facts.jobs.values():
            may = len(job.returned) - (job.id not in self.at_rest.places)
            if job.returned and may > 0:
                yield job.id, may

    @cached_property
    def fencing(self) -> Broken:
        found: Broken = [
            (run.id, f"two runs under one lease (fence {run.fence})") for run in self.case.facts.twice_begun
        ]
        if self.stale_accepted:
            why = f"may be one of {self.stale_accepted} settled twice, as the count of completed jobs tells"
            found += [(id, why) for id, _ in self._settled_more_than_once]
        return found

    # --- A ---------------------------------------------------------------------------------------------------------

    @cached_property
    def burned(self) -> Broken:
        found: Broken = []
        for job in self.case.facts.jobs.values():
            endless = job.task in self.case.expectations.endless
            for run in job.runs:
                failures = sum(_had_failed(other, run, endless=endless) for other in job.runs)
                if run.number > failures + 1:
                    found.append((job.id, f"attempt {run.number} after {failures} failures of its own"))
                    break
        return found + self._dead_without_failure()

    def _dead_without_failure(self) -> Broken:
        mortal = self.case.expectations.mortal
        dead = [self.case.facts.jobs[id] for id in self.dead if id in self.case.facts.jobs]
        innocent = [
            job for job in dead if job.task not in mortal and all(r.outcome != "raised" for r in job.runs)
        ]
        # Which records were damaged is not in the history: as many as they were may be among them.
        return [
            (job.id, "dead, and its handler has never failed")
            for job in innocent[self.case.expectations.bad_records :]
        ]

    @cached_property
    def dead(self) -> list[str]:
        return [id for id, place in self.at_rest.places.items() if place == "dead"]

    # --- Z ---------------------------------------------------------------------------------------------------------

    @cached_property
    def stampede(self) -> Broken:
        return [*self._reaped(), *self._rushed()]

    def _reaped(self) -> Iterator[tuple[str, str]]:
        """Jobs that living workers lost to an outage which hit everyone: then nobody's silence means anything."""
        for window, rule in self.case.rules:
            over_s = self.case.over_s(window, rule)
            workers = {run.worker for run in self.case.facts.runs}
            alike = rule.total and all(self.case.hit(window, rule, worker) for worker in workers)
            if (
                not alike
                or over_s - window.begin_s <= self.case.bounds.lease_s
                or self._others_during(window, over_s)
            ):
                continue
            for job in self.case.facts.jobs.values():
                for run, after in self.case.lost_leases(job):
                    under_way = run.started_s < window.begin_s < (run.ended_s or math.inf)
                    if under_way and after.started_s >= window.begin_s:
                        yield (
                            job.id,
                            f"reaped from a living worker by {window.name}, which hit all of them alike",
                        )

    def _others_during(self, window: Window, over_s: float) -> bool:
        """Whether something else could have cost a lease meanwhile, or just before or after."""
        around = self.case.bounds.orphan.seconds
        others = any(
            other is not window
            and rule.excuses
            and other.begin_s <= over_s + around
            and self.case.over_s(other, rule) >= window.begin_s - around
            for other, rule in self.case.rules
        )
        return others or bool(self.case.killings)

    def _rushed(self) -> Iterator[tuple[str, str]]:
        """Processes that tried to connect more often than backoff and breaker let them."""
        bounds = self.case.bounds
        first: dict[str, tuple[float, int]] = {}
        for seen in self.case.facts.observations:
            for who, count in seen.connects.items():
                since_s, before = first.get(who, (seen.at_s, count))
                if count < before:  # it has been started anew
                    since_s, before = seen.at_s, count
                first[who] = since_s, before
                allowed = bounds.connects_free + (seen.at_s - since_s) / bounds.connects_max.seconds
                if count - before > allowed:
                    yield (
                        "",
                        f"{who} has tried to connect {count - before} times in {seen.at_s - since_s:.1f} s",
                    )
                    return

    # --- all -------------------------------------------------------------------------------------------------------

    def by_letter(self) -> dict[str, Broken]:
        """Who broke which promise."""
        return {
            "N": self.lost,
            "U": self.unexpected,
            "S": [*self.books, *self.stuck],
            "F": self.fencing,
            "A": self.burned,
            "D": [*self.without_cause, *self.ran_again],
            "P": [("", inversion) for inversion in self.at_rest.inversions],
            "Z": self.stampede,
            "C": [("", leftover) for leftover in self.at_rest.leftovers],
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
            still_queued=sum(place in WAITING for place in places),
            lost=len(self.lost),
            unexpected=len(self.unexpected),
            duplicated=len(self.duplicated),
            duplicated_without_cause=len(self.without_cause),
            recovered=sum(job.unknown and bool(job.runs) for job in tried),
            stale_accepted=self.stale_accepted,
            inverted=len(self.at_rest.inversions),
            stuck=len(self.stuck),
            manual_interventions=sum(action.manual for action in self.case.facts.actions),
        )


def _had_failed(other: Attempt, run: Attempt, *, endless: bool) -> bool:
    """Whether `other` was a failure of the handler's own by the time `run` began."""
    if other is run or other.started_s > run.started_s:
        return False
    if endless:
        return True  # its timeout counts, and a thread that cannot be stopped may end much later
    return other.outcome == "raised" and other.ended_s is not None and other.ended_s <= run.started_s
