"""Calls happen once: whatever becomes of a request or its reply, the state and the answer are as if nothing had.

Each mutating call is made twice, through a relay: in one database undisturbed, in another with a fault. What both left
behind must be the same, byte by byte but for times.
"""

from __future__ import annotations

import math
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Enqueued, State
from queue_trio.core.store import Swept
from queue_trio.errors import DeadlineExceeded, Indeterminate, OutcomeUnknown, ServerError
from queue_trio.redis import connection, lookout, scripts
from queue_trio.redis.connection import Connection
from queue_trio.redis.store import RedisStore
from tests.store.relay import Fault, Kind, Relay, open_relay
from tests.store.worlds import (
    HOUR_MS,
    LANE,
    ServerTime,
    World,
    dead,
    done,
    dump,
    ids,
    job,
    kept,
    redis_client,
    release,
    retry,
    unix_url,
)
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from queue_trio.core.job import Claim
    from queue_trio.redis.enqueuer import _Part
    from tests.support import SharedRedis

T = TypeVar("T")

READ_TIMEOUT_S = 0.2


@dataclass
class Relayed:
    """A world whose calls go through the relay, and a direct one beside it for the test's own looks and deeds."""

    relay: Relay
    world: World
    direct: World

    @property
    def store(self) -> RedisStore:
        return self.world.redis

    async def state(self) -> dict[str, Any]:
        return await dump(self.direct.client)

    async def flush(self) -> None:
        await self.direct.client.ask("FLUSHALL")


def _world(url: str, incarnation: str, **settings: Any) -> World:
    client = redis_client(url, **settings)
    return World(RedisStore(client, incarnation=incarnation), ServerTime(client))


@asynccontextmanager
async def _relayed(server: SharedRedis) -> AsyncIterator[Relayed]:
    async with open_relay(server.unix_socket) as relay:
        found = Relayed(
            relay,
            _world(relay.url, "faulty", read_timeout=READ_TIMEOUT_S),
            _world(unix_url(server.unix_socket), "direct"),
        )
        try:
            yield found
            await found.direct.check()
            await found.flush()
        finally:
            with trio.CancelScope(shield=True):
                for world in (found.world, found.direct):
                    await world.client.aclose()


@pytest.fixture
async def relayed(redis_server: SharedRedis, redis_url: str) -> AsyncIterator[Relayed]:
    async with _relayed(redis_server) as found:
        yield found


def plain(value: Any) -> Any:
    """`value` without its times: server milliseconds since the epoch, and what is counted from them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return "time" if value > 1_000_000_000_000 else value
    if isinstance(value, bytes):
        return re.sub(rb"\b1\d{12}\b", b"time", value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# --- each call, each fault -----------------------------------------------------------------------------------------


async def _two_leased(at: World) -> Any:
    await at.enqueue("a", job("b", Priority.HIGH))
    return (await at.claim(worker="v")).jobs


async def _enqueue(world: World, _: Any) -> Any:
    return await world.enqueue(
        "n", job("s", delay_ms=HOUR_MS), job("u", unique_ms=HOUR_MS), "n", max_length=7
    )


async def _claim(world: World, _: Any) -> Any:
    return [(one.id, one.token, one.raw, one.tries) for one in (await world.claim(worker="v")).jobs]


async def _claim_and_settle(world: World, jobs: Any) -> Any:
    outcomes = [done(jobs[0]), retry(jobs[1]), done(jobs[1])]
    claim = await world.claim(worker="v", outcomes=outcomes)
    return claim.accepted, [(one.id, one.token, one.raw) for one in claim.jobs]


async def _renew(world: World, jobs: Any) -> Any:
    held = [(jobs[0].id, jobs[0].token), ("gone", "v:9")]
    return await world.store.renew(world.lane, worker="v", lease_ms=HOUR_MS, held=held)


async def _sweep(world: World, _: Any) -> Any:
    return (await world.sweep(max_crashes=0)).hold_ms


async def _adopt(world: World, _: Any) -> Any:
    claim = await world.store.adopt(world.lane, worker="v", want=9, lease_ms=HOUR_MS)
    return [(one.id, one.token, one.raw) for one in claim.jobs]


async def _bury(world: World, _: Any) -> None:
    await world.store.deregister(world.lane, worker="v")


async def _register(world: World, _: Any) -> None:
    await world.store.register(world.lane, worker="x", info="{}")


async def _pause(world: World, _: Any) -> None:
    await world.store.pause(world.lane, True)


async def _cancel(world: World, _: Any) -> Any:
    return await world.operations.cancel(world.lane, "b")


async def _cancel_later(world: World, _: Any) -> Any:
    return await world.operations.cancel(world.lane, "z")


async def _cancel_nothing(world: World, _: Any) -> Any:
    return await world.operations.cancel(world.lane, "a")


async def _purge(world: World, _: Any) -> Any:
    return await world.operations.purge(world.lane, ["a", "gone", "b"])


async def _replay(world: World, _: Any) -> Any:
    return await world.operations.replay(world.lane, ["b", "gone", "a"])


async def _drain(world: World, _: Any) -> Any:
    return await world.operations.request_drain(world.lane, "v")


async def _note(world: World, _: Any) -> None:
    await world.operations.note(b"entry")


def _settling(*make: Callable[..., Any]) -> Callable[[World, Any], Awaitable[Any]]:
    async def settle(world: World, jobs: Any) -> Any:
        return await world.settle(*(one(claimed) for one, claimed in zip(make, jobs, strict=True)))

    return settle


async def _ready(at: World) -> Any:
    await at.enqueue("a", "b", job("c", Priority.HIGH))


async def _two_leased_one_ready(at: World) -> Any:
    jobs = await _two_leased(at)
    await at.enqueue("c")
    return jobs


async def _retried(at: World) -> Any:
    await at.enqueue("a")
    await at.settle(retry((await at.claim()).jobs[0]))


async def _only_later(at: World) -> Any:
    await at.enqueue(job("z", delay_ms=HOUR_MS))


async def _expired(at: World) -> Any:
    await at.enqueue("a", "b")
    await at.lose(worker="v")


async def _dead(at: World) -> Any:
    await at.enqueue("a")
    await at.settle(retry((await at.claim()).jobs[0]))
    await at.pass_ms(1)
    await at.enqueue(job("b", Priority.HIGH))
    await at.settle(*map(dead, (await at.claim()).jobs))


async def _inbox(at: World) -> Any:
    await at.store.register(at.lane, worker="v", info="{}")
    await at.enqueue("a", "b")
    for _ in range(2):
        assert await at.store.pull(at.lane, worker="v", priority=Priority.NORMAL, timeout_s=5)


def _result(claimed: Any) -> Any:
    return kept(claimed, b"result")


CALLS: dict[str, tuple[str, Callable[[World], Awaitable[Any]], Callable[[World, Any], Awaitable[Any]]]] = {
    "enqueue": ("enqueue", _retried, _enqueue),
    "claim": ("claim", _ready, _claim),
    "claim of a retried job": ("claim", _retried, _claim),
    "claim of nothing": ("claim", _only_later, _claim),
    "claim that takes outcomes along": ("settle", _two_leased_one_ready, _claim_and_settle),
    "the claim behind outcomes": ("claim", _two_leased_one_ready, _claim_and_settle),
    "done": ("settle", _two_leased, _settling(done, done)),
    "retry": ("settle", _two_leased, _settling(retry, retry)),
    "dead": ("settle", _two_leased, _settling(dead, done)),
    "release": ("settle", _two_leased, _settling(release, release)),
    "result": ("settle", _two_leased, _settling(_result, done)),
    "renew": ("renew", _two_leased, _renew),
    "sweep": ("sweep", _expired, _sweep),
    "adopt": ("adopt", _inbox, _adopt),
    "bury": ("bury", _inbox, _bury),
    "register": ("register", _ready, _register),
    "pause": ("pause", _ready, _pause),
    "cancel": ("cancel", _ready, _cancel),
    "cancel of a delayed job": ("cancel", _only_later, _cancel_later),
    "cancel of nothing": ("cancel", _dead, _cancel_nothing),
    "purge": ("purge", _dead, _purge),
    "replay": ("replay", _dead, _replay),
    "drain": ("drain", _inbox, _drain),
    "note": ("note", _ready, _note),
}


async def _course(relayed: Relayed, name: str, fault: Fault | None) -> tuple[Any, Any, int]:
    """Prepare, make the call with `fault` at its first exchange; the answer, the state after, the reply's size."""
    marker, prepare, call = CALLS[name]
    await relayed.flush()
    # Sessions and what was announced lie in the database: a store as new as its database.
    fresh = World(RedisStore(relayed.store.client, incarnation="faulty"), relayed.world.time)
    given = await prepare(World(RedisStore(relayed.direct.client, incarnation="direct"), relayed.direct.time))
    relayed.relay.arm(scripts.load(marker).sha, fault)
    with trio.fail_after(20):
        answer = await call(fresh, given)
    assert relayed.relay.seen == (1 if fault is None else 2)
    relayed.relay.arm("")
    return plain(answer), plain(await relayed.state()), (relayed.relay.reply_sizes or [0])[0]


async def _load_scripts(relayed: Relayed) -> None:
    """So that each call is one exchange, and not one that asks for the script."""
    for name in scripts.NAMES:
        await relayed.direct.client.ask("SCRIPT", "LOAD", scripts.load(name).text)


@pytest.mark.parametrize(
    "kind", [Kind.DROP_REQUEST, Kind.LOSE_REPLY, Kind.HOLD_REPLY], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_disturbed_is_the_call_undisturbed(relayed: Relayed, name: str, kind: Kind) -> None:
    await _load_scripts(relayed)
    answer, state, _ = await _course(relayed, name, None)
    again, state_again, _ = await _course(relayed, name, Fault(kind))
    assert again == answer
    assert state_again == state


@pytest.mark.parametrize("name", CALLS)
async def test_a_reply_cut_at_any_byte_changes_nothing(relayed: Relayed, name: str) -> None:
    await _load_scripts(relayed)
    marker = CALLS[name][0]
    relayed.relay.arm(scripts.load(marker).sha)
    await relayed.flush()
    given = await CALLS[name][1](relayed.direct)
    await CALLS[name][2](relayed.world, given)
    size = relayed.relay.reply_sizes[0]
    answer, state, _ = await _course(relayed, name, None)
    # Long replies are cut at every byte near both ends, and here and there between.
    offsets = {*range(min(size, 40)), *range(max(0, size - 12), size), *range(0, size, 9)}
    for offset in sorted(offsets):
        again = await _course(relayed, name, Fault(Kind.CUT_REPLY, offset))
        assert again[:2] == (answer, state), f"cut after {offset} of {size} bytes"


async def test_a_sweep_whose_reply_was_lost_has_taken_back_what_the_next_does_not_name(
    relayed: Relayed,
) -> None:
    await _expired(relayed.direct)
    relayed.relay.arm(scripts.load("sweep").sha, Fault(Kind.LOSE_REPLY))
    assert await relayed.world.sweep() == Swept()
    assert [one.crashes for one in (await relayed.direct.claim()).jobs] == [1, 1]


async def test_a_claim_asked_again_leases_its_jobs_for_a_full_lease_from_then(relayed: Relayed) -> None:
    """The worker only learns of them now, and what is left of the first lease may be nothing."""
    relay, client = relayed.relay, relayed.direct.client
    lease = relayed.store._calls(LANE).keys["lease"]
    await relayed.direct.enqueue("a", "b")
    await _load_scripts(relayed)
    relay.arm(scripts.load("claim").sha, Fault(Kind.LOSE_REPLY))
    claims: list[Claim] = []

    async def claim() -> None:
        claims.append(await relayed.world.claim(lease_ms=HOUR_MS))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        await relay.arrived.wait()
        relay.blocked = True  # what is sent again stays away for a while
        await eventually(lambda: relay.reply_sizes)
        await relayed.direct.pass_ms(20)
        begun_ms = await relayed.direct.time.read_ms()
        assert int(await client.ask("ZSCORE", lease, "a")) < begun_ms + HOUR_MS
        relay.blocked = False
    (found,) = claims
    assert ids(found) == ["a", "b"]
    ended_ms = await relayed.direct.time.read_ms()
    for id_ in ("a", "b"):
        deadline_ms = int(await client.ask("ZSCORE", lease, id_))
        assert begun_ms + HOUR_MS <= deadline_ms <= ended_ms + HOUR_MS


async def test_a_worker_heard_of_after_a_sweep_found_it_silent_is_not_buried(relayed: Relayed) -> None:
    relay, direct = relayed.relay, relayed.direct
    await direct.store.register(LANE, worker="v", info="{}")
    await direct.enqueue("a")
    await direct.store.pull(LANE, worker="v", priority=Priority.NORMAL, timeout_s=5)
    await direct.client.ask("ZADD", relayed.store._calls(LANE).keys["workers"], 0, "v")  # silent since 1970
    await _load_scripts(relayed)
    relay.arm(scripts.load("bury").sha)
    relay.blocked = True
    found: list[Swept] = []

    async def sweep() -> None:
        found.append(await relayed.world.sweep())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        await relay.arrived.wait()  # so the sweep has found it silent
        await direct.store.renew(LANE, worker="v", lease_ms=HOUR_MS, held=[])
        relay.blocked = False
    assert [swept.buried_workers for swept in found] == [()]
    assert not await relayed.store._bury(LANE, "v", silent_ms=3 * HOUR_MS)
    assert (await direct.store.stats(LANE)).workers == 1
    claim = await direct.store.adopt(LANE, worker="v", want=9, lease_ms=HOUR_MS)
    assert ids(claim) == ["a"]
    # Of its own accord it may go.
    assert await relayed.store._bury(LANE, "v", silent_ms=0)
    assert (await direct.store.stats(LANE)).workers == 0


async def test_a_session_is_remembered_for_a_day(redis: World) -> None:
    """For longer than any request can be on its way, and any outage in which a call is asked again."""
    day_ms = 24 * HOUR_MS
    await redis.enqueue("a")
    (claimed,) = (await redis.claim()).jobs
    await redis.settle(done(claimed))
    sessions = await redis.client.ask("KEYS", "*:session:*")
    assert len(sessions) == 3  # one stream of calls each
    for session in sessions:
        assert day_ms - 60_000 < await redis.client.ask("PTTL", session) <= day_ms


# --- late requests -------------------------------------------------------------------------------------------------


async def test_a_late_claim_that_newer_calls_have_overtaken_is_refused(relayed: Relayed) -> None:
    await relayed.direct.enqueue("a", "b", "c")
    relayed.relay.arm(scripts.load("claim").sha, Fault(Kind.LATE_REQUEST))
    assert ids(await relayed.world.claim(1)) == ["a"]
    assert ids(await relayed.world.claim(1)) == ["b"]
    before = await relayed.state()
    assert (await relayed.relay.deliver_late()).startswith(b"-STALECALL")
    assert await relayed.state() == before


async def test_a_late_copy_of_an_answered_claim_leases_nothing_even_if_the_answer_was_empty(
    relayed: Relayed,
) -> None:
    relayed.relay.arm(scripts.load("claim").sha, Fault(Kind.LATE_REQUEST))
    assert ids(await relayed.world.claim()) == []
    await relayed.direct.enqueue("a")
    await relayed.relay.deliver_late()
    assert await relayed.direct.counts() == {"ready normal": 1, "enqueued": 1}
    assert ids(await relayed.world.claim()) == ["a"]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_late_copy_of_a_claim_answered_with_pause_leases_nothing(
    relayed: Relayed, paused: bool
) -> None:
    await relayed.direct.enqueue("a")
    await relayed.direct.store.pause(LANE, True)
    relayed.relay.arm(scripts.load("claim").sha, Fault(Kind.LATE_REQUEST))
    assert (await relayed.world.claim()).paused
    await relayed.direct.store.pause(LANE, paused)
    await relayed.relay.deliver_late()
    assert await relayed.direct.counts() == {"ready normal": 1, "enqueued": 1}


async def test_a_late_settle_and_a_late_enqueue_are_refused(relayed: Relayed) -> None:
    for marker in ("enqueue", "settle"):
        await relayed.flush()
        world = World(RedisStore(relayed.store.client, incarnation=f"late-{marker}"), relayed.world.time)
        relayed.relay.arm(scripts.load(marker).sha, Fault(Kind.LATE_REQUEST))
        await world.enqueue("a", "b")
        await world.enqueue("c")
        first, second, _ = (await world.claim()).jobs
        await world.settle(done(first))
        await world.settle(release(second))
        before = await relayed.state()
        assert (await relayed.relay.deliver_late()).startswith(b"-STALECALL")
        assert await relayed.state() == before


@dataclass(frozen=True)
class Overtaken:
    """A change by an operator, and what others then do that a late copy of it would undo."""

    prepare: Callable[[World], Awaitable[Any]]
    change: Callable[[World, Any], Awaitable[Any]]
    answer: Any
    others: Callable[[World], Awaitable[Any]]


async def _enqueue_again(at: World) -> None:
    await at.enqueue("a", "b", job("c", Priority.HIGH))


async def _die_again(at: World) -> None:
    await at.kill("a", job("b", Priority.HIGH))


async def _die_once_more(at: World) -> None:
    await at.settle(*map(dead, (await at.claim()).jobs))


async def _resume(at: World) -> None:
    await at.store.pause(at.lane, False)


async def _leave_and_join(at: World) -> None:
    await at.store.deregister(at.lane, worker="v")
    await at.store.register(at.lane, worker="v", info="{}")


async def _note_more(at: World) -> None:
    await at.operations.note(b"more")


OVERTAKEN = {
    "cancel": Overtaken(_ready, _cancel, State.CANCELLED, _enqueue_again),
    "purge": Overtaken(_dead, _purge, [True, False, True], _die_again),
    "replay": Overtaken(_dead, _replay, [True, False, True], _die_once_more),
    "pause": Overtaken(_ready, _pause, None, _resume),
    "drain": Overtaken(_inbox, _drain, True, _leave_and_join),
    "note": Overtaken(_ready, _note, None, _note_more),
}


@pytest.mark.parametrize("next_call", [False, True], ids=["the last call", "a call since overtaken"])
@pytest.mark.parametrize("name", OVERTAKEN)
async def test_a_late_copy_of_an_operators_change_does_nothing(
    relayed: Relayed, name: str, next_call: bool
) -> None:
    case = OVERTAKEN[name]
    await case.prepare(relayed.direct)
    await _load_scripts(relayed)
    relayed.relay.arm(scripts.load(name).sha, Fault(Kind.LATE_REQUEST))
    assert await case.change(relayed.world, None) == case.answer
    if next_call:
        await relayed.world.operations.cancel(LANE, "nobody")
        await relayed.world.operations.note(b"next")
    await case.others(relayed.direct)
    before = await relayed.state()
    refused = (await relayed.relay.deliver_late()).startswith(b"-STALECALL")
    assert refused == next_call
    assert await relayed.state() == before
    await relayed.direct.store.deregister(LANE, worker="v")


@pytest.mark.parametrize("name", OVERTAKEN)
async def test_an_operators_change_whose_reply_was_lost_is_told_as_it_was(
    relayed: Relayed, name: str
) -> None:
    """Although by the time it is asked again, others have changed the same things back."""
    case, relay = OVERTAKEN[name], relayed.relay
    await case.prepare(relayed.direct)
    await _load_scripts(relayed)
    relay.arm(scripts.load(name).sha, Fault(Kind.LOSE_REPLY))
    answers: list[Any] = []

    async def change() -> None:
        answers.append(await case.change(relayed.world, None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await relay.arrived.wait()
        relay.blocked = True
        await eventually(lambda: relay.reply_sizes)
        await case.others(relayed.direct)
        before = await relayed.state()
        relay.blocked = False
    assert answers == [case.answer]
    assert await relayed.state() == before
    await relayed.direct.store.deregister(LANE, worker="v")


async def test_changes_of_one_lane_go_one_after_the_other_and_each_gets_its_own_answer(
    relayed: Relayed,
) -> None:
    names = [f"{number}" for number in range(40)]
    await relayed.direct.enqueue(*names[::2])
    answers: dict[str, State | None] = {}

    async def cancel(name: str) -> None:
        answers[name] = await relayed.world.operations.cancel(LANE, name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(cancel, name)
    assert answers == {name: None if int(name) % 2 else State.CANCELLED for name in names}


async def test_a_change_cancelled_on_its_way_does_not_happen_after_the_next(relayed: Relayed) -> None:
    relay = relayed.relay
    await relayed.direct.enqueue("a", "b")
    await _load_scripts(relayed)
    relay.arm(scripts.load("cancel").sha, Fault(Kind.LATE_REQUEST))
    relay.faults = dict.fromkeys(range(1000), Fault(Kind.LATE_REQUEST))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed.world.operations.cancel, LANE, "a")
        await eventually(lambda: relay.late)
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked(0.01)  # a second try on its way has to be held up as well
    relay.faults = {}
    assert await relayed.world.operations.cancel(LANE, "b") is State.CANCELLED
    while relay.late:
        assert (await relay.deliver_late()).startswith(b"-STALECALL")
    assert await relayed.direct.counts() == {"ready normal": 1, "enqueued": 2, "cancelled": 1}


# --- cancelled claims ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [True, False], ids=["that arrived", "that never arrived"])
async def test_the_jobs_of_a_cancelled_claim_are_handed_to_the_next_claim(
    relayed: Relayed, arrived: bool
) -> None:
    await _load_scripts(relayed)
    await relayed.direct.enqueue("a", "b", "c")
    relayed.relay.arm(scripts.load("claim").sha)
    relayed.relay.gate = trio.Event()
    relayed.relay.blocked = not arrived
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed.world.claim, 2)
        await relayed.relay.arrived.wait()
        if arrived:
            await eventually(lambda: relayed.relay.reply_sizes)
        nursery.cancel_scope.cancel()
    relayed.relay.gate.set()
    relayed.relay.blocked = False
    assert (await relayed.direct.counts()).get("leased", 0) == (2 if arrived else 0)
    assert ids(await relayed.world.claim(1)) == ["a", "b"]
    assert ids(await relayed.world.claim(1)) == ["c"]


# --- group commit --------------------------------------------------------------------------------------------------


async def _calls_of(world: World, command: str) -> int:
    text: bytes = await world.client.ask("INFO", "commandstats")
    found = re.search(rf"cmdstat_{command}:calls=(\d+)".encode(), text)
    return int(found[1]) if found else 0


async def test_what_a_cancelled_claim_took_along_is_asked_for_by_itself(relayed: Relayed) -> None:
    await _load_scripts(relayed)
    jobs = await _two_leased_one_ready(relayed.world)
    outcomes = [done(jobs[0]), dead(jobs[1])]
    relayed.relay.arm(scripts.load("claim").sha, Fault(Kind.HOLD_REPLY))
    with trio.move_on_after(READ_TIMEOUT_S / 2) as scope:
        await relayed.world.claim(worker="v", outcomes=outcomes)
    assert scope.cancelled_caught
    # The next claim asks for the jobs of the first, and takes nothing along: what became of that is not known.
    claim = await relayed.world.claim(worker="v", outcomes=outcomes)
    assert ([one.id for one in claim.jobs], claim.accepted) == (["c"], None)
    assert await relayed.world.settle(*outcomes) == [True, True]
    assert await relayed.direct.counts() == {"leased": 1, "dead": 1, "enqueued": 3, "completed": 1}


async def test_callers_at_the_same_time_share_calls(relayed: Relayed) -> None:
    await _load_scripts(relayed)
    relayed.relay.arm(scripts.load("enqueue").sha)
    answers: dict[int, list[Enqueued]] = {}

    async def enqueue(number: int) -> None:
        answers[number] = await relayed.world.enqueue(f"{number}", "common", f"{number}")

    before = await _calls_of(relayed.direct, "evalsha")
    async with trio.open_nursery() as nursery:
        for number in range(32):
            nursery.start_soon(enqueue, number)
    assert await _calls_of(relayed.direct, "evalsha") - before == relayed.relay.seen <= 3
    assert all(
        answer[0] is Enqueued.CREATED and answer[2] is Enqueued.DUPLICATE for answer in answers.values()
    )
    assert sum(answer[1] is Enqueued.CREATED for answer in answers.values()) == 1
    assert await relayed.direct.counts() == {"ready normal": 33, "enqueued": 33}


async def test_callers_who_come_again_and_again_share_every_call(relayed: Relayed) -> None:
    """Whoever comes first waits one turn for the rest, or every second call would carry a single job."""
    await _load_scripts(relayed)

    async def enqueue(number: int) -> None:
        for again in range(20):
            assert await relayed.world.enqueue(f"{number}.{again}") == [Enqueued.CREATED]

    before = await _calls_of(relayed.direct, "evalsha")
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(enqueue, number)
    assert await _calls_of(relayed.direct, "evalsha") - before <= 22
    assert await relayed.direct.counts() == {"ready normal": 160, "enqueued": 160}


async def test_half_of_a_crowd_goes_along_with_each_call(relayed: Relayed) -> None:
    """Whoever runs on finds that the call of the other half is on its way: client and server work at the same time."""
    await _load_scripts(relayed)
    await relayed.world.enqueue("warm")
    (enqueuer,) = relayed.store._calls(LANE).enqueuers.values()
    on_its_way: list[bool] = []

    async def enqueue(number: int) -> None:
        for again in range(20):
            assert await relayed.world.enqueue(f"{number}.{again}") == [Enqueued.CREATED]
            call = enqueuer._session.unanswered
            on_its_way.append(call is not None and call.maybe_sent)

    before = await _calls_of(relayed.direct, "evalsha")
    async with trio.open_nursery() as nursery:
        for number in range(32):
            nursery.start_soon(enqueue, number)
    assert await _calls_of(relayed.direct, "evalsha") - before <= 48
    assert sum(on_its_way) >= 0.9 * len(on_its_way)
    assert await relayed.direct.counts() == {"ready normal": 641, "enqueued": 641}


# --- looking for the reply -----------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of each exchange what came of looking for its reply; "" if nobody looked. Servers are near, and never sleep."""
    monkeypatch.setattr(lookout, "NEAR_S", math.inf)
    monkeypatch.setattr(lookout, "AWAKE_S", math.inf)
    monkeypatch.setattr(lookout, "SKIPPED_MAX", 0)
    exchange, look = Connection.exchange, Connection._look
    noted: list[str] = []

    async def noted_exchange(self: Connection, *args: Any, **kwargs: Any) -> list[Any]:
        noted.append("")
        return await exchange(self, *args, **kwargs)

    async def noted_look(self: Connection, *args: Any) -> bool:
        at = len(noted) - 1
        try:
            found = await look(self, *args)
        except Indeterminate:
            noted[at] = "broken"
            raise
        noted[at] = "found" if found else "vain"
        return found

    monkeypatch.setattr(Connection, "exchange", noted_exchange)
    monkeypatch.setattr(Connection, "_look", noted_look)
    return noted


async def test_one_who_comes_again_and_again_looks_for_the_reply(relayed: Relayed, looks: list[str]) -> None:
    await _load_scripts(relayed)
    await relayed.direct.enqueue("warm")  # announces the queue
    looks.clear()
    for number in range(5):
        await relayed.direct.enqueue(f"{number}")
    await relayed.direct.claim()
    assert [*map(bool, looks)] == [*[True] * 5, False]


async def test_a_crowd_has_other_work_than_looking(relayed: Relayed, looks: list[str]) -> None:
    await _load_scripts(relayed)
    await relayed.direct.enqueue("warm")
    looks.clear()
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(relayed.direct.enqueue, f"{number}")
    await relayed.direct.enqueue("who comes alone after a crowd")
    await relayed.direct.enqueue("and again")
    assert looks[0]  # of what is to come it knows nothing
    assert not any(looks[1:-1])
    assert looks[-1]
    assert len(looks) >= 4


@pytest.mark.parametrize("name", ["NEAR_S", "AWAKE_S"])
async def test_nobody_looks_for_the_reply_of_a_server_far_away_or_asleep(
    relayed: Relayed, looks: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(lookout, name, 0.0)
    await _load_scripts(relayed)
    await relayed.direct.enqueue("warm")
    looks.clear()
    for number in range(4):
        await relayed.direct.enqueue(f"{number}")
    assert looks == [""] * 4


@pytest.mark.parametrize(
    ("kind", "sizes", "met"),
    [
        (Kind.DROP_REQUEST, [0], "broken"),
        (Kind.LOSE_REPLY, [0], "broken"),
        (Kind.CUT_REPLY, [0], "broken"),
        (Kind.CUT_REPLY, [1, 2, 3, 4, 5, 6], "found"),
        (Kind.HOLD_REPLY, [0], "vain"),
    ],
    ids=["drop", "lose", "cut before", "cut within", "hold"],
)
async def test_an_enqueue_disturbed_while_it_looks_happens_once(
    relayed: Relayed,
    looks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    sizes: list[int],
    met: str,
) -> None:
    monkeypatch.setattr(connection, "TURNS", 20_000)  # enough for any fault to come while it looks
    await _load_scripts(relayed)
    await relayed.world.enqueue("warm")
    await relayed.world.enqueue("warmer")
    for size in sizes:
        relayed.relay.arm(scripts.load("enqueue").sha, Fault(kind, size))
        looks.clear()
        assert await relayed.world.enqueue(f"{size}") == [Enqueued.CREATED]
        assert await relayed.world.enqueue(f"{size}") == [Enqueued.DUPLICATE]
        assert relayed.relay.seen == 3
        assert looks[0] == met
    jobs = 2 + len(sizes)
    assert await relayed.direct.counts() == {"ready normal": jobs, "enqueued": jobs}


@pytest.mark.parametrize("victim", ["who leads next", "who has its answer"])
async def test_a_crowd_goes_on_without_who_is_cancelled_at_the_hand_over(
    relayed: Relayed, victim: str
) -> None:
    await _load_scripts(relayed)
    await relayed.world.enqueue("warm")
    (enqueuer,) = relayed.store._calls(LANE).enqueuers.values()
    scopes: dict[str, trio.CancelScope] = {}
    created: list[str] = []
    answered: list[str] = []
    send, hand_over = enqueuer._send, enqueuer._hand_over

    async def noted_send(leader: _Part, on_wait: Callable[[], None]) -> list[_Part]:
        parts = await send(leader, on_wait)
        answered[:] = [part.jobs[0].id for part in parts]
        return parts

    def cancel_one_and_hand_over(leader: _Part) -> bool:
        handed_over = hand_over(leader)
        leading = [part.jobs[0].id for part in enqueuer._waiting if part.leads]
        following = [id_ for id_ in answered if id_ != leader.jobs[0].id]
        if leading and following and not any(scope.cancel_called for scope in scopes.values()):
            scopes[(leading if victim == "who leads next" else following)[0]].cancel()
        return handed_over

    async def enqueue(id_: str) -> None:
        with trio.CancelScope() as scopes[id_]:
            assert await relayed.world.enqueue(id_) == [Enqueued.CREATED]
            created.append(id_)

    enqueuer._send, enqueuer._hand_over = noted_send, cancel_one_and_hand_over  # type: ignore[method-assign]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(enqueue, f"{number}")
        assert sum(scope.cancelled_caught for scope in scopes.values()) == 1
        assert len(created) == 31
        assert await relayed.world.enqueue("after") == [Enqueued.CREATED]


async def test_a_crowd_is_served_whatever_is_lost_on_the_way(relayed: Relayed) -> None:
    await _load_scripts(relayed)
    relayed.relay.arm(scripts.load("enqueue").sha)
    relayed.relay.faults = {
        1: Fault(Kind.LOSE_REPLY),
        4: Fault(Kind.DROP_REQUEST),
        5: Fault(Kind.CUT_REPLY, 3),
    }

    async def enqueue(number: int) -> None:
        for again in range(5):
            assert await relayed.world.enqueue(f"{number}.{again}") == [Enqueued.CREATED]

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(enqueue, number)
    assert relayed.relay.seen > 10
    assert await relayed.direct.counts() == {"ready normal": 160, "enqueued": 160}


async def test_who_is_cancelled_while_it_waits_for_the_rest_hands_over(relayed: Relayed) -> None:
    async with trio.open_nursery() as nursery:  # two in one call, so that the next leader expects company
        nursery.start_soon(relayed.world.enqueue, "warm 1")
        nursery.start_soon(relayed.world.enqueue, "warm 2")
        nursery.start_soon(relayed.world.enqueue, "warm 3")
    answers: dict[str, list[Enqueued]] = {}
    leader = trio.CancelScope()

    async with trio.open_nursery() as nursery:

        async def mate() -> None:
            answers["mate"] = await relayed.world.enqueue("mate")

        with leader:
            nursery.start_soon(mate)
            leader.cancel()
            await relayed.world.enqueue("leader")
    assert leader.cancelled_caught
    assert answers == {"mate": [Enqueued.CREATED]}
    assert await relayed.direct.counts() == {"ready normal": 4, "enqueued": 4}


async def test_each_who_follows_waits_for_its_own_time_whoever_keeps_watch(relayed: Relayed) -> None:
    await relayed.world.enqueue("warm")
    relayed.relay.arm(scripts.load("enqueue").sha)
    relayed.relay.gate = gate = trio.Event()
    waited_s: dict[str, float] = {}
    watcher = trio.CancelScope()

    async def enqueue(name: str, timeout_s: float) -> None:
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="nothing was queued"):
            await relayed.store.enqueue(LANE, [job(name)], timeout_s=timeout_s)
        waited_s[name] = trio.current_time() - began

    async def first_to_follow() -> None:
        with watcher:
            await relayed.store.enqueue(LANE, [job("watcher")], timeout_s=10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed.world.enqueue, "leader")
        await relayed.relay.arrived.wait()
        nursery.start_soon(first_to_follow)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(enqueue, "long", 0.12)
        nursery.start_soon(enqueue, "short", 0.04)
        nursery.start_soon(enqueue, "no time", 0.0)
        await trio.sleep(0.02)
        watcher.cancel()
        nursery.start_soon(enqueue, "late", 0.04)
        await trio.sleep(0.15)
        gate.set()
    assert watcher.cancelled_caught
    assert waited_s == pytest.approx({"long": 0.12, "short": 0.04, "no time": 0.0, "late": 0.04}, abs=0.03)
    assert await relayed.direct.counts() == {"ready normal": 2, "enqueued": 2}


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
async def test_the_watch_is_passed_on_when_several_go_at_once(relayed: Relayed, how: str) -> None:
    """In either order: whoever was woken to keep watch may be going, too, or be the one to lead next."""
    await relayed.world.enqueue("warm")
    relayed.relay.arm(scripts.load("enqueue").sha)
    for turn in range(6):
        relayed.relay.gate, relayed.relay.arrived = trio.Event(), trio.Event()
        waited_s: list[float] = []
        going = trio.CancelScope()
        cut = how == "cancelled"

        async def enqueue(name: str, timeout_s: float, *, turn: int = turn) -> None:
            with suppress(DeadlineExceeded, OutcomeUnknown):
                await relayed.store.enqueue(LANE, [job(f"{name} {turn}")], timeout_s=timeout_s)

        async def two(*, going: trio.CancelScope = going, cut: bool = cut) -> None:
            with going:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(enqueue, "watcher", 10 if cut else 0.05)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(enqueue, "next", 10)

        async def last(*, waited_s: list[float] = waited_s) -> None:
            began = trio.current_time()
            await enqueue("last", 0.1)
            waited_s.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enqueue, "leader", 10 if cut else 0.05)
            await relayed.relay.arrived.wait()
            nursery.start_soon(two)
            await trio.testing.wait_all_tasks_blocked(0.005)
            nursery.start_soon(last)
            await trio.testing.wait_all_tasks_blocked(0.005)
            if cut:
                going.cancel()
            await trio.sleep(0.16)
            assert waited_s == [pytest.approx(0.1, abs=0.04)]
            relayed.relay.gate.set()
            going.cancel()


async def _crowd(relayed: Relayed, leader: trio.CancelScope) -> dict[str, list[Enqueued]]:
    """A first call that is held up by the relay, and three callers behind it who make one batch; `leader` is the scope
    of the one who sends that batch, cancelled when the batch has arrived."""
    answers: dict[str, list[Enqueued]] = {}

    async def enqueue(name: str) -> None:
        answers[name] = await relayed.world.enqueue(name)

    async def led() -> None:
        with leader:
            await enqueue("leader")

    await relayed.world.enqueue("warm")
    relayed.relay.arm(scripts.load("enqueue").sha)
    relayed.relay.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(enqueue, "first")
        await relayed.relay.arrived.wait()
        nursery.start_soon(led)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(enqueue, "mate 1")
        nursery.start_soon(enqueue, "mate 2")
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate, relayed.relay.gate = relayed.relay.gate, trio.Event()
        relayed.relay.arrived = trio.Event()
        gate.set()
        await relayed.relay.arrived.wait()
        leader.cancel()
        relayed.relay.gate.set()
    return answers


async def test_a_cancelled_leader_hands_over_and_its_batch_mates_get_their_answers(relayed: Relayed) -> None:
    leader = trio.CancelScope()
    answers = await _crowd(relayed, leader)
    assert answers == {name: [Enqueued.CREATED] for name in ("first", "mate 1", "mate 2")}
    # The leader's job was on its way and not to be called back: it exists, once.
    assert await relayed.direct.counts() == {"ready normal": 5, "enqueued": 5}


async def test_without_a_way_to_redis_nothing_was_queued_and_the_caller_is_told_so(relayed: Relayed) -> None:
    await relayed.world.enqueue("warm")
    await relayed.store.client.aclose()
    relayed.store.client._pool.closed = False
    path = relayed.relay.path
    path.rename(path.with_suffix(".gone"))
    told: list[type[Exception]] = []

    async def enqueue(name: str, timeout_s: float) -> None:
        try:
            await relayed.store.enqueue(LANE, [job(name)], timeout_s=timeout_s)
        except (DeadlineExceeded, OutcomeUnknown) as error:
            told.append(type(error))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(enqueue, f"early {number}", 0.1)
        nursery.start_soon(enqueue, "patient", 20)
        await eventually(lambda: len(told) == 4)
        path.with_suffix(".gone").rename(path)
    assert told == [DeadlineExceeded] * 4
    # Those told that nothing was queued were taken out of the batch that the patient one went on sending.
    assert await relayed.direct.counts() == {"ready normal": 2, "enqueued": 2}
    await relayed.direct.claim()
    assert await relayed.direct.enqueue("patient") == [Enqueued.DUPLICATE]


async def test_with_the_request_on_its_way_the_outcome_is_unknown(relayed: Relayed) -> None:
    await relayed.world.enqueue("warm")
    for kind in (Kind.HOLD_REPLY, Kind.LATE_REQUEST, Kind.LOSE_REPLY):
        relayed.relay.arm(scripts.load("enqueue").sha, None)
        relayed.relay.faults = dict.fromkeys(range(1000), Fault(kind))
        with pytest.raises(OutcomeUnknown, match="again to be sure"):
            await relayed.store.enqueue(LANE, [job(kind.name)], timeout_s=0.1)
    relayed.relay.arm("")
    answers = await relayed.world.enqueue(*(kind.name for kind in (Kind.HOLD_REPLY, Kind.LATE_REQUEST)))
    assert answers == [Enqueued.DUPLICATE, Enqueued.CREATED]


@pytest.mark.parametrize("read_timeout", [20, 0.8], ids=["longer than the caller has", "shorter"])
async def test_a_call_that_was_refused_and_not_sent_again_was_not_queued(
    relayed: Relayed, read_timeout: float
) -> None:
    """The server does not know the script; then time ends while the whole script waits for the only connection."""
    relay = relayed.relay
    alone = _world(relay.url, "alone", read_timeout=read_timeout, max_connections=1)
    await alone.enqueue("warm")
    await relayed.direct.client.ask("SCRIPT", "FLUSH")
    relay.arm(scripts.load("enqueue").sha)
    relay.gate = trio.Event()
    told: list[BaseException] = []

    async def enqueue() -> None:
        with pytest.raises((DeadlineExceeded, OutcomeUnknown)) as caught:
            await alone.store.enqueue(LANE, [job("a")], timeout_s=1)
        told.append(caught.value)

    async with trio.open_nursery() as others:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enqueue)
            await relay.arrived.wait()
            others.start_soon(partial(alone.client.command, "BLPOP", "nothing", 15, wait_s=15))
            await eventually(lambda: alone.client._limit.statistics().tasks_waiting)
            relay.gate.set()  # NOSCRIPT; and whoever waited has the connection
            await relayed.direct.until_someone_waits()
        others.cancel_scope.cancel()
    await alone.client.aclose()
    assert len(relay.reply_sizes) == 1
    assert [type(error) for error in told] == [DeadlineExceeded]
    assert await relayed.direct.counts() == {"ready normal": 1, "enqueued": 1}


async def test_no_time_at_all_queues_nothing(relayed: Relayed) -> None:
    with pytest.raises(DeadlineExceeded):
        await relayed.store.enqueue(LANE, [job("a")], timeout_s=0)
    assert await relayed.direct.counts() == {}


async def test_when_time_ends_between_two_batches_the_caller_is_told_what_is_known(relayed: Relayed) -> None:
    await relayed.world.enqueue("warm")
    relayed.relay.arm(scripts.load("enqueue").sha)
    relayed.relay.faults = dict.fromkeys(range(1, 1000), Fault(Kind.DROP_REQUEST))
    with pytest.raises(OutcomeUnknown):
        await relayed.store.enqueue(LANE, [job(f"{number}") for number in range(600)], timeout_s=0.5)
    assert (await relayed.direct.store.stats(LANE)).enqueued == 501


async def test_an_error_is_raised_afresh_in_each_caller(relayed: Relayed) -> None:
    await relayed.world.enqueue("warm")
    await relayed.direct.client.ask("SET", relayed.store._calls(LANE).keys["unique"], "not a zset")
    raised: list[ServerError] = []

    async def enqueue(name: str) -> None:
        try:
            await relayed.world.enqueue(name)
        except ServerError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(enqueue, f"{number}")
    assert len({id(error) for error in raised}) == 6
    assert {(type(error), error.code) for error in raised} == {(ServerError, raised[0].code)}
    await relayed.direct.client.ask("DEL", relayed.store._calls(LANE).keys["unique"])
    assert await relayed.world.enqueue("after") == [Enqueued.CREATED]


async def test_scripts_are_sent_again_after_the_server_forgot_them(relayed: Relayed) -> None:
    await relayed.world.enqueue("a")
    await relayed.direct.client.ask("SCRIPT", "FLUSH")
    assert await relayed.world.enqueue("b") == [Enqueued.CREATED]
    assert ids(await relayed.world.claim(order=PRIORITIES)) == ["a", "b"]
