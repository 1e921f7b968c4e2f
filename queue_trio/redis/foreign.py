"""What the enqueue clients for threads and for asyncio have in common: everything but the waiting.

Those programs do not run Trio, so their bytes go over redis-py's connections. This module decides what is sent, when
it is sent again and what an error means; a `Port` (see `sync_client`, `asyncio_client`) knows how to connect, sleep and
lock. It is written with `await` once: over blocking sockets no await ever suspends, and `run_blocking` is all it takes.

That an enqueue happens once is `foreign_stream`'s part.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from queue_trio.core.backoff import Backoff
from queue_trio.errors import (
    DeadlineExceeded,
    Indeterminate,
    InfrastructureError,
    InternalError,
    NotSent,
    ProtocolError,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
    TransportError,
    UsageError,
)
from queue_trio.redis.connection import error_from_reply, explained, pack_command
from queue_trio.redis.endpoint import Endpoint, parse_url
from queue_trio.redis.enqueue_call import split
from queue_trio.redis.foreign_stream import Stream
from queue_trio.redis.keys import LaneKeys, lanes_key
from queue_trio.redis.server import judge, parse_info
from queue_trio.submission import only_some

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from queue_trio.core.job import Enqueued, Lane, NewJob
    from queue_trio.core.settings import RedisSettings

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


# --- redis-py's connections and errors -----------------------------------------------------------------------------


def endpoint_from(settings: RedisSettings) -> Endpoint:
    """The server that the settings name. Raises ConfigError, also for TLS files that cannot be loaded."""
    endpoint = parse_url(
        settings.url.get_secret_value(),
        tls_ca_file=settings.tls_ca_file,
        tls_cert_file=settings.tls_cert_file,
        tls_key_file=settings.tls_key_file,
        tls_verify=None if settings.tls_verify else False,
    )
    if endpoint.tls:
        endpoint.ssl_context()
    return endpoint


def connection_options(endpoint: Endpoint, connect_timeout_s: float, read_timeout_s: float) -> dict[str, Any]:
    """What redis-py's connection classes are made with: an address and timeouts.

    Everything that redis-py would do by itself is off (retries, health checks, naming the library, maintenance
    notifications), and so is its handshake: `Foreign` logs in, so that a refusal reads the same in all clients.
    """
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": read_timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), retries=0),
        "driver_info": None,
        "protocol": 2,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if endpoint.path is not None:
        return options | {"path": endpoint.path}
    options |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.tls:
        options |= {
            "ssl_ca_certs": endpoint.tls_ca_file,
            "ssl_certfile": endpoint.tls_cert_file,
            "ssl_keyfile": endpoint.tls_key_file,
            "ssl_cert_reqs": "required" if endpoint.tls_verify else "none",
            "ssl_check_hostname": endpoint.tls_verify,
        }
    return options


def translate(error: Exception, display: str, *, connecting: bool = False) -> InfrastructureError:
    """Our error for one of redis-py's, or for an OSError below it.

    redis-py takes the code off the replies it knows and keeps it as `status_code`; together they are the reply again.
    """
    from redis.exceptions import InvalidResponse, RedisError, ResponseError

    code = getattr(error, "status_code", None)
    if isinstance(error, RedisError) and (code or isinstance(error, ResponseError)):
        return error_from_reply(f"{code} {error}" if code else str(error))
    reason = str(error) or type(error).__name__
    if connecting:
        return NotSent(f"cannot connect to {display}: {reason}")
    if isinstance(error, InvalidResponse):
        return ProtocolError(f"{display} does not speak RESP: {reason}")
    return Indeterminate(f"no reply from {display}: {reason}")


# --- one Redis -----------------------------------------------------------------------------------------------------


class _Step(Protocol):
    async def __call__(self, wire: Wire, timeout_s: float, /) -> Any: ...


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
        self._streams: dict[tuple[Lane, int], Stream] = {}
        self._closed = False

    async def enqueue(
        self, lane: Lane, jobs: Sequence[NewJob], *, max_length: int, deadline: float
    ) -> list[Enqueued]:
        """As `Store.enqueue`, until `deadline` on the port's clock."""
        stream = self._streams.get((lane, max_length))
        if stream is None:
            # setdefault, because threads may come here together: only one stream may win.
            stream = self._streams.setdefault((lane, max_length), Stream(self, lane, max_length))
        if not stream.announced:
            await self._announce(stream, lane, deadline)
        found: list[Enqueued] = []
        for piece in split(jobs):
            try:
                found += await stream.enqueue(piece, deadline)
            except (DeadlineExceeded, ServerRefused) as error:
                if not found:
                    raise
                raise only_some(len(found), len(jobs), error) from error
        return found

    async def _announce(self, stream: Stream, lane: Lane, deadline: float) -> None:
        # Outside the script, because the set of lanes lies in another hash slot; and before it, so that no job is ever
        # in a lane that nobody lists. Looking first, because with memory full even adding again is refused.
        key = lanes_key(self.prefix)
        try:
            if not await self.ask("SISMEMBER", key, str(lane), deadline=deadline):
                await self.ask("SADD", key, str(lane), deadline=deadline)
            stream.announced = True
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
        while self._idle:
            await self._idle.pop().close()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def ask(self, *command: str, deadline: float) -> Any:
        """One command that may be sent twice, sent until it is answered. Raises DeadlineExceeded."""
        return await self.persevere(lambda wire, left: self.exchange(wire, command, left), deadline)

    async def persevere(self, step: _Step, deadline: float) -> Any:
        """Take `step` on a connection until it succeeds. Raises DeadlineExceeded, naming the last failure.

        Raises ServerUnusable and ServerRefused at once, as `client.Client.run` does.
        """
        attempt = 0
        failure: InfrastructureError | None = None
        while True:
            try:
                return await self._once(step, deadline)
            except (TransportError, ServerNotReady) as error:
                failure = error
            left = deadline - self.port.now()
            if left <= 0:
                raise DeadlineExceeded(str(failure)) from None
            await self.port.sleep(min(self._backoff.delay(attempt, self._rng), left))
            attempt += 1

    async def _once(self, step: _Step, deadline: float) -> Any:
        if not await self._limit.acquire(deadline - self.port.now()):
            raise NotSent(
                f"all {self._settings.max_connections} connections (redis.max_connections) are busy"
            )
        try:
            wire = await self._borrow(deadline)
            keep = False
            try:
                left = min(self._settings.read_timeout, deadline - self.port.now())
                if left <= 0:
                    raise NotSent(f"no time was left to ask {self._endpoint.display}")
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
        finally:
            self._limit.release()

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
            raise NotSent(f"no time was left to connect to {self._endpoint.display}")
        return await self._connect(left)

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
        with suppress(
            ServerUnusable
        ):  # a server that forbids us to set a name can be worked with all the same
            await self.exchange(wire, ("CLIENT", "SETNAME", self._name), timeout_s)

    async def _give_back(self, wire: Wire) -> None:
        if self._closed:
            await wire.close()
        else:
            self._idle.append(wire)
