"""How long it took until what a lost worker had was run again by somebody: J, measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chaos.judging.episodes import episodes
from chaos.verdict import Recovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.bounds import FaultRule
    from chaos.judging.causes import Case
    from chaos.judging.facts import Window


def orphans(case: Case) -> Iterator[Recovery]:
    """From when a worker was lost, while somebody was there to take over, to the next run of what it had: the longest.

    What its victims named must run again, or that never came; whatever else they had is measured if it did.
    """
    bound = case.bounds.orphan
    for window, rule in case.rules:
        if rule.family != "worker" or window.active_s is None:
            continue
        found = [_next_run_s(case, id, died_s) for id, died_s in window.jobs.items() if rule.orphans]
        found += _run_again(case, window, rule)
        if found:
            worst_s = max(found)
            measured = None if math.isinf(worst_s) else round(worst_s, 4)
            yield Recovery(
                f"orphans of {case.called(window)} run again",
                measured,
                round(bound.seconds, 4),
                bound.formula,
            )


def _next_run_s(case: Case, id: str, lost_s: float) -> float:
    """Until it began again; infinite if it never did."""
    began = (run.started_s for run in case.facts.runs if run.id == id and run.started_s > lost_s)
    began_s = min(began, default=math.inf)
    return began_s if math.isinf(began_s) else began_s - _reachable_s(case, lost_s, began_s)


def _run_again(case: Case, window: Window, rule: FaultRule) -> Iterator[float]:
    assert window.active_s is not None
    for job in case.facts.jobs.values():
        for run, after in case.lost_leases(job):
            # It was there when its worker was lost, or had just ended and was not settled yet.
            lost_s = max(window.begin_s, min(window.active_s, run.ended_s or math.inf))
            had_it = run.started_s <= window.active_s and lost_s <= case.settled_s(run)
            if had_it and case.hit(window, rule, run.worker) and after.started_s >= lost_s:
                yield after.started_s - _reachable_s(case, lost_s, after.started_s)


def _reachable_s(case: Case, from_s: float, to_s: float) -> float:
    """Since when, between these times, a worker was there and could reach Redis without a break."""
    over = [
        episode.over_s for episode in episodes(case) if episode.begin_s < to_s and episode.over_s > from_s
    ]
    alone = [at_s for at_s in _first_back(case) if from_s < at_s]
    return min(max([*over, *alone], default=from_s), to_s)


def _first_back(case: Case) -> Iterator[float]:
    """When the first worker was back after a time in which none lived."""
    gone = {worker: list(_gone(case, worker)) for worker in case.bounds.workers}
    for spans in gone.values():
        for _, back_s in spans:
            if all(any(from_s < back_s <= to_s for from_s, to_s in other) for other in gone.values()):
                yield back_s


def _gone(case: Case, worker: str) -> Iterator[tuple[float, float]]:
    """When this worker was dead or stopped."""
    for window, rule in case.rules:
        if rule.family == "worker" and case.hit(window, rule, worker) and window.active_s is not None:
            yield window.active_s, case.over_s(window, rule)
