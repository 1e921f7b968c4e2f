"""The client for programs without an event loop: web applications, scripts, notebooks. Safe for many threads."""

# ruff: noqa: ASYNC251  # these coroutines are run by `run_blocking`: blocking is what they are for

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from queue_trio import foreign_calls
from queue_trio.errors import UsageError
from queue_trio.redis.foreign import Foreign, run_blocking
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

__all__ = ["SyncQueueClient"]


class SyncQueueClient:
    """Open it with `with app.sync_client() as client:`. Any thread may use it, and so may a process forked after that.

    Enqueueing waits through an outage for up to `client.timeout` seconds. Then it raises DeadlineExceeded (nothing
    was queued) or OutcomeUnknown: it may have been. Then enqueue the same Job object again: its id keeps it from being
    queued twice while the job exists, and for its `unique_for` after that. ServerRefused is raised at once if Redis
    refuses writes, ServerUnusable if it will never accept them.

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
        self._owner = 0

    def __enter__(self) -> Self:
        self._spans = self._app.spans
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open is not None:
            foreign, self._open = self._open, None
            # In a forked process they are the parent's connections and sessions, and it goes on with them.
            run_blocking(foreign.aclose(forget=self._owner == os.getpid()))

    def _start(self) -> Foreign:
        foreign = Foreign(self._app.settings.redis, _Blocking(), name=f"queue-trio:{self._app.name}:client")
        self._open, self._owner = foreign, os.getpid()
        return foreign

    @property
    def _foreign(self) -> Foreign:
        if self._open is None:
            raise UsageError("this client is not open: use it inside `with app.sync_client() as client:`")
        if self._owner != os.getpid():
            # After a fork the parent goes on with its connections and sequence numbers; ours must be others.
            with _after_fork:
                if self._owner != os.getpid():
                    return self._start()
        return self._open

    def connect(self) -> None:
        """Check that Redis can be used, now and without waiting. Raises InfrastructureError with the reason."""
        run_blocking(self._foreign.check())

    def enqueue(
        self,
        job: Job,
        *,
        timeout: float | None = None,
        on_outage: OnOutage | None = None,
        on_full: OnFull | None = None,
    ) -> JobId:
        """Queue one job; concurrent threads share round trips. Raises QueueFull, PayloadTooLarge, see the class."""
        terms = self._terms.but(timeout, on_outage, on_full)
        return run_blocking(foreign_calls.enqueue(self._foreign, job, self._settings, terms, self._spans))

    def enqueue_many(
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
        return run_blocking(
            foreign_calls.enqueue_many(self._foreign, jobs, self._settings, terms, self._spans)
        )

    def acquire(self, limit: RateLimit, count: int = 1, *, wait: float | None = None) -> Permit:
        """Wait for `count` permits of a rate limit, which all processes share. `wait`: seconds, by default for ever.

        Raises DeadlineExceeded when they cannot be had within `wait`. While Redis is away, `limit.when_down` decides;
        waiting for it ends with DeadlineExceeded after `client.timeout` seconds.
        """
        return run_blocking(foreign_calls.acquire(self._foreign, limit, count, wait, self._settings.timeout))

    def result(self, job_id: str, *, queue: str = "default", wait: float = 0.0) -> Any:
        """What the task returned, as JSON values, if it keeps results (`keep_result`). `wait`: seconds to wait for it.

        Raises NoResult if there is none, DeadlineExceeded if Redis does not answer for `client.timeout` seconds.
        """
        return run_blocking(foreign_calls.result(self._foreign, job_id, queue, wait, self._settings.timeout))


_after_fork = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_after_fork", threading.Lock()))


# --- how threads wait ----------------------------------------------------------------------------------------------


class _Blocking:
    """A `foreign.Port` that blocks the thread."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def lock(self, count: int = 1) -> _BlockingLock:
        return _BlockingLock(count)

    async def connect(
        self, endpoint: Endpoint, connect_timeout_s: float, read_timeout_s: float
    ) -> _BlockingWire:
        from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

        options = connection_options(endpoint, connect_timeout_s, read_timeout_s)
        kind: Any = (
            UnixDomainSocketConnection if endpoint.path else SSLConnection if endpoint.tls else Connection
        )
        connection = kind(**options)
        connection.connect()
        return _BlockingWire(connection)


class _BlockingLock:
    def __init__(self, count: int) -> None:
        self._semaphore = threading.Semaphore(count)

    async def acquire(self, timeout_s: float) -> bool:
        return self._semaphore.acquire(timeout=max(0.0, min(timeout_s, threading.TIMEOUT_MAX)))

    def release(self) -> None:
        self._semaphore.release()


class _BlockingWire:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def exchange(self, payload: bytes, timeout_s: float) -> Any:
        ends = time.monotonic() + timeout_s
        # Sending has no timeout of its own in redis-py, and a server that hangs takes only what its buffers hold.
        self._connection._sock.settimeout(timeout_s)
        self._connection.send_packed_command([payload], check_health=False)
        return self._read(max(0.001, ends - time.monotonic()))  # 0 would mean not to wait at all

    def _read(self, timeout_s: float) -> Any:
        return self._connection.read_response(timeout=timeout_s)

    async def stale(self) -> bool:
        from redis.exceptions import RedisError

        try:
            return bool(self._connection.can_read(0))
        except (RedisError, OSError):
            return True

    async def close(self) -> None:
        self._connection.disconnect()
