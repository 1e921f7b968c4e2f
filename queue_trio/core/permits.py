"""Waiting for a permit of a rate limit: how often to ask, how long to sleep, when to give up. One for all clients.

It awaits only what it is given: a `Limiter` that decides and a `Timer` that sleeps. It knows neither Trio nor asyncio
nor Redis; over blocking sockets none of its awaits ever suspends.

Who has a slot sleeps until it and asks no more. Nobody reserves one far ahead, because a caller that is cancelled or
dies wastes what it has reserved; farther ahead than that it waits in line, where leaving costs nobody anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from queue_trio.errors import DeadlineExceeded, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.core.backoff import Rng
    from queue_trio.core.limiter import Limiter, RateLimit

RESERVE_S: Final = 1.0
"""How far ahead a permit may be reserved."""

TURN_RESERVE_S: Final = 2.0
"""The same for who has waited in line and whose turn it is: so newcomers do not go before it."""

FOREVER_US: Final = 2**52
"""Longer than anything lasts."""

LINE_S_MAX: Final = 5.0
"""Who waits in line asks again after so long at the latest: those before it may have gone away."""

ASK_S_MIN: Final = 0.5
"""For asking Redis, also when the caller is in a greater hurry."""

LATE_S_MAX: Final = 1.0
"""A permit is used so late at most, or within the limit's own `per` if that is longer."""

DRIFT: Final = 5e-4
"""Two clocks run apart by so much at most (adjtime slews by 500 ppm): a sleep is longer by this share, never early."""


class Permit(NamedTuple):
    """`at_us`: the moment it is for, by the server's clock, microseconds since the epoch; 0 if not `counted`.

    `counted`: False if Redis was away and the limit's `when_down` let the caller through. `waited_s`: seconds.
    """

    at_us: int
    waited_s: float
    counted: bool


class Timer(Protocol):
    """How a program tells time and waits. `redis.foreign.Port` is one."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


async def acquire(
    limiter: Limiter,
    limit: RateLimit,
    *,
    count: int,
    patience_s: float | None,
    outage_s: float,
    timer: Timer,
    rng: Rng,
    stays_s: Callable[[], float] = lambda: math.inf,
) -> Permit:
    """Wait for `count` permits that are good at the same moment, and give them when that moment has come.

    `patience_s`: raise DeadlineExceeded at once when it is clear that they cannot be had within so long; None waits for
    ever. `outage_s`: how long Redis may be away each time it is asked. `stays_s`: how long the caller will be there, if
    that is known otherwise; what it will not live to see is not reserved. Raises UsageError, and as `Limiter.take`.
    """
    limit.check_count(count)
    if patience_s is not None and not patience_s >= 0:
        raise UsageError(f"wait={patience_s!r}: give seconds, 0 or more")
    began = timer.now()
    end = math.inf if patience_s is None else began + patience_s
    turn: float | None = None
    while True:
        now = timer.now()
        left_s = max(0.0, end - now)
        stay_s = min(left_s, max(0.0, stays_s()))
        reach_s = RESERVE_S if turn is None or now < turn - RESERVE_S else TURN_RESERVE_S
        found = await limiter.take(
            limit,
            count=count,
            reserve_us=_micros(min(reach_s, stay_s)),
            stay_us=_micros(stay_s) if turn is None else 0,
            timeout_s=min(outage_s, max(left_s, ASK_S_MIN)),
        )
        wait_s = found.wait_us / 1e6
        if found.granted:
            if await sleep_until_slot(limit, wait_s, timer, rng):
                at_us = found.now_us + found.wait_us if found.counted else 0
                return Permit(at_us, timer.now() - began, found.counted)
            continue
        now = timer.now()
        left_s = end - now
        if wait_s > left_s:
            raise DeadlineExceeded(
                f"rate limit {limit.name}: no permit before {wait_s:.3g} s from now, "
                f"and the caller waits for no more than {max(0.0, left_s):.3g} s"
            )
        if turn is None:
            turn = now + found.line_us / 1e6
        await timer.sleep(_pause_s(wait_s, turn - now, left_s, rng))


async def sleep_until_slot(limit: RateLimit, wait_s: float, timer: Timer, rng: Rng) -> bool:
    """Sleep until the slot has come, and a little more. False if the permit is no good any more.

    A program that was suspended meanwhile wakes in another window, which its permit was not counted in.
    """
    if wait_s <= 0:
        return True
    due = timer.now() + wait_s
    await timer.sleep(wait_s * (1 + DRIFT) + rng.uniform(0.0, limit.jitter_s))
    return timer.now() - due < max(limit.per, LATE_S_MAX)


def _pause_s(wait_s: float, turn_s: float, left_s: float, rng: Rng) -> float:
    """How long to sleep before asking again: until our turn can be reserved, give or take.

    Not before there is anything to reserve, and not so late that none of the caller's patience would be left.
    """
    earliest_s = max(0.0, wait_s - RESERVE_S)
    if turn_s <= RESERVE_S:
        # It is our turn, and yet there was nothing to reserve: more callers than places, or many permits for one call.
        return max(wait_s - TURN_RESERVE_S, RESERVE_S * rng.uniform(0.25, 0.5))
    fair_s = turn_s - RESERVE_S * rng.uniform(0.5, 1.0)
    return max(earliest_s, min(fair_s, earliest_s + LINE_S_MAX, left_s - RESERVE_S))


def _micros(seconds: float) -> int:
    return min(FOREVER_US, int(min(seconds, 1e9) * 1e6))
