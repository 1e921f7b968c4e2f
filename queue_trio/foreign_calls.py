"""What the clients for threads and for asyncio do with jobs and results, written once.

As `redis.foreign`, it awaits only what its port awaits: over blocking sockets `run_blocking` is all it takes. The Trio
client does the same over its own store.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from queue_trio.core.job import Lane
from queue_trio.intake import Intake
from queue_trio.submission import RESULT_POLL_S, conclude, no_result, portions, prepare, wall_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queue_trio.app import Job
    from queue_trio.core.job import Enqueued, NewJob
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.core.settings import ClientSettings
    from queue_trio.redis.foreign import Foreign
    from queue_trio.submission import JobId, Terms
    from queue_trio.tracing.spans import Spans


async def enqueue(
    foreign: Foreign, job: Job, settings: ClientSettings, terms: Terms, spans: Spans | None = None
) -> JobId:
    """Queue one job. Raises as the clients say."""
    if terms.wait_for_room:
        (job_id,) = await enqueue_many(foreign, (job,), settings, terms, spans)
        return job_id
    if spans is None:
        return await _enqueue(foreign, job, settings, terms, None)
    with spans.enqueue((job,)) as (traceparent,):
        return await _enqueue(foreign, job, settings, terms, traceparent)


async def _enqueue(
    foreign: Foreign, job: Job, settings: ClientSettings, terms: Terms, traceparent: str | None
) -> JobId:
    lane, new = prepare(job, now_ms=wall_ms(), max_payload=settings.max_payload, traceparent=traceparent)
    deadline = foreign.port.now() + terms.timeout_s
    answers = await foreign.enqueue(
        lane, (new,), max_length=settings.max_length, deadline=deadline, fail_fast=terms.fail_fast
    )
    (job_id,) = conclude((job.id,), answers, settings.max_length)
    return job_id


async def enqueue_many(
    foreign: Foreign, jobs: Iterable[Job], settings: ClientSettings, terms: Terms, spans: Spans | None = None
) -> list[JobId]:
    """Queue jobs, lane by lane; one id each, in order. Raises as the clients say."""
    made = portions(jobs, now_ms=wall_ms, max_payload=settings.max_payload, spans=spans)
    port = _Port(foreign, settings.max_length)
    return await Intake(port, made, terms, max_length=settings.max_length).run()


class _Port:
    """An `intake.Port` on a `Foreign`."""

    def __init__(self, foreign: Foreign, max_length: int) -> None:
        self._foreign = foreign
        self._max_length = max_length
        self.now = foreign.port.now

    async def sleep(self, seconds: float) -> None:
        await self._foreign.port.sleep(seconds)

    async def put(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        deadline: float,
        *,
        fail_fast: bool,
        meanwhile: object,  # left undone: docs/decisions/016
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
