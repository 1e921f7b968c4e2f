"""Shows results in a terminal: a table per workload, then queue_trio against the best peer of each round."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

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
        console.print(_table(results, workload))
        for line in _gaps(results, workload):
            console.print(line, highlight=False)
    console.print()
    console.print(_against_the_best(results))
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


def _table(results: Results, workload: str) -> Table:
    first, *others = WORKLOADS[workload].figures
    table = Table(title=f"{workload}: {WORKLOADS[workload].title}", title_justify="left")
    table.add_column("queue", no_wrap=True)
    for label in ("jobs", LABELS[first], "ours is", *(LABELS[figure] for figure in others)):
        table.add_column(label, justify="right")
    table.add_column("CPU, s: worker, enqueuer, Redis", justify="right")
    table.add_column("memory, MiB", justify="right")
    lacking = {gap.queue for gap in results.gaps if gap.workload == workload}
    for queue in sorted({*results.queues, *lacking}, key=list(results.versions).index):
        runs = results.of(workload, queue)
        name = Text(f"{queue} {results.versions[queue]}", "bold" if queue == OURS.name else "")
        if not runs:
            table.add_row(name, "–", "–")
            continue
        main = results.spread(workload, queue, first)
        rest = [results.spread(workload, queue, figure) for figure in others]
        table.add_row(
            name,
            f"{runs[0].jobs:,}",
            spread_text(main) if main else "–",
            "" if queue == OURS.name else ratio_text(results.ratios(workload, queue, first)),
            *(number(spread.median) if spread else "–" for spread in rest),
            _by_process([run.cpu_s for run in runs]),
            _memory(runs),
        )
    return table


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


def _against_the_best(results: Results) -> Table:
    table = Table(title=f"{OURS.name} against whichever peer was best in each round", title_justify="left")
    for label in ("workload", "figure"):
        table.add_column(label, no_wrap=True)
    for label in ("ours", "times better", "round by round", "bar"):
        table.add_column(label, justify="right")
    for workload in results.workloads:
        for figure in WORKLOADS[workload].figures:
            ratios = results.ratios_to_best(workload, figure)
            ours = results.spread(workload, OURS.name, figure)
            if not ratios or ours is None or figure == "sent_per_s":
                continue
            bar = BARS.get((workload, figure))
            met = "" if bar is None else "met" if statistics.median(ratios) >= bar else "not met"
            table.add_row(
                workload,
                LABELS[figure],
                number(ours.median),
                ratio_text(ratios),
                " ".join(map(number, ratios)),
                "" if bar is None else f"{bar:g} ×: {met}",
            )
    return table
