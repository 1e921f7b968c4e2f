"""The Operations in memory, over the lanes of a `MemoryStore`: the model of what `redis.operations` does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import trio

from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import State, recorded_priority
from queue_trio.core.operations import HEAD_BYTES_MAX, Head, Lengths, WorkerSeen, check_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import Lane
    from queue_trio.core.store import PeekedJob
    from queue_trio.memory.lane import MemoryLane
    from queue_trio.memory.store import MemoryStore


class MemoryOperations:
    """See `core.operations.Operations`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def lengths(self, lane: Lane) -> Lengths:
        at, now = await self._store.enter(lane)
        return Lengths(
            now_ms=now,
            ready={priority: len(at.ready[priority]) for priority in PRIORITIES},
            scheduled=len(at.scheduled),
            leased=len(at.leased),
            dead=len(at.dead),
            enqueued=at.counts["enqueued"],
            completed=at.counts["completed"],
            cancelled=at.counts["cancelled"],
            purged=at.counts["purged"],
            workers=len(at.workers),
            paused=at.paused,
            heads=tuple(_head(at, priority) for priority in PRIORITIES if at.ready[priority]),
        )

    async def find(self, lane: Lane, job_id: str) -> PeekedJob | None:
        at, _ = await self._store.enter(lane)
        return _found(at, job_id) if job_id in at.jobs else None

    async def cancel(self, lane: Lane, job_id: str) -> State | None:
        at, _ = await self._store.enter(lane)
        return at.cancel(job_id)

    async def browse_dead(
        self, lane: Lane, *, after: tuple[int, str] | None = None, count: int
    ) -> list[PeekedJob]:
        at, _ = await self._store.enter(lane)
        ids = at.by_time(at.dead)
        if after is not None:
            ids = [id_ for id_ in ids if (at.dead[id_], id_) > after]
        return [_found(at, id_) for id_ in ids[: max(0, count)]]

    async def purge(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        deaths = check_batch(ids, died_ms)
        at, _ = await self._store.enter(lane)
        return [at.purge(*death) for death in deaths]

    async def replay(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        deaths = check_batch(ids, died_ms)
        at, _ = await self._store.enter(lane)
        replayed = [at.replay(*death) for death in deaths]
        at.tell(sum(replayed))
        return replayed

    async def workers(self, lane: Lane) -> list[WorkerSeen]:
        at, now = await self._store.enter(lane)
        leased = Counter(at.jobs[id_].token.rpartition(":")[0] for id_ in at.leased)
        return [
            WorkerSeen(
                id=worker,
                silent_ms=max(0, now - seen_ms),
                lease_ms=at.leases.get(worker, 0),
                leased=leased[worker],
                draining=worker in at.draining,
                info=at.worker_info.get(worker, ""),
            )
            for seen_ms, worker in sorted(((seen, name) for name, seen in at.workers.items()), reverse=True)
        ]

    async def request_drain(self, lane: Lane, worker: str) -> bool:
        at, _ = await self._store.enter(lane)
        if worker not in at.workers:
            return False
        at.draining.add(worker)
        return True

    async def note(self, entry: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._store.trail.append(entry)

    async def trail(self, *, count: int) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return list(self._store.trail)[-count:] if count > 0 else []


def _head(at: MemoryLane, priority: Priority) -> Head:
    id_ = at.ready[priority][0]
    job = at.jobs[id_]
    raw = job.record if len(job.record) <= HEAD_BYTES_MAX else None
    return Head(id_, priority, raw, job.errors[-1] if job.tries else None)


def _found(at: MemoryLane, id_: str) -> PeekedJob:
    found = at.peeked(id_)
    if found.state in (State.READY, State.DEAD):
        return msgspec.structs.replace(found, priority=recorded_priority(found.raw))
    return found
