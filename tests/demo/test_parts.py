"""The demo's parts that need neither server nor workers: measuring, figures, the check, the manifest, the picture."""

from __future__ import annotations

import hashlib
import io
import json
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from queue_trio.core.dequeue import Priority
from queue_trio.demo import tasks
from queue_trio.demo.check import Difference, Verdict, check, read_directly
from queue_trio.demo.crash import Crash, recovery_of
from queue_trio.demo.display import Display, Scene, print_summary, save_svg
from queue_trio.demo.manifest import check_manifest, entries, write_manifest
from queue_trio.demo.report import Report
from queue_trio.demo.results import Quantiles, priority_for, quantiles, read_results, summarise
from queue_trio.demo.tasks import Measurement, Result, measure_file
from queue_trio.errors import UsageError
from queue_trio.runtime.folder import Found, path_to_text

if TYPE_CHECKING:
    from pathlib import Path


def found(path: Path, relative: str = "") -> Found:
    status = path.stat()
    return Found(str(path), relative or path.name, status.st_size, status.st_mtime_ns)


def result(job_id: str, path: str = "/x", measured: Measurement | None = None, **changed: float) -> Result:
    base: dict[str, float] = {
        "attempt": 1,
        "pid": 1,
        "enqueued_ms": 0.0,
        "started_ms": 10.0,
        "finished_ms": 12.0,
    }
    values = base | changed
    return Result(
        job_id,
        path,
        measured or measure_file(path),
        int(values["attempt"]),
        int(values["pid"]),
        values["enqueued_ms"],
        values["started_ms"],
        values["finished_ms"],
    )


# --- measuring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", 0),
        (b"a", 1),
        (b"a\n", 1),
        (b"a\nb", 2),
        (b"\n\n", 2),
        (b"\r\n\0\xff", 2),
        (b"x" * 300_000 + b"\ny", 2),
    ],
)
def test_both_readings_agree(tmp_path: Path, content: bytes, lines: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    expected = Measurement(len(content), lines, hashlib.sha256(content).hexdigest())
    assert measure_file(str(file)) == expected
    assert read_directly(str(file)) == expected


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CHUNK", 3)
    (tmp_path / "file").write_bytes(b"ab\ncd\n\nefgh")
    assert measure_file(str(tmp_path / "file")) == read_directly(str(tmp_path / "file"))


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), str(tmp_path)):
        assert measure_file(path).error
        assert measure_file(path) == read_directly(path)


# --- results -------------------------------------------------------------------------------------------------------


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    line = msgspec.json.encode(result("a", measured=Measurement(1, 1, "x")))
    (tmp_path / "1.results").write_bytes(line + b"\n" + line[:20])
    (tmp_path / "2.results").write_bytes(b"")
    assert [it.id for it in read_results(tmp_path)] == ["a"]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_are_values_in_order(values: list[float]) -> None:
    it = quantiles(values)
    assert {it.p50, it.p95, it.p99} <= set(values)
    assert it.p50 <= it.p95 <= it.p99 <= max(values)


def test_quantiles() -> None:
    assert quantiles([float(n) for n in range(1, 101)]) == Quantiles(50, 95, 99)
    assert quantiles([]) == Quantiles(0, 0, 0)


def test_figures() -> None:
    measured = Measurement(10, 1, "x")
    figures = summarise(
        [
            result("a", "/a.py", measured, finished_ms=20),
            result("b", "/b.txt", measured, attempt=3),
            result("a", "/a.py", measured, finished_ms=1010, started_ms=1000),
            result("c", "/c", Measurement(error="gone")),
        ]
    )
    assert (figures.jobs, figures.bytes, figures.unreadable) == (3, 20, 1)
    assert (figures.retries, figures.ran_twice, figures.seconds) == (2, 1, 1.0)
    assert figures.jobs_per_second == 3.0
    assert {priority: some.jobs for priority, some in figures.by_priority.items()} == {
        Priority.HIGH: 1,
        Priority.NORMAL: 1,
        Priority.LOW: 1,
    }
    assert figures.overall.wait_ms.p50 == 10.0


def test_no_figures() -> None:
    figures = summarise([])
    assert (figures.jobs, figures.jobs_per_second) == (0, 0.0)


def test_priority_of_a_name_that_is_not_utf8() -> None:
    assert priority_for(path_to_text(os.fsdecode(b"/\xff.py"))) is Priority.HIGH


# --- the check -----------------------------------------------------------------------------------------------------


async def judge(enqueued: dict[str, Found], results: list[Result]) -> Verdict:
    seen: list[int] = []
    verdict = await check(enqueued, results, seen.append)
    assert seen == ([len(enqueued)] if enqueued else [])
    return verdict


async def test_check_agrees(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x\n")
    verdict = await judge({"1": found(file)}, [result("1", str(file)), result("1", str(file))])
    assert verdict == Verdict(checked=1)
    assert verdict.ok


async def test_check_says_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x\n")
    wrong = msgspec.structs.replace(measure_file(str(file)), lines=7)
    verdict = await judge({"1": found(file)}, [result("1", str(file)), result("1", str(file), wrong)])
    assert verdict.differences == [Difference("a", "lines is 7, in truth 1")]
    assert not verdict.ok


async def test_check_finds_what_is_lost_and_what_is_invented(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x\n")
    verdict = await judge({"1": found(file)}, [result("2", "/b", Measurement())])
    assert sorted(it.problem for it in verdict.differences) == [
        "job 2 ran, but nobody enqueued it",
        "no result: job 1 was lost",
    ]


async def test_check_leaves_out_what_others_changed(tmp_path: Path) -> None:
    names = ("grown", "touched", "gone")
    for name in names:
        (tmp_path / name).write_text("x")
    before = {name: found(tmp_path / name) for name in names}
    results = [result(name, str(tmp_path / name)) for name in names]
    (tmp_path / "grown").write_text("xyz")
    (tmp_path / "touched").write_text("y")
    os.utime(tmp_path / "touched", ns=(0, 5))
    (tmp_path / "gone").unlink()
    verdict = await judge(before, results)
    assert verdict.ok
    assert [(it.path, it.problem.partition(":")[0]) for it in verdict.changed] == [
        ("grown", "had 1 bytes, has 3"),
        ("touched", "was written to"),
        ("gone", "FileNotFoundError"),
    ]


# --- the manifest --------------------------------------------------------------------------------------------------


def test_manifest(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    files = {"2": tmp_path / "b", "1": tmp_path / "a", "3": odd}
    for file in files.values():
        file.write_text("x")
    enqueued = {job_id: found(file) for job_id, file in files.items()} | {"4": found(odd, "lost")}
    made = entries(enqueued, [result(job_id, str(file)) for job_id, file in files.items()])
    path = write_manifest(tmp_path / "manifest.json", tmp_path, made)
    read = json.loads(path.read_text("utf-8"))
    assert read["files"] == 3
    assert [entry.get("path", entry.get("path_uri")) for entry in read["entries"]] == ["a", "b", "caf%E9"]
    assert read["entries"][0] == {"path": "a"} | msgspec.to_builtins(measure_file(str(tmp_path / "a")))


def test_checking_a_manifest_leaves_it_as_it_is(tmp_path: Path) -> None:
    old, new, pipe, link = (tmp_path / name for name in ("old", "new", "pipe", "link"))
    old.write_text("old")
    os.mkfifo(pipe)
    link.symlink_to(new)
    for path in (old, new, pipe, link):
        check_manifest(path)
    assert old.read_text() == "old"
    assert not new.exists()
    assert link.is_symlink()
    with pytest.raises(UsageError, match="it is a folder"):
        check_manifest(tmp_path)


def test_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_manifest(tmp_path / "none" / "manifest.json", tmp_path, [])


# --- crash, report, picture ----------------------------------------------------------------------------------------


def test_recovery() -> None:
    measured = Measurement(1, 1, "x")
    crash = Crash(2, 99, 1000.0, frozenset({"a", "b", "c"}))
    results = [
        result("a", "/a", measured, pid=99),
        result("a", "/a", measured, pid=7, finished_ms=3500),
        result("b", "/b", measured, pid=7, finished_ms=3000),
        result("z", "/z", measured, pid=7, finished_ms=9000),
    ]
    recovery = recovery_of(crash, results)
    assert (recovery.orphans, recovery.recovered, recovery.twice, recovery.seconds) == (3, 2, 1, 2.5)


def a_report(**changed: object) -> Report:
    measured = Measurement(1, 1, "x")
    report = Report("a title", 1, summarise([result("a", "/a.py", measured)]), checked=1, audit=[])
    for name, value in changed.items():
        setattr(report, name, value)
    return report


def shown(report: Report, **options: object) -> str:
    console = Console(file=io.StringIO(), width=120, **options)  # type: ignore[arg-type]
    print_summary(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_exit_codes() -> None:
    assert a_report().exit_code == 0
    assert a_report(dead=1).exit_code == 1
    assert a_report(crash_missed=True).exit_code == 1
    assert a_report(audit=["x"]).exit_code == 1
    assert a_report(differences=[Difference("a", "b")]).exit_code == 1
    assert a_report(interrupted=2).exit_code == 130
    lost = recovery_of(Crash(1, 1, 0.0, frozenset({"a"})), [])
    assert a_report(recovery=lost).exit_code == 1


def test_the_summary_says_what_is_wrong() -> None:
    text = shown(
        a_report(
            differences=[Difference(f"[bold]{n}", "lines is 7, in truth 1") for n in range(12)],
            changed=[Difference("b", "gone")],
            skipped=3,
            audit=["left over: 1 instead of 0"],
        )
    )
    assert "12 differences" in text
    assert "[bold]9: lines is 7, in truth 1" in text
    assert "and 2 more" in text
    assert "1 changed meanwhile" in text
    assert "3 files or folders" in text
    assert "left over: 1 instead of 0" in text
    assert "no worker was killed" in shown(a_report(crash_missed=True))
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_summary_on_a_terminal_and_without_utf8(tmp_path: Path) -> None:
    assert "a title" in shown(a_report(), force_terminal=True)
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        print_summary(Console(file=file, width=120), a_report())
    assert "ok" in (tmp_path / "out").read_text("ascii")


def test_svg_fetches_nothing(tmp_path: Path) -> None:
    crash = Crash(1, 5, 0.0, frozenset({"a"}))
    report = a_report(crash=crash, recovery=recovery_of(crash, [result("a", "/a", Measurement(), pid=6)]))
    save_svg(tmp_path / "demo.svg", report)
    svg = (tmp_path / "demo.svg").read_text("utf-8")
    assert "SIGKILL" in svg.replace("&#160;", " ")
    assert "url(http" not in svg


def test_the_moving_picture() -> None:
    from queue_trio.core.store import LaneStats

    stats = LaneStats(
        lane="default.0",
        ready={Priority.CRITICAL: 0, Priority.HIGH: 3, Priority.NORMAL: 0, Priority.LOW: 2},
        scheduled=0, leased=4, dead=0, records=9, enqueued=20, completed=11, cancelled=0, purged=0, adjusted=0,
        workers=2, paused=False,
    )  # fmt: skip
    for terminal in (True, False):
        scene = Scene("the title", phase="working")
        console = Console(file=io.StringIO(), width=120, height=40, force_terminal=terminal)
        assert isinstance(console.file, io.StringIO)
        display = Display(console, scene, 0.0)
        with display.shown():
            display.refresh(1.0)
            scene.enqueued[Priority.HIGH] = 20
            scene.working = 2
            scene.update(stats, 1.0)
            scene.update(msgspec.structs.replace(stats, completed=16), 1.5)
            scene.events.append("worker 1 was killed")
            display.refresh(2.5)
            display.refresh(2.55)
            scene.working = 1  # Redis still counts the other
            display.refresh(3.6)
            scene.phase, scene.verified = "checking", 7
            display.refresh(5.0)
        text = console.file.getvalue()
        for word in ("the title", "10", "worker 1 was killed", "checking", "7"):
            assert word in text
        if not terminal:
            assert "working: 16 of 20 jobs, 10/s, 4 in flight, 2 workers;" in text
            assert "4 in flight, 1 worker;" in text
