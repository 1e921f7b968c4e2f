"""The proof: every file is read once more, directly, and must be what the queue's result says it is.

Shares no code with the workers' reading. A file that somebody changed since it was enqueued proves nothing either way;
it is reported and left out.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from queue_trio.demo.tasks import Measurement, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from queue_trio.demo.tasks import Result
    from queue_trio.runtime.folder import Found

PIECE = 64
"""Files that are read between two reports of progress."""
BLOCK = 1024 * 1024


class Difference(msgspec.Struct, frozen=True):
    """One way in which the queue's result is not the truth. `path`: relative to the folder."""

    path: str
    problem: str


class Verdict(msgspec.Struct):
    """`checked`: files read directly. `changed`: those somebody changed meanwhile, and how."""

    checked: int = 0
    differences: list[Difference] = []
    changed: list[Difference] = []

    @property
    def ok(self) -> bool:
        return not self.differences


async def check(
    enqueued: Mapping[str, Found], results: Sequence[Result], on_progress: Callable[[int], object]
) -> Verdict:
    """Hold `results` against the files themselves. `enqueued`: by job id. `on_progress`: files read so far."""
    verdict = Verdict()
    runs: dict[str, list[Measurement]] = {}
    for result in results:
        runs.setdefault(result.id, []).append(result.measured)
        if result.id not in enqueued:
            verdict.differences.append(
                Difference(result.path, f"job {result.id} ran, but nobody enqueued it")
            )
    jobs = list(enqueued.items())
    for at in range(0, len(jobs), PIECE):
        await trio.to_thread.run_sync(_check_piece, jobs[at : at + PIECE], runs, verdict)
        on_progress(verdict.checked)
    return verdict


def _check_piece(
    jobs: Sequence[tuple[str, Found]], runs: Mapping[str, list[Measurement]], verdict: Verdict
) -> None:
    for job_id, found in jobs:
        measured = runs.get(job_id, [])
        truth = read_directly(found.path)
        verdict.checked += 1
        # Looked at after reading: had it changed before or while it was read, that shows now.
        change = _change(found)
        if change:
            verdict.changed.append(Difference(found.relative, change))
        elif not measured:
            verdict.differences.append(Difference(found.relative, f"no result: job {job_id} was lost"))
        else:
            verdict.differences += [
                Difference(found.relative, problem)
                for problem in {_problem(it, truth) for it in measured}
                if problem
            ]


def read_directly(path: str) -> Measurement:
    """The truth about a file."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            lines = sum(block.count(b"\n") for block in iter(partial(file.read, BLOCK), b""))
            if size:
                file.seek(-1, os.SEEK_END)
                lines += file.read(1) != b"\n"
    except OSError as error:
        return Measurement(error=describe(error))
    return Measurement(size, lines, digest)


def _change(found: Found) -> str:
    try:
        now = os.stat(found.path)
    except OSError as error:
        return describe(error)
    if now.st_size != found.size:
        return f"had {found.size} bytes, has {now.st_size}"
    return "was written to" if now.st_mtime_ns != found.mtime_ns else ""


def _problem(measured: Measurement, truth: Measurement) -> str:
    return ", ".join(
        f"{name} is {getattr(measured, name)!r}, in truth {getattr(truth, name)!r}"
        for name in ("error", "size", "lines", "sha256")
        if getattr(measured, name) != getattr(truth, name)
    )
