"""Rate limits: what one is, and the arithmetic that decides who may go and who waits for how long.

Knows no clock, no Redis and no waiting: a decision is a pure function of the account kept so far, the server's time
and what is asked. The Lua scripts `limit_window` and `limit_gcra` do the same on the server; this is the readable
model that a property test holds them to, and what `memory.limiter` runs.

A permit is for a moment, its *slot*: now, or a little later. A caller that is willing to wait reserves a slot in the
future and sleeps until it, so that nobody polls and those who came first go first.

    window   Slots lie in windows of `per` seconds, aligned to the server's clock; at most `limit` in each. The first to
             find a window full gets the start of the next one.
    smooth   GCRA, the generic cell rate algorithm (ITU-T I.371, annex A): permits `per / limit` apart, up to `burst` at
             once after a pause. Any span of t seconds has at most `burst + t * limit / per`.

Who is sent away without a slot gets a *place in line* besides: when to ask again, at the limit's own rate (so many at
each window's start, or one after the other), so that a thousand who wait do not all come back at once. A place is
advice and holds no permit.

Everything is whole microseconds, and stays below 2**53, so that Lua's doubles are exact too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, get_args

from queue_trio.errors import UsageError

LimitMode = Literal["window", "smooth"]
WhenDown = Literal["wait", "open", "fail"]

PER_S_MIN: Final = 0.01
PER_S_MAX: Final = 366 * 86400.0
LIMIT_MAX: Final = 10**9
EXACT_MAX: Final = 2**52
"""Half of what a double counts exactly, so that a sum of two is exact."""

JITTER_SHARE: Final = 0.05
JITTER_S_MAX: Final = 0.1
"""Unless it is given, a window's jitter is that share of it, and no more than that."""

LINE_US_MAX: Final = 600_000_000
"""The line is no longer than this, beyond the first slot that is free. Who comes later is told its end."""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_seconds(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` permits in `per` seconds, over all processes that use this `name` on the same Redis and prefix.

    `burst`: for smooth, how many may go at once after a pause (default 1). `jitter`: for window, up to so many seconds
    are added at random to a wait for its start (default 5 % of `per`, at most 0.1 s). `when_down`, while Redis cannot
    be asked: wait for it, open (go without being counted) or fail (raise at once). Raises UsageError.
    """

    name: str
    limit: int
    per: float
    mode: LimitMode = "window"
    burst: int | None = None
    jitter: float | None = None
    when_down: WhenDown = "wait"

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise UsageError(f"rate limit {self.name!r}: use 1 to 64 letters, digits, '_', '-' or '.'")
        if not _is_whole(self.limit, 1, LIMIT_MAX):
            raise self._wrong("limit", f"give a whole number, from 1 to {LIMIT_MAX}")
        if not _is_seconds(self.per, PER_S_MIN, PER_S_MAX):
            raise self._wrong("per", f"give seconds, from {PER_S_MIN:g} to {PER_S_MAX:.0f}")
        for field, allowed in (("mode", get_args(LimitMode)), ("when_down", get_args(WhenDown))):
            if getattr(self, field) not in allowed:
                raise self._wrong(field, f"choose one of {', '.join(allowed)}")
        if self.mode == "window":
            if self.burst is not None:
                raise self._wrong(
                    "burst", "it is for mode='smooth'; a window lets its whole limit go at once"
                )
            if self.jitter is not None and not _is_seconds(self.jitter, 0, self.per / 2):
                raise self._wrong("jitter", f"give seconds, from 0 to half of per ({self.per / 2:g})")
            return
        if self.jitter is not None:
            raise self._wrong("jitter", "it is for mode='window'; smooth slots are apart already")
        if self.burst is not None and not _is_whole(self.burst, 1, LIMIT_MAX):
            raise self._wrong("burst", f"give a whole number, from 1 to {LIMIT_MAX}")
        if self.at_once * self.spacing[0] > EXACT_MAX or self.spacing[1] > EXACT_MAX:
            raise self._wrong(
                "limit", "too fine a fraction to count exactly: choose a rounder one, or a smaller burst"
            )

    def _wrong(self, field: str, remedy: str) -> UsageError:
        return UsageError(f"rate limit {self.name}: {field}={getattr(self, field)!r}: {remedy}")

    @property
    def per_us(self) -> int:
        """The window, or what `limit` permits take, in microseconds."""
        return round(self.per * 1_000_000)

    @property
    def at_once(self) -> int:
        """The most permits one call may ask for."""
        return self.limit if self.mode == "window" else self.burst or 1

    @property
    def spacing(self) -> tuple[int, int]:
        """Microseconds from one permit to the next, as a fraction in lowest terms."""
        common = math.gcd(self.per_us, self.limit)
        return self.per_us // common, self.limit // common

    @property
    def gap_us(self) -> int:
        """The same in whole microseconds, rounded up: from one place in line to the next."""
        return -(-self.per_us // self.limit)

    @property
    def jitter_s(self) -> float:
        """The most that is added at random to a wait."""
        if self.mode == "smooth":
            return 0.0
        return min(JITTER_S_MAX, self.per * JITTER_SHARE) if self.jitter is None else self.jitter

    def check_count(self, count: int) -> None:
        """Raises UsageError if no call may have so many permits."""
        if not _is_whole(count, 1, self.at_once):
            what = "limit" if self.mode == "window" else "burst"
            raise UsageError(
                f"rate limit {self.name}: count={count!r}: give a whole number, from 1 to its {what} ({self.at_once})"
            )

    def arguments(self, count: int, reserve_us: int, stay_us: int) -> tuple[int, ...]:
        """What the script of this mode is given; see its header."""
        asked = (count, reserve_us, stay_us, self.gap_us)
        if self.mode == "window":
            return (self.limit, self.per_us, *asked)
        return (*self.spacing, self.at_once, *asked)


class Decision(NamedTuple):
    """The answer to one request, in microseconds.

    `granted`: the permits are for `now_us + wait_us`. Otherwise nothing is reserved, the first slot that is free is
    `wait_us` away, and asking again after `line_us` is fair. `now_us` is the server's time.
    """

    granted: bool
    wait_us: int
    now_us: int
    line_us: int
    counted: bool = True
    """False for what was let through while Redis was away."""


class Limiter(Protocol):
    """Where the accounts are kept: Redis, or this process's memory."""

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        """Ask once for `count` permits whose slot is no more than `reserve_us` away.

        `stay_us`: take a place in line if it is no farther away than this. 0 for those who have one.

        While the accounts cannot be reached, `limit.when_down` decides: wait raises DeadlineExceeded after `timeout_s`,
        fail raises the InfrastructureError itself, open lets through.
        """
        ...


# --- the model -----------------------------------------------------------------------------------------------------


class Account(NamedTuple):
    """What is remembered of one limit. The scripts store just these numbers, in this order.

    `seen_us`: the latest time that was ever decided at. `ahead_us`: how far time here is ahead of the server's clock,
    which may have been set back: time goes on from where it was, or a window could be used twice. `line_us`: the next
    place in line. Then, for a window: its start, how many of it are taken, 0; for smooth: the time up to which permits
    are taken, as whole microseconds, a rest, and the rest's denominator.
    """

    seen_us: int = 0
    ahead_us: int = 0
    line_us: int = 0
    at_us: int = 0
    amount: int = 0
    unit: int = 0


def decide(
    limit: RateLimit, account: Account, time_us: int, *, count: int, reserve_us: int, stay_us: int
) -> tuple[Decision, Account]:
    """What becomes of a request at `time_us` of the server's clock, and the account after it."""
    now = max(time_us + account.ahead_us, account.seen_us)
    ahead = now - time_us
    step = _window if limit.mode == "window" else _smooth
    slot, taken = step(limit, account, now, count)
    if slot - now <= reserve_us:
        after = Account(now, ahead, account.line_us, *taken)
        return Decision(True, slot - now, now, slot - now), after
    place = line = max(account.line_us, slot)
    if place - now <= stay_us and place - slot <= LINE_US_MAX:
        line += count * limit.gap_us
    after = account._replace(seen_us=now, ahead_us=ahead, line_us=line)
    if limit.mode == "window":
        place = max(slot, place - place % limit.per_us)
    return Decision(False, slot - now, now, place - now), after


_Taken = tuple[int, int, int]


def _window(limit: RateLimit, account: Account, now: int, count: int) -> tuple[int, _Taken]:
    per = limit.per_us
    start, used = account.at_us, account.amount
    current = now - now % per
    if start < current:
        start, used = current, 0
    if used + count > limit.limit:
        start, used = start - start % per + per, 0
    return max(now, start), (start, used + count, 0)


def _smooth(limit: RateLimit, account: Account, now: int, count: int) -> tuple[int, _Taken]:
    apart, unit = limit.spacing
    whole, rest = account.at_us, account.amount
    if account.unit != unit and rest:
        whole, rest = whole + 1, 0  # the limit's numbers were changed: on the safe side
    if whole < now:
        whole, rest = now, 0
    slot = whole - (-(rest + (count - limit.at_once) * apart) // unit)
    more, rest = divmod(rest + count * apart, unit)
    return max(now, slot), (whole + more, rest, unit)
