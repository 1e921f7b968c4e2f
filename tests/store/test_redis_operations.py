"""What Operations cost on Redis: one short call each, however long the queue; and what they bound."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from queue_trio.core.dequeue import Priority
from queue_trio.core.job import Failure, NewJob, State, encode_failure
from queue_trio.core.operations import TRAIL_LENGTH_MAX
from queue_trio.core.store import MAX_BATCH
from queue_trio.redis import operations
from queue_trio.redis.keys import trail_key, trail_session
from tests.store.worlds import HOUR_MS, LANE, World, job, lane_keys, record

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = lane_keys()
MANY = 20_000
CALL_US_MAX = 50_000
"""No call keeps the server from others for longer, on a slow machine."""


async def calls(world: World) -> dict[str, tuple[int, int]]:
    """Per command, as the server counts them: calls, microseconds. Those inside scripts, too."""
    text: bytes = await world.client.ask("INFO", "commandstats")
    found = re.findall(rb"cmdstat_(\S+?):calls=(\d+),usec=(\d+)", text)
    return {name.decode(): (int(count), int(spent_us)) for name, count, spent_us in found}


async def cost(world: World, call: Any) -> tuple[dict[str, int], int]:
    """What `call` made the server do: commands by name, and its scripts' microseconds."""
    before = await calls(world)
    await call()
    after = await calls(world)
    counts = {name: after[name][0] - before.get(name, (0, 0))[0] for name in after}
    spent_us = after["evalsha"][1] - before.get("evalsha", (0, 0))[1]
    return {name: count for name, count in counts.items() if count and name != "info"}, spent_us


def numbered(count: int) -> Iterator[list[str]]:
    """So many names, in their order, a batch at a time."""
    for at in range(0, count, MAX_BATCH):
        yield [f"{number:05}" for number in range(at, at + MAX_BATCH)]


async def fill_with_dead(world: World, count: int) -> None:
    """So many that died in one millisecond."""
    now_ms = await world.time.read_ms()
    failure = b"%d %s" % (
        now_ms,
        encode_failure(Failure(type="ValueError", message="oops", traceback="x" * 500)),
    )
    raw = record("t" * 200)
    for some in numbered(count):
        await world.client.ask("HSET", KEYS["job"], *(part for id_ in some for part in (id_, raw)))
        await world.client.ask("HSET", KEYS["error"], *(part for id_ in some for part in (id_, failure)))
        await world.client.ask("ZADD", KEYS["dead"], *(part for id_ in some for part in (now_ms, id_)))
    await world.client.ask("HINCRBY", KEYS["stats"], "enqueued", count)


async def test_lengths_are_one_call_that_costs_the_same_however_long_the_queue(redis: World) -> None:
    async def lengths() -> None:
        await redis.operations.lengths(LANE)

    async def of_many() -> None:
        for _ in range(100):
            await lengths()

    await redis.enqueue(*(job(f"{rank}-first", priority) for rank, priority in enumerate(Priority)))
    await lengths()
    before, _ = await cost(redis, lengths)
    _, before_us = await cost(redis, of_many)
    for some in numbered(MANY):
        await redis.enqueue(*some)
    await fill_with_dead(redis, 5000)
    after, _ = await cost(redis, lengths)
    _, after_us = await cost(redis, of_many)
    assert before["evalsha"] == 1
    assert after == before
    assert not {"lrange", "zrange", "hgetall", "hkeys", "keys", "scan"} & after.keys()
    assert after_us < 3 * before_us + 100 * 200


async def test_finding_a_job_costs_one_call_and_never_looks_through_a_list(redis: World) -> None:
    await redis.enqueue(*(f"{number:03}" for number in range(500)))
    await redis.operations.find(LANE, "499")

    async def find() -> None:
        found = await redis.operations.find(LANE, "499")
        assert found is not None
        assert found.state is State.READY

    spent, _ = await cost(redis, find)
    assert spent["evalsha"] == 1
    assert {"hget", "zscore", "evalsha"} >= spent.keys()


async def test_a_leased_id_without_a_record_is_found_where_it_is(redis: World) -> None:
    await redis.enqueue("a")
    await redis.claim()
    await redis.client.ask("HDEL", KEYS["job"], "a")
    found = await redis.operations.find(LANE, "a")
    assert found is not None
    assert (found.state, found.raw, found.priority) == (State.LEASED, None, Priority.NORMAL)


async def test_many_thousand_dead_are_browsed_and_purged_in_short_calls(redis: World) -> None:
    """All of one millisecond: the cursor is found by bisection, or this would grow with the square."""
    await fill_with_dead(redis, MANY)
    await redis.check()
    after, purged, longest_us = None, 0, 0
    pages: list[Any] = []

    async def browse() -> None:
        pages.append(await redis.operations.browse_dead(LANE, after=after, count=MAX_BATCH))

    async def purge() -> None:
        assert all(await redis.operations.purge(LANE, [one.id for one in pages[-1]]))

    await redis.operations.browse_dead(LANE, count=1)
    await redis.operations.purge(LANE, ["nobody"])
    for number in range(MANY // MAX_BATCH):
        spent, spent_us = await cost(redis, browse)
        assert spent["zrange"] <= 1 + MANY.bit_length()
        longest_us = max(longest_us, spent_us)
        after = (pages[-1][-1].at_ms, pages[-1][-1].id)
        if number % 2:  # so that the cursor is a job that is there, and one that is gone
            _, spent_us = await cost(redis, purge)
            longest_us = max(longest_us, spent_us)
            purged += MAX_BATCH
    assert longest_us < CALL_US_MAX
    assert [one.id for page in pages for one in page] == [f"{number:05}" for number in range(MANY)]
    stats = await redis.store.stats(LANE)
    assert (stats.purged, stats.dead, stats.imbalance) == (purged, MANY - purged, 0)


async def test_a_page_with_large_records_comes_in_several_replies(
    redis: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "BYTES_MAX", 1000)
    names = [f"{number:02}" for number in range(20)]
    await redis.kill(*(NewJob(name, record("x" * 300, Priority.HIGH)) for name in names))
    pages: list[Any] = []

    async def browse() -> None:
        pages.append(await redis.operations.browse_dead(LANE, count=15))

    await redis.operations.browse_dead(LANE, count=1)
    spent, _ = await cost(redis, browse)
    assert 4 <= spent["evalsha"] <= 8
    assert [one.id for one in pages[0]] == names[:15]
    assert await redis.operations.replay(LANE, names) == [True] * 20
    assert (await redis.store.stats(LANE)).ready[Priority.HIGH] == 20
    await redis.check()


async def test_ids_are_ordered_by_their_bytes_as_the_server_orders_them(redis: World) -> None:
    """Whatever the server's locale says of upper and lower case, or of punctuation."""
    names = ["B", "a", "_x", "-x", "Z", "z", "~", "!", "a-b", "a_b", "ab", "A", "é"]
    now_ms = await redis.time.read_ms()
    await redis.client.ask("ZADD", KEYS["dead"], *(part for name in names for part in (now_ms, name)))
    found: list[str] = []
    while page := await redis.operations.browse_dead(
        LANE, after=(now_ms, found[-1]) if found else None, count=1
    ):
        found += [one.id for one in page]
    assert found == sorted(names, key=str.encode)


async def test_the_trail_is_bounded_and_drops_the_oldest(redis: World) -> None:
    numbers = [f"{number}" for number in range(TRAIL_LENGTH_MAX)]
    await redis.client.ask("LPUSH", trail_key(), *numbers)
    await redis.operations.note(b"new")
    assert await redis.client.ask("LLEN", trail_key()) == TRAIL_LENGTH_MAX
    found = await redis.operations.trail(count=2 * TRAIL_LENGTH_MAX)
    assert found == [number.encode() for number in numbers[1:]] + [b"new"]


@pytest.mark.parametrize("prefix", ["qt", "a:b"])
def test_the_session_of_the_trail_lies_in_the_slot_of_the_trail(prefix: str) -> None:
    slots = {key_slot(key.encode()) for key in (trail_key(prefix), trail_session("1234", prefix))}
    assert len(slots) == 1


async def test_no_more_leases_are_read_than_promised_and_in_pages(
    redis: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_LEASES_PAGE", 4)
    monkeypatch.setattr(operations, "_LEASES_MAX", 10)
    await redis.store.register(LANE, worker="w", info="{}")
    await redis.enqueue(*(f"{number:02}" for number in range(20)))
    await redis.claim(9)
    (worker,) = await redis.operations.workers(LANE)
    assert worker.leased == 9
    await redis.claim(9)
    (worker,) = await redis.operations.workers(LANE)
    assert 10 <= worker.leased <= 12


async def test_a_store_that_closes_leaves_no_session_of_an_operator(redis: World) -> None:
    await redis.operations.note(b"entry")
    await redis.operations.cancel(LANE, "nobody")
    await redis.store.pause(LANE, False)
    assert len(await redis.client.ask("KEYS", "*:session:*")) == 2
    await redis.redis.aclose()
    assert await redis.client.ask("KEYS", "*:session:*") == []


async def test_requests_to_drain_of_workers_that_never_came_back_do_not_pile_up(redis: World) -> None:
    control = KEYS["control"]
    now_ms = await redis.time.read_ms()
    await redis.store.register(LANE, worker="here", info="{}")
    for worker in ("here", "frozen", "gone"):
        asked_ms = now_ms - (25 * HOUR_MS if worker != "frozen" else HOUR_MS)
        await redis.client.ask("HSET", control, f"drain:{worker}", asked_ms)
    await redis.client.ask("HSET", control, "paused", "0")
    assert not await redis.operations.request_drain(LANE, "nobody")
    assert sorted(await redis.client.ask("HKEYS", control)) == [b"drain:frozen", b"drain:here", b"paused"]
    await redis.store.deregister(LANE, worker="here")
    await redis.client.ask("HDEL", control, "drain:frozen")


async def test_a_peek_at_large_jobs_asks_for_a_few_at_a_time(redis: World) -> None:
    large = record("x" * 1_000_000)
    for number in range(9):
        await redis.enqueue(NewJob(f"{number}", large))
    before = (await calls(redis))["hmget"][0]
    found = await redis.store.peek(LANE, State.READY, count=9)
    assert [(one.id, one.raw) for one in found] == [(f"{number}", large) for number in range(9)]
    # Of 1 MB each four fit into one reply: three rounds of five hashes.
    assert (await calls(redis))["hmget"][0] - before == 15


async def test_a_history_that_is_no_text_is_shown_all_the_same(redis: World) -> None:
    await redis.kill("a")
    await redis.client.ask("HSET", KEYS["error"], "a", b"1 \xff\xfe")
    found = await redis.operations.find(LANE, "a")
    assert found is not None
    assert found.errors == ("1 \\xff\\xfe",)
