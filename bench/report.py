"""Shows results, in a terminal or as Markdown: a table per workload, then ours against the best peer of each round."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from bench.catalogue import BARS, LABELS, OURS, WORKLOADS
from bench.figures import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.results import Results, Run

PROCESSES: Final = ("worker", "enqueuer", "redis")
LEGEND: Final = (
    "Each job of each run shown ran exactly once. Ratios are paired by round; above 1 is in our favour.\n"
    "CPU: of the worker from ready to its last job, of the enqueuer while it sends, of Redis over the run.\n"
    "Memory: worker and enqueuer at their peak, Redis after the run; the highest of all rounds."
)


def show(results: Results, console: Console) -> None:
    """Everything, as far as it was measured."""
    console.print(
        f"{results.server}, Python {results.python}, {results.system}, {results.cores} cores, load "
        f"{results.load_before:.1f} before and {results.load_after:.1f} after, {results.began}, "
        f"{results.rounds} rounds in {results.seconds / 60:.0f} min. Medians over the rounds (lowest–highest).",
        highlight=False,
    )
    for workload in results.workloads:
        console.print()
        console.print(_drawn(rows_of(results, workload)))
        for line in _gaps(results, workload):
            console.print(line, highlight=False)
    console.print()
    console.print(_drawn(best_of(results)))
    console.print(LEGEND, highlight=False)


def number(value: float) -> str:
    """Three significant digits or all whole ones."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread_text(spread: Spread) -> str:
    """Median (lowest–highest); the median alone if there was one round."""
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def ratio_text(ratios: Sequence[float]) -> str:
    """Of one pair of queues, over the rounds."""
    return f"{spread_text(Spread.of(ratios))} ×" if ratios else "–"


class Rows(NamedTuple):
    """A table before it is drawn: rows begin with a name, the cells of `head` after it are right-aligned."""

    title: str
    head: list[str]
    rows: list[list[str]]


def rows_of(results: Results, workload: str) -> Rows:
    """One workload: a row for each queue, ours first."""
    first, *others = WORKLOADS[workload].figures
    head = ["queue", "jobs", LABELS[first], "ours is", *(LABELS[figure] for figure in others)]
    head += ["CPU, s: worker, enqueuer, Redis", "memory, MiB"]
    rows: list[list[str]] = []
    lacking = {gap.queue for gap in results.gaps if gap.workload == workload}
    for queue in sorted({*results.queues, *lacking}, key=list(results.versions).index):
        runs = results.of(workload, queue)
        name = f"{queue} {results.versions[queue]}"
        if not runs:
            rows.append([name, *["–"] * (len(head) - 1)])
            continue
        main = results.spread(workload, queue, first)
        rest = [results.spread(workload, queue, figure) for figure in others]
        rows.append(
            [
                name,
                f"{runs[0].jobs:,}",
                spread_text(main) if main else "–",
                "" if queue == OURS.name else ratio_text(results.ratios(workload, queue, first)),
                *(number(spread.median) if spread else "–" for spread in rest),
                _by_process([run.cpu_s for run in runs]),
                _memory(runs),
            ]
        )
    return Rows(f"{workload}: {WORKLOADS[workload].title}", head, rows)


def markdown(results: Results) -> str:
    """Every table, for a document."""
    parts = []
    for workload in results.workloads:
        table = rows_of(results, workload)
        parts.append(f"### {table.title}\n\n{_markdown_table(table)}")
        parts += _gaps(results, workload)
    table = best_of(results)
    parts.append(f"### {table.title}\n\n{_markdown_table(table)}")
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Rows) -> str:
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _drawn(table: Rows) -> Table:
    drawn = Table(title=table.title, title_justify="left")
    for at, label in enumerate(table.head):
        drawn.add_column(label, justify="right" if at else "left", no_wrap=not at)
    for name, *cells in table.rows:
        ours = name.partition(" ")[0] == OURS.name
        drawn.add_row(Text(name, "bold" if ours else ""), *cells)
    return drawn


def _by_process(samples: Sequence[dict[str, float]]) -> str:
    return "  ".join(f"{statistics.median(sample[name] for sample in samples):.2f}" for name in PROCESSES)


def _memory(runs: Sequence[Run]) -> str:
    return "  ".join(f"{max(run.peak_bytes[name] for run in runs) / 2**20:.0f}" for name in PROCESSES)


def _gaps(results: Results, workload: str) -> list[str]:
    gaps = [gap for gap in results.gaps if gap.workload == workload]
    return [
        f"– {gap.queue}: {gap.why}" if gap.round is None else f"✗ {gap.queue}, round {gap.round}: {gap.why}"
        for gap in gaps
    ]


def best_of(results: Results) -> Rows:
    """Ours against whichever peer was best in each round, figure by figure."""
    rows: list[list[str]] = []
    for workload in results.workloads:
        for figure in WORKLOADS[workload].figures:
            ratios = results.ratios_to_best(workload, figure)
            ours = results.spread(workload, OURS.name, figure)
            if not ratios or ours is None or figure == "sent_per_s":
                continue
            bar = BARS.get((workload, figure))
            met = "" if bar is None else "met" if statistics.median(ratios) >= bar else "not met"
            rows.append(
                [
                    workload,
                    LABELS[figure],
                    number(ours.median),
                    ratio_text(ratios),
                    " ".join(map(number, ratios)),
                    "" if bar is None else f"{bar:g} ×: {met}",
                ]
            )
    head = ["workload", "figure", "ours", "times better", "round by round", "bar"]
    return Rows(f"{OURS.name} against whichever peer was best in each round", head, rows)
