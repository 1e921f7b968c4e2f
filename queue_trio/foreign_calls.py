"""What the clients for threads and for asyncio do with jobs and results, written once.

As `redis.foreign`, it awaits only what its port awaits: over blocking sockets `run_blocking` is all it takes. The Trio
client does the same over its own store.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from queue_trio.core.job import Lane
from queue_trio.intake import Intake
from queue_trio.submission import RESULT_POLL_S, conclude, no_result, prepare, prepare_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.app import Job
    from queue_trio.core.job import Enqueued, NewJob
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.core.settings import ClientSettings
    from queue_trio.redis.foreign import Foreign
    from queue_trio.submission import JobId, Terms
    from queue_trio.tracing.spans import Spans


async def enqueue_many(
    foreign: Foreign,
    jobs: Sequence[Job],
    settings: ClientSettings,
    terms: Terms,
    spans: Spans | None = None,
) -> list[JobId]:
    """Queue jobs, lane by lane; one id each, in order. Raises as the clients say."""
    if spans is None:
        return await _take_in(foreign, jobs, settings, terms, None)
    with spans.enqueue(jobs) as traceparents:
        return await _take_in(foreign, jobs, settings, terms, traceparents)


async def _take_in(
    foreign: Foreign,
    jobs: Sequence[Job],
    settings: ClientSettings,
    terms: Terms,
    traceparents: Sequence[str] | None,
) -> list[JobId]:
    now_ms = time.time_ns() // 1_000_000
    if len(jobs) == 1 and not terms.wait_for_room:
        lane, new = prepare(
            jobs[0],
            now_ms=now_ms,
            max_payload=settings.max_payload,
            traceparent=None if traceparents is None else traceparents[0],
        )
        deadline = foreign.port.now() + terms.timeout_s
        answers = await foreign.enqueue(
            lane, (new,), max_length=settings.max_length, deadline=deadline, fail_fast=terms.fail_fast
        )
        return conclude(jobs, answers, settings.max_length)
    by_lane = prepare_many(jobs, now_ms=now_ms, max_payload=settings.max_payload, traceparents=traceparents)
    port = _Port(foreign, settings.max_length)
    return await Intake(port, jobs, by_lane, terms, max_length=settings.max_length).run()


class _Port:
    """An `intake.Port` on a `Foreign`."""

    def __init__(self, foreign: Foreign, max_length: int) -> None:
        self._foreign = foreign
        self._max_length = max_length
        self.now = foreign.port.now

    async def sleep(self, seconds: float) -> None:
        await self._foreign.port.sleep(seconds)

    async def put(
        self, lane: Lane, jobs: Sequence[NewJob], deadline: float, *, fail_fast: bool
    ) -> list[Enqueued]:
        return await self._foreign.enqueue(
            lane, jobs, max_length=self._max_length, deadline=deadline, fail_fast=fail_fast
        )


async def acquire(
    foreign: Foreign, limit: RateLimit, count: int, wait_s: float | None, outage_s: float
) -> Permit:
    """Permits of a rate limit. Raises as the clients say."""
    from queue_trio.redis.foreign_limiter import acquire

    return await acquire(
        foreign, limit, count=count, patience_s=wait_s, outage_s=outage_s, rng=random.Random()
    )


async def result(foreign: Foreign, job_id: str, queue: str, wait_s: float, timeout_s: float) -> Any:
    """A kept result, waited for up to `wait_s` seconds. Raises NoResult, and DeadlineExceeded after `timeout_s`."""
    port = foreign.port
    until = port.now() + wait_s
    while True:
        raw = await foreign.result(Lane(queue), job_id, deadline=port.now() + timeout_s)
        if raw is not None:
            return from_json(raw)
        left = until - port.now()
        if left <= 0:
            raise no_result(job_id)
        await port.sleep(min(RESULT_POLL_S, left))
