"""What bench.scale has measured: as JSON, as tables, and as a chart. It does not know how it was measured."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from rich.table import Table

from bench import chart
from bench.figures import Spread, round_ratios
from bench.report import number, ratio_text, spread_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

_CPU: Final = ("cpu_us_per_job", "redis_cpu_us_per_job")


class Look(NamedTuple):
    """How a part is shown. `sizes`: what they are. `bar`: the share of the first size's rate that each should keep."""

    title: str
    sizes: str
    figures: tuple[str, ...]
    bar: float = 0.0


LOOKS: Final[Mapping[str, Look]] = {
    "depth": Look(
        "One worker, jobs that do nothing, while others are queued",
        "queued besides",
        ("run_per_s", *_CPU, "pickup_p50_ms", "pickup_p99_ms", "redis_bytes_per_job"),
        bar=0.8,
    ),
    "concurrency": Look("One worker, so many jobs at once", "at once", ("run_per_s", *_CPU, "ideal_percent")),
    "processes": Look("Worker processes on one queue", "processes", ("run_per_s", *_CPU, "redis_percent")),
    "saturation": Look(
        "Claim and settle alone",
        "jobs per call",
        ("run_per_s", *_CPU, "script_us_per_job", "redis_percent", "full_core_per_s"),
    ),
}

LABELS: Final[Mapping[str, str]] = {
    "run_per_s": "jobs/s",
    "ideal_percent": "of the ideal, %",
    "cpu_us_per_job": "our CPU per job, µs",
    "redis_cpu_us_per_job": "Redis's CPU per job, µs",
    "script_us_per_job": "time in scripts per job, µs",
    "redis_percent": "Redis, % of a core",
    "full_core_per_s": "jobs/s at 100 %",
    "pickup_p50_ms": "pickup p50, ms",
    "pickup_p99_ms": "pickup p99, ms",
    "redis_bytes_per_job": "memory per queued job, bytes",
}
"""Every figure, and what people call it."""

DRAWN: Final = ("depth", "concurrency")
QUANTITIES: Final[Mapping[str, tuple[str, float, str]]] = {
    "redis_bytes": ("Redis's used_memory", 2**20, "MiB"),
    "worker_bytes": ("worker, resident", 2**20, "MiB"),
    "producer_bytes": ("producer, resident", 2**20, "MiB"),
    "keys": ("keys in Redis", 1, ""),
}
"""Of a soak's sample: what people call it, and the unit it is shown in."""


@dataclass(frozen=True, slots=True)
class Run:
    """One size of one group, measured once."""

    part: str
    group: str
    size: int
    round: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a soak: jobs that have ended, seconds since it began, jobs queued then."""

    jobs: int
    seconds: float
    queued: int
    redis_bytes: int
    worker_bytes: int
    producer_bytes: int
    keys: int


@dataclass(slots=True)
class Soak:
    """`jobs`: that ran, each exactly once, which is known at the end; 0 until then."""

    low: int
    high: int
    jobs: int = 0
    seconds: float = 0.0
    cpu_us_per_job: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def trend(self, quantity: str) -> tuple[float, float, float]:
        """Median of the first quarter of the samples and of the last, and the slope per job over all of them."""
        values = [float(getattr(sample, quantity)) for sample in self.samples]
        jobs = [float(sample.jobs) for sample in self.samples]
        quarter = max(1, len(values) // 4)
        slope = statistics.linear_regression(jobs, values).slope if len(set(jobs)) > 1 else 0.0
        return statistics.median(values[:quarter]), statistics.median(values[-quarter:]), slope


@dataclass(slots=True)
class Results:
    """What was measured so far. `failures`: runs that were not valid, and why."""

    began: str
    server: str
    rounds: int
    python: str = field(default_factory=platform.python_version)
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    load_after: float = 0.0
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    soak: Soak | None = None

    def cases(self, part: str) -> dict[str, list[int]]:
        """What was measured of a part: sizes by group, in the order of their first runs."""
        found: dict[str, list[int]] = {}
        for run in self.runs:
            if run.part == part and run.size not in found.setdefault(run.group, []):
                found[run.group].append(run.size)
        return found

    def samples(self, part: str, group: str, size: int, figure: str) -> dict[int, float]:
        """By round."""
        return {
            run.round: run.figures[figure]
            for run in self.runs
            if (run.part, run.group, run.size) == (part, group, size) and figure in run.figures
        }

    def ratios(self, part: str, group: str, size: int) -> list[float]:
        """Jobs/s against the first size of the group, round by round."""
        first = self.cases(part)[group][0]
        rates = [self.samples(part, group, each, "run_per_s") for each in (size, first)]
        return round_ratios("run_per_s", *rates)

    def write(self, file: Path) -> None:
        """Whole or not at all: it is written again after every round."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        draft.replace(file)


# --- in a terminal --------------------------------------------------------------------------------------------------


def show(results: Results, console: Console) -> None:
    """Everything, as far as it was measured."""
    console.print(
        f"{results.server}, Python {results.python}, {results.system}, {results.cores} cores, load "
        f"{results.load_before:.1f} before and {results.load_after:.1f} after, {results.began}, {results.rounds} "
        "rounds. Medians (lowest–highest). Each job of each run shown ran exactly once.",
        highlight=False,
    )
    for part in LOOKS:
        if results.cases(part):
            console.print(_table(results, part))
    if results.soak is not None and results.soak.samples:
        _show_soak(results.soak, console)
    for failure in results.failures:
        console.print(f"✗ {failure}", highlight=False)


def _table(results: Results, part: str) -> Table:
    look = LOOKS[part]
    table = Table("", title=f"{part}: {look.title}", title_justify="left")
    for label in (look.sizes, *(LABELS[figure] for figure in look.figures), "jobs/s against the first"):
        table.add_column(label, justify="right")
    for group, sizes in results.cases(part).items():
        for size in sizes:
            samples = [list(results.samples(part, group, size, figure).values()) for figure in look.figures]
            ratios = results.ratios(part, group, size)
            verdict = ""
            if ratios and look.bar and size != sizes[0]:
                met = "met" if statistics.median(ratios) >= look.bar else "not met"
                verdict = f", {look.bar:g} ×: {met}"
            cells = (spread_text(Spread.of(values)) if values else "" for values in samples)
            table.add_row(group, f"{size:,}", *cells, ratio_text(ratios) + verdict)
        table.add_section()
    return table


def _show_soak(soak: Soak, console: Console) -> None:
    last = soak.samples[-1]
    rate = f"{number(last.jobs / last.seconds)} jobs/s, {len(soak.samples)} samples with {soak.low:,} queued"
    ran = f"{soak.jobs:,} jobs ran, each exactly once" if soak.jobs else f"not complete: {last.jobs:,} jobs"
    console.print(f"soak: {ran}; {rate}", highlight=False, style="italic")
    table = Table("")
    for label in ("first quarter", "last quarter", "slope per job"):
        table.add_column(label, justify="right")
    for quantity, (label, unit, name) in QUANTITIES.items():
        first, final, slope = soak.trend(quantity)
        words = [f"{number(value / unit)} {name}".strip() for value in (first, final)]
        table.add_row(label, *words, f"{slope:.6f}" + (" bytes" if name else ""))
    console.print(table)


# --- as a chart -----------------------------------------------------------------------------------------------------


def draw(results: Results) -> str:
    """The SVG's text. Raises ValueError if nothing that is drawn was measured."""
    parts, top = [], 0
    for part in DRAWN:
        for group, sizes in results.cases(part).items():
            rates = [(size, list(results.samples(part, group, size, "run_per_s").values())) for size in sizes]
            rows = [(f"{size:,}", Spread.of(values)) for size, values in rates]
            title = f"{group}: jobs/s by number of jobs {LOOKS[part].sizes}"
            parts.append(chart.draw_panel(title, rows, top))
            top += chart._HEAD + len(rows) * chart._ROW + chart._GAP
    if not parts:
        raise ValueError(f"nothing to draw: measure at least one of {', '.join(DRAWN)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {chart.WIDTH} {top}" width="{chart.WIDTH}" '
        f'height="{top}" role="img">\n<style>{chart._STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )
