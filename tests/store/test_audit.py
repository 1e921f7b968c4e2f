"""The audit names every way in which a lane can be broken, puts it right when asked to, and never cries wolf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio

from queue_trio.core.dequeue import Priority
from queue_trio.core.job import NewJob, State
from queue_trio.redis import audit
from tests.store.worlds import (
    HOUR_MS,
    LANE,
    World,
    dead,
    done,
    job,
    lane_keys,
    record,
    redis_world,
    release,
    retry,
)

KEYS = lane_keys()
READY = KEYS["ready:normal"]


async def write(world: World, *command: str | bytes | int) -> Any:
    return await world.redis.client.ask(*command)


@pytest.fixture
async def lane(redis: World) -> World:
    """A lane with a job in every place: r1, r2 ready, s scheduled, l leased, d dead."""
    await redis.enqueue("l", "d", "r1", "r2", job("s", Priority.HIGH, delay_ms=HOUR_MS))
    _, doomed = (await redis.claim(2)).jobs
    await redis.settle(dead(doomed))
    return redis


# What to write, the id it breaks, what the audit says, and where the id is after the repair.
BROKEN: dict[str, tuple[list[tuple[str | bytes | int, ...]], str, str, State | None]] = {
    "in two ready lists": (
        [("RPUSH", KEYS["ready:low"], "r1")],
        "r1",
        "is in 2 places at once: ready, ready",
        State.READY,
    ),
    "twice in one ready list": (
        [("RPUSH", READY, "r1")],
        "r1",
        "is in 2 places at once: ready, ready",
        State.READY,
    ),
    "ready and leased": ([("RPUSH", READY, "l")], "l", "is in 2 places at once: leased, ready", State.LEASED),
    "ready and dead": ([("RPUSH", READY, "d")], "d", "is in 2 places at once: dead, ready", State.DEAD),
    "ready and scheduled": (
        [("RPUSH", KEYS["ready:high"], "s")],
        "s",
        "is in 2 places at once: scheduled, ready",
        State.SCHEDULED,
    ),
    "leased and dead": (
        [("ZADD", KEYS["dead"], 1, "l")],
        "l",
        "is in 2 places at once: leased, dead",
        State.LEASED,
    ),
    "scheduled twice": (
        [("ZADD", KEYS["scheduled"], 1, "3:s")],
        "s",
        "is in 2 places at once: scheduled, scheduled",
        State.SCHEDULED,
    ),
    "a record that is nowhere": (
        [("LREM", READY, 0, "r1")],
        "r1",
        "has a record, but is nowhere",
        State.READY,
    ),
    "a ready id without record": ([("HDEL", KEYS["job"], "r1")], "r1", "has no record, but is ready", None),
    "a leased id without record": (
        [("HDEL", KEYS["job"], "l")],
        "l",
        "has no record, but is leased",
        None,
    ),
    "a dead id without record": ([("HDEL", KEYS["job"], "d")], "d", "has no record, but is dead", None),
    "an owner without lease": (
        [("ZREM", KEYS["lease"], "l")],
        "l",
        "has a record, but is nowhere",
        State.READY,
    ),
    "an owner of a ready job": (
        [("HSET", KEYS["owner"], "r1", "2 w:9")],
        "r1",
        "has an owner, but is ready",
        State.READY,
    ),
    "an owner of nothing": (
        [("HSET", KEYS["owner"], "x", "2 w:9")],
        "x",
        "has no record, but is owned",
        None,
    ),
    "a lease without owner": ([("HDEL", KEYS["owner"], "l")], "l", "is leased without an owner", State.READY),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_each_way_to_break_a_lane_is_named_and_put_right(lane: World, name: str) -> None:
    commands, broken, problem, state = BROKEN[name]
    for command in commands:
        await write(lane, *command)
    report = await lane.store.audit(LANE)
    assert [(one.id, one.problem, one.repaired) for one in report.violations] == [(broken, problem, "")]
    assert not report.ok

    report = await lane.store.audit(LANE, repair=True)
    (violation,) = report.violations
    assert violation.repaired == f"now {state or 'nowhere'}"
    assert report.stats.imbalance == 0

    again = await lane.store.audit(LANE, repair=True)
    assert again.ok
    assert again.violations == ()
    assert again.stats.adjusted == report.stats.adjusted
    if state is not None:
        assert broken in [one.id for one in await lane.store.peek(LANE, state, count=9)]
    assert again.stats.adjusted == (0 if state is not None else -1 if broken != "x" else 0)


async def test_wrong_counters_are_booked_and_the_booking_stays_visible(lane: World) -> None:
    await write(lane, "HINCRBY", KEYS["stats"], "completed", 2)
    report = await lane.store.audit(LANE)
    assert (report.ok, report.violations, report.stats.imbalance) == (False, (), -2)
    report = await lane.store.audit(LANE, repair=True)
    assert (report.ok, report.stats.adjusted) == (True, 2)
    assert (await lane.store.stats(LANE)).adjusted == 2


async def test_a_job_that_was_nowhere_gets_the_priority_of_its_record(redis: World) -> None:
    await redis.enqueue(NewJob("a", record("t", Priority.CRITICAL), Priority.CRITICAL), NewJob("b", b"\x00"))
    await write(redis, "DEL", KEYS["ready:critical"], READY)
    report = await redis.store.audit(LANE, repair=True)
    assert {one.id: one.repaired for one in report.violations} == {"a": "now ready", "b": "now ready"}
    peeked = await redis.store.peek(LANE, State.READY, count=9)
    assert {one.id: one.priority for one in peeked} == {"a": Priority.CRITICAL, "b": Priority.NORMAL}


async def test_many_violations_are_all_found_and_repaired(redis: World) -> None:
    names = [f"{number:03}" for number in range(2 * audit.SUSPECTS + 5)]
    await redis.enqueue(*names)
    await write(redis, "DEL", READY)
    report = await redis.store.audit(LANE, repair=True)
    assert sorted(one.id for one in report.violations) == names
    assert report.ok is False
    assert report.stats.ready_total == len(names)
    assert (await redis.store.audit(LANE)).ok


async def test_an_inbox_is_a_place_too_and_is_left_to_its_worker(redis: World) -> None:
    await redis.store.register(LANE, worker="w", info="{}")
    await redis.enqueue("a")
    await redis.store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=5)
    assert (await redis.store.audit(LANE)).ok
    await write(redis, "RPUSH", READY, "a")
    (violation,) = (await redis.store.audit(LANE, repair=True)).violations
    assert violation.problem == "is in 2 places at once: ready, in an inbox"
    assert violation.repaired.startswith("left alone")


async def test_an_inbox_of_a_worker_that_joins_during_the_look_is_seen(redis: World) -> None:
    """The registry is read before the script runs; the script says if it has grown since."""
    store = redis.redis
    await redis.enqueue("a")
    read = store.reads.inboxes
    readings = 0

    async def inboxes(lane: Any) -> Any:
        nonlocal readings
        found = await read(lane)
        readings += 1
        if readings == 1:
            await store.register(LANE, worker="w", info="{}")
            await store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=5)
        return found

    store.reads.inboxes = inboxes  # type: ignore[method-assign]
    stats = await store.stats(LANE)
    assert (stats.imbalance, stats.ready_total, readings) == (0, 1, 2)


@dataclass
class Operator:
    """Replays and purges what is dead, and cancels what is next, while `running`."""

    url: str
    running: bool = True
    moved: int = 0

    async def run(self) -> None:
        async with redis_world(self.url) as own:
            while self.running:
                died = [one.id for one in await own.operations.browse_dead(LANE, count=6)]
                await own.operations.replay(LANE, died[::2])
                await own.operations.purge(LANE, died[1::2])
                for state in (State.READY, State.SCHEDULED):
                    for one in await own.store.peek(LANE, state, count=2):
                        await own.operations.cancel(LANE, one.id)
                self.moved += len(died)


async def test_an_audit_of_a_lane_in_use_reports_nothing_false(redis: World, redis_url: str) -> None:
    """Producers, claimers and settlers in every way, pulling workers that come and go, operators who cancel, purge and
    replay, and audits all the while."""
    running = True
    moved = 0
    operator = Operator(redis_url)

    async def produce(name: str) -> None:
        number = 0
        while running:
            await redis.enqueue(*(job(f"{name}-{number + at}", delay_ms=at % 3) for at in range(40)))
            number += 40

    async def work(name: str) -> None:
        nonlocal moved
        ends = (done, release, done, retry, done, dead, done)
        async with redis_world(redis_url) as own:
            while running:
                claimed = (await own.claim(30, worker=name)).jobs
                await own.settle(*(ends[(moved + at) % len(ends)](one) for at, one in enumerate(claimed)))
                moved += len(claimed)
                await own.sweep()

    async def pull(name: str) -> None:
        nonlocal moved
        async with redis_world(redis_url) as own:
            turn = 0
            while running:
                worker = f"{name}-{turn}"
                turn += 1
                await own.store.register(LANE, worker=worker, info="{}")
                for _ in range(3):
                    await own.store.pull(LANE, worker=worker, priority=Priority.NORMAL, timeout_s=0.01)
                claim = await own.store.adopt(LANE, worker=worker, want=2, lease_ms=HOUR_MS)
                await own.settle(*map(done, claim.jobs))
                moved += len(claim.jobs)
                await own.store.deregister(LANE, worker=worker)

    await redis.enqueue(*(f"old-{number}" for number in range(3000)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, "p")
        nursery.start_soon(produce, "q")
        nursery.start_soon(work, "v")
        nursery.start_soon(work, "w")
        nursery.start_soon(pull, "x")
        nursery.start_soon(pull, "y")
        nursery.start_soon(operator.run)
        async with redis_world(redis_url) as auditor:
            audits = 0
            while audits < 5 or moved < 3000 or operator.moved < 100:
                report = await auditor.store.audit(LANE)
                assert report.violations == ()
                assert report.stats.imbalance == 0
                assert report.stats.records == report.live
                audits += 1
        running = operator.running = False
    # Repairing a lane in use changes nothing either, and at rest nothing is left over.
    report = await redis.store.audit(LANE, repair=True)
    assert (report.ok, report.stats.adjusted) == (True, 0)
    while jobs := (await redis.claim()).jobs:
        await redis.settle(*map(done, jobs))
    stats = await redis.store.stats(LANE)
    assert stats.enqueued == stats.completed + stats.dead + stats.cancelled + stats.purged
    assert stats.cancelled > 0
    assert stats.purged > 0
