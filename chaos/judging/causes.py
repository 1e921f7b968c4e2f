"""Whether a fault explains that a lease was lost. This is where leave is given, so it is as narrow as it can be.

A job may run again if the lease of its run was lost to a fault. That is decided run by run, not job by job:

- The lease of a run was at stake from its start until its outcome was settled: as its worker wrote down, or else until
  T after its end, or until the outage was over through which it had to wait; and not for longer than until the next
  run of the job began, because by then it was lost.
- A fault reaches from the moment it was asked for until C after it was proven to be gone, by when everyone it hit has
  got through again and renews as ever. A run that began later than that has a fresh lease and healthy calls.
- The two must overlap, the fault must have hit this run's own worker, and it must be one that can cost a lease at all:
  latency below T, a slicer, refused enqueues and forgotten scripts explain nothing, nor does a fault on the clients'
  side, nor one on another worker.
- A fault that lets nobody at all reach Redis costs nobody a lease, however long it lasts; a worker that is told to end
  loses only what it has cancelled, unless it cannot reach Redis (`spares`).

A task that kills its own worker is a fault too, though nobody writes it down: it hits its process from its start on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from chaos.judging.bounds import EVERYBODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.bounds import Bounds, FaultRule
    from chaos.judging.expectations import Expectations
    from chaos.judging.facts import Attempt, Facts, Job, Window


@dataclass
class Case:
    """What is judged, and by what."""

    facts: Facts
    expectations: Expectations
    bounds: Bounds
    killings: list[Attempt] = field(init=False)
    """Runs of tasks that kill their worker, and so did."""

    def __post_init__(self) -> None:
        killers = self.expectations.killers
        self.killings = [
            run
            for job in self.facts.jobs.values()
            if job.task in killers
            for run in job.runs
            if run.ended_s is None
        ]

    @cached_property
    def rules(self) -> list[tuple[Window, FaultRule]]:
        """Each window with the rule of its fault. Windows of faults that the scenario does not know are left out."""
        known = self.bounds.faults
        return [(window, known[window.name]) for window in self.facts.windows if window.name in known]

    def hit(self, window: Window, rule: FaultRule, process: str) -> bool:
        """Whether it hit `process`: the journal says so, or else the fault's nature."""
        targets = window.targets or rule.hits or ()
        return targets == EVERYBODY or process in targets

    def called(self, window: Window) -> str:
        """Its name for people; with its number, where it is there more than once."""
        rule = self.bounds.faults.get(window.name)
        times = 1 if rule is None else rule.times
        return f"{window.name} ({window.number} of {times})" if times > 1 else window.name

    def over_s(self, window: Window, rule: FaultRule) -> float:
        """When it was gone; what is instant is gone as soon as it is there."""
        if rule.instant and math.isinf(window.healed_s) and window.active_s is not None:
            return window.active_s
        return window.healed_s

    def cause(self, run: Attempt, after: Attempt) -> str | None:
        """What explains that `after` could begin though `run` had the lease before it; None if nothing does."""
        span = self.at_stake(run, after)
        for window, rule in self.overlapping(run, span):
            if rule.excuses and not self.spares(window, rule, run):
                return window.name
        return "a task that killed the worker" if any(self._killed(run, span)) else None

    def at_stake(self, run: Attempt, after: Attempt) -> tuple[float, float]:
        """From when to when its lease was there to be lost, given that `after` began."""
        lost_s = min(after.started_s, self.settled_s(run))
        return min(run.started_s, after.started_s), max(run.started_s, lost_s)

    def struck(self, job: Job) -> bool:
        """Whether a fault may have cost this job a lease. What the job itself does to its worker is none."""
        for run in job.runs:
            span = run.started_s, self.settled_s(run)
            windows = self.overlapping(run, span)
            if any(rule.excuses and not self.spares(window, rule, run) for window, rule in windows):
                return True
            if any(killer.id != job.id for killer in self._killed(run, span)):
                return True
        return False

    def overlapping(self, run: Attempt, span: tuple[float, float]) -> Iterator[tuple[Window, FaultRule]]:
        """Faults that hit this run's worker, and reach into this span of time."""
        for window, rule in self.rules:
            over_s = self.over_s(window, rule) + self.bounds.recovery.seconds
            if self.hit(window, rule, run.worker) and window.begin_s <= span[1] and span[0] <= over_s:
                yield window, rule

    def spares(self, window: Window, rule: FaultRule, run: Attempt) -> bool:
        """Whether no lease may be lost to it, though it is of a kind that can cost one, because of how it was here.

        While nobody can reach Redis nobody can renew, so nobody may be taken for dead afterwards. And a worker that is
        told to end settles or gives back what it has, unless it cannot reach Redis until it must be gone.
        """
        if rule.total:
            return self.everybody(window, rule)
        if rule.exit is None or run.outcome in ("cancelled", ""):
            return False
        left_s = window.active_s if window.active_s is not None else window.healed_s
        outages = self.overlapping(run, (window.begin_s, left_s))
        return not any(other.disrupts for _, other in outages)

    def everybody(self, window: Window, rule: FaultRule) -> bool:
        """Whether it hits every worker."""
        return all(self.hit(window, rule, worker) for worker in self.bounds.workers)

    def settled_s(self, run: Attempt) -> float:
        """When its outcome was settled, or would have been if nothing else had happened to its worker."""
        if run.ended_s is None:
            return math.inf
        for settle in self.facts.jobs[run.id].settles:
            if settle.fence == run.fence:
                return settle.at_s
        settled_s = run.ended_s + self.bounds.command_s
        for window, rule in self.rules:  # through an outage it waits
            over_s = self.over_s(window, rule) + self.bounds.recovery.seconds
            if rule.disrupts and self.hit(window, rule, run.worker) and window.begin_s <= settled_s <= over_s:
                settled_s = over_s
        return settled_s

    def _killed(self, run: Attempt, span: tuple[float, float]) -> Iterator[Attempt]:
        """Killings of its process that reach into this span of time."""
        tail_s = self.bounds.recovery.seconds
        for killer in self.killings:
            same = (killer.worker, killer.pid) == (run.worker, run.pid)
            if same and span[0] <= killer.started_s + tail_s and killer.started_s <= span[1]:
                yield killer

    def lost_leases(self, job: Job) -> Iterator[tuple[Attempt, Attempt]]:
        """Runs after which the job ran again though they had not failed, each with the run that came after.

        A handler that raised gave its lease up itself, and so did one that its timeout ended.
        """
        for run, after in pairwise(job.runs):
            given_up = run.outcome == "raised" or (job.task in self.expectations.endless)
            if not given_up and run.fence != after.fence:
                yield run, after
