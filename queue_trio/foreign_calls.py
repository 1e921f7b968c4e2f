"""What the clients for threads and for asyncio do with jobs and results, written once.

As `redis.foreign`, it awaits only what its port awaits: over blocking sockets `run_blocking` is all it takes. The Trio
client does the same over its own store.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from queue_trio.core.job import Enqueued, Lane
from queue_trio.errors import DeadlineExceeded, ServerRefused
from queue_trio.submission import RESULT_POLL_S, JobId, conclude, no_result, only_some, prepare_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.app import Job
    from queue_trio.core.settings import ClientSettings
    from queue_trio.redis.foreign import Foreign


async def enqueue_many(foreign: Foreign, jobs: Sequence[Job], settings: ClientSettings) -> list[JobId]:
    """Queue jobs, lane by lane; one id each, in order. Raises as the clients say."""
    deadline = foreign.port.now() + settings.timeout
    answers = [Enqueued.CREATED] * len(jobs)
    now_ms = time.time_ns() // 1_000_000
    done = 0
    for lane, (positions, batch) in prepare_many(
        jobs, now_ms=now_ms, max_payload=settings.max_payload
    ).items():
        try:
            replies = await foreign.enqueue(lane, batch, max_length=settings.max_length, deadline=deadline)
        except (DeadlineExceeded, ServerRefused) as error:
            if not done:
                raise
            raise only_some(done, len(jobs), error) from error
        done += len(batch)
        for at, answer in zip(positions, replies, strict=True):
            answers[at] = answer
    return conclude(jobs, answers, settings.max_length)


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
