"""What is wrong with a result, as short names that stay the same from run to run: which promise, which bound.

Two runs fail alike if they have such a name in common; ids of jobs, seconds and names of faults differ every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chaos.judging.checker import WEIGHT
from chaos.judging.expectations import expectations_of
from chaos.verdict import Counts, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.history import AtRest
    from chaos.result import Result
    from chaos.scenario.model import Scenario
    from chaos.verdict import Judgement

NOT_DRAINED: Final = "the drain did not finish"
_BOUNDS: Final = (
    "first success of clients",
    "first success of workers",
    "noticed",
    "run again",
    "process gone",
    "hanging handler stopped",
    "last run of a poison job",
    "backlog drained",
)
"""What `recovery` calls its bounds, without what they are about."""


def complaints(scenario: Scenario, judgement: Judgement) -> tuple[str, ...]:
    """Everything that is wrong, the weightiest first; nothing if it passed.

    "N" to "C" for promises; NOT_DRAINED; "bound: " and "count: " with a name; else the verdict.
    """
    if judgement.verdict is Verdict.PASS:
        return ()
    if judgement.verdict is Verdict.ERROR:
        return (str(Verdict.ERROR),)
    found = list(_all(scenario, judgement))
    return tuple(dict.fromkeys(found)) or (str(judgement.verdict),)


def _all(scenario: Scenario, judgement: Judgement) -> Iterator[str]:
    broken = {invariant.letter for invariant in judgement.invariants if not invariant.held}
    yield from (letter for letter in WEIGHT if letter in broken)
    if any(NOT_DRAINED in reason for reason in judgement.reasons):
        yield NOT_DRAINED
    if judgement.verdict is Verdict.INVALID:
        yield str(Verdict.INVALID)
        return
    for recovery in judgement.recoveries:
        if not recovery.kept:
            yield "bound: " + next((name for name in _BOUNDS if name in recovery.name), recovery.name)
    expectations = expectations_of(scenario)
    for name in Counts.__struct_fields__:
        amount = expectations.amount(name)
        if amount is not None and not amount.holds(getattr(judgement.counts, name)):
            yield f"count: {name}"


def is_violation(found: tuple[str, ...]) -> bool:
    """Whether it says something about queue_trio: a run that proves nothing, or a broken harness, does not."""
    return bool(found) and found[0] not in (Verdict.ERROR, Verdict.INVALID)


def why_not_drained(result: Result) -> str:
    """What kept it from coming to rest, as far as was seen; "" if it did."""
    rest = result.at_rest()
    if rest is None or rest.drained:
        return ""
    parts = [
        ", ".join(f"{number} {state}" for state, number in sorted(_left(rest).items())) or "nothing left"
    ]
    for name in ("breaker", "in_flight", "ready"):
        seen: object = next(
            (found for event in reversed(result.history) if (found := getattr(event, name, None))), {}
        )
        parts.append(f"{name} {seen}" if seen else f"{name}: nobody said")
    ended = [event.at_s for event in result.history if getattr(event, "outcome", "")]
    last = (
        f"the last handler ended {rest.at_s - max(ended):.1f} s before" if ended else "no handler ever ended"
    )
    return "; ".join([*parts, last])


def _left(rest: AtRest) -> dict[str, int]:
    states = [state for state in rest.places.values() if state != "dead"]
    return {state: states.count(state) for state in set(states)}
