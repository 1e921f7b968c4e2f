"""Rate limits kept in Redis, for programs without Trio: what `limiter` is to those with it, over `foreign`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from queue_trio.core.permits import acquire as wait_for_permits
from queue_trio.errors import ServerError
from queue_trio.redis.limit_call import AWAY, LET_THROUGH, decision, keys_of, script_of

if TYPE_CHECKING:
    from queue_trio.core.backoff import Rng
    from queue_trio.core.limiter import Decision, RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.redis.foreign import Foreign, Wire
    from queue_trio.redis.scripts import Script


class ForeignLimiter:
    """A `core.limiter.Limiter` over what the clients for threads and for asyncio share."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        """See `core.limiter.Limiter`. Raises also ServerUnusable, whatever `when_down` says."""
        script, keys = script_of(limit), keys_of(limit, self._foreign.prefix)
        tail: tuple[str | int, ...] = (
            len(keys),
            *keys,
            *limit.arguments(count, reserve_us, stay_us),
        )

        async def step(wire: Wire, left_s: float) -> Any:
            return await self._exchange(wire, script, tail, left_s)

        deadline = self._foreign.port.now() + timeout_s
        try:
            impatient = limit.when_down != "wait"
            # Like an impatient enqueue: a known outage is not tried by every caller in turn.
            async with self._foreign.fail_fast() if impatient else nullcontext():
                return decision(await self._foreign.persevere(step, deadline, fail_fast=impatient))
        except AWAY:
            if limit.when_down == "open":
                return LET_THROUGH
            raise

    async def _exchange(
        self, wire: Wire, script: Script, tail: tuple[str | int, ...], timeout_s: float
    ) -> Any:
        try:
            return await self._foreign.exchange(wire, ("EVALSHA", script.sha, *tail), timeout_s)
        except ServerError as error:
            if error.code != "NOSCRIPT":
                raise
        return await self._foreign.exchange(wire, ("EVAL", script.text, *tail), timeout_s)


async def acquire(
    foreign: Foreign, limit: RateLimit, *, count: int, patience_s: float | None, outage_s: float, rng: Rng
) -> Permit:
    """`core.permits.acquire` for a program on redis-py."""
    return await wait_for_permits(
        ForeignLimiter(foreign),
        limit,
        count=count,
        patience_s=patience_s,
        outage_s=outage_s,
        timer=foreign.port,
        rng=rng,
    )
