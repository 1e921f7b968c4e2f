"""What commands print on standard output: lines, JSON, and tables that are pretty on a terminal and plain in a pipe."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queue_trio.cli.errors import OutputClosed, one_line, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

CELL_MAX = 80
"""Characters of one cell of a plain table."""

FOLDED_MAX = 800
"""Characters of one cell on a terminal, which folds them: arguments may be a megabyte."""

LINE_S = 5.0
"""Long work says how far it is this often where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Column:
    """`number` columns are set to the right; `whole` ones, and numbers, are never broken over lines."""

    name: str
    number: bool = False
    whole: bool = False


def counted(number: int, noun: str) -> str:
    """Such as "1 job" and "2 jobs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write(text: str) -> None:
    """Write a line. Raises OutputClosed if nobody reads it."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON value, as ASCII, so that nothing in a job can talk to the terminal."""
    write(json.dumps(value, indent=indent))


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Write rows under their headings."""
    if not sys.stdout.isatty():
        for line in plain_table(columns, rows):
            write(line)
        return
    from rich.console import Console

    Console(file=sys.stdout).print(rich_table(columns, rows))


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> Table:
    """The rows under their headings, for a terminal, which folds what is too wide."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Two spaces between columns: counts of a large queue must fit into 80 characters.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column.name,
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=column.number or column.whole,
        )
    for row in rows:
        table.add_row(*(Text(_shortened(one_line(str(value)), FOLDED_MAX)) for value in row))
    return table


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> list[str]:
    """The rows under their headings, one line each."""
    cells = [[_shortened(one_line(str(value)), CELL_MAX) for value in row] for row in rows]
    lines = [[column.name for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = []
    for line in lines:
        padded = (
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        table.append("  ".join(padded).rstrip())
    return table


@contextmanager
def progress(doing: str) -> Iterator[Callable[[str], None]]:
    """Yields what is to be told how far it is: drawn on a terminal, elsewhere a line on standard error now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(doing)) as status:
            yield lambda text: status.update(Text(text))
        return
    said_s = time.monotonic()

    def say_sometimes(text: str) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= LINE_S:
            said_s = time.monotonic()
            say(text)

    yield say_sometimes


def _shortened(cell: str, length_max: int) -> str:
    return cell if len(cell) <= length_max else cell[: length_max - 3] + "..."
