"""What commands print on standard output: lines, JSON, and tables that are pretty on a terminal and plain in a pipe."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queue_trio.cli.errors import OutputClosed, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

CELL_MAX = 80
"""Characters of one cell of a plain table; a terminal folds instead."""


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
    cells = [[one_line(str(value)) for value in row] for row in rows]
    if sys.stdout.isatty():
        _write_rich(columns, cells)
    else:
        _write_plain(columns, cells)


def _write_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.name,
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=column.number or column.whole,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout).print(table)


def _write_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    lines = [[column.name for column in columns], *([_shortened(cell) for cell in row] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        write("  ".join(padded).rstrip())


def _shortened(cell: str) -> str:
    return cell if len(cell) <= CELL_MAX else cell[: CELL_MAX - 3] + "..."
