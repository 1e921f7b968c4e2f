"""A result in the terminal: in full, in one line, and as one row of a suite's table. Gives things for rich to print.

Words of a run go in as `Text`, never as markup: a job's id may hold brackets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chaos.judging.timeline import story
from chaos.result import COUNTS, MUST_BE_ZERO, promise_words, recovery_words, tightest
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from chaos.result import Result
    from chaos.verdict import Counts, Invariant, Judgement, Proof, Recovery

STYLES: Final = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INVALID: "bold yellow",
    Verdict.ERROR: "bold magenta",
}
SUITE_NUMBERS: Final = (
    "jobs",
    "lost",
    "unex-\npected",
    "dupli-\ncated",
    "recov-\nered",
    "inver-\nsions",
    "recovery\nvs bound",
    "seconds",
)
OFFENDERS_MAX: Final = 3
"""Of one promise; the page and the JSON document have the others."""


def full(result: Result) -> RenderableType:
    """Everything but the timeline."""
    judgement = result.judgement
    parts: list[RenderableType] = [
        Text.assemble((f"{judgement.verdict}", STYLES[judgement.verdict]), "  ", (result.title, "bold")),
        Text(f"promises: {' · '.join(promise_words(result.promises))}"),
        Text(f"{result.scenario}, seed {result.seed}, {result.seconds:.1f} s", style="dim"),
        *(Text(f"• {reason}", style="red") for reason in judgement.reasons),
        Text(),
        _counts(judgement.counts),
    ]
    if judgement.recoveries:
        parts += [Text(), _recoveries(judgement.recoveries)]
    if judgement.proofs:
        parts += [Text(), Text("what proves that the faults bit"), *map(_proof, judgement.proofs)]
    if judgement.invariants:
        parts += [Text(), _invariants(judgement)]
    for invariant in judgement.invariants:
        parts += _offenders(result, invariant)
    if result.log_tail:
        parts += [
            Text(),
            Text("last lines of the log", style="bold"),
            Text("\n".join(result.log_tail), style="dim"),
        ]
    parts += [Text(), _again(result)]
    return Group(*parts)


def line(result: Result) -> Text:
    """The result in one line: verdict, scenario, what counts, and the first reason if it is no pass."""
    judgement, counts = result.judgement, result.judgement.counts
    text = Text.assemble(
        (f"{judgement.verdict:<7}", STYLES[judgement.verdict]),
        f" {result.scenario}",
        (f" seed {result.seed}, {result.seconds:.1f} s: ", "dim"),
        f"{counts.acknowledged:,} jobs, {counts.lost} lost, {counts.unexpected} unexpected, "
        f"{_duplicated(counts)} duplicated",
    )
    nearest = tightest(judgement.recoveries)
    if nearest is not None:
        text.append(f", {nearest.name} {recovery_words(nearest)}")
    if judgement.reasons:
        text.append(f"; {judgement.reasons[0]}", style="red")
    return text


def suite(results: Sequence[Result], title: str = "") -> Table:
    """A row for each result. The recovery shown is the one that came nearest to its bound, or broke it.

    "84+1" duplicated: 84 with cause, 1 without. Wants 120 columns; what is piped should get as many.
    """
    table = Table(
        title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("scenario", overflow="fold")
    for head in ("promises", "verdict"):
        table.add_column(head, no_wrap=True)
    for head in SUITE_NUMBERS:
        table.add_column(head, justify="right", no_wrap=True)
    for result in results:
        judgement, counts = result.judgement, result.judgement.counts
        nearest = tightest(judgement.recoveries)
        table.add_row(
            Text(result.scenario),
            Text("".join(result.promises)),
            Text(judgement.verdict, style=STYLES[judgement.verdict]),
            f"{counts.acknowledged:,}",
            _zero(counts.lost),
            _zero(counts.unexpected),
            Text(_duplicated(counts), style="red" if counts.duplicated_without_cause else ""),
            f"{counts.recovered:,}",
            _zero(counts.inverted),
            Text(recovery_words(nearest), style="red" if nearest is not None and not nearest.kept else ""),
            f"{result.seconds:.1f}",
        )
    return table


def suite_summary(results: Sequence[Result]) -> Text:
    """How many of each verdict, and in all how long: "11 PASS, 1 FAIL in 203 s"."""
    text = Text()
    for verdict in Verdict:
        number = sum(result.judgement.verdict is verdict for result in results)
        if number:
            text.append(", " if text.plain else "")
            text.append(f"{number} {verdict}", style=STYLES[verdict])
    if not results:
        text.append("nothing ran")
    return text.append(f" in {sum(result.seconds for result in results):.0f} s")


# --- parts ---------------------------------------------------------------------------------------------------------


def _counts(counts: Counts) -> Table:
    """The groups side by side."""
    grid = Table.grid(padding=(0, 3))
    tables: list[RenderableType] = []
    for group, fields in COUNTS.items():
        table = Table.grid(padding=(0, 1))
        table.add_column(justify="right", no_wrap=True)
        table.add_column()
        table.add_row("", Text(group, style="bold"))
        for name, label in fields:
            value = getattr(counts, name)
            table.add_row(
                _zero(value) if group == MUST_BE_ZERO else Text(f"{value:,}"), Text(label.split(":")[0])
            )
        tables.append(table)
    grid.add_row(*tables)
    return grid


def _recoveries(recoveries: Sequence[Recovery]) -> Table:
    table = Table("recovery", "", "measured", "how the bound is computed", box=None, pad_edge=False)
    for recovery in recoveries:
        mark = Text("kept", style="green") if recovery.kept else Text("broken", style="bold red")
        table.add_row(
            Text(recovery.name), mark, recovery_words(recovery), Text(recovery.formula, style="dim")
        )
    return table


def _proof(proof: Proof) -> Padding:
    seen = "\n".join(filter(None, proof.seen))
    missing = Text(f"\n{proof.missing}" if seen else proof.missing, style="red")
    return Padding(Text.assemble((f"{proof.fault}: ", "bold"), (seen, "dim"), missing), (0, 0, 0, 2))


def _invariants(judgement: Judgement) -> Table:
    table = Table("", "invariant", "", "broken by", box=None, pad_edge=False)
    for invariant in judgement.invariants:
        mark = Text("held", style="green") if invariant.held else Text("broken", style="bold red")
        table.add_row(
            Text(invariant.letter, style="bold"), Text(invariant.name), mark, f"{invariant.count:,}"
        )
    return table


def _offenders(result: Result, invariant: Invariant) -> list[RenderableType]:
    """The worst few; of the first, its whole history."""
    parts: list[RenderableType] = []
    for at, offender in enumerate(invariant.offenders[:OFFENDERS_MAX]):
        parts.append(
            Text.assemble((f"{invariant.letter} ", "bold red"), (offender.id, "bold"), f": {offender.why}")
        )
        if at == 0:
            lines = offender.history or story(result.history, offender.id, result.started_s)
            parts.append(Padding(Text("\n".join(lines), style="dim"), (0, 0, 0, 4)))
    more = len(invariant.offenders) - OFFENDERS_MAX
    if more > 0:
        parts.append(Text(f"and {more} more of {invariant.letter}", style="dim"))
    return [Text(), *parts] if parts else []


def _again(result: Result) -> Text:
    return Text.assemble("again: ", (result.command, "bold cyan"), overflow="fold", no_wrap=False)


def _duplicated(counts: Counts) -> str:
    """Those with cause, and beside them those without."""
    if counts.duplicated_without_cause:
        return f"{counts.duplicated:,}+{counts.duplicated_without_cause:,}"
    return f"{counts.duplicated:,}"


def _zero(value: int) -> Text:
    """A number that must be zero."""
    return Text(f"{value:,}", style="bold red" if value else "")
