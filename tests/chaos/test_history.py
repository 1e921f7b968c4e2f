"""The journals: what is written is read back, in one order, and a line cut off by a kill is left out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from chaos.history import (
    Action,
    AtRest,
    Dropped,
    Enqueue,
    Fault,
    Journal,
    Observation,
    Probe,
    Run,
    Settle,
    in_order,
    process_of,
    read_history,
)

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.history import Event

EVENTS: list[Event] = [
    Enqueue(1.0, "a", "invoke", "quick", "high", 50),
    Enqueue(1.5, "a", "info", error="no reply"),
    Run(2.0, "a", "start", "worker-1", 7, 1, 3),
    Run(2.5, "a", "end", "worker-1", 7, 1, 3, "returned"),
    Settle(2.6, 2.55, "a", 3, "done", True),
    Fault(3.0, "kill", "active", "pid 7 is gone", ("worker-1",), jobs={"a": 2.9}, exits={"worker-2": 1}),
    Probe(3.5, "slow", "workers", "answered", 0.1, before=True, got=71, pieces=2, closing_s=0.4),
    Dropped(3.6, "lost", "clients", 12),
    Observation(
        4.0, {"high": 3}, 0, 1, 2, 3, {"worker-1": "open"}, {"worker-1": 1}, {"worker-1": 2}, {"worker-1": 5}
    ),
    Action(5.0, "started worker-1", manual=True),
    AtRest(6.0, True, {"b": "dead"}, 2, 1, 0, 0, ("wrong",), ("inverted",), ("a thread",)),
]


def write(file: Path, events: list[Event]) -> None:
    journal = Journal(file, clock=lambda: 0.0)
    journal.append(*events)
    journal.close()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "it.journal", EVENTS)
    assert read_history(tmp_path) == EVENTS


def test_journals_of_all_processes_are_put_in_one_order(tmp_path: Path) -> None:
    write(tmp_path / "odd.journal", EVENTS[1::2])
    write(tmp_path / "even.journal", EVENTS[::2])
    (tmp_path / "notes.txt").write_text("no journal\n")
    assert read_history(tmp_path) == EVENTS


def test_events_of_one_moment_keep_their_order() -> None:
    first, second = Action(1.0, "first"), Action(1.0, "second")
    assert in_order([Action(2.0, "last"), first, second]) == [first, second, Action(2.0, "last")]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "it.journal"
    write(file, EVENTS[:2])
    with file.open("ab") as journal:
        journal.write(b'{"type":"run","at_s":2.0,"id"')
    assert read_history(tmp_path) == EVENTS[:2]


def test_a_line_that_is_no_event_is_an_error_that_says_where(tmp_path: Path) -> None:
    file = tmp_path / "it.journal"
    write(file, EVENTS[:1])
    with file.open("ab") as journal:
        journal.write(b'{"type":"riddle"}\n')
    with pytest.raises(ValueError, match=r"it\.journal:2: not an event: "):
        read_history(tmp_path)


def test_a_process_that_is_killed_leaves_what_it_announced(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from chaos.history import Action, Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), clock=lambda: 0.0)\n"
        "journal.append(Action(1.0, 'about to die'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "it.journal")], check=False, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    assert read_history(tmp_path) == [Action(1.0, "about to die")]


def test_a_journal_is_nobody_elses_business(tmp_path: Path) -> None:
    write(tmp_path / "it.journal", [])
    assert (tmp_path / "it.journal").stat().st_mode & 0o077 == 0


def test_processes_of_one_name_are_told_apart_by_a_number() -> None:
    assert [process_of(who) for who in ("producer-1#7", "worker-1")] == ["producer-1", "worker-1"]


def test_an_empty_folder_is_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
