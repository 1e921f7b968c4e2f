"""Whether a fault has bitten, and by what that is known: judged from the journal, against what `bites` asks for.

The driver's word comes first: a toxic that is read back, a server that refuses, a process that is gone. Then the probes
of the routes; then those whom the fault should hit. What another fault can explain as well is no proof, as long as
there was a time without the other one; where there was none, nobody can tell them apart.
"""

from __future__ import annotations

import math
from statistics import median_high
from typing import TYPE_CHECKING, Final, NamedTuple

from chaos.history import process_of
from chaos.verdict import Proof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.history import Probe
    from chaos.judging.bites import Bite
    from chaos.judging.bounds import FaultRule
    from chaos.judging.causes import Case
    from chaos.judging.facts import Window

Span = tuple[float, float]

SLOWER: Final = 0.5
"""A route that was slow before must be slower by so much of what the fault adds."""
PIECES: Final = 2
SILENT_S: Final = 0.1
"""Silence for less than that is none: a probe ends with the fault."""
ASLEEP: Final = "worker_freeze"
"""The one fault of a worker's own after which its calls fail too."""


class Sign(NamedTuple):
    """Somebody had trouble: since they were last seen, so many more errors, and tries to connect."""

    at_s: float
    who: str
    errors: int
    connects: int


def proof_of(case: Case, window: Window, rule: FaultRule) -> Proof:
    """Everything that was seen of this one."""
    if window.active_s is None or not window.proof:
        return Proof(window.name, (), f"fault {case.called(window)} is not proven to have bitten")
    seen = [window.proof]
    for route in rule.routes if rule.bite.route else ():
        told, good = _route(rule.bite, route, window)
        if not good:
            return Proof(window.name, (*seen, told), f"fault {case.called(window)} did not bite: {told}")
        seen.append(told)
    told, good = _touched(case, window, rule)
    if not good:
        return Proof(window.name, tuple(seen), f"fault {case.called(window)} did not bite: {told}")
    return Proof(window.name, (*seen, told) if told else tuple(seen))


# --- the routes ----------------------------------------------------------------------------------------------------


def _route(bite: Bite, route: str, window: Window) -> tuple[str, bool]:
    """What the probes of one route found, in words, and whether that is this fault's doing."""
    mine = [probe for probe in window.probes if probe.route == route]
    before = min((probe for probe in mine if probe.before), key=lambda probe: probe.took_s, default=None)
    during = [probe for probe in mine if not probe.before]
    if not during:
        return f"nobody asked on route {route} while it was there", False
    compared = "" if before is None else f" (before: {_probe_words(bite, before)})"
    if bite.route in ("refused", "cut", "silent"):
        hits = [probe for probe in during if _broken(bite, probe)]
        changed = before is None or not _broken(bite, before)
        words = (
            f"route {route}: {len(hits)} of {len(during)} probes {hits[0].outcome if hits else bite.route}"
        )
        return words + compared, bool(hits) and changed
    answered = [probe for probe in during if probe.outcome == "answered"]
    if not answered:
        return f"route {route}: none of {len(during)} probes was answered{compared}", False
    if bite.route == "sliced":
        pieces = median_high(probe.pieces for probe in answered)
        words = (
            f"route {route}: {_many(len(answered), 'probe')} answered in {_many(pieces, 'piece')}{compared}"
        )
        return words, pieces >= PIECES and (before is None or before.pieces < pieces)
    closing = bite.route == "slow to close"
    late = [_late_s(bite, probe) for probe in answered]
    # A toxic lets go at once what it holds back when another one comes or goes; and another fault may close sooner.
    at_times = closing or bite.route == "late at times"
    late_s = max(late) if at_times else median_high(late)
    what = "closed" if closing else "answered"
    how = "in up to" if at_times else "in"
    words = f"route {route}: {_many(len(answered), 'probe')} {what} {how} {late_s * 1000:.0f} ms{compared}"
    normal_s = 0.0 if before is None else _late_s(bite, before)
    least_s = bite.late_ms / 1000
    return words, late_s >= least_s and (normal_s < least_s or late_s >= normal_s + SLOWER * least_s)


def _broken(bite: Bite, probe: Probe) -> bool:
    if bite.route == "silent":  # given up by the proxy at last, if it is told to
        given_up = probe.outcome == "silent" and probe.took_s >= SILENT_S
        return given_up or (probe.outcome == "cut" and not probe.got)
    return probe.outcome == bite.route


def _late_s(bite: Bite, probe: Probe) -> float:
    return (probe.closing_s or 0.0) if bite.route == "slow to close" else probe.took_s


def _probe_words(bite: Bite, probe: Probe) -> str:
    """What one probe met."""
    if probe.outcome != "answered":
        return f"{probe.outcome} after {probe.took_s * 1000:.0f} ms"
    if bite.route == "sliced":
        return f"in {_many(probe.pieces, 'piece')}"
    what = "closed" if bite.route == "slow to close" else "answered"
    return f"{what} in {_late_s(bite, probe) * 1000:.1f} ms"


# --- those it should hit -------------------------------------------------------------------------------------------


def _touched(case: Case, window: Window, rule: FaultRule) -> tuple[str, bool]:
    """Who was touched, in words, and whether anybody was."""
    match rule.bite.touched:
        case "trouble":
            dropped = sum(window.dropped.values())
            lost = f"{dropped:,} bytes of theirs dropped" if dropped > 0 else ""
            trouble = trouble_words(list(_own_trouble(case, window, rule)))
            told = "; ".join(filter(None, (lost, trouble)))
            return told or f"nobody it should hit had any trouble ({_whom(rule, window)})", bool(told)
        case "closes":
            span = window.begin_s, case.over_s(window, rule) + case.bounds.recovery.seconds
            found = [sign for sign in signs(case, window, rule) if span[0] <= sign.at_s <= span[1]]
            told = trouble_words(found)
            return told or f"nobody's connection ended ({_whom(rule, window)})", bool(told)
        case "work":
            told = _work(case, window, rule)
            return told or f"nobody it should hit did anything meanwhile ({_whom(rule, window)})", bool(told)
        case "":
            return "", True


def _whom(rule: FaultRule, window: Window) -> str:
    whom = window.targets or rule.hits or ()
    return "everybody" if whom == ("*",) else ", ".join(whom) or "nobody"


def trouble_words(found: list[Sign]) -> str:
    """Who had how much, as "worker-1: 3 errors, 1 new connection"; "" without any."""
    errors: dict[str, int] = {}
    connects: dict[str, int] = {}
    for sign in found:
        errors[sign.who] = errors.get(sign.who, 0) + sign.errors
        connects[sign.who] = connects.get(sign.who, 0) + sign.connects
    counts = ((who, ((errors[who], "error"), (connects[who], "new connection"))) for who in sorted(errors))
    return "; ".join(
        f"{who}: " + ", ".join(_many(number, what) for number, what in parts if number)
        for who, parts in counts
    )


def signs(case: Case, window: Window, rule: FaultRule) -> Iterator[Sign]:
    """All trouble, at any time, of those that the fault should hit."""
    last: dict[str, tuple[int, int]] = {}
    for seen in case.facts.observations:
        for who, errors in seen.errors.items():
            connects = seen.connects.get(who, 0)
            before = last.get(who, (0, 0))
            if errors < before[0] or connects < before[1]:
                before = (0, 0)  # it has been started anew
            last[who] = errors, connects
            more = Sign(seen.at_s, who, errors - before[0], connects - before[1])
            if (more.errors or more.connects) and case.hit(window, rule, process_of(who)):
                yield more


def _own_trouble(case: Case, window: Window, rule: FaultRule) -> Iterator[Sign]:
    """Trouble in this window, at times when no other fault was there to explain it, if there was such a time."""
    free: dict[str, list[Span]] = {}
    for sign in signs(case, window, rule):
        spans = free.setdefault(sign.who, _free(case, window, rule, process_of(sign.who)))
        if any(from_s <= sign.at_s <= to_s for from_s, to_s in spans):
            yield sign


def _free(case: Case, window: Window, rule: FaultRule, process: str) -> list[Span]:
    """The parts of the window, and C more, in which no other fault hit this process; all of it if none is long."""
    tail_s = case.bounds.recovery.seconds
    whole = (window.begin_s, case.over_s(window, rule) + tail_s)
    spans = [whole]
    for other, its_rule in case.rules:
        can_explain = its_rule.disrupts or its_rule.kind == ASLEEP
        if other is window or not can_explain or not case.hit(other, its_rule, process):
            continue
        taken = (other.begin_s, case.over_s(other, its_rule) + tail_s)
        spans = [part for span in spans for part in _without(span, taken)]
    # In less time than that, without a break, it need not have shown itself.
    return spans if any(to_s - from_s >= tail_s for from_s, to_s in spans) else [whole]


def _without(span: Span, taken: Span) -> Iterator[Span]:
    if taken[1] <= span[0] or taken[0] >= span[1]:
        yield span
        return
    if span[0] < taken[0]:
        yield span[0], taken[0]
    if taken[1] < span[1]:
        yield taken[1], span[1]


def _work(case: Case, window: Window, rule: FaultRule) -> str:
    """What was done through it, while it was there: by clients and by workers."""
    assert window.active_s is not None
    to_s = case.over_s(window, rule) + (case.bounds.recovery.seconds if rule.instant else 0.0)
    answered = sum(
        event.phase == "ok"
        and window.active_s <= event.at_s <= to_s
        and _asked(case, window, rule, event.client)
        for event in case.facts.enqueues
    )
    begun = sum(
        window.active_s <= run.started_s <= to_s and case.hit(window, rule, run.worker)
        for run in case.facts.runs
    )
    parts = [f"{_many(answered, 'enqueue')} answered"] if answered else []
    return " and ".join([*parts, f"{_many(begun, 'handler')} begun"] if begun else parts)


def _asked(case: Case, window: Window, rule: FaultRule, client: str) -> bool:
    """Whether it hits this client. Who did not write down who they are may be any."""
    if client:
        return case.hit(window, rule, client)
    return any(not name.startswith("worker") for name in window.targets or rule.hits or ())


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def first_sign_s(case: Case, window: Window, rule: FaultRule, to_s: float) -> float | None:
    """When somebody it should hit was first seen with trouble or an open breaker, from its begin until `to_s`."""
    in_time = [sign.at_s for sign in signs(case, window, rule) if window.begin_s <= sign.at_s <= to_s]
    broken = [
        seen.at_s
        for seen in case.facts.observations
        if window.begin_s <= seen.at_s <= to_s
        and any(
            state != "closed" and case.hit(window, rule, process_of(who))
            for who, state in seen.breaker.items()
        )
    ]
    found = min([*in_time, *broken], default=math.inf)
    return None if math.isinf(found) else found
