"""A server that refuses writes: memory full, or a replica now. What takes jobs in stops; what gets them out goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Enqueued, Lane, State
from queue_trio.core.store import MAX_BATCH, Renewed
from queue_trio.errors import ServerError, ServerRefused
from queue_trio.redis.store import RedisStore
from tests.store.worlds import (
    HOUR_MS,
    LANE,
    World,
    dead,
    done,
    dump,
    ids,
    job,
    kept,
    redis_client,
    redis_world,
    release,
    retry,
    unix_url,
)
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.embedded import EmbeddedRedis


@pytest.fixture
async def private(private_redis: EmbeddedRedis) -> AsyncIterator[World]:
    async with redis_world(unix_url(private_redis.unix_socket)) as world:
        yield world


async def fill(world: World) -> None:
    """Memory full, to the last byte and beyond: the limit is far below what is in use."""
    await world.client.ask("CONFIG", "SET", "maxmemory", "100kb")
    with pytest.raises(ServerError, match="OOM"):
        await world.client.ask("SET", "probe", "x")


async def empty(world: World) -> None:
    await world.client.ask("CONFIG", "SET", "maxmemory", "0")


async def test_with_memory_full_enqueue_is_refused_and_changes_nothing(private: World) -> None:
    await private.enqueue("a", job("u", unique_ms=HOUR_MS))
    await fill(private)
    before = await dump(private.client, sessions=True)
    for jobs in (("b",), (job("s", delay_ms=HOUR_MS),), ("b", "c", "a")):
        with pytest.raises(ServerRefused, match="OOM"):
            await private.enqueue(*jobs)
    assert await dump(private.client, sessions=True) == before
    await empty(private)
    assert await private.enqueue("b") == [Enqueued.CREATED]
    await private.check()


async def test_with_memory_full_the_first_enqueue_of_a_new_client_is_refused_too(private: World) -> None:
    await fill(private)
    with pytest.raises(ServerRefused, match="OOM"):
        await private.enqueue("a")
    await empty(private)
    assert await private.store.lanes() == []


async def test_with_memory_full_jobs_are_claimed_renewed_and_settled(private: World) -> None:
    await private.enqueue(*"abcdefg", job("due", delay_ms=1), job("h", Priority.HIGH))
    await private.pass_ms(2)
    await fill(private)
    jobs = {one.id: one for one in (await private.claim(worker="w")).jobs}
    assert sorted(jobs) == sorted([*"abcdefg", "due", "h"])
    held = [(one.id, one.token) for one in jobs.values()]
    assert await private.store.renew(LANE, worker="w", lease_ms=HOUR_MS, held=held) == Renewed()
    accepted = await private.settle(
        done(jobs["a"]),
        retry(jobs["b"], HOUR_MS),
        retry(jobs["c"]),
        dead(jobs["d"]),
        release(jobs["e"]),
        release(jobs["f"], HOUR_MS),
        kept(jobs["g"], b"result"),
    )
    assert accepted == [True] * 7
    assert await private.settle(done(jobs["a"])) == [False]
    assert await private.store.result(LANE, "g") == b"result"
    assert await private.counts() == {
        "ready normal": 1,
        "scheduled": 3,
        "leased": 2,
        "dead": 1,
        "enqueued": 9,
        "completed": 2,
    }
    await private.check()


@pytest.mark.parametrize("outcome", [done, retry, dead, release], ids=lambda outcome: outcome.__name__)
async def test_with_memory_full_each_outcome_works_as_the_only_one(private: World, outcome: Any) -> None:
    await private.enqueue("a")
    await fill(private)
    (claimed,) = (await private.claim()).jobs
    assert await private.settle(outcome(claimed)) == [True]
    assert await private.settle(outcome(claimed)) == [False]
    await private.check()


async def test_with_memory_full_claims_that_find_nothing_work(private: World) -> None:
    await private.enqueue(job("later", delay_ms=HOUR_MS))
    await fill(private)
    assert ids(await private.claim()) == []
    assert ids(await private.claim(0)) == []
    await empty(private)
    await private.store.pause(LANE, True)
    await fill(private)
    assert (await private.claim()).paused
    assert ids(await private.store.adopt(LANE, worker="w", want=1, lease_ms=1)) == []


async def test_with_memory_full_sweeps_promote_reclaim_and_poison(private: World) -> None:
    await private.enqueue("a", "b", job("due", delay_ms=1, unique_ms=1))
    await private.lose(1)
    await private.sweep()
    await private.lose()
    await fill(private)
    swept = await private.sweep(max_crashes=1)
    assert sorted((*swept.reclaimed, *swept.poisoned)) in (["a", "b"], ["a", "b", "due"])
    assert swept.poisoned == ("a",)
    assert await private.store.peek(LANE, State.DEAD, count=9)
    assert (await private.sweep()).reclaimed == ()
    await private.check()


async def test_with_memory_full_workers_start_pull_adopt_and_leave(
    private: World, private_redis: EmbeddedRedis
) -> None:
    store = private.store
    names = [f"{number:04}" for number in range(MAX_BATCH + 1)]
    await private.enqueue(*names)
    await fill(private)
    client = redis_client(unix_url(private_redis.unix_socket), wait_when_refused=True)
    try:
        newcomer = RedisStore(client)
        with trio.fail_after(10):
            await newcomer.register(LANE, worker="w", info="{}")
    finally:
        await client.aclose()
    for _ in names:
        assert await store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=1)
    assert not await store.pull(LANE, worker="w", priority=Priority.LOW, timeout_s=0.01)
    await private.check()
    claim = await store.adopt(LANE, worker="w", want=2, lease_ms=HOUR_MS)
    assert ids(claim) == names[:2]
    await store.deregister(LANE, worker="w")
    assert ids(await private.claim(1)) == names[2:3]
    await private.check()


async def test_with_memory_full_operators_cancel_purge_replay_pause_drain_and_note(private: World) -> None:
    """Each as the first write of its kind, with nothing there yet that it could free."""
    operations = private.operations
    await private.kill("dead-1", job("d2", Priority.HIGH))
    await private.enqueue("a", "b", job("s", delay_ms=HOUR_MS))
    await private.store.register(LANE, worker="w", info="{}")
    await fill(private)
    await operations.note(b"first")
    await operations.note(b"second")
    assert await operations.trail(count=9) == [b"first", b"second"]
    assert await operations.replay(LANE, ["nobody"]) == [False]
    assert await operations.replay(LANE, ["d2"]) == [True]
    assert await operations.cancel(LANE, "nobody") is None
    assert await operations.cancel(LANE, "a") is State.CANCELLED
    assert await operations.cancel(LANE, "s") is State.CANCELLED
    assert await operations.purge(LANE, ["nobody"]) == [False]
    assert await operations.purge(LANE, ["dead-1"]) == [True]
    await private.store.pause(LANE, True)
    assert (await private.claim()).paused
    await private.store.pause(LANE, False)
    assert await operations.request_drain(LANE, "w")
    assert (await private.claim(0)).drain
    assert await private.counts() == {
        "ready high": 1,
        "ready normal": 1,
        "enqueued": 5,
        "cancelled": 2,
        "purged": 1,
    }
    await private.check()


async def test_with_memory_full_an_empty_lane_can_be_paused_and_a_trail_begun(private: World) -> None:
    await fill(private)
    await private.store.pause(LANE, True)
    await private.operations.note(b"paused")
    assert (await private.operations.lengths(LANE)).paused
    assert not await private.operations.request_drain(LANE, "nobody")


async def test_a_worker_waits_out_a_full_memory_where_it_cannot_work(
    private: World, private_redis: EmbeddedRedis
) -> None:
    client = redis_client(unix_url(private_redis.unix_socket), wait_when_refused=True)
    try:
        patient = RedisStore(client)
        await fill(private)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patient.enqueue, LANE, [job("a")])
            await eventually(lambda: client.down_since is not None)
            await empty(private)
        assert (await private.store.stats(LANE)).ready_total == 1
    finally:
        await client.aclose()


async def test_a_primary_that_became_a_replica_is_waited_out(
    private: World, private_redis: EmbeddedRedis
) -> None:
    await private.enqueue("a", "b")
    (claimed,) = (await private.claim(1)).jobs
    # No server listens there: the replica waits for its primary and answers reads meanwhile.
    await private.client.ask("REPLICAOF", "127.0.0.1", "1")
    finished: list[str] = []

    async def settle() -> None:
        assert await private.settle(done(claimed)) == [True]
        finished.append("settle")

    async def claim() -> None:
        assert ids(await private.claim(1)) == ["b"]
        finished.append("claim")

    async def enqueue() -> None:
        assert await private.enqueue("c") == [Enqueued.CREATED]
        finished.append("enqueue")

    async def pause() -> None:
        await private.store.pause(Lane("tests", 1), True)
        finished.append("pause")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for task in (settle, claim, enqueue, pause):
                nursery.start_soon(task)
            await eventually(lambda: private.client.down_since is not None)
            await private.store.wait([LANE], timeout_s=0.01)
            assert finished == []
            async with redis_world(unix_url(private_redis.unix_socket)) as operator:
                await operator.client.ask("REPLICAOF", "NO", "ONE")
    assert sorted(finished) == ["claim", "enqueue", "pause", "settle"]
    await private.check()


async def test_while_the_server_cannot_persist_nothing_is_lost_and_waiting_does_not_raise(
    private: World,
) -> None:
    await private.enqueue("a")
    ask = private.client.ask
    # Too few replicas is refused like a disk that cannot be written, and can be brought about at will.
    await ask("CONFIG", "SET", "min-replicas-to-write", "1")
    with pytest.raises(ServerRefused, match="NOREPLICAS"):
        await private.enqueue("b")
    with pytest.raises(ServerRefused, match="NOREPLICAS"):
        await private.claim(order=PRIORITIES)
    await private.store.wait([LANE], timeout_s=0.01)
    await ask("CONFIG", "SET", "min-replicas-to-write", "0")
    assert ids(await private.claim()) == ["a"]
