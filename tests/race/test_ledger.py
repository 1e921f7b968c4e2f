"""The judge of the races can find each fault: ledgers written by hand, one per word, and sound ones beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.race.ledger import Judgement, Ledger

if TYPE_CHECKING:
    from pathlib import Path

Line = tuple[str, str, dict[str, Any]]

DEAD = "dead letter"
"""The one job that every ledger here finds among the dead letters."""


def line(event: str, job: str = "a", **details: int) -> Line:
    return event, job, details


def start(job: str = "a", *, attempt: int = 1, fence: int = 1) -> Line:
    return line("start", job, attempt=attempt, fence=fence)


def judged(folder: Path, *lines: Line) -> Judgement:
    ledger = Ledger(folder / "ledger.ndjson")
    for event, job, details in lines:
        ledger.note(event, job, **details)
    ledger.close()
    return ledger.judge(dead={DEAD})


OK, DOUBT, DONE, FAILED = line("ok"), line("doubt"), line("done"), line("failed")

CLEAN: dict[str, tuple[Line, ...]] = {
    "done": (OK, start(), DONE),
    "done before its enqueue was answered": (start(), DONE, OK),
    "failed once": (OK, start(), FAILED, start(attempt=2, fence=2), DONE),
    "taken over from a worker that was lost": (OK, start(), start(fence=2), DONE),
    "buried": (line("ok", DEAD), start(DEAD), line("failed", DEAD)),
    "in doubt, and never there": (DOUBT,),
    "two jobs with one fence": (OK, line("ok", "b"), start(), start("b"), DONE, line("done", "b")),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_sound_run_is_clean(tmp_path: Path, name: str) -> None:
    jobs = len({job for _, job, _ in CLEAN[name]})
    assert judged(tmp_path, *CLEAN[name]) == Judgement(jobs=jobs)


@pytest.mark.parametrize("lines", [(OK,), (OK, start()), (OK, start(), FAILED)], ids=len)
def test_acknowledged_and_neither_done_nor_dead_is_lost(tmp_path: Path, lines: tuple[Line, ...]) -> None:
    assert judged(tmp_path, *lines) == Judgement(jobs=1, lost={"a"})


def test_run_and_never_enqueued_is_unexpected(tmp_path: Path) -> None:
    found = judged(tmp_path, OK, start(), DONE, start("b"), line("done", "b"))
    assert found == Judgement(jobs=1, unexpected={"b"})


def test_done_twice_is_duplicated(tmp_path: Path) -> None:
    found = judged(tmp_path, OK, start(), DONE, start(fence=2), DONE, line("ok", "b"), line("done", "b"))
    assert found == Judgement(jobs=2, duplicated={"a"})


def test_in_doubt_and_there_all_the_same_is_recovered(tmp_path: Path) -> None:
    found = judged(tmp_path, DOUBT, start(), DONE, line("doubt", DEAD), line("doubt", "never"))
    assert found == Judgement(jobs=3, recovered={"a", DEAD})


@pytest.mark.parametrize(
    "lines",
    [
        (start(attempt=2),),
        (start(), FAILED, start(attempt=3, fence=2)),
        (line("failed", "b"), start(attempt=2)),  # another job's failure accounts for nothing
    ],
    ids=["the first", "a later one", "with another's failure"],
)
def test_an_attempt_that_no_failure_accounts_for_is_burned(tmp_path: Path, lines: tuple[Line, ...]) -> None:
    assert judged(tmp_path, OK, *lines, DONE) == Judgement(jobs=1, burned={"a"})


@pytest.mark.parametrize("fence", [1, 2], ids=["smaller", "the same"])
def test_a_fence_that_did_not_grow_is_unfenced(tmp_path: Path, fence: int) -> None:
    found = judged(tmp_path, OK, start(fence=2), start(fence=fence), DONE)
    assert found == Judgement(jobs=1, unfenced={"a"})
