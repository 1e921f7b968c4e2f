"""The demo's result as a file: one entry for every file, in order, so that two runs can be compared with `diff`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

import msgspec

from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queue_trio.demo.tasks import Result
    from queue_trio.runtime.folder import Found


def entries(enqueued: Mapping[str, Found], results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry per file that has a result, by path. A name that is not UTF-8 stands percent-encoded in `path_uri`."""
    measured = {result.id: result.measured for result in results}
    found = sorted(
        (os.fsencode(file.relative), job_id) for job_id, file in enqueued.items() if job_id in measured
    )
    return [_name(path) | msgspec.to_builtins(measured[job_id]) for path, job_id in found]


def _name(path: bytes) -> dict[str, Any]:
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path_uri": quote_from_bytes(path)}


def write_manifest(path: Path | None, folder: Path, made: Sequence[dict[str, Any]]) -> Path:
    """Write it to `path`, by default a new temporary file; one line per entry. Raises UsageError if it cannot."""
    head = msgspec.json.encode({"folder": folder.as_uri(), "files": len(made)})
    lines = b",\n".join(b"  " + msgspec.json.encode(entry) for entry in made)
    text = head[:-1] + b',"entries":[\n' + lines + b"\n]}\n"
    try:
        if path is None:
            descriptor, name = tempfile.mkstemp(prefix="queue-trio-manifest-", suffix=".json")
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
            return Path(name)
        path.write_bytes(text)
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def check_manifest(path: Path) -> None:
    """See beforehand whether `path` can be written; leaves it as it is. Raises UsageError."""
    try:
        if path.is_dir():
            raise UsageError(f"the manifest cannot be written to {path}: it is a folder; give a file")
        is_new = not path.exists()
        if is_new or path.is_file():  # to open a pipe would be to wait for its reader
            path.open("ab").close()
        if is_new:
            path.resolve().unlink()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path | None, error: OSError) -> UsageError:
    where = f" to {path}" if path else ""
    return UsageError(f"the manifest cannot be written{where}: {error.strerror or error}")
