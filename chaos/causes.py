"""Whether a fault explains that a lease was lost. This is where leave is given, so it is as narrow as it can be.

A job may run again if the lease of its run was lost to a fault. That is decided run by run, not job by job:

- The lease of a run was at stake from its start until its end and T more, within which its outcome is settled when
  nothing is wrong; and not for longer than until the next run of the job began, because by then it was lost.
- A fault reaches from the moment it was asked for until C after it was proven to be gone, by when everyone it hit has
  got through again and renews as ever. A run that began later than that has a fresh lease and healthy calls.
- The two must overlap, the fault must have hit this run's own worker, and it must be one that can cost a lease at all:
  latency below T, a slicer, refused enqueues and forgotten scripts explain nothing, nor does a fault on the clients'
  side, nor one on another worker.

A task that kills its own worker is a fault too, though nobody writes it down: it hits its process from its start on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from chaos.bounds import EVERYBODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.bounds import Bounds, FaultRule
    from chaos.expectations import Expectations
    from chaos.jobs import Attempt, Facts, Job, Window


@dataclass
class Case:
    """What is judged, and by what."""

    facts: Facts
    expectations: Expectations
    bounds: Bounds
    killings: list[tuple[float, str, int]] = field(init=False)
    """When, worker, pid: runs of tasks that kill their worker, and so did."""

    def __post_init__(self) -> None:
        killers = self.expectations.killers
        self.killings = [
            (run.started_s, run.worker, run.pid)
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

    def over_s(self, window: Window, rule: FaultRule) -> float:
        """When it was gone; what is instant is gone as soon as it is there."""
        if rule.instant and math.isinf(window.healed_s) and window.active_s is not None:
            return window.active_s
        return window.healed_s

    def cause(self, run: Attempt, after: Attempt) -> str | None:
        """What explains that `after` could begin though `run` had the lease before it; None if nothing does."""
        settled_s = math.inf if run.ended_s is None else run.ended_s + self.bounds.command_s
        from_s = min(run.started_s, after.started_s)
        to_s = max(run.started_s, min(after.started_s, settled_s))
        tail_s = self.bounds.recovery.seconds
        for window, rule in self.rules:
            if (
                rule.excuses
                and self.hit(window, rule, run.worker)
                and window.begin_s <= to_s
                and from_s <= self.over_s(window, rule) + tail_s
            ):
                return window.name
        for at_s, worker, pid in self.killings:
            if (worker, pid) == (run.worker, run.pid) and from_s <= at_s + tail_s and at_s <= to_s:
                return "a task that killed the worker"
        return None

    def lost_leases(self, job: Job) -> Iterator[tuple[Attempt, Attempt]]:
        """Runs after which the job ran again though they had not failed, each with the run that came after.

        A handler that raised gave its lease up itself, and so did one that its timeout ended.
        """
        for run, after in pairwise(job.runs):
            given_up = run.outcome == "raised" or (job.task in self.expectations.endless)
            if not given_up and run.fence != after.fence:
                yield run, after
