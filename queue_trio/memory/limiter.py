"""Rate limits kept in memory: what `redis.limiter` is on a server, for tests, examples and simulation. One process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from queue_trio.core.limiter import Account, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.core.limiter import Decision, RateLimit


class MemoryLimiter:
    """A `core.limiter.Limiter`. `clock_us`: the time, microseconds since the epoch. It is never away."""

    def __init__(self, clock_us: Callable[[], int]) -> None:
        self._clock_us = clock_us
        self._accounts: dict[tuple[str, str], Account] = {}

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        """See `core.limiter.Limiter`."""
        await trio.lowlevel.checkpoint()
        key = (limit.name, limit.mode)
        decision, self._accounts[key] = decide(
            limit,
            self._accounts.get(key, Account()),
            self._clock_us(),
            count=count,
            reserve_us=reserve_us,
            stay_us=stay_us,
        )
        return decision
