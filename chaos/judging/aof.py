"""Reads a server's append-only file: the one record of the order in which things really happened.

Scripts are written there by their effects, each as one transaction, in the order in which the server ran them. So a
claim about atomicity, or about priority, can be judged from it, with no clock and no client's view involved. Knows
nothing of queues: what the writes mean is `replay`, whether they should have been is `aof_judge`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import hiredis

from chaos.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Command = list[str]

PIECE_BYTES: Final = 64 * 1024
"""The parser moves what is left to the front after each kilobyte: a whole file at once takes the square of its time."""


def transactions(folder: Path, database: int = 0) -> Iterator[list[Command]]:
    """Every transaction in order, as its writes to `database`; a command outside of one counts as one of its own.

    One that a kill cut off, at the end, is left out: a server that starts again does the same. Bytes that are no UTF-8
    are surrogates. Raises HarnessError if there is no file, if it does not begin at the beginning, or is damaged.
    """
    here, wanted = "0", str(database)
    for file in _files(folder):
        inside: list[Command] | None = None
        for command in _commands(file):
            name = command[0].upper()
            if name == "SELECT":
                here = command[1]
            elif name == "MULTI":
                inside = []
            elif name == "EXEC":
                if inside is None:
                    raise HarnessError(f"append-only file {file}: EXEC without MULTI, it is damaged")
                yield inside
                inside = None
            elif here == wanted and inside is None:
                yield [command]
            elif here == wanted and inside is not None:
                inside.append(command)


def _commands(file: Path) -> Iterator[Command]:
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    try:
        with file.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                reader.feed(piece)
                while (command := reader.gets()) is not False:
                    yield command
    except hiredis.ProtocolError as error:
        raise HarnessError(f"append-only file {file} is damaged: {error}") from None


def _files(folder: Path) -> list[Path]:
    """From Redis 7 on a manifest names them; before, there is one."""
    manifests = list(folder.rglob("*.aof.manifest"))
    files = _listed(manifests[0]) if manifests else list(folder.rglob("appendonly.aof"))
    if not files:
        raise HarnessError(
            f"there is no append-only file in {folder}, and it is needed to judge what happened"
        )
    for file in files:
        with file.open("rb") as opened:
            if opened.read(5) == b"REDIS":
                raise _rewritten(file)
    return files


def _listed(manifest: Path) -> list[Path]:
    """The files with commands, in order. The snapshot before them is of an empty server: `seq 1`, or it is refused."""
    entries = [line.split() for line in manifest.read_text("utf-8").splitlines() if line.startswith("file ")]
    told = [dict(zip(words[::2], words[1::2], strict=True)) for words in entries]
    files: list[Path] = []
    for entry in sorted(told, key=lambda entry: (entry["type"] != "b", int(entry["seq"]))):
        file = manifest.parent / entry["file"]
        if entry["type"] == "b" and entry["seq"] != "1":
            raise _rewritten(file)
        if file.suffix == ".aof":
            files.append(file)
    return files


def _rewritten(file: Path) -> HarnessError:
    return HarnessError(f"append-only file {file}: it was rewritten, so how it began is not there any more")
