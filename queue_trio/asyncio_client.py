"""The client for asyncio programs, such as web applications. For one event loop, and any number of its tasks."""

# ruff: noqa: ASYNC109  # a timeout that is told apart from a cancellation: what raises knows whether a job is queued

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

from queue_trio import foreign_calls
from queue_trio.errors import UsageError
from queue_trio.redis.foreign import Foreign
from queue_trio.redis.redis_py import connection_options
from queue_trio.submission import JobId, OnFull, OnOutage, Terms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from queue_trio.app import App, Job
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.redis.endpoint import Endpoint
    from queue_trio.tracing.spans import Spans

__all__ = ["AsyncioQueueClient"]


class AsyncioQueueClient:
    """Open it with `async with app.asyncio_client() as client:`. Safe for many tasks at once.

    Enqueueing waits through an outage for up to `client.timeout` seconds. Then it raises DeadlineExceeded (nothing
    was queued) or OutcomeUnknown: it may have been. Then enqueue the same Job object again: its id keeps it from being
    queued twice while the job exists, and for its `unique_for` after that. ServerRefused is raised at once if Redis
    refuses writes, ServerUnusable if it will never accept them. A cancelled call may or may not have queued its jobs.

    Each enqueue can say otherwise than the settings: `timeout` bounds all of it, in seconds. `on_outage="fail"` raises
    CircuitOpen (nothing was queued) or OutcomeUnknown as soon as Redis cannot be reached; while it stays away, one call
    at a time is let through to see whether it is back, the others fail at once. `on_full="wait"` tries again while a
    queue is at `client.max_length`, and raises QueueFull when time is up.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._settings = app.settings.client
        self._terms = Terms.of(self._settings)
        self._open: Foreign | None = None
        self._spans: Spans | None = None

    async def __aenter__(self) -> Self:
        self._spans = self._app.spans
        name = f"queue-trio:{self._app.name}:client"
        self._open = Foreign(self._app.settings.redis, _Asyncio(), name=name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open is not None:
            foreign, self._open = self._open, None
            await foreign.aclose()

    @property
    def _foreign(self) -> Foreign:
        if self._open is None:
            raise UsageError(
                "this client is not open: use it inside `async with app.asyncio_client() as client:`"
            )
        return self._open

    async def connect(self) -> None:
        """Check that Redis can be used, now and without waiting. Raises InfrastructureError with the reason."""
        await self._foreign.check()

    async def enqueue(
        self,
        job: Job,
        *,
        timeout: float | None = None,
        on_outage: OnOutage | None = None,
        on_full: OnFull | None = None,
    ) -> JobId:
        """Queue one job; concurrent tasks share round trips. Raises QueueFull, PayloadTooLarge, see the class."""
        terms = self._terms.but(timeout, on_outage, on_full)
        return await foreign_calls.enqueue(self._foreign, job, self._settings, terms, self._spans)

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

        An iterator, such as a generator, is taken some hundreds of jobs at a time, with never all of them in memory.
        `timeout` is for each portion. An error ends it; a note says how many of the first jobs are queued. To try
        again, keep the jobs, or give them ids of your own.
        """
        terms = self._terms.but(timeout, on_outage, on_full)
        return await foreign_calls.enqueue_many(self._foreign, jobs, self._settings, terms, self._spans)

    async def acquire(self, limit: RateLimit, count: int = 1, *, wait: float | None = None) -> Permit:
        """Wait for `count` permits of a rate limit, which all processes share. `wait`: seconds, by default for ever.

        Raises DeadlineExceeded when they cannot be had within `wait`. While Redis is away, `limit.when_down` decides;
        waiting for it ends with DeadlineExceeded after `client.timeout` seconds.
        """
        return await foreign_calls.acquire(self._foreign, limit, count, wait, self._settings.timeout)

    async def result(self, job_id: str, *, queue: str = "default", wait: float = 0.0) -> Any:
        """What the task returned, as JSON values, if it keeps results (`keep_result`). `wait`: seconds to wait for it.

        Raises NoResult if there is none, DeadlineExceeded if Redis does not answer for `client.timeout` seconds.
        """
        return await foreign_calls.result(self._foreign, job_id, queue, wait, self._settings.timeout)


# --- how tasks wait ------------------------------------------------------------------------------------------------


class _Asyncio:
    """A `foreign.Port` that lets other tasks run."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def lock(self, count: int = 1) -> _AsyncioLock:
        return _AsyncioLock(count)

    async def connect(
        self, endpoint: Endpoint, connect_timeout_s: float, read_timeout_s: float
    ) -> _AsyncioWire:
        from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

        options = connection_options(endpoint, connect_timeout_s, read_timeout_s)
        kind: Any = (
            UnixDomainSocketConnection if endpoint.path else SSLConnection if endpoint.tls else Connection
        )
        connection = kind(**options)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # With a timeout of its own redis-py waits in `asyncio.wait_for`, which before Python 3.12 loses a cancellation
        # that comes together with the reply. `exchange` has its own, which does not.
        connection.socket_timeout = None
        return _AsyncioWire(connection)


class _AsyncioLock:
    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)

    async def acquire(self, timeout_s: float) -> bool:
        if not self._semaphore.locked():
            # At once, also when no time is left, as a thread's lock does.
            return await self._semaphore.acquire()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._semaphore.acquire()
        except TimeoutError:
            return False

    def release(self) -> None:
        self._semaphore.release()


class _AsyncioWire:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        # redis-py forgets it when it hangs up, and over TLS hanging up is only the beginning of closing.
        self._transport: asyncio.WriteTransport = connection._writer.transport

    async def exchange(self, payload: bytes, timeout_s: float) -> Any:
        async with asyncio.timeout(timeout_s):
            await self._connection.send_packed_command([payload], check_health=False)
            return await self._connection.read_response()

    async def stale(self) -> bool:
        from redis.exceptions import RedisError

        try:
            return bool(await self._connection.can_read())
        except (RedisError, OSError):
            return True

    async def close(self) -> None:
        # Without waiting for the transport: a cancelled caller must be done here before anyone else can run.
        await self._connection.disconnect(nowait=True)
        self._transport.abort()
