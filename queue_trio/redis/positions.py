"""Where a job stands in its queue, and what is left of one that has ended. Reads for people, in bounded steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import State
from queue_trio.redis.keys import READY_KEYS

if TYPE_CHECKING:
    from queue_trio.core.store import PeekedJob
    from queue_trio.redis.client import Client
    from queue_trio.redis.keys import LaneKeys

SEARCHED_MAX: Final = 10_000
"""Entries of a ready list that are looked through for one job."""


class Position(msgspec.Struct, frozen=True):
    """How many go before it, of how many. `before` is None if it is on its way to a worker, or further than we look.

    `more_urgent`: ready jobs of higher priority, which go first with the strict strategy.
    """

    before: int | None
    of: int
    more_urgent: int = 0


class Remains(msgspec.Struct, frozen=True):
    """What Redis knows of a job that has ended. `id_taken_ms`: for how long its id stays taken, from now on."""

    result_bytes: int | None = None
    result_expires_ms: int | None = None
    id_taken_ms: int | None = None


async def position(client: Client, keys: LaneKeys, job: PeekedJob) -> Position | None:
    """Its place among those of its state; None for one that runs."""
    if job.state is State.READY:
        lists = [keys[name] for name in READY_KEYS]
        replies = await client.ask_many(
            [("LPOS", key, job.id, "MAXLEN", SEARCHED_MAX) for key in lists]
            + [("LLEN", key) for key in lists]
        )
        places, lengths = replies[: len(lists)], replies[len(lists) :]
        for rank, before in enumerate(places):
            if before is not None:
                return Position(before, lengths[rank], sum(lengths[:rank]))
        rank = PRIORITIES.index(job.priority) if job.priority is not None else len(lists) - 1
        return Position(None, lengths[rank], sum(lengths[:rank]))
    if job.state is State.SCHEDULED and job.priority is not None:
        member = f"{job.priority.rank}:{job.id}"
        before, length = await client.ask_many(
            [("ZRANK", keys["scheduled"], member), ("ZCARD", keys["scheduled"])]
        )
        return Position(before, length)
    if job.state is State.DEAD:
        before, length = await client.ask_many([("ZRANK", keys["dead"], job.id), ("ZCARD", keys["dead"])])
        return Position(before, length)
    return None


async def remains(client: Client, keys: LaneKeys, job_id: str, now_ms: int) -> Remains:
    """What is left of `job_id`: the size of its result, never the result, and whether its id is taken."""
    result = keys.result(job_id)
    size, expires_ms, taken = await client.ask_many(
        [("STRLEN", result), ("PTTL", result), ("ZSCORE", keys["unique"], job_id)]
    )
    taken_ms = 0 if taken is None else int(float(taken)) - now_ms
    # PTTL is -2 where there is no key at all; an empty result is a key too.
    kept = expires_ms != -2
    return Remains(
        result_bytes=size if kept else None,
        result_expires_ms=expires_ms if kept and expires_ms >= 0 else None,
        id_taken_ms=taken_ms if taken_ms > 0 else None,
    )
