"""Reads a server's append-only file: the one record of the order in which things really happened.

Scripts are written there by their effects, each as one transaction, in the order in which the server ran them. So a
claim about atomicity, or about priority, can be judged from it, with no clock and no client's view involved.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import hiredis

from chaos.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Command = list[str]

INVERSIONS_MAX: Final = 20
"""So many are told; who breaks a promise that often has broken it."""


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


def inversions(folder: Path, ready_keys: Sequence[str]) -> tuple[int, list[str]]:
    """Claims that passed over a more urgent job that was ready, as lines for people; and how many claims there were.

    `ready_keys`: the ready lists, the most urgent first. Only of what `strict` did: other strategies may pass over.
    Raises HarnessError for a write to one of these lists whose meaning is not known.
    """
    ready = {key: deque[str]() for key in ready_keys}
    names = list(ready)
    claims = 0
    found: list[str] = []
    for commands in transactions(folder):
        taken: list[tuple[str, str]] = []
        for command in commands:
            taken += _replay(ready, command)
        if not taken:
            continue
        claims += 1
        least_urgent = max(names.index(key) for key, _ in taken)
        passed_over = [id for name in names[:least_urgent] for id in ready[name]]
        if passed_over and len(found) < INVERSIONS_MAX:
            id = next(id for key, id in taken if key == names[least_urgent])
            level = names[least_urgent].rpartition(":")[2]
            found.append(
                f"claim {claims} took {id} ({level}) while {passed_over[0]} and {len(passed_over) - 1} more "
                "of a higher priority were ready"
            )
    return claims, found


def _replay(ready: dict[str, deque[str]], command: Command) -> list[tuple[str, str]]:
    """Apply one write; what it took from a ready list, and from which."""
    name, *arguments = command
    name = name.upper()
    keys = arguments if name in {"DEL", "UNLINK"} else arguments[:1]
    if not any(key in ready for key in keys):
        return []
    key, *values = arguments
    match name:
        case "RPUSH":
            ready[key].extend(values)
        case "LPUSH":
            ready[key].extendleft(values)
        case "LPOP":
            count = min(int(values[0]) if values else 1, len(ready[key]))
            return [(key, ready[key].popleft()) for _ in range(count)]
        case "LREM":  # an operator's cancel: it takes one away, and is no claim
            if values[1] in ready[key]:
                ready[key].remove(values[1])
        case "DEL" | "UNLINK":  # how a pop that empties the list may be written
            taken = [(name, id) for name in keys if name in ready for id in ready[name]]
            for emptied in {name for name, _ in taken}:
                ready[emptied].clear()
            return taken
        case _:
            raise HarnessError(f"append-only file: {name} on {key}, and nobody knows what that means")
    return []
