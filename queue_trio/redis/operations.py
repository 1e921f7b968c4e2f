"""The Operations on Redis: each change one script call that happens once, each read one script call.

Turns values into script arguments and replies into values; everything else is the store's. The changes of a lane share
a session, so they go one after the other, which is all that operators need.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import State, recorded_priority
from queue_trio.core.operations import (
    HEAD_BYTES_MAX,
    TRAIL_LENGTH_MAX,
    Head,
    Lengths,
    WorkerSeen,
    check_batch,
)
from queue_trio.core.store import PeekedJob
from queue_trio.redis import scripts
from queue_trio.redis.client import Call
from queue_trio.redis.keys import trail_key, trail_session
from queue_trio.redis.reads import BYTES_MAX, bounded, detailed, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queue_trio.core.job import Lane
    from queue_trio.redis.scripts import Script
    from queue_trio.redis.store import RedisStore

_LEASES_MAX: Final = 10_000
_LEASES_PAGE: Final = 1000


class RedisOperations:
    """See `core.operations.Operations`. Uses the store's connections, and its sessions, which end with it."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._client = store.client
        self._trail_key = trail_key(store.prefix)
        self._trail = store.shared_session(trail_session(store.incarnation, store.prefix))

    async def lengths(self, lane: Lane) -> Lengths:
        reply = await self._read(lane, scripts.load("lengths"), HEAD_BYTES_MAX)
        now_ms, paused, workers, scheduled, leased, dead, enqueued, completed, cancelled, purged = reply[:10]
        return Lengths(
            now_ms=now_ms,
            ready=dict(zip(PRIORITIES, reply[10], strict=True)),
            scheduled=scheduled,
            leased=leased,
            dead=dead,
            enqueued=enqueued,
            completed=completed,
            cancelled=cancelled,
            purged=purged,
            workers=workers,
            paused=bool(paused),
            heads=tuple(
                Head(
                    id_.decode(),
                    PRIORITIES[rank],
                    raw,
                    None if failure is None else text(failure),
                )
                for rank, id_, raw, failure in _rows(reply[11], 4)
            ),
        )

    async def find(self, lane: Lane, job_id: str) -> PeekedJob | None:
        reply = await self._read(lane, scripts.load("find"), job_id)
        if not reply:
            return None
        place, score, rank, raw, *details = reply
        state = State(place.decode())
        known = PeekedJob(
            id=job_id,
            state=state,
            raw=None,
            at_ms=int(float(score)) if score else None,
            priority=PRIORITIES[rank] if rank >= 0 else recorded_priority(raw),
        )
        return detailed(known, raw, *details)

    async def cancel(self, lane: Lane, job_id: str) -> State | None:
        answer = (await self._change(lane, scripts.load("cancel"), job_id)).decode()
        return None if answer == "none" else State(answer)

    async def browse_dead(
        self, lane: Lane, *, after: tuple[int, str] | None = None, count: int
    ) -> list[PeekedJob]:
        found: list[PeekedJob] = []
        more = 1
        while more and len(found) < count:
            cursor = after or ()
            args = (count - len(found), BYTES_MAX, *cursor)
            more, *jobs = await self._read(lane, scripts.load("browse"), *args)
            for id_, died_at, raw, tries, crashes, errors in _rows(jobs, 6):
                after = (int(float(died_at)), id_.decode())
                known = PeekedJob(after[1], State.DEAD, None, after[0], recorded_priority(raw))
                found.append(detailed(known, raw, None, tries, crashes, errors))
        return found

    async def purge(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        jobs = _flat(check_batch(ids, died_ms))
        letters = await self._change(lane, scripts.load("purge"), *jobs)
        return [letter == ord("p") for letter in letters]

    async def replay(
        self, lane: Lane, ids: Sequence[str], *, died_ms: Sequence[int | None] = ()
    ) -> list[bool]:
        jobs = _flat(check_batch(ids, died_ms))
        ranks = "".join(str(priority.rank) for priority in await self._priorities(lane, ids))
        letters = await self._change(lane, scripts.load("replay"), ranks, *jobs)
        return [letter == ord("r") for letter in letters]

    async def workers(self, lane: Lane) -> list[WorkerSeen]:
        now_ms, *found = await self._read(lane, scripts.load("workers"))
        leased = await self._leases(lane)
        return [
            WorkerSeen(
                id=worker.decode(),
                silent_ms=max(0, now_ms - int(float(seen_ms))),
                lease_ms=int(float(lease_ms or 0)),
                leased=leased[worker],
                draining=bool(drain),
                info=(info or b"").decode(),
            )
            for worker, seen_ms, lease_ms, info, drain in _rows(found, 5)
        ]

    async def request_drain(self, lane: Lane, worker: str) -> bool:
        return bool(int(await self._change(lane, scripts.load("drain"), worker)))

    async def note(self, entry: bytes) -> None:
        keys = (self._trail.key, self._trail_key)
        await self._trail.call(scripts.load("note"), keys, (TRAIL_LENGTH_MAX, entry))

    async def trail(self, *, count: int) -> list[bytes]:
        if count < 1:
            return []
        newest: list[bytes] = await self._client.ask("LRANGE", self._trail_key, 0, count - 1)
        return newest[::-1]

    # --- calls -----------------------------------------------------------------------------------------------------

    async def _read(self, lane: Lane, script: Script, *args: str | int) -> Any:
        return await self._client.run(Call(script, script.keys(self._store.keys(lane)), args))

    async def _change(self, lane: Lane, script: Script, *args: str | int) -> Any:
        return await self._store.operate(lane, script, args)

    async def _priorities(self, lane: Lane, ids: Sequence[str]) -> list[Priority]:
        """What the records of `ids` say. Scripts do not look into records, and a dead job has no other place for it."""
        key = self._store.keys(lane)["job"]
        found: list[Priority] = []
        for piece in await bounded(self._client, [key], ids):
            for raw in await self._client.ask("HMGET", key, *piece):
                found.append(recorded_priority(raw) or Priority.NORMAL)  # noqa: PERF401  # an await per piece
        return found

    async def _leases(self, lane: Lane) -> Counter[bytes]:
        """How many leases each worker has, among the first to expire."""
        keys = self._store.keys(lane)
        owners: dict[bytes, bytes] = {}
        for at in range(0, _LEASES_MAX, _LEASES_PAGE):
            ids = await self._client.ask("ZRANGE", keys["lease"], at, at + _LEASES_PAGE - 1)
            if ids:
                # By id, because leases move while they are read: one may be met twice.
                owners.update(zip(ids, await self._client.ask("HMGET", keys["owner"], *ids), strict=True))
            if len(ids) < _LEASES_PAGE:
                break
        return Counter(owner[2:].rpartition(b":")[0] for owner in owners.values() if owner)


def _flat(deaths: Sequence[tuple[str, int | None]]) -> list[str | int]:
    return [value for id_, at_ms in deaths for value in (id_, "" if at_ms is None else at_ms)]


def _rows(flat: Sequence[Any], width: int) -> Iterator[Sequence[Any]]:
    return (flat[at : at + width] for at in range(0, len(flat), width))
