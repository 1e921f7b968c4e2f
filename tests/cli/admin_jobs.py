"""Jobs for the admin commands to look at: ready, leased and dead ones, by the store's own transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import (
    Failure,
    Lane,
    NewJob,
    Outcome,
    Record,
    Verdict,
    encode_failure,
    encode_record,
)
from queue_trio.core.settings import RedisSettings
from queue_trio.core.store import MAX_BATCH
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cli.conftest import Invoke

LANE = Lane("default")

KINDS = (
    ("tasks.touch", Failure(type="ValueError", message="no such thing")),
    ("tasks.fail", Failure(type="TimeoutError", message="took too long")),
    ("mail.send", Failure(type="SMTPError", message="Mailbox full")),
)


def with_store(url: str, act: Callable[[RedisStore], Awaitable[None]]) -> None:
    """Let `act` change what is in Redis."""

    async def run() -> None:
        client = Client.from_settings(RedisSettings.model_validate({"url": url}), name="test")
        store = RedisStore(client)
        try:
            await act(store)
        finally:
            await store.aclose()
            await client.aclose()

    trio.run(run)


def put(invoke: Invoke, job_id: str, *more: str) -> None:
    """Enqueue one job."""
    assert invoke("enqueue", "tasks:app", "touch", f"path={job_id}.txt", "--id", job_id, *more).code == 0


async def claim_all(store: RedisStore) -> None:
    """Lease what is ready."""
    await store.claim(LANE, worker="w1", want=9, lease_ms=60_000, order=PRIORITIES)


async def kill_one(
    store: RedisStore,
    message: str = "no \x1b[31mred\x1b[0m\nplease",
    traceback: str = 'Traceback (most recent call last):\n  File "tasks.py", line 9',
) -> None:
    """The next ready job becomes a dead one."""
    claim = await store.claim(LANE, worker="w1", want=1, lease_ms=60_000, order=PRIORITIES)
    (job,) = claim.jobs
    failure = encode_failure(
        Failure(type="ValueError", message=message, attempt=1, worker="w1", traceback=traceback)
    )
    await store.settle(LANE, [Outcome(job.id, job.token, Verdict.DEAD, detail=failure)])


async def kill_many(store: RedisStore, number: int, *, queue: str = "default") -> None:
    """`number` dead jobs, dead-0 and so on, of each of KINDS in turn."""
    lane = Lane(queue)
    for at in range(0, number, MAX_BATCH):
        jobs = []
        for i in range(at, min(number, at + MAX_BATCH)):
            args = msgspec.Raw(b'{"path":"%d.txt"}' % i)
            record = Record(1, KINDS[i % 3][0], args, Priority.HIGH, timeout_ms=1500)
            jobs.append(NewJob(f"dead-{i}", encode_record(record), Priority.HIGH))
        await store.enqueue(lane, jobs)
        claim = await store.claim(lane, worker="w1", want=MAX_BATCH, lease_ms=60_000, order=[Priority.HIGH])
        outcomes = []
        for job in claim.jobs:
            detail = encode_failure(KINDS[int(job.id.removeprefix("dead-")) % 3][1])
            outcomes.append(Outcome(job.id, job.token, Verdict.DEAD, detail=detail))
        assert all(await store.settle(lane, outcomes))


def table(text: str) -> list[dict[str, str]]:
    """The rows of a plain table, by heading."""
    heading, *rows = text.splitlines()
    names = heading.split()
    return [dict(zip(names, row.split(maxsplit=len(names)), strict=False)) | {"": row} for row in rows]
