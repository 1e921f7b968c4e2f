"""The command line, `python -m chaos`: list scenarios, run one, run a suite.

Exit codes: 0 if every verdict is what its scenario expects, 1 if one is not, 2 for a wrong command line, 3 for a
scenario that is wrong or is not there, 130 when interrupted.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import trio
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chaos.loading import SUFFIX, find_scenario, load_all
from chaos.report.page import render_page
from chaos.report.terminal import full, line, suite, suite_summary
from chaos.result import shown_command, to_json
from chaos.runner import run_scenario
from chaos.suite import PROGRAM, as_expected, chosen, resized, run_suite
from queue_trio.core.settings import LogSettings
from queue_trio.errors import ConfigError
from queue_trio.ops.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from chaos.result import Result
    from chaos.scenario import Scenario

T = TypeVar("T")

EXIT_UNEXPECTED: Final = 1
EXIT_CONFIG: Final = 3
EXIT_INTERRUPTED: Final = 130
PIPED_COLUMNS: Final = 160
"""Width of a table that goes into a file: it shall not be folded to what a terminal happens to have."""

cli = typer.Typer(
    name="chaos",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Break things around queue_trio, and judge from the outside whether it keeps its promises.",
)


class Size(StrEnum):
    SMOKE = "smoke"
    FULL = "full"


Seed = Annotated[int, typer.Option(min=0, help="Chance of the run: victims, delays, order of jobs.")]


@cli.command(name="list")
def list_scenarios() -> None:
    """Show every scenario."""
    table = Table("name", "promises", "suite", "title", box=SIMPLE_HEAD, pad_edge=False)
    for scenario in load_all():
        size = Size.SMOKE if scenario.smoke else Size.FULL
        table.add_row(scenario.name, scenario.promises, size.value, Text(scenario.title))
    console().print(table)


@cli.command()
def run(
    scenario: Annotated[str, typer.Argument(metavar="NAME|FILE", help=f"A scenario, or a file *{SUFFIX}.")],
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="So many jobs in all, instead of its own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="So many workers, instead of its own.")] = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the report there, as one HTML page.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the whole result there, as JSON.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep journals and logs.")] = False,
) -> None:
    """Run one scenario."""
    chosen_one = find_scenario(scenario)
    words = [*PROGRAM, "run", scenario, "--seed", str(seed)]
    resized_one = resized(chosen_one, jobs=jobs, workers=workers)
    words += ["--jobs", str(jobs)] if jobs is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    out = console()
    with progress(out) as say:
        result = interruptible(
            partial(run_scenario, resized_one, seed=seed, command=shown_command(words), say=say, keep=keep)
        )
    if json is not None:
        json.write_bytes(to_json(result))
    if report is not None:
        report.write_text(render_page(result), "utf-8")
    out.print(full(result))
    _tell_unexpected(out, [(resized_one, result)])


@cli.command(name="suite")
def run_many(
    size: Annotated[Size, typer.Argument(help="smoke: the short one. full: every scenario.")] = Size.SMOKE,
    seeds: Annotated[int, typer.Option(min=1, help="Run all of it with so many seeds.")] = 1,
    seed: Seed = 0,
) -> None:
    """Run many scenarios, and show them in a table."""
    scenarios = chosen(load_all(), smoke=size is Size.SMOKE)
    out = console()
    finished: list[tuple[Scenario, Result]] = []
    with progress(out, quiet=True) as say:

        def done(scenario: Scenario, result: Result) -> None:
            finished.append((scenario, result))
            out.print(line(result), soft_wrap=True)

        try:
            interruptible(partial(run_suite, scenarios, seeds=range(seed, seed + seeds), say=say, done=done))
        finally:  # interrupted, it tells what it has
            results = [result for _, result in finished]
            out.print(suite(results, f"chaos suite {size}"))
            out.print(suite_summary(results))
    _tell_unexpected(out, finished)


def _tell_unexpected(out: Console, finished: list[tuple[Scenario, Result]]) -> None:
    """What did not come out as it should, and how to run it again; then the exit code says so."""
    wrong = [(scenario, result) for scenario, result in finished if not as_expected(scenario, result)]
    for scenario, result in wrong:
        verdict = result.judgement.verdict
        out.print(Text(f"{scenario.name}: {verdict}, expected {scenario.expect.verdict}: {result.command}"))
    if wrong:
        raise typer.Exit(EXIT_UNEXPECTED)


# --- around the commands -------------------------------------------------------------------------------------------


def console() -> Console:
    """Standard output; a pipe gets lines that are wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_COLUMNS)


@contextmanager
def progress(out: Console, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Something to tell progress to. On a terminal it is one line that changes; elsewhere lines, unless `quiet`."""
    if not out.is_terminal:
        yield (lambda text: None) if quiet else (lambda text: out.print(Text(text, style="dim")))
        return
    with out.status("") as status:
        yield lambda text: status.update(Text(text))


def interruptible(work: Callable[[], Awaitable[T]]) -> T:
    """Run it. SIGINT and SIGTERM cancel it, so that everything it has opened is closed. Raises typer.Exit then."""
    found: list[T] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, nursery.cancel_scope)
            found.append(await work())
            nursery.cancel_scope.cancel()

    configure_logging(LogSettings(level="error"))
    trio.run(main)
    if not found:
        raise typer.Exit(EXIT_INTERRUPTED)
    return found[0]


async def _cancel_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Run one command line, given without the program's name, and give its exit code."""
    try:
        code = cli(arguments, prog_name="python -m chaos", standalone_mode=False)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except typer.TyperException as error:
        sys.stderr.write(f"python -m chaos: {error.format_message()}\n")
        return error.exit_code
    return code if isinstance(code, int) else 0
