"""What is made of the measurements: the exactly-once check, percentiles, medians, spread and ratios. All pure.

A percentile is the smallest measured value that at least so many percent of all values do not exceed, as in HDR
histograms, but of the values themselves: none is rounded.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bench.catalogue import higher_is_better

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.peers.harness import Order


class Spread(NamedTuple):
    """The samples of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Raises ValueError without samples."""
        if not samples:
            raise ValueError("no samples")
        return cls(statistics.median(samples), min(samples), max(samples))


def fault_in(ran: Sequence[int], jobs: int) -> str | None:
    """What is wrong if these numbers ran and `range(jobs)` was enqueued; None if each ran exactly once."""
    counts = Counter(ran)
    expected = range(jobs)
    lost = [number for number in expected if number not in counts]
    twice = sorted(number for number, count in counts.items() if count > 1)
    foreign = sorted(number for number in counts if number not in expected)
    words = [
        f"{len(numbers)} of {jobs} jobs {what}, such as number {numbers[0]}"
        for numbers, what in (
            (lost, "did not run"),
            (twice, "ran more than once"),
            (foreign, "were never enqueued"),
        )
        if numbers
    ]
    return "; ".join(words) or None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in ascending order. Raises ValueError without values."""
    if not ordered:
        raise ValueError("no values")
    # Rounded first: 99.9 % of 1000 is 999.0000000000001 to the machine.
    rank = math.ceil(round(percent / 100 * len(ordered), 9))
    return ordered[max(0, rank - 1)]


def latency_figures(due_s: Sequence[float], started: Sequence[tuple[int, float]]) -> dict[str, float]:
    """From when a job was due to be sent until its handler started, so that a job that was sent late has waited too."""
    waits_ms = sorted((started_s - due_s[number]) * 1000 for number, started_s in started)
    return {
        "p50_ms": percentile(waits_ms, 50),
        "p90_ms": percentile(waits_ms, 90),
        "p99_ms": percentile(waits_ms, 99),
        "p99_9_ms": percentile(waits_ms, 99.9),
        "max_ms": waits_ms[-1],
    }


def overtaken_percent(levels: Sequence[int], at_once: int) -> float:
    """How many jobs came too late, by their priorities in the order of their starts, all queued before the first.

    Late is who came after more jobs of lower priority than can run at once: within those there is no order to keep.
    """
    started: Counter[int] = Counter()
    overtaken = 0
    for level in levels:
        overtaken += sum(count for lower, count in started.items() if lower < level) > at_once
        started[level] += 1
    return overtaken / len(levels) * 100


def round_ratios(figure: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """How many times better ours is, for each round that has both. Above 1 is always in our favour."""
    pairs = [(ours[number], theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    if higher_is_better(figure):
        return [mine / other for mine, other in pairs if other]
    return [other / mine for mine, other in pairs if mine]


def ratios_to_best(
    figure: str, ours: Mapping[int, float], peers: Mapping[str, Mapping[int, float]]
) -> list[float]:
    """As `round_ratios`, against whichever peer was best in each round."""
    choose = max if higher_is_better(figure) else min
    best = {
        number: choose(samples[number] for samples in peers.values() if number in samples)
        for number in ours
        if any(number in samples for samples in peers.values())
    }
    return round_ratios(figure, ours, best)


def run_figures(
    order: Order, *, ready_s: float, last_s: float, cpu_s: float, enqueue_s: float, levels: Sequence[int]
) -> dict[str, float]:
    """Everything that one preloaded run tells, by name."""
    return {
        "run_per_s": order.jobs / (last_s - ready_s),
        "cpu_us_per_job": cpu_s / order.jobs * 1e6,
        "enqueue_per_s": order.jobs / enqueue_s,
        "overtaken_percent": overtaken_percent(levels, order.concurrency),
    }
