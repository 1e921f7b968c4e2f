"""Reads a server's append-only file: the one record of the order in which things really happened.

Scripts are written there by their effects, each as one transaction, in the order in which the server ran them. So a
claim about atomicity can be judged from it, with no clock and no client's view involved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hiredis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Command = list[str]


def transactions(folder: Path) -> Iterator[list[Command]]:
    """Every transaction in order, as its write commands; a command outside of one counts as one of its own."""
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    for file in sorted(folder.rglob("*.aof")):
        if not file.name.endswith(".base.aof"):
            reader.feed(file.read_bytes())
    inside: list[Command] | None = None
    while (command := reader.gets()) is not False:
        name = command[0].upper()
        if name == "MULTI":
            inside = []
        elif name == "EXEC":
            assert inside is not None
            yield inside
            inside = None
        elif inside is None:
            yield [command]
        else:
            inside.append(command)
