"""How long recovering took, against its bounds: to notice, to succeed again, to run orphans again, to drain.

What could not be measured, because there was nothing to do, is told as such; it is never a bound that was kept.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from chaos.judging.episodes import episodes
from chaos.judging.orphans import orphans
from chaos.judging.proofs import first_sign_s
from chaos.verdict import Recovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.bounds import FaultRule
    from chaos.judging.causes import Case
    from chaos.judging.episodes import Episode
    from chaos.judging.facts import Attempt, Window

EACH: Final = 20
"""Handlers for each worker are so many that none gets nothing by chance."""


def recoveries(case: Case, at_rest_s: float) -> tuple[list[Recovery], list[str]]:
    """Every bound that could be measured, and why any was not that should have been."""
    found: list[Recovery] = []
    unmeasured: list[str] = []
    every = list(episodes(case))
    for number, episode in enumerate(every):
        next_s = every[number + 1].begin_s if number + 1 < len(every) else math.inf
        successes = list(_first_successes(case, episode, next_s))
        found += successes
        found += _last_to_begin(case, episode, next_s)
        # Between two faults there may be no time to measure anything. After the last there is.
        if not successes and next_s - episode.over_s > episode.allowed.seconds:
            unmeasured.append(f"nothing was left to do after {episode.name}: its recovery was not measured")
    found += _detections(case)
    found += orphans(case)
    found += _exits(case)
    found += _handlers(case)
    found += _drained(case, at_rest_s)
    return found, unmeasured


# --- first success after the heal ----------------------------------------------------------------------------------


def _first_successes(case: Case, episode: Episode, next_s: float) -> Iterator[Recovery]:
    for side, measured_s in (("clients", _clients(case, episode)), ("workers", _workers(case, episode))):
        if measured_s is None:
            continue
        allowed = episode.allowed
        # The next fault came before it had to be: then what comes after that one is measured.
        if next_s < episode.over_s + allowed.seconds and measured_s > next_s - episode.over_s:
            continue
        never = math.isinf(measured_s)
        yield Recovery(
            f"first success of {side} after {episode.name}",
            None if never else round(measured_s, 4),
            round(allowed.seconds, 4),
            allowed.formula,
        )


def _clients(case: Case, episode: Episode) -> float | None:
    """From when a client could and wanted to, to its first enqueue that was answered: the longest that any took.

    None if none wanted anything.
    """
    if not any(_hits_clients(window, rule) for window, rule in episode.members):
        return None
    took: dict[str, tuple[float, float]] = {}
    late_s = episode.over_s + episode.allowed.seconds
    for job in case.facts.jobs.values():
        for invoke, event in pairwise(job.phases):
            if invoke.phase != "invoke" or event.phase == "invoke" or event.at_s < episode.over_s:
                continue
            wanted_s, answered_s = took.get(event.client, (math.inf, math.inf))
            answered = event.phase in ("ok", "refused")
            # Whoever gave up before the bound was over may not have had another try in it.
            if answered or event.at_s > late_s:
                wanted_s = min(wanted_s, invoke.at_s)
            if answered:
                answered_s = min(answered_s, event.at_s)
            took[event.client] = wanted_s, answered_s
    return max(
        (
            max(0.0, answered_s - max(wanted_s, episode.over_s))
            for wanted_s, answered_s in took.values()
            if not math.isinf(wanted_s)
        ),
        default=None,
    )


def _hits_clients(window: Window, rule: FaultRule) -> bool:
    return any(not name.startswith("worker") for name in window.targets or rule.hits or ())


def _workers(case: Case, episode: Episode) -> float | None:
    """From when there was a job and a slot for it, to the first start of a handler; None if there was no job.

    Since when a job that has run before could have had its next run is not known: that counts as a success only.
    """
    hit = [
        run for run in case.facts.runs if any(case.hit(w, rule, run.worker) for w, rule in episode.members)
    ]
    starts = [run for run in hit if run.started_s >= episode.over_s]
    first_runs = [
        run for run in starts if run is min(case.facts.jobs[run.id].runs, key=lambda run: run.started_s)
    ]
    if not starts:
        idle = _stopped_workers(case, episode) and _ready_after(
            case, episode.over_s + episode.allowed.seconds
        )
        return math.inf if idle else None
    if not first_runs:
        return None
    available_s = min(case.facts.jobs[run.id].available_s for run in first_runs)
    since_s = max(available_s, episode.over_s, _slot_s(case, hit, episode.over_s))
    return max(0.0, min(run.started_s for run in starts) - since_s)


def _stopped_workers(case: Case, episode: Episode) -> bool:
    """Whether some worker could not work at all meanwhile. An outage of clients alone stops none."""
    return any(
        rule.total and any(case.hit(window, rule, worker) for worker in case.bounds.workers)
        for window, rule in episode.members
    )


def _last_to_begin(case: Case, episode: Episode, next_s: float) -> Iterator[Recovery]:
    """The worker that was the last to begin a handler again: it may not sit out what would be enough for all.

    Which worker gets a job is chance, so there is no bound in time for one of them. But when C is over, and its slots
    are free, it must not be passed over until so many handlers have begun that each could have had EACH of them.
    """
    workers = [name for name in case.bounds.workers if _stayed(case, episode, name, next_s)]
    hit = [name for name in workers if any(case.hit(w, rule, name) for w, rule in episode.members)]
    starts = sorted((run.started_s, run.worker) for run in case.facts.runs if run.started_s < next_s)
    latest: tuple[float, float] | None = None
    for name in hit:
        mine = [run for run in case.facts.runs if run.worker == name]
        free_s = max(episode.over_s + episode.allowed.seconds, _slot_s(case, mine, episode.over_s))
        enough = [at_s for at_s, _ in starts if at_s > free_s][: EACH * len(case.bounds.workers)]
        if len(enough) < EACH * len(case.bounds.workers):
            continue
        first_s = min(
            (at_s for at_s, who in starts if who == name and at_s >= episode.over_s), default=math.inf
        )
        if latest is None or first_s - enough[-1] > latest[0] - latest[1]:
            latest = first_s, enough[-1]
    if latest is not None:
        first_s, enough_s = latest
        yield Recovery(
            f"first success of workers, the last of them, after {episode.name}",
            None if math.isinf(first_s) else round(first_s - episode.over_s, 4),
            round(enough_s - episode.over_s, 4),
            f"C, a free slot, and {EACH} handlers begun for each worker",
        )


def _stayed(case: Case, episode: Episode, worker: str, next_s: float) -> bool:
    """Whether nothing took this worker from the episode's begin on, until the next one."""
    taken = any(
        rule.family == "worker"
        and case.hit(window, rule, worker)
        and window.begin_s < next_s
        and case.over_s(window, rule) + case.bounds.recovery.seconds > episode.begin_s
        for window, rule in case.rules
    )
    killed = any(run.worker == worker and episode.begin_s < run.started_s < next_s for run in case.killings)
    return not taken and not killed


def _slot_s(case: Case, hit: list[Attempt], at_s: float) -> float:
    """When the first of these workers had a free slot, from `at_s` on."""
    free: list[float] = []
    for worker in {run.worker for run in hit}:
        # What never ended died with its process, and holds no slot of the next.
        before = [run for run in hit if run.worker == worker and run.started_s < at_s]
        busy = [run.ended_s for run in before if run.ended_s is not None and run.ended_s > at_s]
        free.append(min(busy) if len(busy) >= case.bounds.slots else at_s)
    return min(free, default=at_s)


def _ready_after(case: Case, at_s: float) -> bool:
    return any(sum(seen.ready.values()) > 0 for seen in case.facts.observations if seen.at_s > at_s)


# --- the others ----------------------------------------------------------------------------------------------------


def _detections(case: Case) -> Iterator[Recovery]:
    """From the proof that a fault is there to the first trouble of those it hits that shows it."""
    for window, rule in case.rules:
        bound, from_s = rule.detection, window.active_s
        if bound is None or from_s is None or not case.facts.observations:
            continue
        to_s = case.over_s(window, rule) + bound.seconds
        seen_s = first_sign_s(case, window, rule, to_s)
        lasted_s = case.over_s(window, rule) - from_s
        if seen_s is None and lasted_s < bound.seconds:
            continue  # it was gone before it had to be noticed
        measured = None if seen_s is None else round(max(0.0, seen_s - from_s), 4)
        yield Recovery(f"{case.called(window)} noticed", measured, round(bound.seconds, 4), bound.formula)


def _exits(case: Case) -> Iterator[Recovery]:
    for window, rule in case.rules:
        if rule.exit is not None:
            gone = None if window.active_s is None else round(window.active_s - window.begin_s, 4)
            yield Recovery(
                f"{case.called(window)}: process gone", gone, round(rule.exit.seconds, 4), rule.exit.formula
            )


def _handlers(case: Case) -> Iterator[Recovery]:
    """Handlers that hang are stopped; jobs that kill are not tried for ever."""
    jobs = case.facts.jobs.values()
    hung = [
        r.ended_s - r.started_s
        for job in jobs
        if job.task == "hang"
        for r in job.runs
        if r.ended_s is not None
    ]
    if hung:
        bound = case.bounds.handler
        yield Recovery("hanging handler stopped", round(max(hung), 4), round(bound.seconds, 4), bound.formula)
    poison = [[r.started_s for r in job.runs] for job in jobs if job.task == "poison" and job.runs]
    if poison:
        bound = case.bounds.poison
        longest = max(max(starts) - min(starts) for starts in poison)
        yield Recovery("last run of a poison job", round(longest, 4), round(bound.seconds, 4), bound.formula)


def _drained(case: Case, at_rest_s: float) -> Iterator[Recovery]:
    """From the last heal, or the last enqueue if that was later, to the end of the last handler."""
    jobs = case.facts.jobs.values()
    ends = [run.ended_s for job in jobs for run in job.runs if run.ended_s is not None]
    if not ends:
        return
    enqueued_s = max((event.at_s for job in jobs for event in job.phases), default=case.facts.began_s)
    healed = [over for w, rule in case.rules if not math.isinf(over := case.over_s(w, rule))]
    since_s = max([enqueued_s, *healed])
    bound = case.bounds.drain
    measured_s = round(max(0.0, min(max(ends), at_rest_s) - since_s), 4)
    yield Recovery("backlog drained", measured_s, bound.seconds, bound.formula)
