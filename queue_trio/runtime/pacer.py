"""Lets jobs of a rate-limited task start only with a permit. It waits a little in the job's slot, or says for how long
to give the job back, so that a limit which is used up blocks no slot that other tasks could use.

It knows the limits and how to count waits. It neither runs nor releases a job: the executor does. A job is never to
blame for waiting, so nothing here raises: while Redis is away the job goes back too, or through, if its limit says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from queue_trio.core.permits import FOREVER_US, RESERVE_S, sleep_until_slot
from queue_trio.errors import DeadlineExceeded, InfrastructureError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queue_trio.core.backoff import Rng
    from queue_trio.core.limiter import Limiter, RateLimit
    from queue_trio.core.permits import Timer

log = structlog.get_logger(__name__)

AWAY_S: Final = 1.0
"""For so long, and up to as much again, a job is given back if its permit cannot be asked for."""

SPREAD: Final = 0.05
SPREAD_S_MAX: Final = 1.0
"""A wait outside is made longer by up to this share at random, and by no more than that."""


@dataclass(slots=True)
class Waits:
    """For one limit. `waits`: jobs that did not start at once. `wait_ms`: how long they were made to wait.

    `given_back`: those among the waits that left their slot. `uncounted`: started without a permit, Redis being away.
    """

    waits: int = 0
    wait_ms: int = 0
    given_back: int = 0
    uncounted: int = 0


class Pacer:
    """`limits`: those whose waits are counted from the beginning. `timer`: the worker's clock."""

    def __init__(
        self,
        limiter: Limiter,
        limits: Iterable[RateLimit],
        *,
        timer: Timer,
        rng: Rng,
        wait_s: float = RESERVE_S,
    ) -> None:
        self._limiter = limiter
        self._timer = timer
        self._rng = rng
        self._wait_s = wait_s
        self.waits: dict[str, Waits] = {limit.name: Waits() for limit in limits}

    async def admit(self, limit: RateLimit) -> int | None:
        """Wait for a permit. None: start the job now. Otherwise give it back for so many milliseconds.

        Waits no longer than `wait_s`, and about as long again for Redis. Cancelled, it wastes a permit at most.
        """
        waits = self.waits.setdefault(limit.name, Waits())
        end = self._timer.now() + self._wait_s
        while True:
            reserve_s = max(0.0, end - self._timer.now())
            try:
                found = await self._limiter.take(
                    limit,
                    count=1,
                    reserve_us=int(reserve_s * 1e6),
                    stay_us=FOREVER_US,
                    timeout_s=self._wait_s,
                )
            except InfrastructureError as error:
                # An outage is told of elsewhere, once.
                tell = log.debug if isinstance(error, TransportError | DeadlineExceeded) else log.warning
                tell("rate_limit.no_answer", limit=limit.name, reason=str(error), kind=type(error).__name__)
                return self._give_back(waits, AWAY_S * self._rng.uniform(1.0, 2.0))
            if not found.granted:
                place_s = found.line_us / 1e6
                spread_s = max(limit.jitter_s, min(SPREAD_S_MAX, place_s * SPREAD))
                return self._give_back(waits, place_s + self._rng.uniform(0.0, spread_s))
            waits.uncounted += not found.counted
            if not found.wait_us:
                return None
            waits.waits += 1
            waits.wait_ms += round(found.wait_us / 1000)
            if await sleep_until_slot(limit, found.wait_us / 1e6, self._timer, self._rng):
                return None

    def _give_back(self, waits: Waits, pause_s: float) -> int:
        pause_ms = max(1, round(pause_s * 1000))
        waits.waits += 1
        waits.given_back += 1
        waits.wait_ms += pause_ms
        return pause_ms
