"""The client for Trio programs: puts jobs into queues and reads results."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import trio
from pydantic_core import from_json

from queue_trio.core.job import Enqueued, Lane
from queue_trio.errors import DeadlineExceeded, ServerRefused, UsageError
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from queue_trio.submission import RESULT_POLL_S, JobId, conclude, no_result, only_some, prepare, prepare_many

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from queue_trio.app import App, Job
    from queue_trio.core.store import Store

__all__ = ["JobId", "QueueClient"]


class QueueClient:
    """Open it with `async with app.client() as client:`. Safe for many tasks at once.

    Enqueueing waits through an outage for up to `client.timeout` seconds. Then it raises DeadlineExceeded (nothing
    was queued) or OutcomeUnknown: it may have been. Then enqueue the same Job object again: its id keeps it from being
    queued twice while the job exists, and for its `unique_for` after that. ServerRefused is raised at once if Redis
    refuses writes, ServerUnusable if it will never accept them.
    """

    def __init__(self, app: App, *, store: Store | None = None) -> None:
        self._app = app
        self._settings = app.settings.client
        self._given_store = store
        self._redis: Client | None = None
        self._store: Store | None = store

    async def __aenter__(self) -> Self:
        if not trio.lowlevel.in_trio_run():
            raise UsageError("app.client() is for Trio programs: use app.asyncio_client() under asyncio")
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

    async def enqueue(self, job: Job) -> JobId:
        """Queue one job; concurrent callers share round trips. Raises QueueFull, PayloadTooLarge, see the class."""
        settings = self._settings
        lane, new = prepare(job, now_ms=time.time_ns() // 1_000_000, max_payload=settings.max_payload)
        (answer,) = await self.store.enqueue(
            lane, (new,), max_length=settings.max_length, timeout_s=settings.timeout
        )
        if answer is Enqueued.REFUSED:
            conclude((job,), (answer,), settings.max_length)
        return JobId(job.id, answer is Enqueued.CREATED)

    async def enqueue_many(self, jobs: Sequence[Job]) -> list[JobId]:
        """Queue many jobs in few round trips; one id each, in order. Raises as `enqueue`.

        Nothing is sent if one of them is too large. Not one atomic step: after an error, enqueue the same list again;
        what is queued already stays as it is.
        """
        settings = self._settings
        deadline = trio.current_time() + settings.timeout
        answers = [Enqueued.CREATED] * len(jobs)
        now_ms = time.time_ns() // 1_000_000
        by_lane = prepare_many(jobs, now_ms=now_ms, max_payload=settings.max_payload)
        done = 0
        for lane, (positions, batch) in by_lane.items():
            timeout_s = deadline - trio.current_time()
            try:
                replies = await self.store.enqueue(
                    lane, batch, max_length=settings.max_length, timeout_s=timeout_s
                )
            except (DeadlineExceeded, ServerRefused) as error:
                if not done:
                    raise
                raise only_some(done, len(jobs), error) from error
            done += len(batch)
            for at, answer in zip(positions, replies, strict=True):
                answers[at] = answer
        return conclude(jobs, answers, settings.max_length)

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
