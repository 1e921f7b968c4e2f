"""The enqueue script's arguments and its answer, for every client: Trio, asyncio and plain threads. No I/O.

Contract: the header of `lua/enqueue.lua`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from queue_trio.core.dequeue import Priority
from queue_trio.core.job import Enqueued
from queue_trio.core.store import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from queue_trio.core.job import NewJob
    from queue_trio.errors import QueueTrioError

MAX_CALL_BYTES: Final = 1024 * 1024
"""Record bytes per call, roughly: one call must not block the server for long. A single larger record goes alone."""

_ANSWERS: Final = {ord("c"): Enqueued.CREATED, ord("d"): Enqueued.DUPLICATE, ord("r"): Enqueued.REFUSED}
_RANKS: Final = {priority: str(priority.rank) for priority in Priority}


def arguments(max_length: int, jobs: Iterable[NewJob]) -> list[str | int | bytes]:
    """What follows the sequence number."""
    found: list[str | int | bytes] = [max_length]
    for job in jobs:
        terms = _RANKS[job.priority]
        if job.delay_ms or job.unique_ms:
            terms = f"{terms} {job.delay_ms} {job.unique_ms}"
        found += (job.id, terms, job.record)
    return found


def answers(reply: bytes) -> list[Enqueued]:
    """One per job, in order."""
    return [_ANSWERS[letter] for letter in reply]


def piece_end(jobs: Sequence[NewJob], start: int, count_max: int = MAX_BATCH) -> int:
    """Where a piece that begins at `start` ends, so that it is small enough for one call, by number and by bytes."""
    end = min(len(jobs), start + count_max)
    size = 0
    for at in range(start, end):
        size += len(jobs[at].record)
        if size > MAX_CALL_BYTES and at > start:
            return at
    return end


def split(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Pieces small enough for one call each."""
    start = 0
    while start < len(jobs):
        end = piece_end(jobs, start)
        yield jobs[start:end]
        start = end


def twin(error: QueueTrioError) -> QueueTrioError:
    """A copy to raise: one object raised for several callers would mix up their tracebacks."""
    # Not copy.copy, which would call the class with `args`, and those are not what every constructor takes.
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
