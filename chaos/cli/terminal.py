"""What every command does with a terminal: a place for tables, a line of progress, an end that signals can bring."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import trio
import typer
from rich.console import Console
from rich.text import Text

from queue_trio.core.settings import LogSettings
from queue_trio.ops.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

EXIT_UNEXPECTED: Final = 1
EXIT_CONFIG: Final = 3
EXIT_INTERRUPTED: Final = 130
PIPED_COLUMNS: Final = 160
"""Width of a table that goes into a file: it shall not be folded to what a terminal happens to have."""

Seed = Annotated[int, typer.Option(min=0, help="Chance of the run: victims, delays, order of jobs.")]


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
    """Run it. SIGINT, SIGTERM and SIGHUP cancel it, so that everything it opened is closed. Raises typer.Exit then."""
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
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
