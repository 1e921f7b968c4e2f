"""What is in a lane, read without changing anything: counts, jobs, results. For operators and the audit.

Turns replies into values. Where a script must look into inboxes, it sees to it that the registry is still true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import Lane, State
from queue_trio.core.store import MAX_BATCH, LaneStats, PeekedJob
from queue_trio.errors import InternalError
from queue_trio.redis import scripts
from queue_trio.redis.client import Call
from queue_trio.redis.keys import READY_KEYS, LaneKeys, lanes_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.redis.client import Client
    from queue_trio.redis.scripts import Script

BYTES_MAX: Final = 4 * 1024 * 1024
"""Of records and histories in one reply, roughly: no reply may keep the server from others for long."""

_PLACES = {State.SCHEDULED: "scheduled", State.LEASED: "lease", State.DEAD: "dead"}


class Reads:
    """`keys` gives the key names of a lane."""

    def __init__(self, client: Client, keys: Callable[[Lane], LaneKeys], prefix: str) -> None:
        self.client = client
        self._keys = keys
        self._prefix = prefix

    async def result(self, lane: Lane, job_id: str) -> bytes | None:
        reply = await self.client.ask("GET", self._keys(lane).result(job_id))
        assert reply is None or isinstance(reply, bytes)
        return reply

    async def lanes(self) -> list[Lane]:
        names = sorted(name.decode() for name in await self.client.ask("SMEMBERS", lanes_key(self._prefix)))
        return [
            Lane(queue, int(partition)) for queue, _, partition in (name.rpartition(".") for name in names)
        ]

    async def stats(self, lane: Lane) -> LaneStats:
        reply = await self.with_inboxes(lane, scripts.load("stats"))
        records, leased, scheduled, dead, workers, paused = reply[:6]
        enqueued, completed, cancelled, purged, adjusted = reply[6:11]
        return LaneStats(
            lane=str(lane),
            ready=dict(zip(PRIORITIES, reply[11:], strict=True)),
            scheduled=scheduled,
            leased=leased,
            dead=dead,
            records=records,
            enqueued=enqueued,
            completed=completed,
            cancelled=cancelled,
            purged=purged,
            adjusted=adjusted,
            workers=workers,
            paused=bool(paused),
        )

    async def inboxes(self, lane: Lane) -> tuple[list[str], list[str]]:
        """Every registered worker, and their inbox keys, four each."""
        keys = self._keys(lane)
        workers = [worker.decode() for worker in await self.client.ask("ZRANGE", keys["workers"], 0, -1)]
        return workers, [inbox for worker in workers for inbox in keys.inboxes(worker)]

    async def with_inboxes(self, lane: Lane, script: Script, ids: Sequence[str] | None = None) -> list[Any]:
        """Run a script that looks into every inbox, on a registry that is still true when it runs."""
        keys = script.keys(self._keys(lane))
        while True:
            workers, inboxes = await self.inboxes(lane)
            args = workers if ids is None else [len(workers), *workers, *ids]
            reply: list[Any] = await self.client.run(Call(script, (*keys, *inboxes), args))
            if reply:
                return reply

    async def peek(self, lane: Lane, state: State, *, count: int) -> list[PeekedJob]:
        keys = self._keys(lane)
        found: list[PeekedJob] = []
        if count < 1:
            return found
        if state is State.READY:
            lists = await self.client.ask_many([("LRANGE", keys[name], 0, count - 1) for name in READY_KEYS])
            for priority, ids in zip(PRIORITIES, lists, strict=True):
                found += [
                    PeekedJob(id=job_id.decode(), state=state, raw=None, priority=priority) for job_id in ids
                ]
        else:
            name = _PLACES.get(state)
            if name is None:
                raise InternalError(f"{state} jobs are gone: there is nothing to peek at")
            pairs = await self.client.ask("ZRANGE", keys[name], 0, count - 1, "WITHSCORES")
            for member, score in _scored(pairs):
                ranked = state is State.SCHEDULED
                found.append(
                    PeekedJob(
                        id=member[2:] if ranked else member,
                        state=state,
                        raw=None,
                        at_ms=int(score),
                        priority=PRIORITIES[int(member[0])] if ranked else None,
                    )
                )
        return await self._with_details(keys, found[:count])

    async def _with_details(self, keys: LaneKeys, jobs: list[PeekedJob]) -> list[PeekedJob]:
        names = ("job", "owner", "tries", "crashes", "error")
        found: list[PeekedJob] = []
        for at in range(0, len(jobs), MAX_BATCH):
            ids = [job.id for job in jobs[at : at + MAX_BATCH]]
            for piece in await bounded(self.client, [keys["job"], keys["error"]], ids):
                batch = jobs[len(found) : len(found) + len(piece)]
                columns = await self.client.ask_many([("HMGET", keys[name], *piece) for name in names])
                found += [detailed(job, *details) for job, *details in zip(batch, *columns, strict=True)]
        return found


async def bounded(client: Client, hashes: Sequence[str], ids: Sequence[str]) -> list[Sequence[str]]:
    """`ids` in runs whose values in these hashes are BYTES_MAX together, or one that is larger alone."""
    asked = [("HSTRLEN", key, id_) for key in hashes for id_ in ids]
    sizes = await client.ask_many(asked) if asked else []
    runs: list[Sequence[str]] = []
    start, total = 0, 0
    for at in range(len(ids)):
        size = sum(sizes[at :: len(ids)])
        if at > start and total + size > BYTES_MAX:
            runs.append(ids[start:at])
            start, total = at, 0
        total += size
    return [*runs, ids[start:]] if ids else []


def detailed(
    job: PeekedJob,
    raw: bytes | None,
    owner: bytes | None,
    tries: bytes | None,
    crashes: bytes | None,
    errors: bytes | None,
) -> PeekedJob:
    """`job`, of which only the place is known, with what the lane's hashes say of it."""
    return PeekedJob(
        id=job.id,
        state=job.state,
        raw=raw,
        at_ms=job.at_ms,
        priority=PRIORITIES[int(owner[:1])] if owner else job.priority,
        owner=owner[2:].decode() if owner else None,
        tries=int(tries or 0),
        crashes=crashes.count(b" ") + 1 if crashes else 0,
        errors=tuple(text(errors).split("\n")) if errors else (),
    )


def text(history: bytes) -> str:
    """An error history, whatever is in it: nobody may be kept from looking at a job, or from purging it."""
    return history.decode(errors="backslashreplace")


def _scored(pairs: list[Any]) -> list[tuple[str, float]]:
    """Members with scores: RESP3 nests them, RESP2 does not."""
    if pairs and isinstance(pairs[0], list):
        return [(member.decode(), float(score)) for member, score in pairs]
    return [(member.decode(), float(score)) for member, score in zip(pairs[::2], pairs[1::2], strict=True)]
