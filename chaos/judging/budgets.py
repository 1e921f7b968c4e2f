"""Whether jobs have been tried, and have died, as often as they failed: no fault was taken for a failure (A)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.causes import Case
    from chaos.judging.facts import Attempt, Job

    Broken = list[tuple[str, str]]


def burned(case: Case, dead: list[str]) -> Broken:
    """Jobs that were charged for what was not their fault, or that died too early, or were tried too often."""
    jobs = case.facts.jobs
    found = [(job.id, why) for job in jobs.values() for why in _overcharged(case, job)]
    early = [(id, why) for id in dead if id in jobs for why in _too_early(case, jobs[id])]
    # Which records were damaged is not in the history: as many as they were may be among them.
    return [*found, *early[case.expectations.bad_records :]]


def _overcharged(case: Case, job: Job) -> Iterator[str]:
    endless = job.task in case.expectations.endless
    for run in job.runs:
        failures = sum(_had_failed(other, run, endless=endless) for other in job.runs)
        if run.number > failures + 1:
            yield f"attempt {run.number} after {failures} failures of its own"
            break
    budget, failed = case.expectations.failures.get(job.task), _failed(case, job)
    if budget is not None and failed > budget and not case.struck(job):
        yield f"failed {failed} times, allowed are {budget}, and no fault explains that"


def _too_early(case: Case, job: Job) -> Iterator[str]:
    """Why it should not be among the dead letters. Exact, unless a fault may have cost it a lease."""
    failed = _failed(case, job)
    budget = case.expectations.failures.get(job.task)
    if budget is None:
        if not failed:
            yield "dead, and its handler has never failed"
    elif failed < budget and not (job.task in case.expectations.killers and case.struck(job)):
        # Of a crash the sweep may learn though nobody saw a run begin, but only if a fault cost that lease.
        yield f"dead after {failed} failures of its own, and {budget} are allowed"


def _failed(case: Case, job: Job) -> int:
    """How often it has failed. Who kills its worker, or has to be stopped, fails however its run ends."""
    always = job.task in case.expectations.endless | case.expectations.killers
    return sum(always or run.outcome == "raised" for run in job.runs)


def _had_failed(other: Attempt, run: Attempt, *, endless: bool) -> bool:
    """Whether `other` was a failure of the handler's own by the time `run` began."""
    if other is run or other.started_s > run.started_s:
        return False
    if endless:
        return True  # its timeout counts, and a thread that cannot be stopped may end much later
    return other.outcome == "raised" and other.ended_s is not None and other.ended_s <= run.started_s
