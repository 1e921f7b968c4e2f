"""`fuzz`: random schedules, for as long as there is time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
import typer

from chaos.cli.terminal import EXIT_UNEXPECTED, Seed, console, interruptible, progress
from chaos.fuzz.draw import draw
from chaos.fuzz.fuzzing import Fuzzer
from chaos.fuzz.tables import line, summary
from chaos.playing.runner import run_scenario
from chaos.playing.suite import PROGRAM
from chaos.report.terminal import full
from chaos.result import shown_command
from chaos.scenario.loading import SUFFIX
from chaos.scenario.writing import to_yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.fuzz.fuzzing import Tried
    from chaos.result import Result
    from chaos.scenario.model import Scenario


def register(cli: typer.Typer) -> None:
    """Add this command."""
    cli.command()(fuzz)


def fuzz(
    minutes: Annotated[float, typer.Option(min=0, help="Begin no schedule after so long.")] = 10,
    seed: Seed = 0,
    only: Annotated[int | None, typer.Option(min=0, help="Only the schedule of that seed, in full.")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="With --only: print the schedule, do not run it.")
    ] = False,
    shrink: Annotated[
        float, typer.Option(min=0, help="Minutes for making one failing schedule smaller; 0: leave it.")
    ] = 5,
    to: Annotated[
        Path, typer.Option(file_okay=False, help="Where schedules that do not pass are kept, as YAML.")
    ] = Path(),
    json: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write all that was tried and found there, as JSON.")
    ] = None,
    mutant: Annotated[str, typer.Option(help="Break queue_trio in this known way: it must be found.")] = "",
) -> None:
    """Run random schedules, and make those that fail smaller."""
    if show:
        typer.echo(to_yaml(draw(seed if only is None else only)), nl=False)
        return
    out = console()
    to.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with progress(out, quiet=True) as say:

        def done(tried: Tried) -> None:
            out.print(line(len(fuzzer.found.tried), tried), soft_wrap=True)

        fuzzer = Fuzzer(
            seed if only is None else only,
            run=partial(_run, say=say, mutant=mutant),
            clock=trio.current_time,
            say=say,
            done=done,
            keep=partial(_keep, to),
            command=_command,
            shrink_s=shrink * 60,
        )

        async def work() -> bool:
            if only is None:
                await fuzzer.run_for(minutes * 60)
            else:
                results.append(await fuzzer.run_one(only))
            return True

        try:
            interruptible(work)
        finally:  # interrupted, it tells what it has
            out.print(*(full(result) for result in results), summary(fuzzer.found), sep="\n")
            if json is not None:
                json.write_bytes(msgspec.json.encode(fuzzer.found) + b"\n")
    if not fuzzer.found.passed:
        raise typer.Exit(EXIT_UNEXPECTED)


async def _run(scenario: Scenario, seed: int, *, say: Callable[[str], None], mutant: str) -> Result:
    command = shown_command((*PROGRAM, "fuzz", "--only", str(seed)))
    return await run_scenario(scenario, seed=seed, command=command, say=say, mutant=mutant)


def _keep(folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}{SUFFIX}"
    file.write_text(text, "utf-8")
    return str(file)


def _command(file: str, seed: int) -> str:
    return shown_command((*PROGRAM, "run", file, "--seed", str(seed)))
