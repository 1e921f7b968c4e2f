"""Waiting for permits, on Trio's mock clock: callers until their slot, jobs in their slot or outside of it."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio.core.limiter import Decision, RateLimit
from queue_trio.errors import CircuitOpen, DeadlineExceeded, ServerUnusable
from queue_trio.memory.limiter import MemoryLimiter
from queue_trio.redis.limiter import TrioTimer, acquire
from queue_trio.runtime.pacer import Pacer

if TYPE_CHECKING:
    from queue_trio.core.permits import Permit
    from queue_trio.errors import InfrastructureError

START_US = 1_790_000_000_000_000


def memory_limiter() -> MemoryLimiter:
    """Time zero of the mock clock is the start of a window, whatever its length in whole seconds up to a minute."""
    start_us = START_US - START_US % 60_000_000
    return MemoryLimiter(lambda: start_us + round(trio.current_time() * 1e6))


class Scripted:
    """A limiter that answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Decision | InfrastructureError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, float]] = []

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        await trio.lowlevel.checkpoint()
        self.asked.append((reserve_us, timeout_s))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Watched(MemoryLimiter):
    """Counts how often it is asked."""

    calls = 0

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        self.calls += 1
        return await super().take(
            limit, count=count, reserve_us=reserve_us, stay_us=stay_us, timeout_s=timeout_s
        )


async def one(limiter: MemoryLimiter, limit: RateLimit, wait_s: float | None = None) -> Permit:
    return await acquire(limiter, limit, count=1, patience_s=wait_s, outage_s=30, rng=random.Random(3))


# --- callers -------------------------------------------------------------------------------------------------------


async def test_a_caller_sleeps_until_the_windows_end_and_a_jitter_and_asks_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = Watched(memory_limiter()._clock_us)
    limit = RateLimit("w", 2, 1)
    await one(limiter, limit)
    await one(limiter, limit)
    assert trio.current_time() == 0
    permit = await one(limiter, limit)
    assert 1 <= trio.current_time() <= 1.051
    assert permit.waited_s == trio.current_time()
    assert permit.at_us % 1_000_000 == 0
    assert limiter.calls == 3


@pytest.mark.parametrize("mode", ["window", "smooth"])
@pytest.mark.parametrize("apart_s", [0.0, 0.01])
async def test_a_crowd_is_served_at_the_full_rate_nearly_in_order_and_without_polling(
    autojump_clock: trio.testing.MockClock, mode: Any, apart_s: float
) -> None:
    limiter = Watched(memory_limiter()._clock_us)
    limit = RateLimit("c", 50, 1, mode)
    rng = random.Random(5)
    served: list[tuple[int, int]] = []

    async def caller(number: int) -> None:
        permit = await acquire(limiter, limit, count=1, patience_s=None, outage_s=30, rng=rng)
        served.append((permit.at_us, number))

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(caller, number)
            await trio.sleep(apart_s)
    # A thousand at fifty a second take twenty seconds; the first window, or slot, is there at once.
    assert 19 <= trio.current_time() <= 20.1
    assert limiter.calls <= 4 * 1000
    if apart_s:
        overtaken = [place - number for place, (_, number) in enumerate(sorted(served))]
        assert max(overtaken) <= 100


async def test_a_long_windows_crowd_goes_at_its_end_and_no_more_than_its_share(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = Watched(memory_limiter()._clock_us)
    limit = RateLimit("long", 20, 60)
    rng = random.Random(4)
    went: list[float] = []

    async def caller() -> None:
        await acquire(limiter, limit, count=1, patience_s=None, outage_s=30, rng=rng)
        went.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(caller)
    assert max(went[:20]) == 0
    assert 60 <= min(went[20:40]) <= max(went[20:40]) <= 60.11
    assert 120 <= min(went[40:]) <= max(went[40:]) <= 120.11
    assert limiter.calls <= 60 * 3


async def test_who_cannot_be_served_in_time_hears_it_at_once_and_who_can_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = memory_limiter()
    limit = RateLimit("d", 1, 60)
    await one(limiter, limit)
    with pytest.raises(DeadlineExceeded, match="no permit before 60 s from now"):
        await one(limiter, limit, 59)
    assert trio.current_time() == 0
    await one(limiter, limit, 61)
    assert 60 <= trio.current_time() <= 60.2


async def test_a_permit_that_was_overslept_is_asked_for_again() -> None:
    """A machine that was suspended wakes up in a window that its permit was not counted in."""
    limit = RateLimit("s", 1, 1, jitter=0)
    clock = 0.0

    class Suspended:
        def now(self) -> float:
            return clock

        async def sleep(self, seconds: float) -> None:
            nonlocal clock
            clock += 100
            await trio.lowlevel.checkpoint()

    limiter = Scripted(Decision(True, 500_000, 7, 0), Decision(True, 0, 9, 0))
    pacer = Pacer(limiter, [limit], timer=Suspended(), rng=random.Random(1))
    assert await pacer.admit(limit) is None
    assert not limiter.answers


# --- jobs ----------------------------------------------------------------------------------------------------------


async def test_a_job_waits_in_its_slot_for_a_second_and_outside_for_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limiter = memory_limiter()
    short, long = RateLimit("short", 1, 0.5, jitter=0), RateLimit("long", 1, 60)
    pacer = Pacer(limiter, [short, long], timer=TrioTimer(), rng=random.Random(2))
    assert await pacer.admit(short) is None
    assert trio.current_time() == 0
    assert await pacer.admit(short) is None
    assert 0.5 <= trio.current_time() <= 0.501
    assert await pacer.admit(long) is None
    began = trio.current_time()
    again_ms = await pacer.admit(long)
    assert trio.current_time() == began
    assert again_ms is not None
    assert 59_499 <= again_ms <= 60_600
    assert pacer.waits["short"].waits == 1
    assert pacer.waits["short"].wait_ms == 500
    assert pacer.waits["long"].given_back == 1
    assert pacer.waits["long"].wait_ms == again_ms


async def test_jobs_that_are_given_back_come_back_one_after_the_other(
    mock_clock: trio.testing.MockClock,
) -> None:
    """A backlog of a thousand is sent away once each, and not to the same moment. All in one window: time stands."""
    limiter = memory_limiter()
    limit = RateLimit("b", 10, 1)
    pacer = Pacer(limiter, [limit], timer=TrioTimer(), rng=random.Random(2), wait_s=0)
    delays = [await pacer.admit(limit) for _ in range(1010)]
    assert delays[:10] == [None] * 10
    places = [delay for delay in delays[10:] if delay is not None]
    assert len(places) == 1000
    by_second = [sum(second <= place / 1000 < second + 1 for place in places) for second in range(1, 100)]
    assert max(by_second) <= 25
    assert 95_000 <= max(places) <= 103_000


@pytest.mark.parametrize(
    "error",
    [CircuitOpen("open", 1.0), DeadlineExceeded("late"), ServerUnusable("NOPERM", "no permission")],
    ids=lambda error: type(error).__name__,
)
async def test_no_fault_of_redis_reaches_the_job(error: InfrastructureError) -> None:
    limit = RateLimit("f", 1, 1, when_down="fail")
    pacer = Pacer(Scripted(error), [limit], timer=TrioTimer(), rng=random.Random(2))
    again_ms = await pacer.admit(limit)
    assert again_ms is not None
    assert 1000 <= again_ms <= 2000
    assert pacer.waits["f"].given_back == 1


async def test_what_is_let_through_while_redis_is_away_is_counted_as_that() -> None:
    limit = RateLimit("o", 1, 1, when_down="open")
    pacer = Pacer(
        Scripted(Decision(True, 0, 0, 0, counted=False)), [limit], timer=TrioTimer(), rng=random.Random(2)
    )
    assert await pacer.admit(limit) is None
    assert (pacer.waits["o"].uncounted, pacer.waits["o"].waits) == (1, 0)


async def test_every_limit_is_counted_from_the_beginning() -> None:
    limit = RateLimit("later", 1, 1)
    pacer = Pacer(memory_limiter(), [limit], timer=TrioTimer(), rng=random.Random(2))
    assert pacer.waits["later"].waits == 0
    assert not math.isnan(pacer.waits["later"].wait_ms)
