"""What a real server writes of every script that moves a job is read as what it was, and is lawful."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from pydantic import SecretStr

from chaos.judging.aof_judge import judge_file
from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Lane, NewJob, Outcome, Record, Verdict, encode_record
from queue_trio.core.settings import RedisSettings
from queue_trio.redis.client import Client
from queue_trio.redis.operations import RedisOperations
from queue_trio.redis.store import RedisStore
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chaos.judging.aof_judge import Told
    from queue_trio.core.job import Claim
    from queue_trio.embedded import EmbeddedRedis

LANE = Lane()
PREFIX = "drill"
LEASE_MS = 60_000


@pytest.fixture
async def store(private_redis: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    settings = RedisSettings(url=SecretStr(private_redis.url), prefix=PREFIX)
    client = Client.from_settings(settings, name="drill")
    yield RedisStore(client, prefix=PREFIX)
    await client.aclose()


async def put(store: RedisStore, *ids: str, priority: Priority = Priority.HIGH, delay_ms: int = 0) -> None:
    record = encode_record(Record(v=1, task="t", priority=priority))
    await store.enqueue(LANE, [NewJob(id, record, priority, delay_ms=delay_ms) for id in ids])


async def claim(store: RedisStore, want: int = 100, *, lease_ms: int = LEASE_MS, worker: str = "w") -> Claim:
    return await store.claim(LANE, worker=worker, want=want, lease_ms=lease_ms, order=PRIORITIES)


async def settle(store: RedisStore, claim: Claim, *verdicts: Verdict, delay_ms: int = 0) -> None:
    jobs = zip(claim.jobs, verdicts * len(claim.jobs), strict=False)
    await store.settle(
        LANE, [Outcome(job.id, job.token, verdict, delay_ms=delay_ms, detail=b"{}") for job, verdict in jobs]
    )


def told(redis: EmbeddedRedis, store: RedisStore) -> Told:
    return judge_file(redis.folder, store.keys(LANE))


async def test_every_move_of_a_job_is_read_as_lawful(private_redis: EmbeddedRedis, store: RedisStore) -> None:
    await store.register(LANE, worker="w", info="{}")
    for priority in PRIORITIES:
        await put(store, *(f"{priority}-{number}" for number in range(6)), priority=priority)
    await put(store, "critical-0")  # a duplicate
    await put(store, "later", delay_ms=1)
    await put(store, "much-later", delay_ms=LEASE_MS)
    claimed = await claim(store)
    await store.renew(LANE, worker="w", lease_ms=LEASE_MS, held=[(job.id, job.token) for job in claimed.jobs])
    await settle(store, claimed, *Verdict)  # done, retried, dead and released in turn
    await settle(store, claimed, Verdict.DONE)  # stale
    again = await claim(store)
    await settle(store, again, Verdict.DEAD)
    dead = [job.id for job in again.jobs]
    operations = RedisOperations(store)
    await operations.replay(LANE, dead[:2])
    await operations.purge(LANE, dead[2:4])
    await operations.cancel(LANE, dead[0])
    await operations.cancel(LANE, "much-later")

    found = told(private_redis, store)

    assert (found.misplaced, found.inversions) == ((), ())
    assert found.leases == len(claimed.jobs) + len(again.jobs)
    report = await store.audit(LANE)
    assert (report.ok, len(found.places)) == (True, report.live)


async def test_what_is_taken_back_is_lawful_and_a_poisoned_job_dies_at_once(
    private_redis: EmbeddedRedis, store: RedisStore
) -> None:
    await put(store, "a", "b", priority=Priority.LOW)

    async def taken_back() -> bool:
        swept = await store.sweep(LANE, lease_ms=LEASE_MS, max_crashes=1)
        return bool(swept.reclaimed or swept.poisoned)

    for worker in ("first", "second"):
        await claim(store, lease_ms=1, worker=worker)
        await eventually(taken_back)

    found = told(private_redis, store)
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 4)
    assert found.places == {"a": ("dead",), "b": ("dead",)}


async def test_the_blocking_move_is_lawful(private_redis: EmbeddedRedis, store: RedisStore) -> None:
    await put(store, *(f"job-{number}" for number in range(6)))
    for timeout_s in (0.0, 1.0, 0.0, 1.0):
        assert await store.pull(LANE, worker="w", priority=Priority.HIGH, timeout_s=timeout_s)
    adopted = await store.adopt(LANE, worker="w", want=2, lease_ms=LEASE_MS)

    async def wait_for_one() -> None:
        assert await store.pull(LANE, worker="w", priority=Priority.LOW, timeout_s=5)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_one)
            await put(store, "late", priority=Priority.LOW)
    await store.deregister(LANE, worker="w")
    await settle(store, adopted, Verdict.DONE)

    found = told(private_redis, store)

    assert (found.misplaced, found.leases) == ((), 2)
    assert found.places == dict.fromkeys(("job-2", "job-3", "job-4", "job-5"), ("ready:high",)) | {
        "late": ("ready:low",)
    }


async def test_what_was_damaged_by_hand_is_told_and_its_repair_too(
    private_redis: EmbeddedRedis, store: RedisStore
) -> None:
    await put(store, "gone", "twice", "fine")
    keys = store.keys(LANE)
    await store.client.command("LREM", keys["ready:high"], 1, "gone")
    await store.client.command("RPUSH", keys["ready:low"], "twice")
    await store.audit(LANE, repair=True)

    found = told(private_redis, store)

    assert {line.partition(":")[0] for line in found.misplaced} == {"gone", "twice"}
    assert all(", until transaction " in line for line in found.misplaced)
    assert [line.partition(":")[0] for line in found.inversions] == ["twice"]
    assert found.places == dict.fromkeys(("gone", "twice", "fine"), ("ready:high",))


async def test_killing_the_server_leaves_one_story(private_redis: EmbeddedRedis, store: RedisStore) -> None:
    await put(store, "a", "b", "c")
    claimed = await claim(store, 2)
    await private_redis.kill()
    await private_redis.restart()
    await settle(store, claimed, Verdict.DONE)
    await private_redis.terminate()
    await private_redis.restart()
    await claim(store)

    found = told(private_redis, store)
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 3)
    assert found.places == {"c": ("lease",)}
