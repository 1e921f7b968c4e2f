"""What the enqueue clients for threads and for asyncio have in common: everything but the waiting.

Those programs do not run Trio, so their bytes go over redis-py's connections. This module decides what is sent, when
it is sent again and what an error means; a `Port` (see `sync_client`, `asyncio_client`) knows how to connect, sleep and
lock. It is written with `await` once: over blocking sockets no await ever suspends, and `run_blocking` is all it takes.

That an enqueue happens once is `foreign_stream`'s part.
"""

from __future__ import annotations

import random
import threading
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from queue_trio.core.backoff import Backoff
from queue_trio.core.breaker import Breaker
from queue_trio.errors import (
    CircuitOpen,
    DeadlineExceeded,
    Indeterminate,
    InfrastructureError,
    InternalError,
    NotSent,
    ServerError,
    ServerNotReady,
    ServerUnusable,
    TransportError,
    UsageError,
)
from queue_trio.redis.connection import explained, pack_command
from queue_trio.redis.foreign_stream import Stream
from queue_trio.redis.keys import LaneKeys, lanes_key
from queue_trio.redis.outage import Outage
from queue_trio.redis.redis_py import endpoint_from, translate
from queue_trio.redis.server import judge, parse_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from queue_trio.core.job import Enqueued, Lane, NewJob
    from queue_trio.core.settings import RedisSettings
    from queue_trio.redis.endpoint import Endpoint

T = TypeVar("T")

GOODBYE_S = 0.25
"""For a last command before closing."""


class Lock(Protocol):
    """A counting lock. `acquire` says whether it was had within so many seconds."""

    async def acquire(self, timeout_s: float) -> bool: ...

    def release(self) -> None: ...


class Wire(Protocol):
    """One connection, used by one caller at a time."""

    async def exchange(self, payload: bytes, timeout_s: float) -> Any:
        """Send one command, give its reply. Raises what redis-py raises; after that the wire must not be used."""

    async def stale(self) -> bool:
        """Whether the peer hung up, or spoke unasked, while the wire was idle."""

    async def close(self) -> None:
        """At once, and without an exception."""


class Port(Protocol):
    """How one kind of program waits."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def lock(self, count: int = 1) -> Lock: ...

    async def connect(self, endpoint: Endpoint, connect_timeout_s: float, read_timeout_s: float) -> Wire:
        """Connect and no more. Raises what redis-py raises."""


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose every await returns without suspending."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        coroutine.close()
    raise InternalError("a blocking client tried to suspend")


# --- one Redis -----------------------------------------------------------------------------------------------------


class _Step(Protocol):
    async def __call__(self, wire: Wire, timeout_s: float, /) -> Any: ...


class _OutOfTime(NotSent):
    """The caller's time is over before anything was tried: says nothing about the server."""


class Foreign:
    """The state behind one open client: its connections and its streams. `port` decides who may use it at once."""

    def __init__(self, settings: RedisSettings, port: Port, *, name: str) -> None:
        self.port = port
        self.prefix = settings.prefix
        self._settings = settings
        self._name = name
        self._endpoint = endpoint_from(settings)
        self._backoff = Backoff(base=settings.backoff_base, cap=settings.backoff_cap)
        self._rng = random.Random()
        self._limit = port.lock(settings.max_connections)
        self._idle: list[Wire] = []
        self._streams: dict[tuple[Lane, int, bool], Stream] = {}
        self._announced: set[Lane] = set()
        self._closed = False
        self._breaker = Breaker(
            self._rng,
            window=settings.breaker_window,
            min_samples=settings.breaker_min_samples,
            failure_ratio=settings.breaker_failure_ratio,
            open_wait=settings.breaker_open_wait,
        )
        self.outage = Outage(self._rng, wait_s=settings.breaker_open_wait)
        self._guard = threading.Lock()
        """Around the breaker and the outage. Never held while waiting."""

    async def enqueue(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        *,
        max_length: int,
        deadline: float,
        fail_fast: bool = False,
    ) -> list[Enqueued]:
        """As `Store.enqueue`, until `deadline` on the port's clock; `jobs` is one piece of `enqueue_call.split`.

        `fail_fast`: raises CircuitOpen (nothing was queued) or OutcomeUnknown instead of waiting for an outage's end.
        """
        # Impatient callers have a stream of their own: the one who sends for all of them gives up as they would.
        key = (lane, max_length, fail_fast)
        stream = self._streams.get(key)
        if stream is None:
            # setdefault, because threads may come here together: only one stream may win.
            stream = self._streams.setdefault(key, Stream(self, lane, max_length, fail_fast=fail_fast))
        async with self.fail_fast() if fail_fast else nullcontext():
            if lane not in self._announced:
                await self._announce(lane, deadline, fail_fast=fail_fast)
            return await stream.enqueue(jobs, deadline)

    @asynccontextmanager
    async def fail_fast(self) -> AsyncIterator[None]:
        """Around calls with `fail_fast=True`, so that one at a time looks whether an outage is over.

        Raises CircuitOpen at once while Redis is known to be out of reach, unless it is time to look.
        """
        try:
            with self._guard:
                self.outage.enter(self.port.now())
        except CircuitOpen:
            await self.port.sleep(0)  # who is refused in a loop must still let others run
            raise
        try:
            yield
        finally:
            with self._guard:
                self.outage.leave()

    async def _announce(self, lane: Lane, deadline: float, *, fail_fast: bool) -> None:
        # Outside the script, because the set of lanes lies in another hash slot; and before it, so that no job is ever
        # in a lane that nobody lists. Looking first, because with memory full even adding again is refused.
        key = lanes_key(self.prefix)
        try:
            if not await self.ask("SISMEMBER", key, str(lane), deadline=deadline, fail_fast=fail_fast):
                await self.ask("SADD", key, str(lane), deadline=deadline, fail_fast=fail_fast)
            self._announced.add(lane)
        except DeadlineExceeded:
            pass  # enqueueing has no time left either, and says so in its own words

    async def result(self, lane: Lane, job_id: str, *, deadline: float) -> bytes | None:
        """A kept result, if there is one."""
        reply = await self.ask("GET", LaneKeys(lane, self.prefix).result(job_id), deadline=deadline)
        assert reply is None or isinstance(reply, bytes)
        return reply

    async def check(self) -> None:
        """Connect now, or raise the reason why that cannot be done."""
        await self._give_back(await self._borrow(self.port.now() + self._settings.connect_timeout))

    async def aclose(self, *, forget: bool = True) -> None:
        """Close every idle connection, and those in use as soon as they come back. Idempotent.

        `forget`: have our sessions forgotten over a connection that is there; otherwise they expire by themselves.
        """
        self._closed = True
        if forget and self._idle:
            with suppress(InfrastructureError):
                for stream in self._streams.values():
                    if stream.forgettable:
                        await self.exchange(self._idle[-1], ("UNLINK", stream.session_key), GOODBYE_S)
        await self._drop_idle()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def ask(self, *command: str, deadline: float, fail_fast: bool = False) -> Any:
        """One command that may be sent twice, sent until it is answered. Raises as `persevere`."""
        return await self.persevere(
            lambda wire, left: self.exchange(wire, command, left), deadline, fail_fast=fail_fast
        )

    async def persevere(self, step: _Step, deadline: float, *, fail_fast: bool = False) -> Any:
        """Take `step` on a connection until it succeeds. Raises DeadlineExceeded, naming the last failure.

        Raises ServerUnusable and ServerRefused at once, as `client.Client.run` does. `fail_fast`: raises CircuitOpen
        after the first failure; whether the step may have happened is the caller's to know.
        """
        attempt = 0
        why = ""
        joined = False
        try:
            while True:
                try:
                    reply = await self._once(step, deadline, fail_fast=fail_fast)
                except _OutOfTime as error:
                    raise DeadlineExceeded(why or str(error)) from None
                except CircuitOpen as error:
                    failure: InfrastructureError = error
                    why = self.outage.reason or str(error)
                    wait_s = error.retry_after
                except (TransportError, ServerNotReady) as error:
                    failure = error
                    why = str(error)
                    wait_s = self._backoff.delay(attempt, self._rng)
                    attempt += 1
                else:
                    if self.outage.since is not None:
                        with self._guard:
                            self.outage.over(self.port.now(), failed_before=attempt > 0)
                    return reply
                now = self.port.now()
                if now >= deadline:
                    raise DeadlineExceeded(why) from None
                with self._guard:
                    self.outage.failing(failure, now)
                    if fail_fast:
                        raise self.outage.error(now) from failure
                    if not joined:
                        joined = True
                        self.outage.join()
                await self.port.sleep(min(wait_s, deadline - now))
        finally:
            if joined:
                with self._guard:
                    self.outage.leave()

    def give_up_after(self, failures: int) -> None:
        """Raises CircuitOpen if Redis is out of reach, and found to be so since there were so many `failures`."""
        with self._guard:
            if self.outage.since is not None and self.outage.failures != failures:
                raise self.outage.error(self.port.now())

    async def _once(self, step: _Step, deadline: float, *, fail_fast: bool) -> Any:
        if not await self._limit.acquire(deadline - self.port.now()):
            count = self._settings.max_connections
            raise _OutOfTime(f"all {count} connections (redis.max_connections) are busy")
        try:
            began = self.port.now()
            with self._guard:
                permit = self._breaker.acquire(began)
            report: Callable[[float], None] | None = None
            try:
                reply = await self._on_a_wire(step, deadline)
                report = permit.success
                return reply
            except TransportError as error:
                # Out of the caller's time it tells nothing: the server may be well, and the caller in a hurry.
                if self.port.now() < deadline:
                    report = permit.failure
                    self.outage.reason = str(error)
                    await self._drop_idle()
                raise
            except ServerError:
                report = permit.success  # an answer, if only to refuse
                raise
            finally:
                now = self.port.now()
                with self._guard:
                    (report or permit.cancelled)(now)
                    if report is None and fail_fast:
                        self.outage.cut_short(now - began, now)
        finally:
            self._limit.release()

    async def _on_a_wire(self, step: _Step, deadline: float) -> Any:
        wire = await self._borrow(deadline)
        keep = False
        try:
            left = min(self._settings.read_timeout, deadline - self.port.now())
            if left <= 0:
                raise _OutOfTime(f"no time was left to ask {self._endpoint.display}")
            reply = await step(wire, left)
            keep = True
            return reply
        except ServerError as error:
            # A replica now: whoever is primary is found by connecting again. redis-py itself hangs up on LOADING.
            keep = not isinstance(error, ServerNotReady)
            raise
        finally:
            if keep:
                await self._give_back(wire)
            else:
                # Also for an interrupt or a cancellation: a reply may be on its way, and nobody else may read it.
                await wire.close()

    async def exchange(self, wire: Wire, command: tuple[str | bytes | int, ...], timeout_s: float) -> Any:
        """One command and its reply. Raises Indeterminate or a ServerError."""
        from redis.exceptions import RedisError

        try:
            return await wire.exchange(pack_command(command), timeout_s)
        except (RedisError, OSError) as error:
            raise translate(error, self._endpoint.display) from error

    # --- connections -----------------------------------------------------------------------------------------------

    async def _borrow(self, deadline: float) -> Wire:
        if self._closed:
            raise UsageError("this client is closed")
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if not await wire.stale():
                return wire
            await wire.close()
        left = min(self._settings.connect_timeout, deadline - self.port.now())
        if left <= 0:
            raise _OutOfTime(f"no time was left to connect to {self._endpoint.display}")
        return await self._connect(left)

    async def _drop_idle(self) -> None:
        # What ended one connection has probably ended all, and to find out for each one may take a read timeout.
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                await self._idle.pop().close()

    async def _connect(self, timeout_s: float) -> Wire:
        from redis.exceptions import RedisError

        display = self._endpoint.display
        try:
            wire = await self.port.connect(self._endpoint, timeout_s, self._settings.read_timeout)
        except (RedisError, OSError, UnicodeError) as error:
            raise translate(error, display, connecting=True) from error
        ready = False
        try:
            await self._log_in(wire, min(timeout_s, self._settings.read_timeout))
            ready = True
        except Indeterminate as error:
            # Only the handshake was on its way; no command of any caller was.
            hint = "" if self._endpoint.tls else " (a port that speaks TLS? then use rediss://)"
            raise NotSent(f"cannot connect to {display}: handshake failed: {error}{hint}") from error
        finally:
            if not ready:
                await wire.close()
        return wire

    async def _log_in(self, wire: Wire, timeout_s: float) -> None:
        endpoint = self._endpoint
        try:
            if endpoint.password is not None or endpoint.username is not None:
                user = () if endpoint.username is None else (endpoint.username,)
                await self.exchange(wire, ("AUTH", *user, endpoint.password or ""), timeout_s)
            if endpoint.db:
                await self.exchange(wire, ("SELECT", endpoint.db), timeout_s)
            info = await self.exchange(wire, ("INFO",), timeout_s)
        except ServerError as error:
            raise explained(error, endpoint) from None
        judge(parse_info(info), endpoint.display)
        # A server that forbids us to set a name can be worked with all the same.
        with suppress(ServerUnusable):
            await self.exchange(wire, ("CLIENT", "SETNAME", self._name), timeout_s)

    async def _give_back(self, wire: Wire) -> None:
        if self._closed:
            await wire.close()
        else:
            self._idle.append(wire)
