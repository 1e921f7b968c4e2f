"""What purge-dlq takes away, kept in a file: one JSON object a line (NDJSON), and nothing of a job is lost.

    {"id": "...", "queue": "default", "partition": 0, "died_ms": 1790000000000, "priority": "high",
     "tries": 3, "crashes": 0, "record": "{\\"v\\":1,\\"task\\":...}", "history": ["1790000000000 {\\"type\\":...}"]}

`record` is the record's own text, byte for byte; one that is no UTF-8 JSON is in `record_base64` instead, and one that
was missing is null. `history` is as in `core.store.PeekedJob.errors`. docs/dead-letters.md tells how to enqueue again
what is in such a file.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from queue_trio.errors import QueueTrioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queue_trio.core.job import Lane
    from queue_trio.core.store import PeekedJob


class ExportFailed(QueueTrioError):
    """The file cannot be written. What is not in it is not purged."""


def exported(lane: Lane, job: PeekedJob) -> dict[str, Any]:
    """One line of the file."""
    return {
        "id": job.id,
        "queue": lane.queue,
        "partition": lane.partition,
        "died_ms": job.at_ms,
        "priority": str(job.priority) if job.priority else None,
        "tries": job.tries,
        "crashes": job.crashes,
        **_record(job.raw),
        "history": list(job.errors),
    }


def _record(raw: bytes | None) -> dict[str, str | None]:
    if raw is None:
        return {"record": None}
    try:
        text = raw.decode()
        msgspec.json.decode(raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return {"record_base64": base64.b64encode(raw).decode()}
    return {"record": text}


def default_path(queue: str | None, at_text: str) -> Path:
    """A file in the current folder that is not there yet. `at_text`: the time, in ISO 8601."""
    stem = f"purged-{queue or 'all'}-{at_text.replace(':', '').replace('-', '')}"
    path = Path(f"{stem}.ndjson")
    number = 2
    while os.path.lexists(path):
        path = Path(f"{stem}-{number}.ndjson")
        number += 1
    return path


def demand_new(path: Path) -> None:
    """Raises UsageError if there is something already, or no folder for it."""
    if os.path.lexists(path):
        raise UsageError(f"--export {path}: is there already, and is not overwritten: choose another name")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--export {path}: there is no folder {path.absolute().parent}")


class Export:
    """A file that only its owner can read. It is made with the first batch: nothing purged, no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._size = 0

    async def append(self, lane: Lane, jobs: Sequence[PeekedJob]) -> None:
        """Write these jobs; they are on the disk when this returns. Raises ExportFailed, UsageError if it exists."""
        import trio

        # Not to be cancelled: the thread would go on, and with it the file.
        await trio.to_thread.run_sync(self._append, (exported(lane, job) for job in jobs))

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def written(self) -> bool:
        """Whether there is a file."""
        return self._size > 0

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        descriptor = self._open() if self._descriptor is None else self._descriptor
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError as error:
            # Half a line would make the file unreadable.
            os.ftruncate(descriptor, self._size)
            raise ExportFailed(
                f"cannot write {self.path}: {error.strerror}; what is not in it stays"
            ) from error
        self._size += len(data)

    def _open(self) -> int:
        try:
            # O_EXCL follows no link and overwrites nothing, also if the file came between the look and now.
            found = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._descriptor = found
            folder = os.open(self.path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileExistsError:
            demand_new(self.path)
            raise
        except OSError as error:
            raise UsageError(
                f"--export {self.path}: {error.strerror}: choose another, or --no-export"
            ) from None
        return found
