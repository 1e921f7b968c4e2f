"""`mutants`: shows that the suite can fail, by breaking queue_trio on purpose and looking who notices."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from chaos.cli.terminal import EXIT_UNEXPECTED, Seed, console, interruptible, progress
from chaos.report.terminal import STYLES
from chaos.result import PROMISES
from chaos.scenario.loading import load_all
from chaos.verdict import Verdict
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.mutants import Mutant
    from chaos.mutants.hunt import Attempt, Hunt
    from chaos.scenario.model import Scenario

IN_TIME: Final = "recovery in time"
"""What is broken by a mutant that breaks a bound and no promise."""


def register(cli: typer.Typer) -> None:
    """Add this command."""
    cli.command(name="mutants")(run_mutants)


def run_mutants(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; without any, all.")
    ] = None,
    seed: Seed = 0,
    every: Annotated[
        bool, typer.Option("--all", help="Run every scenario that should find one, also after the first.")
    ] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Run the same scenarios without the bug, too: they must pass.")
    ] = False,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the table there, as JSON.")] = None,
) -> None:
    """Break queue_trio on purpose, one bug at a time, and see whether the suite finds it."""
    chosen = _chosen(names or [])
    scenarios = load_all()
    out = console()
    hunts: list[Hunt] = []
    with progress(out, quiet=True) as say:

        def done(name: str, attempt: Attempt) -> None:
            out.print(_line(name, attempt), soft_wrap=True)

        try:
            interruptible(
                partial(
                    _hunt_all,
                    chosen,
                    scenarios,
                    hunts,
                    seed=seed,
                    every=every,
                    baseline=baseline,
                    say=say,
                    done=done,
                )
            )
        finally:  # interrupted, it tells what it has
            out.print(_table(hunts))
            out.print(_summary(hunts, len(chosen)))
    if json is not None:
        json.write_bytes(_to_json(hunts))
    if not all(hunt.sound for hunt in hunts):
        raise typer.Exit(EXIT_UNEXPECTED)


def _chosen(names: Sequence[str]) -> list[Mutant]:
    try:
        from chaos.mutants import MUTANTS, find_mutant
    except ModuleNotFoundError:
        raise ConfigError(
            "mutants: they are not installed, because they are broken; run this in a source tree of queue_trio"
        ) from None
    return [find_mutant(name) for name in dict.fromkeys(names)] or list(MUTANTS.values())


async def _hunt_all(
    mutants: Sequence[Mutant],
    scenarios: Sequence[Scenario],
    hunts: list[Hunt],
    *,
    seed: int,
    every: bool,
    baseline: bool,
    say: Callable[[str], None],
    done: Callable[[str, Attempt], None],
) -> bool:
    from chaos.mutants.hunt import hunt, killers_of

    for mutant in mutants:
        killers = killers_of(mutant, scenarios)
        hunts.append(
            await hunt(mutant, killers, seed=seed, say=say, done=done, every=every, baseline=baseline)
        )
    return True


# --- words -----------------------------------------------------------------------------------------------------------


def _line(name: str, attempt: Attempt) -> Text:
    text = Text.assemble(
        (f"{attempt.verdict:<7}", STYLES[attempt.verdict]),
        f" {attempt.scenario} ",
        (f"{attempt.seconds:.1f} s", "dim"),
        f" with {name}" if name else " without a mutant",
    )
    if attempt.found:
        text.append(", killed", style="bold")
    if attempt.reason:
        text.append(f"; {attempt.reason}", style="" if attempt.found else "red")
    return text


def _table(hunts: Sequence[Hunt]) -> Table:
    table = Table(title="chaos mutants", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head in ("mutant", "what is broken", "promise", "killed by", "verdict", "reason"):
        table.add_column(head, overflow="fold", no_wrap=head in ("mutant", "verdict"))
    table.add_column("survives\ncalm")
    table.add_column("seconds", justify="right")
    for hunt in hunts:
        shown = hunt.kill or (hunt.attempts[-1] if hunt.attempts else hunt.calm)
        table.add_row(
            hunt.mutant.name,
            hunt.mutant.broken,
            _promise(hunt.mutant),
            shown.scenario if hunt.kill else Text("nobody", style="bold red"),
            Text(shown.verdict, style="bold green" if shown.found else "bold red"),
            Text(shown.reason),
            "yes" if hunt.survives_calm else Text("no", style="bold red"),
            f"{hunt.seconds:.1f}",
        )
    return table


def _promise(mutant: Mutant) -> str:
    return f"{mutant.promise} {PROMISES[mutant.promise]}" if mutant.promise else IN_TIME


def _summary(hunts: Sequence[Hunt], total: int) -> Text:
    """How many were killed, and what else is wrong."""
    killed = sum(hunt.kill is not None for hunt in hunts)
    text = Text(f"{killed} of {total} killed in {sum(hunt.seconds for hunt in hunts):.0f} s", style="bold")
    for hunt in hunts:
        if hunt.kill is None:
            text.append(f"\n{hunt.mutant.name} lives: no scenario has found it", style="bold red")
        if not hunt.survives_calm:
            text.append(
                f"\n{hunt.mutant.name} does not survive calm, so it proves nothing: {hunt.calm.reason}",
                style="bold red",
            )
        for attempt in hunt.baseline:
            if attempt.verdict is not Verdict.PASS:
                text.append(
                    f"\n{attempt.scenario} does not pass without a mutant either: {attempt.reason}",
                    style="bold red",
                )
    return text


def _to_json(hunts: Sequence[Hunt]) -> bytes:
    document: dict[str, Any] = {
        "total": len(hunts),
        "killed": sum(hunt.kill is not None for hunt in hunts),
        "mutants": [_entry(hunt) for hunt in hunts],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _entry(hunt: Hunt) -> dict[str, Any]:
    return {
        "name": hunt.mutant.name,
        "broken": hunt.mutant.broken,
        "promise": hunt.mutant.promise,
        "seed": hunt.seed,
        "killed_by": hunt.kill.scenario if hunt.kill else None,
        "survives_calm": hunt.survives_calm,
        "sound": hunt.sound,
        "calm": hunt.calm,
        "attempts": hunt.attempts,
        "baseline": hunt.baseline,
    }
