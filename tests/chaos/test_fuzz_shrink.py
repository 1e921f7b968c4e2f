"""A schedule that fails is made smaller as long as it fails alike, and not at the price of another failure."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.fuzz.complaint import NOT_DRAINED, complaints, is_violation
from chaos.fuzz.draw import draw, unfit
from chaos.fuzz.expected import with_expectations
from chaos.fuzz.shrink import TRIES, candidates, shrink
from chaos.fuzz.timing import load_outlasts_faults
from chaos.scenario.model import Scenario
from chaos.verdict import Counts, Invariant, Judgement, Recovery, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable


def size(scenario: Scenario) -> tuple[int, ...]:
    """Everything that may only become less."""
    return (
        sum(fault.times for fault in scenario.faults.values()),
        len(scenario.loads),
        sum(load.jobs for load in scenario.loads),
        scenario.processes.workers,
        scenario.processes.producers,
        sum(map(len, scenario.settings.values())),
        len(scenario.steps),
    )


class Flaw:
    """Judges schedules by whether they have what it takes. `chance`: how often it shows then."""

    def __init__(self, shows: Callable[[Scenario], bool], chance: float = 1.0) -> None:
        self.runs = 0
        self._shows = shows
        self._chance = chance
        self._rng = Random(1)

    async def judge(self, scenario: Scenario) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        self.runs += 1
        return ("D", "bound: noticed") if self._shows(scenario) and self._rng.random() < self._chance else ()


def killed_while_working(scenario: Scenario) -> bool:
    """Needs one kind of fault, and a second worker."""
    return scenario.processes.workers > 1 and any(f.kind == "redis_kill" for f in scenario.faults.values())


SEED = next(
    s for s in range(1000) if len(draw(s).faults) > 3 and killed_while_working(draw(s)) and draw(s).settings
)


@settings(deadline=None, max_examples=8)
@given(st.integers(min_value=0, max_value=10**6))
def test_every_candidate_is_smaller_and_can_be_judged(seed: int) -> None:
    whole = draw(seed)
    found = list(candidates(whole))
    for candidate in found:
        assert unfit(candidate) == []
        assert load_outlasts_faults(candidate)
        assert candidate.expect == with_expectations(candidate).expect
        assert candidate != whole
        assert all(less <= more for less, more in zip(size(candidate), size(whole), strict=True))
        assert candidate.name == whole.name
    assert len({candidate.model_dump_json() for candidate in found}) == len(found)


async def test_what_is_not_needed_is_taken_away() -> None:
    flaw = Flaw(killed_while_working)
    steps: list[Scenario] = []

    shrunk = await shrink(draw(SEED), "D", flaw.judge, time_left=lambda: True, better=steps.append)

    (fault,) = shrunk.scenario.faults.values()
    assert fault.kind == "redis_kill"
    assert (fault.times, fault.go_on) == (1, False)
    assert fault.for_s is not None
    assert fault.for_s < 0.6
    assert shrunk.scenario.settings == {}
    assert shrunk.scenario.processes.workers == 2
    assert shrunk.scenario.processes.producers == 1
    assert len(shrunk.scenario.loads) == 1
    assert shrunk.scenario.loads[0].jobs <= 100
    assert steps[-1] == shrunk.scenario
    assert (shrunk.failed, shrunk.tries) == (TRIES, TRIES)
    assert shrunk.runs == flaw.runs < 200


async def test_a_flaw_that_does_not_always_show_is_followed_all_the_same() -> None:
    flaw = Flaw(killed_while_working, chance=0.7)

    shrunk = await shrink(draw(SEED), "D", flaw.judge, time_left=lambda: True)

    assert killed_while_working(shrunk.scenario)
    assert len(shrunk.scenario.faults) == 1
    assert 1 <= shrunk.failed <= shrunk.tries <= TRIES


async def test_a_failure_of_another_kind_does_not_count() -> None:
    flaw = Flaw(killed_while_working)

    shrunk = await shrink(draw(SEED), "N", flaw.judge, time_left=lambda: True)

    assert shrunk.scenario == draw(SEED)
    assert (shrunk.failed, shrunk.tries) == (0, TRIES)
    assert flaw.runs == TRIES


async def test_when_the_time_is_over_what_was_reached_is_given_back() -> None:
    flaw = Flaw(killed_while_working)

    shrunk = await shrink(draw(SEED), "D", flaw.judge, time_left=lambda: flaw.runs < 3)

    assert killed_while_working(shrunk.scenario)
    assert size(shrunk.scenario) <= size(draw(SEED))
    assert flaw.runs == 3


# --- what is wrong -------------------------------------------------------------------------------------------------

SCENARIO = draw(SEED)
BROKEN = Invariant("D", "duplicates", held=False, count=3)
HELD = Invariant("N", "nothing lost", held=True)
LATE = Recovery("first success of workers after redis_kill-2, timeout", 2.0, 1.1, "C")
NEVER = Recovery("worker_term-3: process gone", None, 4.0, "grace")
KEPT = Recovery("backlog drained", 1.0, 40.0, "settle within")


def judged(
    verdict: Verdict,
    *invariants: Invariant,
    recoveries: tuple[Recovery, ...] = (),
    reasons: tuple[str, ...] = (),
    counts: Counts = Counts(),  # noqa: B008, frozen
) -> Judgement:
    return Judgement(verdict, reasons, counts, invariants, recoveries)


@pytest.mark.parametrize(
    ("judgement", "found"),
    [
        (judged(Verdict.PASS, BROKEN), ()),
        (judged(Verdict.ERROR, BROKEN), ("ERROR",)),
        (judged(Verdict.FAIL, HELD, BROKEN), ("D",)),
        (
            judged(Verdict.FAIL, HELD, recoveries=(KEPT, LATE, NEVER)),
            ("bound: first success of workers", "bound: process gone"),
        ),
        (judged(Verdict.FAIL, counts=Counts(manual_interventions=1)), ("count: manual_interventions",)),
        (judged(Verdict.INVALID, reasons=("there was no load",)), ("INVALID",)),
        (
            judged(Verdict.INVALID, reasons=("the drain did not finish: 3 jobs are still queued",)),
            (NOT_DRAINED, "INVALID"),
        ),
    ],
)
def test_what_is_wrong_has_a_name_that_does_not_change(judgement: Judgement, found: tuple[str, ...]) -> None:
    assert complaints(SCENARIO, judgement) == found


def test_a_run_that_proves_nothing_is_no_violation() -> None:
    assert is_violation(("D",))
    assert is_violation((NOT_DRAINED, "INVALID"))
    assert not is_violation(("INVALID",))
    assert not is_violation(("ERROR",))
    assert not is_violation(())
