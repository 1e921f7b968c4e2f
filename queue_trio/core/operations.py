"""What operators and gauges ask of a store: looking for one job, ending or replaying jobs, workers, counts at O(1).

Interface and value types only, beside `core.store`, which is what workers and clients need. Implemented on Redis by
`redis.operations` and in memory by `memory.operations`; one conformance suite holds both to the same behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import Lane, State
    from queue_trio.core.store import PeekedJob

HEAD_BYTES_MAX = 65_536
"""The record of a job at the head of its list is read along with the counts, unless it is larger."""

TRAIL_LENGTH_MAX = 10_000
"""Entries of the audit trail that are kept, the newest."""


class Head(msgspec.Struct, frozen=True):
    """The job that is next in one ready list. `raw` is None if it is larger than HEAD_BYTES_MAX.

    `failure`: the last line of its error history, "<server ms> <core.job.Failure as JSON>", if it was retried.
    """

    id: str
    priority: Priority
    raw: bytes | None = None
    failure: str | None = None


class Lengths(msgspec.Struct, frozen=True):
    """The counts of one lane and the heads of its lists, in one script call that is O(1) whatever the queue's length.

    Contrast `LaneStats`: what is in an inbox between a blocking move and its lease is not counted.
    """

    now_ms: int
    ready: dict[Priority, int]
    scheduled: int
    leased: int
    dead: int
    enqueued: int
    completed: int
    cancelled: int
    purged: int
    workers: int
    paused: bool
    heads: tuple[Head, ...] = ()


class WorkerSeen(msgspec.Struct, frozen=True):
    """A registered worker. `silent_ms`: since its last heartbeat. `info`: the JSON it registered with."""

    id: str
    silent_ms: int
    lease_ms: int
    leased: int
    draining: bool
    info: str


def check_batch(ids: Sequence[str], died_ms: Sequence[int | None] = ()) -> Sequence[tuple[str, int | None]]:
    """Each id with its time of death, None for whenever. Raises UsageError if they are too many for one step."""
    if len(ids) > MAX_BATCH:
        raise UsageError(f"{len(ids)} ids in one call: give at most {MAX_BATCH} at once")
    return list(zip(ids, died_ms or [None] * len(ids), strict=True))


class Operations(Protocol):
    """Every change happens once, also when its reply is lost, and is one atomic step for its lane.

    Batches are at most `core.store.MAX_BATCH` ids a call; UsageError if there are more. Every change works with memory
    full.
    """

    async def lengths(self, lane: Lane) -> Lengths:
        """The lane's counts and heads."""
        ...

    async def find(self, lane: Lane, job_id: str) -> PeekedJob | None:
        """The job, wherever it is, or None. O(1).

        A job in an inbox is READY. The priority of one that is READY or DEAD is what its record says, None if that
        cannot be decoded.
        """
        ...

    async def cancel(self, lane: Lane, job_id: str) -> State | None:
        """SCHEDULED or READY becomes CANCELLED. Returns CANCELLED if that was done, else the state it is in, or None.

        A job that is leased or dead is left alone, and so is one in an inbox, on its way to a worker: that is READY.
        An id enqueued with `unique_for` stays taken. O(length of the ready lists) for a ready job: not for hot paths.
        """
        ...

    async def browse_dead(
        self, lane: Lane, *, after: tuple[int, str] | None = None, count: int
    ) -> list[PeekedJob]:
        """Up to `count` dead jobs, the longest dead first, from behind `after` (the last one's `at_ms` and id).

        The one named by `after` may be gone by now. A job that is replayed and dies again is met again, later: who
        replays while browsing must stop at jobs that died after that began.
        """
        ...

    async def purge(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        """DEAD becomes PURGED: the jobs are gone. Per id, whether that was done.

        `died_ms`: as `PeekedJob.at_ms` for each id, if given. Who decides by what he has read must give it: a job that
        was replayed and died again since, or another one under the same id, is left alone.
        """
        ...

    async def replay(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        """DEAD becomes READY, at the end of its list, its tries and crashes forgotten. Per id, whether that was done.

        `died_ms` as for `purge`.

        The error history stays. Its list is that of the priority its record says, `normal` if that cannot be decoded.
        """
        ...

    async def workers(self, lane: Lane) -> list[WorkerSeen]:
        """Every registered worker, the one heard of last first. `leased` is counted from at most 10,000 leases."""
        ...

    async def request_drain(self, lane: Lane, worker: str) -> bool:
        """Ask a worker to drain and end, in all its lanes; it learns of it with its next claim or heartbeat.

        False if no such worker is registered in this lane. The request is forgotten when it leaves or registers anew,
        but not when it is buried for its silence: a frozen worker that comes back is told.
        """
        ...

    async def note(self, entry: bytes) -> None:
        """Append to the audit trail, one list for the whole installation, bounded by TRAIL_LENGTH_MAX."""
        ...

    async def trail(self, *, count: int) -> list[bytes]:
        """The newest `count` entries of the audit trail, the newest last."""
        ...
