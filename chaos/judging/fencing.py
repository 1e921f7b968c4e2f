"""What became of the outcomes that workers sent: whether the fence let through only whom it should (F), and whether any
was dropped (N). Judged from what the workers wrote down of the answers they got.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.history import AtRest
    from chaos.judging.causes import Case
    from chaos.judging.facts import Job

    Broken = list[tuple[str, str]]

LAST: Final = frozenset({"done", "dead"})
"""Verdicts after which no worker may ever have the job again."""


def stale_accepted(case: Case) -> Broken:
    """Settles that the queue took from a worker whose lease was gone."""
    return [(job.id, why) for job in case.facts.jobs.values() for why in _stale(job)]


def _stale(job: Job) -> Iterator[str]:
    accepted = [settle for settle in job.settles if settle.accepted]
    for settle in accepted:
        newer = [run for run in job.runs if run.fence > settle.fence]
        # A retry, or what is given back, may run again as soon as that is said; what has ended may not.
        if settle.verdict not in LAST:
            newer = [run for run in newer if run.started_s < settle.sent_s]
        if newer:
            yield (
                f"{settle.verdict} was accepted with fence {settle.fence}, though the job ran with "
                f"fence {newer[0].fence}"
            )
    fences = [settle.fence for settle in accepted if settle.verdict in LAST]
    if len(fences) > len(set(fences)):
        yield f"settled more than once with one fence ({fences[0]})"


def dropped(case: Case, rest: AtRest) -> Broken:
    """Jobs whose handler returned, which are nowhere, and of which no worker has settled any outcome.

    A worker that was lost may have settled without hearing of it. One that lived on settled in order of time: it has
    heard of whatever ended before what it settled later.
    """
    last_sent_s = _last_sent(case)
    return [
        (job.id, "its handler returned, nobody settled that, and in the end it is nowhere")
        for job in case.facts.jobs.values()
        if job.returned and job.id not in rest.places and not _may_be_done(job, last_sent_s, case)
    ]


def _may_be_done(job: Job, last_sent_s: dict[tuple[str, int], float], case: Case) -> bool:
    if any(settle.accepted and settle.verdict in LAST for settle in job.settles):
        return True
    heard = {settle.fence for settle in job.settles}
    return any(
        run.fence not in heard
        and last_sent_s.get((run.worker, run.pid), -math.inf) <= (run.ended_s or 0.0) + case.bounds.command_s
        for run in job.returned
    )


def _last_sent(case: Case) -> dict[tuple[str, int], float]:
    """Worker and pid to when it sent the last batch that was answered."""
    found: dict[tuple[str, int], float] = {}
    for job in case.facts.jobs.values():
        by_fence = {run.fence: run for run in job.runs}
        for settle in job.settles:
            if (run := by_fence.get(settle.fence)) is not None:
                who = run.worker, run.pid
                found[who] = max(found.get(who, -math.inf), settle.sent_s)
    return found


def uncounted(case: Case, rest: AtRest) -> Iterator[str]:
    """What the queue's counters do not say of the settles that were answered."""
    settles = [
        settle for job in case.facts.jobs.values() for settle in job.settles if settle.at_s <= rest.at_s
    ]
    refused = sum(not settle.accepted for settle in settles)
    if refused > rest.stale:
        yield f"{refused} settles were refused, and the queue has counted {rest.stale}"
    done = {settle.id for settle in settles if settle.accepted and settle.verdict == "done"}
    if len(done) > rest.completed:
        yield f"{len(done)} jobs were settled as done, and the queue has counted {rest.completed}"
