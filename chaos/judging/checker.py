"""The verdict on a run, from its history alone: pure, so that it can be tested with histories written by hand.

FAIL if a promise was broken, whatever else is wrong with the run. Else INVALID if the run proves nothing: no load, a
fault that is not proven to have bitten (or to be gone), nothing left to recover with, a drain that did not finish. Else
FAIL if a bound or an expectation was broken. Else PASS. An enqueue whose outcome is unknown is never taken for failed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from chaos.judging.causes import Case
from chaos.judging.facts import facts_of
from chaos.judging.invariants import NAMES, OFFENDERS_MAX, WAITING, Findings
from chaos.judging.proofs import proof_of
from chaos.judging.recovery import recoveries
from chaos.judging.timeline import story
from chaos.verdict import Counts, Invariant, Judgement, Offender, Proof, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.history import Event
    from chaos.judging.bounds import Bounds
    from chaos.judging.expectations import Expectations
    from chaos.judging.facts import Facts
    from chaos.judging.invariants import Broken
    from chaos.verdict import Recovery

WEIGHT: Final = "NUFSDPAZC"
"""The promises, the one whose breach weighs most first."""
REASONS_MAX: Final = 3
REFUSED: Final = " refused to start, "
"""What the crew says of a worker that did, before its reason."""


def judge(history: Sequence[Event], expectations: Expectations, bounds: Bounds) -> Judgement:
    """What the run comes to. `history` is in order of time, as `read_history` gives it."""
    facts = facts_of(history)
    case = Case(facts, expectations, bounds)
    proofs = tuple(_proofs(case))
    if facts.at_rest is None:
        reason = "the queue was never asked what is left in it: nothing can be said of any job"
        return Judgement(
            Verdict.INVALID, (reason, *facts.broken[:REASONS_MAX]), _tried(facts), (), (), proofs
        )
    findings = Findings(case, facts.at_rest)
    counts = findings.counts()
    promises = findings.by_letter()
    measured, unmeasured = recoveries(case, facts.at_rest.at_s)
    broken = [reason for letter in WEIGHT for reason in _breach(letter, promises[letter])]
    void = [*_unproven(case), *unmeasured]
    missed = [*_late(measured), *_unexpected_counts(expectations, counts), *_idle(case), *_unrefused(case)]
    if broken:
        verdict = Verdict.FAIL
    elif void:
        verdict = Verdict.INVALID
    else:
        verdict = Verdict.FAIL if missed else Verdict.PASS
    return Judgement(
        verdict=verdict,
        reasons=(*broken, *void, *missed),
        counts=counts,
        invariants=tuple(_invariant(letter, found, case, history) for letter, found in promises.items()),
        recoveries=tuple(measured),
        proofs=proofs,
    )


# --- promises ------------------------------------------------------------------------------------------------------


def _breach(letter: str, found: Broken) -> Iterator[str]:
    """The first few breaches of one promise, and how many more there are."""
    for id, why in found[:REASONS_MAX]:
        yield f"{letter}: {id}: {why}" if id else f"{letter}: {why}"
    if len(found) > REASONS_MAX:
        yield f"{letter}: and {len(found) - REASONS_MAX} more of {NAMES[letter]}"


def _invariant(letter: str, found: Broken, case: Case, history: Sequence[Event]) -> Invariant:
    offenders = tuple(Offender(id, why, _history(id, case, history)) for id, why in found[:OFFENDERS_MAX])
    return Invariant(letter, NAMES[letter], held=not found, count=len(found), offenders=offenders)


def _history(id: str, case: Case, history: Sequence[Event]) -> tuple[str, ...]:
    """One job's whole history, and the faults that overlapped it."""
    job = case.facts.jobs.get(id)
    if not id:
        return ()
    began_s = case.facts.began_s
    lines = list(story(history, id, began_s))
    times = [] if job is None else [event.at_s for event in job.phases] + [run.started_s for run in job.runs]
    for window in case.facts.windows:
        if (
            times
            and window.begin_s <= max(times) + case.bounds.orphan.seconds
            and window.healed_s >= min(times)
        ):
            until = "the end" if math.isinf(window.healed_s) else f"{window.healed_s - began_s:.3f} s"
            whom = f" on {', '.join(window.targets)}" if window.targets else ""
            lines.append(f"{window.begin_s - began_s:9.3f} s  fault {window.name}{whom}, until {until}")
    return tuple(sorted(lines, key=lambda line: float(line.split(" s ")[0])))


# --- what makes a run prove nothing --------------------------------------------------------------------------------


def _unproven(case: Case) -> Iterator[str]:
    facts, expectations = case.facts, case.expectations
    yield from (f"the journals contradict themselves: {what}" for what in facts.broken[:REASONS_MAX])
    if not any(job.acknowledged for job in facts.jobs.values()):
        yield "there was no load: no enqueue was acknowledged"
    if not any(True for _ in facts.runs):
        yield "there was no load: no handler ever began"
    begun = {job.task for job in facts.jobs.values() if job.runs}
    yield from (f"no handler of {task} ever began" for task in sorted(expectations.tasks - begun))
    if any(job.returned for job in facts.jobs.values()) and not any(
        job.settles for job in facts.jobs.values()
    ):
        yield "no worker wrote down what it settled: nothing can be said of the fence"
    yield from _faults_unproven(case)
    rest = facts.at_rest
    if rest is not None and not rest.drained:
        waiting = sum(place in WAITING for place in rest.places.values())
        yield f"the drain did not finish: {waiting} jobs are still queued"
    if rest is not None and rest.leases is not None:
        runs = len({(run.id, run.fence) for run in facts.runs})
        if rest.leases < runs:
            yield f"the append-only file tells of {rest.leases} leases, and {runs} runs began: not of all of it"


def _faults_unproven(case: Case) -> Iterator[str]:
    known = case.bounds.faults
    for window in case.facts.windows:
        if window.name not in known:
            yield f"fault {window.name} is not of this scenario"
    for name, rule in known.items():
        windows = [window for window in case.facts.windows if window.name == name]
        if len(windows) != rule.times:
            yield f"fault {name} began {len(windows)} times, not {rule.times}"
        for window in windows:
            missing = proof_of(case, window, rule).missing
            if window.active_s is None:
                yield missing
            elif math.isinf(case.over_s(window, rule)):
                yield f"fault {name} is not proven to be gone"
            elif rule.hits is None and not window.targets:
                yield f"fault {name} does not say whom it hit"
            elif not _busy(case, window.begin_s, case.over_s(window, rule) + case.bounds.recovery.seconds):
                yield f"nothing was going on during fault {name}"
            elif missing:
                yield missing
            elif rule.orphans and not window.jobs:
                yield f"fault {name} does not say whose job its victim had in hand"


def _proofs(case: Case) -> Iterator[Proof]:
    """What was seen of each fault."""
    for window in case.facts.windows:
        rule = case.bounds.faults.get(window.name)
        yield Proof(window.name, (window.proof,)) if rule is None else proof_of(case, window, rule)


def _busy(case: Case, from_s: float, to_s: float) -> bool:
    """Whether some job was on its way meanwhile: between its enqueue's first word and its last run's end."""
    for job in case.facts.jobs.values():
        times = [event.at_s for event in job.phases]
        for run in job.runs:
            times += [run.started_s, run.started_s if run.ended_s is None else run.ended_s]
        if times and min(times) <= to_s and max(times) >= from_s:
            return True
    return False


# --- bounds and expectations ---------------------------------------------------------------------------------------


def _late(measured: Sequence[Recovery]) -> Iterator[str]:
    for recovery in measured:
        if not recovery.kept:
            took = "never" if recovery.measured_s is None else f"{recovery.measured_s:.2f} s"
            yield f"{recovery.name}: {took}, allowed are {recovery.allowed_s:.2f} s ({recovery.formula})"


def _unexpected_counts(expectations: Expectations, counts: Counts) -> Iterator[str]:
    for name in Counts.__struct_fields__:
        amount, count = expectations.amount(name), getattr(counts, name)
        if amount is not None and not amount.holds(count):
            yield f"{name.replace('_', ' ')}: {count}, expected {amount}"


def _unrefused(case: Case) -> Iterator[str]:
    reasons = [action.what.partition(REFUSED) for action in case.facts.actions]
    for text in case.expectations.refusals:
        if not any(refused and text in why for _, refused, why in reasons):
            yield f"no worker refused to start because of {text!r}"


def _idle(case: Case) -> Iterator[str]:
    """Faults during which fewer jobs, or more, were settled as done than the scenario expects."""
    settles = [settle for job in case.facts.jobs.values() for settle in job.settles]
    for name, amount in case.expectations.completed_during.items():
        for window in case.facts.windows:
            if window.name != name or window.active_s is None:
                continue
            to_s = window.healed_s if window.heal_s is None else window.heal_s
            count = sum(
                settle.accepted
                and settle.verdict == "done"
                and window.active_s <= settle.sent_s
                and settle.at_s <= to_s
                for settle in settles
            )
            if not amount.holds(count):
                yield f"completed during {case.called(window)}: {count}, expected {amount}"


def _tried(facts: Facts) -> Counts:
    """What can be counted without knowing how it ended."""
    jobs = [job for job in facts.jobs.values() if job.phases]
    return Counts(
        attempted=len(jobs),
        acknowledged=sum(job.acknowledged for job in jobs),
        unknown=sum(job.unknown for job in jobs),
        manual_interventions=sum(action.manual for action in facts.actions),
    )
