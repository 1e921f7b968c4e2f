"""A suite as a table for a document: one row for each scenario, all its seeds in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from chaos.result import recovery_words, tightest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.result import Result

HEAD = (
    "scenario",
    "what goes wrong",
    "promises",
    "verdicts",
    "jobs",
    "lost",
    "unexpected",
    "twice",
    "inverted",
    "by hand",
    "nearest to its bound",
)
"""`twice`: duplicated with a cause; a plus and those without follow if there are any."""


def suite_table(results: Sequence[Result]) -> str:
    """Scenarios in the order in which they first ran; counts are sums over the seeds."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.scenario, []).append(result)
    rows = [HEAD, tuple("---" for _ in HEAD), *map(_row, by_name.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(results: Sequence[Result]) -> tuple[str, ...]:
    counts = [result.judgement.counts for result in results]
    verdicts = Counter(str(result.judgement.verdict) for result in results)
    without = sum(count.duplicated_without_cause for count in counts)
    recoveries = [recovery for result in results for recovery in result.judgement.recoveries]
    return (
        results[0].scenario,
        results[0].title,
        "".join(results[0].promises),
        ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()),
        f"{sum(count.acknowledged for count in counts):,}",
        f"{sum(count.lost for count in counts)}",
        f"{sum(count.unexpected for count in counts)}",
        f"{sum(count.duplicated for count in counts)}{f'+{without}' if without else ''}",
        f"{sum(count.inverted for count in counts)}",
        f"{sum(count.manual_interventions for count in counts)}",
        recovery_words(tightest([recovery for recovery in recoveries if recovery.name != "backlog drained"])),
    )
