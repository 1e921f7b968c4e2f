"""What people see: a picture that moves on a terminal, a line a second elsewhere, and the summary at the end."""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from queue_trio.core.dequeue import PRIORITIES, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from queue_trio.core.store import LaneStats
    from queue_trio.demo.report import Report
    from queue_trio.demo.results import PriorityFigures

REDRAW_S: Final = 0.1
LINE_S: Final = 1.0
RATE_S: Final = 1.0
"""The rate shown is that of the last so many seconds."""

STYLES: Final = {
    Priority.CRITICAL: "bold red",
    Priority.HIGH: "yellow",
    Priority.NORMAL: "green",
    Priority.LOW: "cyan",
}
SVG_WIDTH: Final = 112
EVENTS_SHOWN: Final = 4
SHOWN_MAX: Final = 10
"""Differences that are listed; the rest are counted."""


@dataclass
class Scene:
    """Everything the display may show. Others fill it in; it is drawn when the time has come.

    `working`: worker processes that are ready and alive. Redis believes in a dead one until its lease ends.
    """

    title: str
    phase: str = "starting"
    enqueued: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0))
    all_enqueued: bool = False
    stats: LaneStats | None = None
    workers: list[str] = field(default_factory=list)
    working: int = 0
    events: list[str] = field(default_factory=list)
    verified: int | None = None
    _done: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def total(self) -> int:
        return sum(self.enqueued.values())

    @property
    def done(self) -> int:
        return self.stats.completed + self.stats.dead if self.stats else 0

    def update(self, stats: LaneStats, now: float) -> None:
        """New counts, at `now` on any steady clock."""
        self.stats = stats
        self._done.append((now, self.done))
        while len(self._done) > 2 and now - self._done[0][0] > RATE_S:
            self._done.popleft()

    @property
    def rate(self) -> float:
        if len(self._done) < 2:
            return 0.0
        (began, before), (ended, after) = self._done[0], self._done[-1]
        return (after - before) / (ended - began) if ended > began else 0.0

    def waiting(self, priority: Priority) -> int:
        return self.stats.ready[priority] if self.stats else 0


class Display:
    """Shows a Scene while something goes on. Call `refresh` as often as you like."""

    def __init__(self, console: Console, scene: Scene, clock: float) -> None:
        self._console = console
        self._scene = scene
        self._drawn = clock - LINE_S
        self._live: Live | None = None
        self._events = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The moving picture, on a terminal; it disappears at the end, for the summary to take its place."""
        if not self._console.is_terminal:
            self._console.print(self._scene.title, highlight=False)
            yield
            self._print_events()
            return
        # It draws when we say so: no thread of rich's own.
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield

    def refresh(self, now: float) -> None:
        """Draw, unless it was drawn just now. `now`: seconds of any steady clock."""
        if self._live is not None:
            if now - self._drawn >= REDRAW_S:
                self._drawn = now
                self._live.update(_picture(self._scene), refresh=True)
            return
        self._print_events()
        if now - self._drawn >= LINE_S:
            self._drawn = now
            self._console.print(_line(self._scene), highlight=False, soft_wrap=True)

    def _print_events(self) -> None:
        for event in self._scene.events[self._events :]:
            self._console.print(f"! {event}", highlight=False, soft_wrap=True)
        self._events = len(self._scene.events)


def _line(scene: Scene) -> str:
    if scene.verified is not None:
        return f"{scene.phase}: {scene.verified:,} of {scene.total:,} files"
    if scene.stats is None or not (scene.working or scene.done):
        return f"{scene.phase}: {scene.total:,} jobs enqueued, no worker is ready yet"
    workers = "1 worker" if scene.working == 1 else f"{scene.working} workers"
    ready = ", ".join(f"{scene.waiting(priority):,} {priority}" for priority in PRIORITIES)
    return (
        f"{scene.phase}: {scene.done:,} of {scene.total:,} jobs, {scene.rate:,.0f}/s, "
        f"{scene.stats.leased} in flight, {workers}; ready: {ready}"
    )


# --- the moving picture --------------------------------------------------------------------------------------------


def _picture(scene: Scene) -> RenderableType:
    verifying = scene.verified is not None
    done = scene.verified if scene.verified is not None else scene.done
    top = Table.grid(padding=(0, 2))
    top.add_column(width=11)
    top.add_column(width=40)
    top.add_column(justify="right")
    top.add_column(justify="right")
    of = f"{done:,} / {scene.total:,}" + ("" if scene.all_enqueued else "+")
    top.add_row(
        Text(scene.phase, style="bold"),
        ProgressBar(total=max(scene.total, 1), completed=done, width=40, complete_style="bright_blue"),
        Text(of),
        Text("" if verifying else f"{scene.rate:,.0f} jobs/s", style="bold"),
    )
    for priority in PRIORITIES:
        enqueued, waiting = scene.enqueued[priority], scene.waiting(priority)
        top.add_row(
            Text(f"  {priority}", style=STYLES[priority]),
            ProgressBar(
                total=max(enqueued, 1),
                completed=enqueued - waiting,
                width=40,
                complete_style=STYLES[priority],
                finished_style=STYLES[priority],
            ),
            Text(f"{enqueued:,}"),
            Text(f"{waiting:,} ready", style="dim"),
        )
    parts: list[RenderableType] = [Text(scene.title, style="dim"), Text(), top, Text()]
    in_flight = scene.stats.leased if scene.stats else 0
    parts.append(
        Text(f"{', '.join(scene.workers) or 'no worker yet'} · {in_flight} jobs in flight", style="dim")
    )
    parts += [Text(f"! {event}", style="bold red") for event in scene.events[-EVENTS_SHOWN:]]
    return Padding(Group(*parts), (1, 2))


# --- the summary ---------------------------------------------------------------------------------------------------


def print_summary(console: Console, report: Report) -> None:
    """Everything there is to say at the end. Events were said before, except on a terminal."""
    if console.is_terminal:
        _print_summary(console, report)
        return
    with console.capture() as captured:
        _print_summary(console, report)
    # Rich fills lines up with spaces, which nobody wants in a file.
    for line in captured.get().splitlines():
        console.print(line.rstrip(), soft_wrap=True, markup=False, highlight=False)


def _print_summary(console: Console, report: Report) -> None:
    fancy = console.encoding.lower().startswith("utf")
    yes, no, note = ("✓", "✗", "↯") if fancy else ("ok", "NOT OK", "!")

    def verdict(good: bool, name: str, text: str) -> None:
        lines.add_row(Text(yes if good else no, style="bold green" if good else "bold red"), name, Text(text))

    console.print()
    if console.is_terminal:
        console.print(Text(f"  {report.title}\n", style="dim"))
    if report.figures.jobs:
        console.print(Padding(_figures_table(report), (0, 0, 1, 2), expand=False))
    figures = report.figures
    lines = Table.grid(padding=(0, 2))
    lines.add_column(justify="right", min_width=3)
    lines.add_column()
    lines.add_column(overflow="fold")
    if report.interrupted:
        verdict(False, "interrupted", f"{figures.jobs:,} of {report.enqueued:,} jobs were done")
    speed = f"{figures.jobs:,} jobs in {figures.seconds:.2f} s = {figures.jobs_per_second:,.0f} jobs/s"
    lines.add_row("", "speed", Text(f"{speed}, {figures.bytes / 1e6:,.1f} MB read"))
    counts = f"{figures.retries} retried, {report.dead} dead-lettered, {figures.ran_twice} ran twice"
    lines.add_row("", "jobs", Text(f"{counts}, {figures.unreadable} of the files unreadable"))
    if report.crash is not None and report.recovery is not None:
        crash, recovery = report.crash, report.recovery
        held = f"{recovery.orphans} jobs leased to it"
        lines.add_row(
            Text(note, style="bold red"),
            "crash",
            f"worker {crash.number} (pid {crash.pid}) killed with SIGKILL half way, {held}",
        )
        twice = f", {recovery.twice} of them for the second time" if recovery.twice else ""
        verdict(
            recovery.recovered == recovery.orphans,
            "recovery",
            f"others ran {recovery.recovered} of the {recovery.orphans}{twice}; "
            f"the last ended {recovery.seconds:.1f} s after the kill",
        )
    elif report.crash_missed:
        verdict(
            False,
            "crash",
            "no worker was killed: all jobs were done first; try a larger folder, or --slow 50",
        )
    if report.checked is not None:
        _add_verdicts(report, verdict)
    console.print(Padding(lines, (0, 0, 1, 0), expand=False))
    for difference in report.differences[:SHOWN_MAX]:
        console.print(
            f"  {no} {difference.path}: {difference.problem}", style="red", markup=False, highlight=False
        )
    if len(report.differences) > SHOWN_MAX:
        console.print(f"  ... and {len(report.differences) - SHOWN_MAX:,} more", style="red")
    if report.kept is not None:
        console.print(f"  kept: {report.kept}", soft_wrap=True, highlight=False, markup=False)


def _add_verdicts(report: Report, verdict: Callable[[bool, str, str], None]) -> None:
    changed = f" ({len(report.changed):,} changed meanwhile and prove nothing)" if report.changed else ""
    if report.differences:
        differences = f"{len(report.differences):,} differences from reading the files directly"
        verdict(False, "manifest", f"{differences}{changed}: {report.manifest}")
    else:
        verdict(
            True,
            "manifest",
            f"equals hashing the {report.checked:,} files directly{changed}: {report.manifest}",
        )
    if report.skipped:
        verdict(True, "skipped", f"{report.skipped:,} files or folders cannot be read and were not enqueued")
    if report.audit:
        verdict(False, "audit", "; ".join(report.audit))
    else:
        verdict(
            True,
            "audit",
            f"every job in one place; {report.enqueued:,} enqueued = all completed, none left over",
        )


def _figures_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column("priority")
    table.add_column("jobs", justify="right")
    for name in ("wait ms p50", "p95", "p99", "run ms p50", "p95", "p99", "all done by"):
        table.add_column(name, justify="right")
    for priority, figures in report.figures.by_priority.items():
        table.add_row(Text(priority, style=STYLES[priority]), *_cells(figures))
    table.add_row("all", *_cells(report.figures.overall), style="bold")
    return table


def _cells(figures: PriorityFigures) -> list[str]:
    numbers = [f"{figures.jobs:,}"]
    for quantiles, places in ((figures.wait_ms, 0), (figures.run_ms, 1)):
        numbers += [f"{value:,.{places}f}" for value in (quantiles.p50, quantiles.p95, quantiles.p99)]
    return [*numbers, f"{figures.done_s:.2f} s"]


def save_svg(path: Path, report: Report) -> None:
    """The summary as a picture, for the README. No font is fetched from anywhere: the reader's own will do."""
    from rich.console import Console

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            file=nowhere, record=True, width=SVG_WIDTH, force_terminal=True, color_system="truecolor"
        )
        console.print(Text("$ ./dev demo" + (" --crash" if report.crash else ""), style="bold"))
        print_summary(console, report)
    code = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(path), title="queue_trio", code_format=code)
