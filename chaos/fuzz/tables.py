"""What fuzz tells a terminal: a line for each schedule, and the sum of it all. Gives things for rich to print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from chaos.fuzz.fuzzing import in_short, strain
from chaos.report.terminal import STYLES
from chaos.result import recovery_words
from chaos.scenario.model import Scenario
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from chaos.fuzz.fuzzing import Finding, Found, Tried


def line(number: int, tried: Tried) -> Text:
    """One schedule: number, seed, verdict, seconds, faults, and the first reason if it did not pass."""
    text = Text.assemble(
        (f"{number:>4}  {tried.seed:>9}  ", "dim"),
        (f"{tried.verdict:<7}", STYLES[tried.verdict]),
        f" {tried.seconds:5.1f} s  {tried.counts.acknowledged:>5,} jobs  ",
        in_short(Scenario.model_validate(tried.schedule)) or "no fault",
    )
    if tried.reasons and tried.verdict is not Verdict.PASS:
        text.append(f"; {tried.reasons[0]}", style="red")
    return text


def summary(found: Found) -> RenderableType:
    """Schedules by verdict, what they were made of, how near they came to each bound, and what was found."""
    counts = [tried.counts for tried in found.tried]
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("schedules", _verdicts(found)),
        ("jobs", Text(f"{sum(count.acknowledged for count in counts):,} acknowledged")),
        (
            "faults",
            Text(", ".join(f"{kind}×{number}" for kind, number in found.faults().most_common())),
        ),
        (
            "duplicates",
            Text(f"{sum(count.duplicated for count in counts):,} with a fault that explains them"),
        ),
        (
            "recovered",
            Text(f"{sum(count.recovered for count in counts):,} enqueues of unknown outcome that ran"),
        ),
        ("violations", Text(f"{len(found.findings)}" if found.findings else "none", style=_style(found))),
    ):
        head.add_row(Text(name, style="dim"), value)
    parts: list[RenderableType] = [Text(f"chaos fuzz, seed {found.seed}", style="bold"), head]
    nearest = sorted(found.nearest().values(), key=strain, reverse=True)
    if nearest:
        table = Table("bound", "nearest to it", "of", box=SIMPLE_HEAD, pad_edge=False)
        for recovery in nearest:
            style = "" if recovery.kept else "red"
            table.add_row(
                Text(recovery.formula), Text(recovery_words(recovery), style=style), Text(recovery.name)
            )
        parts.append(table)
    return Group(*parts, *(finding_words(finding) for finding in found.findings))


def finding_words(finding: Finding) -> RenderableType:
    """One schedule that did not pass, and how to run it again."""
    how_often = f"failed {finding.failed} of {finding.tries} times it was run"
    if finding.shrinking_runs:
        how_often += f", found with {finding.shrinking_runs} runs"
    return Group(
        Text(),
        Text(f"{finding.complaint}: {finding.why}", style="red"),
        Text(f"  kept: {finding.kept} ({finding.faults} faults, {finding.jobs} jobs; {how_often})"),
        Text.assemble("  again: ", (finding.command, "bold cyan"), overflow="fold"),
    )


def _verdicts(found: Found) -> Text:
    parts = [
        Text(f"{number} {verdict}", style=STYLES[verdict]) for verdict, number in found.verdicts().items()
    ]
    spent = f" in {sum(tried.seconds for tried in found.tried):.0f} s"
    return Text(", ").join(parts).append(spent) if parts else Text("nothing ran")


def _style(found: Found) -> str:
    return "bold red" if found.findings else "green"
