"""The client for Trio programs: puts jobs into queues and reads results."""

# ruff: noqa: ASYNC109  # a timeout that is told apart from a cancellation: what raises knows whether a job is queued

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

import trio
from pydantic_core import from_json

from queue_trio.core.job import Enqueued, Lane
from queue_trio.errors import DeadlineExceeded, UsageError
from queue_trio.intake import Intake
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from queue_trio.submission import (
    RESULT_POLL_S,
    JobId,
    OnFull,
    OnOutage,
    Terms,
    conclude,
    job_id,
    no_result,
    portions,
    prepare,
    wall_ms,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from queue_trio.app import App, Job
    from queue_trio.core.job import NewJob
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.core.store import Store
    from queue_trio.tracing.spans import Spans

__all__ = ["JobId", "QueueClient"]


class QueueClient:
    """Open it with `async with app.client() as client:`. Safe for many tasks at once.

    Enqueueing waits through an outage for up to `client.timeout` seconds. Then it raises DeadlineExceeded (nothing
    was queued) or OutcomeUnknown: it may have been. Then enqueue the same Job object again: its id keeps it from being
    queued twice while the job exists, and for its `unique_for` after that. ServerRefused is raised at once if Redis
    refuses writes, ServerUnusable if it will never accept them.

    Each enqueue can say otherwise than the settings: `timeout` bounds all of it, in seconds. `on_outage="fail"` raises
    CircuitOpen (nothing was queued) or OutcomeUnknown as soon as Redis cannot be reached; while it stays away, one call
    at a time is let through to see whether it is back, the others fail at once. `on_full="wait"` tries again while a
    queue is at `client.max_length`, and raises QueueFull when time is up.
    """

    def __init__(self, app: App, *, store: Store | None = None) -> None:
        self._app = app
        self._settings = app.settings.client
        self._terms = Terms.of(self._settings)
        self._given_store = store
        self._redis: Client | None = None
        self._store: Store | None = store
        self._spans: Spans | None = None
        self._rng = random.Random()

    async def __aenter__(self) -> Self:
        if not trio.lowlevel.in_trio_run():
            raise UsageError("app.client() is for Trio programs: use app.asyncio_client() under asyncio")
        self._spans = self._app.spans
        if self._given_store is None:
            settings = self._app.settings.redis
            self._redis = Client.from_settings(settings, name=f"queue-trio:{self._app.name}:client")
            self._store = RedisStore(self._redis, prefix=settings.prefix)
        self._app._open_clients.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._app._open_clients.remove(self)
        if self._redis is not None:
            own, self._store = self._store, None
            try:
                if isinstance(own, RedisStore):
                    await own.aclose()
            finally:
                await self._redis.aclose()

    @property
    def store(self) -> Store:
        """The store underneath. Raises UsageError if the client is not open."""
        if self._store is None:
            raise UsageError("this client is not open: use it inside `async with app.client() as client:`")
        return self._store

    async def connect(self) -> None:
        """Check that Redis can be used, now and without waiting. Raises InfrastructureError with the reason."""
        if self._redis is not None:
            await self._redis.connect()

    async def enqueue(
        self,
        job: Job,
        *,
        timeout: float | None = None,
        on_outage: OnOutage | None = None,
        on_full: OnFull | None = None,
    ) -> JobId:
        """Queue one job; concurrent callers share round trips. Raises QueueFull, PayloadTooLarge, see the class."""
        terms = self._terms
        if timeout is not None or on_outage is not None or on_full is not None:
            terms = terms.but(timeout, on_outage, on_full)
        if terms.fail_fast or terms.wait_for_room:
            (job_id,) = await self._enqueue_all((job,), terms)
            return job_id
        if self._spans is None:
            return await self._enqueue(job, terms, None)
        with self._spans.enqueue((job,)) as (traceparent,):
            return await self._enqueue(job, terms, traceparent)

    async def _enqueue(self, job: Job, terms: Terms, traceparent: str | None) -> JobId:
        settings = self._settings
        lane, new = prepare(job, now_ms=wall_ms(), max_payload=settings.max_payload, traceparent=traceparent)
        (answer,) = await self.store.enqueue(
            lane, (new,), max_length=settings.max_length, timeout_s=terms.timeout_s
        )
        if answer is Enqueued.REFUSED:
            conclude((job.id,), (answer,), settings.max_length)
        return job_id(job.id, answer)

    async def enqueue_many(
        self,
        jobs: Iterable[Job],
        *,
        timeout: float | None = None,
        on_outage: OnOutage | None = None,
        on_full: OnFull | None = None,
    ) -> list[JobId]:
        """Queue many jobs in few round trips; one id each, in order. Raises as `enqueue`.

        Nothing is sent if one of them is too large. Not one atomic step: after an error, enqueue the same list again;
        what is queued already stays as it is. Waiting for room goes on with what was refused; within each queue the
        order is kept.

        An iterator, such as a generator, is taken some hundreds of jobs at a time, the next while the server works: the
        fastest way, with never all of them in memory. `timeout` is for each portion. An error ends it; a note says how
        many of the first jobs are queued. To try again, keep the jobs, or give them ids of your own.
        """
        return await self._enqueue_all(jobs, self._terms.but(timeout, on_outage, on_full))

    async def _enqueue_all(self, jobs: Iterable[Job], terms: Terms) -> list[JobId]:
        settings = self._settings
        made = portions(jobs, now_ms=wall_ms, max_payload=settings.max_payload, spans=self._spans)
        port = _Port(self.store, self._redis, settings.max_length)
        return await Intake(port, made, terms, max_length=settings.max_length).run()

    async def acquire(self, limit: RateLimit, count: int = 1, *, wait: float | None = None) -> Permit:
        """Wait for `count` permits of a rate limit, which all processes share. `wait`: seconds, by default for ever.

        Raises DeadlineExceeded when they cannot be had within `wait`. While Redis is away, `limit.when_down` decides;
        waiting for it ends with DeadlineExceeded after `client.timeout` seconds.
        """
        from queue_trio.redis.limiter import acquire

        return await acquire(
            self.store.limiter,
            limit,
            count=count,
            patience_s=wait,
            outage_s=self._settings.timeout,
            rng=self._rng,
        )

    async def result(self, job_id: str, *, queue: str = "default", wait: float = 0.0) -> Any:
        """What the task returned, as JSON values, if it keeps results (`keep_result`). `wait`: seconds to wait for it.

        Raises NoResult if there is none, DeadlineExceeded if Redis does not answer for `client.timeout` seconds.
        """
        timeout_s = self._settings.timeout
        until = trio.current_time() + wait
        while True:
            with trio.move_on_after(timeout_s) as scope:
                raw = await self.store.result(Lane(queue), job_id)
            if scope.cancelled_caught:
                raise DeadlineExceeded(f"no answer from Redis within {timeout_s:g} s")
            if raw is not None:
                return from_json(raw)
            left = until - trio.current_time()
            if left <= 0:
                raise no_result(job_id)
            await trio.sleep(min(RESULT_POLL_S, left))


class _Port:
    """An `intake.Port` on a store."""

    def __init__(self, store: Store, redis: Client | None, max_length: int) -> None:
        self._store = store
        self._redis = redis
        self._max_length = max_length

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def put(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        deadline: float,
        *,
        fail_fast: bool,
        meanwhile: Callable[[], None] | None,
    ) -> list[Enqueued]:
        async with self._redis.fail_fast() if fail_fast and self._redis is not None else nullcontext():
            return await self._store.enqueue(
                lane,
                jobs,
                max_length=self._max_length,
                timeout_s=deadline - trio.current_time(),
                meanwhile=meanwhile,
            )
