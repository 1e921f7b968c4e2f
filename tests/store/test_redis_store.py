"""What RedisStore alone has to see to: arguments it must not half act on, and what it leaves behind on the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio import App
from queue_trio.core.job import Enqueued, Lane, NewJob, State
from queue_trio.core.settings import RedisSettings, Settings
from queue_trio.errors import OutcomeUnknown, ServerError, ServerRefused, ServerUnusable
from queue_trio.redis import scripts
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.settler import Settler
from tests.store.relay import Fault, Kind, Relay, open_relay
from tests.store.worlds import (
    HOUR_MS,
    LANE,
    ServerTime,
    World,
    done,
    dump,
    job,
    kept,
    lane_keys,
    record,
    redis_client,
    redis_world,
    release,
    retry,
    unix_url,
)
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.core.job import Outcome
    from queue_trio.embedded import EmbeddedRedis
    from tests.support import SharedRedis


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_ms", [-1, 2**52, 2**63, 10**30])
async def test_a_bad_keep_ms_is_refused_before_anything_is_written(redis: World, keep_ms: int) -> None:
    await redis.enqueue("a", "b", "c", "d")
    a, b, c, d = (await redis.claim()).jobs
    before = await dump(redis.client, sessions=True)
    with pytest.raises(ServerError, match=f"keep_ms of c is {keep_ms}"):
        await redis.settle(done(a), retry(b), kept(c, b"result", keep_ms), release(d))
    assert await dump(redis.client, sessions=True) == before
    assert len(await redis.store.peek(redis.lane, State.LEASED, count=9)) == 4
    assert await redis.settle(done(a), retry(b), kept(c, b"result", 2**52 - 1), release(d)) == [True] * 4
    assert await redis.store.result(redis.lane, "c") == b"result"
    await redis.check()


# --- ids that stay taken -------------------------------------------------------------------------------------------


async def _remembered(world: World) -> int:
    return int(await world.client.ask("ZCARD", lane_keys()["unique"]))


async def test_ids_whose_time_is_over_are_forgotten_by_those_who_take_ids_themselves(redis: World) -> None:
    """Without any sweep, which takes away only so many each time."""
    await redis.enqueue(*(job(f"old-{number}", unique_ms=1) for number in range(300)))
    await redis.pass_ms(2)
    for call in range(6):
        await redis.enqueue(*(job(f"new-{call}-{number}", unique_ms=HOUR_MS) for number in range(50)))
    assert await _remembered(redis) == 300
    assert await redis.enqueue("new-0-0", "old-0") == [Enqueued.DUPLICATE, Enqueued.DUPLICATE]


async def test_a_stream_of_ids_taken_for_a_moment_stays_small(redis: World) -> None:
    most = 0
    for call in range(40):
        await redis.enqueue(*(job(f"{call}-{number}", unique_ms=1) for number in range(25)))
        most = max(most, await _remembered(redis))
        await redis.pass_ms(2)
    assert most <= 2 * 25


# --- the end of sessions -------------------------------------------------------------------------------------------


async def _sessions(world: World) -> list[str]:
    """The streams of the sessions that the server remembers."""
    keys = await world.client.ask("KEYS", "*:session:*")
    return sorted(key.decode().partition(":session:")[2].partition(":")[2] for key in keys)


async def _use(world: World) -> None:
    """One call in each of its streams."""
    await world.enqueue("a")
    await world.settle(*map(done, (await world.claim()).jobs))


async def test_a_store_that_closes_leaves_no_session(redis: World) -> None:
    other = Lane("tests", 1)
    await _use(redis)
    await redis.store.enqueue(other, [job("a")], max_length=7)
    assert await _sessions(redis) == ["claim", "enqueue:0", "enqueue:7", "settle"]
    await redis.redis.aclose()
    assert await _sessions(redis) == []
    await redis.redis.aclose()


async def test_a_store_that_was_never_used_closes_without_connecting(redis_url: str) -> None:
    async with redis_world(redis_url) as world:
        await world.redis.aclose()
        assert world.client.connects == 0


async def test_a_client_that_closes_leaves_no_session(redis: World, redis_url: str) -> None:
    app = App("test", settings=Settings(redis=RedisSettings(url=redis_url)))  # type: ignore[arg-type]

    @app.task
    async def task() -> None: ...

    async with app.client() as client:
        await client.enqueue(task.job())
        assert len(await _sessions(redis)) == 1
    assert await _sessions(redis) == []


@asynccontextmanager
async def _through(
    relay: Relay, *, read_timeout: float = 5, breaker_open_wait: float = 0.1
) -> AsyncIterator[World]:
    client = redis_client(relay.url, read_timeout=read_timeout, breaker_open_wait=breaker_open_wait)
    try:
        yield World(RedisStore(client), ServerTime(client))
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()


async def _load_scripts(world: World) -> None:
    """So that each call is one exchange, and not one that asks for the script."""
    for name in scripts.NAMES:
        await world.client.ask("SCRIPT", "LOAD", scripts.load(name).text)


@pytest.mark.parametrize("kind", [Kind.LOSE_REPLY, Kind.LATE_REQUEST], ids=lambda kind: kind.name)
@pytest.mark.parametrize("stream", ["enqueue", "claim", "settle"])
async def test_a_session_stays_while_a_copy_of_a_request_may_be_on_its_way(
    redis: World, redis_server: SharedRedis, stream: str, kind: Kind
) -> None:
    """Without it the server would take the late copy for a new call."""
    await _load_scripts(redis)
    async with open_relay(redis_server.unix_socket) as relay, _through(relay) as world:
        relay.arm(scripts.load(stream).sha, Fault(kind))
        await _use(world)
        assert relay.seen == 2
        await world.redis.aclose()
        assert [name.partition(":")[0] for name in await _sessions(redis)] == [stream]
        (key,) = await redis.client.ask("KEYS", "*:session:*")
        assert await redis.client.ask("PTTL", key) > 0
        before = await redis.counts()
        if relay.late:
            await relay.deliver_late()
        assert await redis.counts() == before == {"enqueued": 1, "completed": 1}


async def test_the_session_of_a_call_that_was_cancelled_on_its_way_stays(
    redis: World, redis_server: SharedRedis
) -> None:
    await _load_scripts(redis)
    async with open_relay(redis_server.unix_socket) as relay, _through(relay) as world:
        await _use(world)
        relay.arm(scripts.load("claim").sha)
        relay.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.claim)
            await relay.arrived.wait()
            nursery.cancel_scope.cancel()
        relay.gate.set()
        await world.client.ask("PING")  # the cancelled call took its connection along
        await world.redis.aclose()
        assert await _sessions(redis) == ["claim"]


@pytest.mark.parametrize(
    ("how", "lanes"),
    [
        ("killed", 1),
        ("killed", 6),
        ("frozen", 1),
        ("frozen", 6),
    ],
)
async def test_a_client_whose_redis_is_gone_closes_within_half_a_second(
    private_redis: EmbeddedRedis, how: str, lanes: int
) -> None:
    app = App("test", settings=Settings(redis=RedisSettings(url=private_redis.url)))  # type: ignore[arg-type]
    tasks = []
    for number in range(lanes):

        @app.task(name=f"task-{number}", queue=f"queue-{number}")
        async def task() -> None: ...

        tasks.append(task)
    async with app.client() as client:
        async with trio.open_nursery() as nursery:  # as many connections as lanes
            for task in tasks:
                nursery.start_soon(client.enqueue, task.job())
        if how == "killed":
            await private_redis.kill()
        else:
            await private_redis.freeze()
        began = trio.current_time()
    took = trio.current_time() - began
    if how == "frozen":
        private_redis.thaw()
    assert took < 0.5


# --- attempts without reply ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refuse", "allow", "error"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), ServerRefused),
        (
            ("ACL", "SETUSER", "default", "-evalsha", "-eval"),
            ("ACL", "SETUSER", "default", "+evalsha", "+eval"),
            ServerUnusable,
        ),
    ],
    ids=["memory full", "not allowed"],
)
@pytest.mark.parametrize("kind", [Kind.DROP_REQUEST, Kind.LATE_REQUEST, None])
async def test_a_refusal_after_an_attempt_without_reply_says_nothing_of_that_attempt(
    private_redis: EmbeddedRedis,
    refuse: tuple[str, ...],
    allow: tuple[str, ...],
    error: type[ServerError],
    kind: Kind | None,
) -> None:
    async with (
        redis_world(unix_url(private_redis.unix_socket)) as direct,
        open_relay(private_redis.unix_socket) as relay,
        _through(relay) as world,
    ):
        await world.enqueue("warm")
        await direct.client.ask(*refuse)
        relay.arm(scripts.load("enqueue").sha, None if kind is None else Fault(kind))
        expected = error if kind is None else OutcomeUnknown
        with pytest.raises(expected) as caught:
            await world.enqueue("a")
        assert type(caught.value) is expected
        assert relay.seen == (1 if kind is None else 2)
        await direct.client.ask(*allow)
        if relay.late:
            await relay.deliver_late()  # it does happen after all
        answer = Enqueued.DUPLICATE if kind is Kind.LATE_REQUEST else Enqueued.CREATED
        assert await world.enqueue("a") == [answer]
        await direct.check()


@pytest.mark.parametrize("arrived", [True, False], ids=["that arrived", "that never arrived"])
async def test_a_settle_cancelled_on_its_way_is_asked_for_and_not_settled_again(
    redis: World, redis_server: SharedRedis, arrived: bool
) -> None:
    await _load_scripts(redis)
    await redis.enqueue(*(NewJob(name, record()) for name in "abcde"))
    a, b, c, d, _ = (await redis.claim()).jobs
    async with open_relay(redis_server.unix_socket) as relay, _through(relay) as world:
        settler = Settler(world.store)
        heard: list[tuple[str, bool]] = []

        def on_settled(lane: Lane, outcomes: Sequence[Outcome], accepted: Sequence[bool]) -> None:
            heard.extend(zip((outcome.id for outcome in outcomes), accepted, strict=True))

        settler.on_settled = on_settled
        for outcome in (done(a), kept(b, b"result"), retry(c)):
            settler.add(LANE, outcome)
        relay.arm(scripts.load("settle").sha)
        relay.gate = trio.Event()
        relay.blocked = not arrived
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settler.flush)
            await relay.arrived.wait()
            if arrived:
                await eventually(lambda: relay.reply_sizes)
            nursery.cancel_scope.cancel()
        relay.gate.set()
        relay.blocked = False
        assert heard == []
        settler.add(LANE, release(d))  # meanwhile another has ended: it must not change what is asked
        await settler.flush()
        assert heard == [(name, True) for name in "abcd"]
        assert settler.backlog == 0
    stats = await redis.store.stats(LANE)
    assert (stats.completed, stats.leased, stats.ready_total + stats.scheduled) == (2, 1, 2)
    assert await redis.client.ask("HGET", lane_keys()["stats"], "stale") is None
    await redis.check()
