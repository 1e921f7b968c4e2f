"""How long recovering took, against its bounds: to notice, to succeed again, to run orphans again, to drain.

Faults that overlap are one episode: nobody can be expected to recover before the last of them is gone. What could not
be measured, because there was nothing to do, is told as such; it is never a bound that was kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from chaos.verdict import Recovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.bounds import Bound, FaultRule
    from chaos.causes import Case
    from chaos.jobs import Attempt, Window


@dataclass(slots=True)
class Episode:
    """Disruptions that overlap, from the first one's begin until the last one is gone."""

    members: list[tuple[Window, FaultRule]]
    begin_s: float
    over_s: float

    @property
    def name(self) -> str:
        return ", ".join(dict.fromkeys(window.name for window, _ in self.members))

    @property
    def allowed(self) -> Bound:
        """The longest of what its faults are allowed."""
        found = [rule.first_success for _, rule in self.members if rule.first_success is not None]
        return max(found, key=lambda bound: bound.seconds)


def recoveries(case: Case, at_rest_s: float) -> tuple[list[Recovery], list[str]]:
    """Every bound that could be measured, and why any was not that should have been."""
    found: list[Recovery] = []
    unmeasured: list[str] = []
    every = list(episodes(case))
    for number, episode in enumerate(every):
        next_s = every[number + 1].begin_s if number + 1 < len(every) else math.inf
        successes = list(_first_successes(case, episode, next_s))
        found += successes
        # Between two faults there may be no time to measure anything. After the last there is.
        if not successes and next_s - episode.over_s > episode.allowed.seconds:
            unmeasured.append(f"nothing was left to do after {episode.name}: its recovery was not measured")
    found += _detections(case)
    found += _orphans(case)
    found += _exits(case)
    found += _handlers(case)
    found += _drained(case, at_rest_s)
    return found, unmeasured


def episodes(case: Case) -> Iterator[Episode]:
    """Disruptions in order of time, those that overlap in one."""
    windows = [(w, rule) for w, rule in case.rules if rule.disrupts and not math.isinf(case.over_s(w, rule))]
    current: Episode | None = None
    for window, rule in sorted(windows, key=lambda pair: pair[0].begin_s):
        over_s = case.over_s(window, rule)
        if current is not None and window.begin_s <= current.over_s:
            current.members.append((window, rule))
            current.over_s = max(current.over_s, over_s)
            continue
        if current is not None:
            yield current
        current = Episode([(window, rule)], window.begin_s, over_s)
    if current is not None:
        yield current


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
    """From when they could and wanted to, to the first enqueue that was answered; None if none was wanted."""
    if not any(_hits_clients(window, rule) for window, rule in episode.members):
        return None
    late_s = episode.over_s + episode.allowed.seconds
    wanted_s, answered_s = math.inf, math.inf
    for job in case.facts.jobs.values():
        for invoke, event in pairwise(job.phases):
            if invoke.phase != "invoke" or event.phase == "invoke" or event.at_s < episode.over_s:
                continue
            answered = event.phase in ("ok", "refused")
            # Whoever gave up before the bound was over may not have had another try in it.
            if answered or event.at_s > late_s:
                wanted_s = min(wanted_s, invoke.at_s)
            if answered:
                answered_s = min(answered_s, event.at_s)
    return None if math.isinf(wanted_s) else max(0.0, answered_s - max(wanted_s, episode.over_s))


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
        everybody = any(rule.total for _, rule in episode.members)
        return (
            math.inf if everybody and _ready_after(case, episode.over_s + episode.allowed.seconds) else None
        )
    if not first_runs:
        return None
    available_s = min(case.facts.jobs[run.id].available_s for run in first_runs)
    since_s = max(available_s, episode.over_s, _slot_s(case, hit, episode.over_s))
    return max(0.0, min(run.started_s for run in starts) - since_s)


def _slot_s(case: Case, hit: list[Attempt], at_s: float) -> float:
    """When the first of these workers had a free slot, from `at_s` on."""
    free: list[float] = []
    for worker in {run.worker for run in hit}:
        # What never ended died with its process, and holds no slot of the next.
        before = [run for run in hit if run.worker == worker and run.started_s < at_s]
        busy = [run.ended_s for run in before if run.ended_s is not None and run.ended_s > at_s]
        free.append(min(busy) if len(busy) >= case.bounds.slots else at_s)
    return min(free)


def _ready_after(case: Case, at_s: float) -> bool:
    return any(sum(seen.ready.values()) > 0 for seen in case.facts.observations if seen.at_s > at_s)


# --- the others ----------------------------------------------------------------------------------------------------


def _detections(case: Case) -> Iterator[Recovery]:
    """From the proof that a fault is there to the first error or breaker that shows it."""
    for window, rule in case.rules:
        bound, from_s = rule.detection, window.active_s
        if bound is None or from_s is None or not case.facts.observations:
            continue
        to_s = case.over_s(window, rule) + bound.seconds
        seen_s = _first_sign(case, window.begin_s, to_s)
        lasted_s = case.over_s(window, rule) - from_s
        if seen_s is None and lasted_s < bound.seconds:
            continue  # it was gone before it had to be noticed
        measured = None if seen_s is None else round(max(0.0, seen_s - from_s), 4)
        yield Recovery(f"{window.name} noticed", measured, round(bound.seconds, 4), bound.formula)


def _first_sign(case: Case, from_s: float, to_s: float) -> float | None:
    errors: dict[str, int] = {}
    for seen in case.facts.observations:
        more = any(
            count > errors.get(who, 0 if seen.at_s > from_s else count) for who, count in seen.errors.items()
        )
        errors |= seen.errors
        if from_s <= seen.at_s <= to_s and (
            more or any(state != "closed" for state in seen.breaker.values())
        ):
            return seen.at_s
    return None


def _orphans(case: Case) -> Iterator[Recovery]:
    """From when a worker was lost, and Redis could be reached, to the next run of what it had: the longest of all."""
    worst: dict[str, float] = {}
    for job in case.facts.jobs.values():
        for run, after in case.lost_leases(job):
            for window, rule in case.rules:
                if rule.family != "worker" or not case.hit(window, rule, run.worker):
                    continue
                if (
                    run.started_s <= window.begin_s <= (run.ended_s or math.inf)
                    and after.started_s >= window.begin_s
                ):
                    since_s = _reachable_s(case, window.begin_s, after.started_s)
                    worst[window.name] = max(worst.get(window.name, 0.0), after.started_s - since_s)
    bound = case.bounds.orphan
    for name, measured_s in worst.items():
        yield Recovery(
            f"orphans of {name} run again", round(measured_s, 4), round(bound.seconds, 4), bound.formula
        )


def _reachable_s(case: Case, from_s: float, to_s: float) -> float:
    """The end of the last disruption between these times, or `from_s`."""
    over = [
        episode.over_s for episode in episodes(case) if episode.begin_s < to_s and episode.over_s > from_s
    ]
    return min(max(over, default=from_s), to_s)


def _exits(case: Case) -> Iterator[Recovery]:
    for window, rule in case.rules:
        if rule.exit is not None:
            gone = None if window.active_s is None else round(window.active_s - window.begin_s, 4)
            yield Recovery(
                f"{window.name}: process gone", gone, round(rule.exit.seconds, 4), rule.exit.formula
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
