"""Rate limits on a real Redis: the scripts do as the model does, faults give nothing away, outages go as declared."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from queue_trio import App, Settings
from queue_trio.core.limiter import Account, RateLimit, decide
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import CircuitOpen, DeadlineExceeded, UsageError
from queue_trio.redis import scripts
from queue_trio.redis.client import Client
from queue_trio.redis.foreign import run_blocking
from queue_trio.redis.foreign_limiter import acquire as acquire_foreign
from queue_trio.redis.keys import limit_key
from queue_trio.redis.limiter import RedisLimiter, acquire
from tests.relay import open_relay
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from queue_trio.core.permits import Permit
    from queue_trio.embedded import EmbeddedRedis
    from queue_trio.redis.foreign import Foreign
    from tests.relay import Relay

pytestmark = pytest.mark.leaves_keys("the account of a limit expires by itself")

KINDS = ("trio", "asyncio", "sync")
every_kind = pytest.mark.parametrize("kind", KINDS)


def redis_settings(url: str) -> RedisSettings:
    return RedisSettings(
        url=SecretStr(url), connect_timeout=0.5, read_timeout=0.5, backoff_cap=0.05, breaker_open_wait=0.1
    )


async def use(kind: str, url: str, body: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run `body` with an acquire function of that kind of client, while this Trio run goes on."""
    rng = random.Random(7)
    if kind == "trio":
        async with open_client(url) as client:

            async def of_trio(limit: RateLimit, count: int = 1, wait: float | None = 20) -> Permit:
                limiter = RedisLimiter(client, "qt")
                return await acquire(limiter, limit, count=count, patience_s=wait, outage_s=10, rng=rng)

            return await body(of_trio)

    app = App("test", settings=Settings(redis=redis_settings(url)))

    async def with_foreign(foreign: Foreign) -> Any:
        async def of_others(limit: RateLimit, count: int = 1, wait: float | None = 20) -> Permit:
            return await acquire_foreign(foreign, limit, count=count, patience_s=wait, outage_s=10, rng=rng)

        return await body(of_others)

    def blocking() -> Any:
        with app.sync_client() as client:
            return run_blocking(with_foreign(client._foreign))

    async def on_asyncio() -> Any:
        async with app.asyncio_client() as client:
            return await with_foreign(client._foreign)

    if kind == "sync":
        return await trio.to_thread.run_sync(blocking)
    return await trio.to_thread.run_sync(lambda: asyncio.run(on_asyncio()))


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Client]:
    client = Client.from_settings(redis_settings(url), name="test")
    try:
        yield client
    finally:
        await client.aclose()


# --- the scripts and the model -------------------------------------------------------------------------------------

MONTH_S = 30 * 86400
"""A window that does not end while a test runs."""

START_US = 1_790_000_000_000_000

numbers = {
    "window": st.lists(
        st.builds(RateLimit, st.just("m"), st.integers(1, 9), st.sampled_from([0.3, 1, 7])),
        min_size=1,
        max_size=2,
    ),
    "smooth": st.lists(
        st.builds(
            RateLimit,
            st.just("m"),
            st.integers(1, 9),
            st.sampled_from([0.3, 1, 7, 86400]),
            st.just("smooth"),
            st.integers(1, 5),
        ),
        min_size=1,
        max_size=2,
    ),
}
steps = st.lists(
    st.tuples(
        st.integers(-500_000, 3_000_000),  # how far the clock moves
        st.integers(0, 1),  # which of the limits
        st.floats(0, 1),  # how much of what may be had
        st.sampled_from([0, 0, 300_000, 5_000_000]),  # how far ahead it reserves
        st.sampled_from([0, 2_000_000, 2**52]),  # how long it would wait in line
    ),
    max_size=25,
)


@pytest.mark.parametrize("mode", ["window", "smooth"])
def test_the_scripts_decide_as_the_model_does(redis_url: str, mode: str) -> None:
    """With the clock in our hands: TIME is replaced by two arguments, and all else is the script as it is."""
    script = scripts.load("limit_window") if mode == "window" else scripts.load("limit_gcra")
    assert script.text.count("redis.call('TIME')") == 1
    text = script.text.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}")
    key = limit_key("m", mode)

    with redis.Redis.from_url(redis_url) as server:

        @hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(numbers[mode], steps)
        def agree(limits: list[RateLimit], schedule: list[tuple[int, int, float, int, int]]) -> None:
            server.delete(key)
            account, clock_us = Account(), START_US
            for moved_us, which, share, reserve_us, stay_us in schedule:
                clock_us += moved_us
                limit = limits[which % len(limits)]
                count = max(1, round(share * limit.at_once))
                decision, account = decide(
                    limit, account, clock_us, count=count, reserve_us=reserve_us, stay_us=stay_us
                )
                now = (clock_us // 1_000_000, clock_us % 1_000_000)
                reply: Any = server.eval(text, 1, key, *limit.arguments(count, reserve_us, stay_us), *now)
                assert (bool(reply[0]), *reply[1:]) == decision[:4]
                stored: Any = server.get(key)
                assert tuple(map(int, stored.split())) == account

        agree()


@every_kind
@pytest.mark.parametrize("mode", ["window", "smooth"])
async def test_a_permit_is_for_server_time_and_nobody_goes_before_it(
    redis_url: str, kind: str, mode: Any
) -> None:
    limit = RateLimit("t", 2, 0.2, mode)

    def server_us() -> int:
        with redis.Redis.from_url(redis_url) as server:
            seconds, micros = server.time()
        return int(seconds * 1_000_000 + micros)

    async def body(acquire: Any) -> list[tuple[int, int]]:
        return [((await acquire(limit)).at_us, server_us()) for _ in range(10)]

    began = server_us()
    permits = await use(kind, redis_url, body)
    for at_us, acted_us in permits:
        assert began <= at_us <= acted_us
    slots = [at_us for at_us, _ in permits]
    assert slots == sorted(slots)
    if mode == "window":
        for window in {slot // limit.per_us for slot in slots}:
            assert sum(slot // limit.per_us == window for slot in slots) <= 2
        # A wait ends at the window's start by the microsecond, and the caller goes at most a jitter later.
        assert sum(slot % limit.per_us == 0 for slot in slots) >= 2
    else:
        assert min(later - before for before, later in pairwise(slots)) >= 100_000


async def test_the_account_is_one_key_with_a_hash_tag_and_expires(redis_url: str) -> None:
    async with open_client(redis_url) as client:
        limiter = RedisLimiter(client, "qt")
        for limit in (RateLimit("a", 5, 0.2), RateLimit("a", 5, 0.2, "smooth"), RateLimit("b", 1, 60)):
            await limiter.take(limit, count=1, reserve_us=0, stay_us=0, timeout_s=5)
            await limiter.take(limit, count=1, reserve_us=0, stay_us=0, timeout_s=5)
        keys = [bytes(key).decode() for key in await client.ask("KEYS", "*")]
        assert sorted(keys) == ["qt:limit:{a}:smooth", "qt:limit:{a}:window", "qt:limit:{b}:window"]
        assert 0 < await client.ask("PTTL", "qt:limit:{a}:window") <= 1300
        assert 0 < await client.ask("PTTL", "qt:limit:{a}:smooth") <= 1300
        assert 0 < await client.ask("PTTL", "qt:limit:{b}:window") <= 122_000


async def test_a_full_memory_does_not_stop_who_is_paced(private_redis: EmbeddedRedis) -> None:
    limit = RateLimit("m", 5, MONTH_S)
    async with open_client(private_redis.url) as client:
        await client.ask("CONFIG", "SET", "maxmemory", "1")
        limiter = RedisLimiter(client, "qt")
        answers = [await limiter.take(limit, count=1, reserve_us=0, stay_us=0, timeout_s=5) for _ in range(6)]
    assert [answer.granted for answer in answers] == [True] * 5 + [False]


# --- waiting -------------------------------------------------------------------------------------------------------


@every_kind
async def test_a_deadline_that_cannot_be_met_is_told_at_once_and_takes_nothing(
    redis_url: str, kind: str
) -> None:
    limit = RateLimit("d", 2, MONTH_S)

    async def body(acquire: Any) -> None:
        await acquire(limit, 2)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"rate limit d: no permit before .* s from now"):
            await acquire(limit, wait=2)
        with pytest.raises(DeadlineExceeded):
            await acquire(limit, wait=0)
        assert time.monotonic() - began < 1
        with pytest.raises(UsageError, match="count=3"):
            await acquire(limit, 3)
        with pytest.raises(UsageError, match="wait=-1"):
            await acquire(limit, wait=-1)

    await use(kind, redis_url, body)
    with redis.Redis.from_url(redis_url) as server:
        stored: Any = server.get(limit_key("d", "window"))
    assert stored.split()[4] == b"2"


async def test_a_cancel_scope_around_it_reserves_nothing_it_would_not_live_to_see(redis_url: str) -> None:
    limit = RateLimit("c", 1, 0.5, "smooth")
    async with open_client(redis_url) as client:
        limiter = RedisLimiter(client, "qt")

        async def one() -> Permit:
            return await acquire(limiter, limit, count=1, patience_s=None, outage_s=5, rng=random.Random(1))

        first = await one()
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await one()
            assert scope.cancelled_caught
        # Three who gave up, and the next one finds the slot they did not take.
        assert (await one()).at_us == first.at_us + 500_000


@every_kind
async def test_a_lost_reply_wastes_a_permit_and_gives_none_away(
    redis_server: Any, redis_url: str, kind: str
) -> None:
    limit = RateLimit("l", 4, MONTH_S)

    async def body(acquire: Any) -> None:
        await acquire(limit)
        relay.lose_replies(2)
        await acquire(limit)
        assert relay.lost == 2
        with pytest.raises(DeadlineExceeded):
            await acquire(limit, wait=1)

    async with open_relay(redis_server.port) as relay:
        await use(kind, relay.url, body)
    with redis.Redis.from_url(redis_url) as server:
        stored: Any = server.get(limit_key("l", "window"))
    assert stored.split()[4] == b"4"


@pytest.mark.parametrize("mode", ["window", "smooth"])
async def test_a_line_that_keeps_losing_replies_never_gives_more_than_the_limit(
    redis_server: Any, redis_url: str, mode: Any
) -> None:
    limit = RateLimit("n", 20, 0.2, mode)
    slots: list[int] = []

    async def caller(acquire: Any) -> None:
        slots.extend([(await acquire(limit)).at_us for _ in range(8)])

    async def body(acquire: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(caller, acquire)

    async def spoil(relay: Relay) -> None:
        while True:
            relay.lose_replies(1)
            await trio.sleep(0.03)

    async with open_relay(redis_server.port) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(spoil, relay)
        await use("trio", relay.url, body)
        nursery.cancel_scope.cancel()
    assert relay.lost >= 10
    assert len(slots) == 160
    if mode == "window":
        assert max(Counter(slot // limit.per_us for slot in slots).values()) <= 20
    else:
        assert min(later - before for before, later in pairwise(sorted(slots))) >= 10_000


# --- outages -------------------------------------------------------------------------------------------------------


@every_kind
async def test_wait_waits_through_an_outage(private_redis: EmbeddedRedis, kind: str) -> None:
    limit = RateLimit("o", 5, 60)
    trying = threading.Event()
    permits: list[Permit] = []

    async def body(acquire: Any) -> None:
        trying.set()
        permits.append(await acquire(limit))

    await private_redis.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, kind, private_redis.url, body)
        await eventually(trying.is_set)
        await private_redis.restart()
    assert permits[0].counted
    assert permits[0].waited_s > 0.01


@every_kind
async def test_wait_ends_with_the_timeout_when_the_outage_does_not(
    private_redis: EmbeddedRedis, kind: str
) -> None:
    limit = RateLimit("o", 5, 60)

    async def body(acquire: Any) -> float:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await acquire(limit, wait=0.6)
        return time.monotonic() - began

    await private_redis.kill()
    assert 0.5 <= await use(kind, private_redis.url, body) < 3


@every_kind
async def test_fail_raises_at_once_and_open_lets_through_uncounted(
    private_redis: EmbeddedRedis, kind: str
) -> None:
    strict = RateLimit("f", 5, 60, when_down="fail")
    lenient = RateLimit("f", 5, 60, when_down="open")

    async def body(acquire: Any) -> list[Permit]:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                await acquire(strict)
        free = [await acquire(lenient) for _ in range(20)]
        assert time.monotonic() - began < 2
        return free

    await private_redis.kill()
    permits = await use(kind, private_redis.url, body)
    assert {(permit.counted, permit.at_us) for permit in permits} == {(False, 0)}
    await private_redis.restart()

    async def again(acquire: Any) -> Permit:
        found: Permit = await acquire(lenient)
        return found

    assert (await use(kind, private_redis.url, again)).counted


@every_kind
async def test_a_server_that_hangs_is_away_too(private_redis: EmbeddedRedis, kind: str) -> None:
    lenient = RateLimit("f", 5, 60, when_down="open")

    async def body(acquire: Any) -> Permit:
        found: Permit = await acquire(lenient)
        return found

    await private_redis.freeze()
    try:
        began = time.monotonic()
        assert not (await use(kind, private_redis.url, body)).counted
        assert time.monotonic() - began < 3
    finally:
        private_redis.thaw()
