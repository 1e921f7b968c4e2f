"""Rate limits kept in Redis, for Trio programs: one script call per request, and `when_down` applied.

Deciding is the script's part, waiting for a slot is `core.permits`'s. What `foreign_limiter` is to other programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from queue_trio.context import job_in_scope
from queue_trio.core.permits import acquire as wait_for_permits
from queue_trio.errors import DeadlineExceeded
from queue_trio.redis.client import Call
from queue_trio.redis.limit_call import AWAY, LET_THROUGH, decision, keys_of, script_of

if TYPE_CHECKING:
    from queue_trio.core.backoff import Rng
    from queue_trio.core.limiter import Decision, Limiter, RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.redis.client import Client


class RedisLimiter:
    """A `core.limiter.Limiter` over a Trio client."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        """See `core.limiter.Limiter`. Raises also ServerUnusable, whatever `when_down` says."""
        arguments = limit.arguments(count, reserve_us, stay_us)
        call = Call(script_of(limit), keys_of(limit, self._prefix), arguments)
        try:
            with trio.move_on_after(timeout_s):
                return decision(await self._run(limit, call))
            raise DeadlineExceeded(f"rate limit {limit.name}: no answer from Redis within {timeout_s:.3g} s")
        except AWAY:
            if limit.when_down == "open":
                return LET_THROUGH
            raise

    async def _run(self, limit: RateLimit, call: Call) -> Any:
        if limit.when_down == "wait":
            return await self._client.run(call)
        async with self._client.fail_fast():
            return await self._client.run(call)


class TrioTimer:
    """A `core.permits.Timer` on Trio's clock."""

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def _stays_s() -> float:
    """How long until a cancel scope around the caller ends, or the time of the job that it is part of."""
    job = job_in_scope.get()
    deadline = trio.current_effective_deadline()
    return (deadline if job is None else min(deadline, job.deadline)) - trio.current_time()


async def acquire(
    limiter: Limiter, limit: RateLimit, *, count: int, patience_s: float | None, outage_s: float, rng: Rng
) -> Permit:
    """`core.permits.acquire` for a Trio program. What would come too late for a cancel scope around it is not taken."""
    return await wait_for_permits(
        limiter,
        limit,
        count=count,
        patience_s=patience_s,
        outage_s=outage_s,
        timer=TrioTimer(),
        rng=rng,
        stays_s=_stays_s,
    )
