"""One Redis as the store sees it: a call is sent until it is answered, through outages, or its caller gives up.

Owns the connections (a small pool), the circuit breaker and the waiting between tries. Every script may be sent twice
(see `session`), so any transport failure is tried again here and nowhere else: above this module an outage is only a
call that takes long. Knows no key and no job.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio

from queue_trio.core.backoff import Backoff
from queue_trio.core.breaker import Breaker, State, Transition
from queue_trio.errors import (
    CircuitOpen,
    InfrastructureError,
    ServerError,
    ServerNotReady,
    ServerRefused,
    TransportError,
    UsageError,
)
from queue_trio.redis.connection import Argument, Connection, pack_command
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.server import check_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from queue_trio.core.settings import RedisSettings
    from queue_trio.redis.endpoint import Resolver
    from queue_trio.redis.scripts import Script

log = structlog.get_logger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 0.1
"""For saying goodbye on all connections together, which only TLS does; then they are closed without."""

GOODBYE_S = 0.25
"""For a last command before closing."""

IDLE_CHECK_S = 1.0
"""A connection idle for longer is looked at before use: the server may have closed it meanwhile."""


@dataclass(slots=True)
class Call:
    """One script call under way. It can be sent any number of times; the server acts once."""

    script: Script
    keys: tuple[str, ...]
    args: Sequence[Any]
    maybe_sent: bool = field(default=False, init=False)
    """An attempt is under way, or ended without a reply: the server may have acted on it, or may yet."""

    def payload(self, command: str, what: str) -> bytes:
        return pack_command((command, what, len(self.keys), *self.keys, *self.args))


class Client:
    """Calls to one Redis. Safe for many tasks at once.

    `wait_when_refused`: what to do while the server refuses writes (memory full, cannot persist, too few replicas).
    True waits for an operator, as a worker must; False raises ServerRefused at once, as whoever enqueues wants.
    """

    def __init__(
        self,
        resolver: Resolver,
        settings: RedisSettings,
        *,
        name: str = "queue-trio",
        wait_when_refused: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self._resolver = resolver
        self._settings = settings
        self._name = name
        self._wait_when_refused = wait_when_refused
        self._rng = rng or random.Random()
        self._backoff = Backoff(base=settings.backoff_base, cap=settings.backoff_cap)
        self._idle: list[tuple[Connection, float]] = []
        self._limit = trio.CapacityLimiter(settings.max_connections)
        self._closed = False
        self._down_since: float | None = None
        self.breaker = Breaker(
            self._rng,
            window=settings.breaker_window,
            min_samples=settings.breaker_min_samples,
            failure_ratio=settings.breaker_failure_ratio,
            open_wait=settings.breaker_open_wait,
            on_change=self._breaker_changed,
        )
        self.connects = 0

    @classmethod
    def from_settings(cls, settings: RedisSettings, *, name: str, wait_when_refused: bool = False) -> Client:
        """A client for the server that the settings name. Raises ConfigError."""
        endpoint = parse_url(
            settings.url.get_secret_value(),
            tls_ca_file=settings.tls_ca_file,
            tls_cert_file=settings.tls_cert_file,
            tls_key_file=settings.tls_key_file,
            tls_verify=None if settings.tls_verify else False,
        )
        return cls(FixedResolver(endpoint), settings, name=name, wait_when_refused=wait_when_refused)

    @property
    def down_since(self) -> float | None:
        """Since when (Trio's clock) nothing gets through, or None."""
        return self._down_since

    async def aclose(self) -> None:
        """Close every connection. Idempotent; cancelled, it closes them all the same."""
        self._closed = True
        connections = [connection for connection, _ in self._idle]
        self._idle.clear()
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    for connection in connections:
                        nursery.start_soon(connection.aclose)
        finally:
            for connection in connections:
                connection.abort()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> Any:
        """Send `call` until it is answered. Bound it with a cancel scope.

        Raises ServerUnusable and, unless `wait_when_refused`, ServerRefused; any other ServerError is a script's bug.
        """

        async def attempt() -> Any:
            (reply,) = await self._exchange(lambda: call.payload("EVALSHA", call.script.sha), 1, call=call)
            if isinstance(reply, ServerError) and reply.code == "NOSCRIPT":
                (reply,) = await self._exchange(lambda: call.payload("EVAL", call.script.text), 1, call=call)
            if isinstance(reply, ServerError):
                raise reply
            return reply

        return await self._until_answered(attempt)

    async def ask(self, *command: Argument) -> Any:
        """One plain command that may be sent twice, sent until it is answered. Bound it with a cancel scope."""
        (reply,) = await self.ask_many([command])
        return reply

    async def ask_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Plain commands that may be sent twice, in one round trip, sent until they are answered."""
        payload = b"".join(map(pack_command, commands))

        async def attempt() -> list[Any]:
            replies = await self._exchange(lambda: payload, len(commands))
            for reply in replies:
                if isinstance(reply, ServerError):
                    raise reply
            return replies

        return await self._until_answered(attempt)

    async def command(self, *command: Argument, wait_s: float = 0.0) -> Any:
        """One plain command, sent once. `wait_s`: for how long the command itself blocks on the server.

        Raises NotSent, Indeterminate or a ServerError; UsageError if the client is closed.
        """
        (reply,) = await self._exchange(lambda: pack_command(command), 1, wait_s)
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def last_words(self, commands: Sequence[tuple[Argument, ...]]) -> None:
        """Plain commands whose replies do not matter, sent once, and only if a connection is there already.

        Bounded by GOODBYE_S, also when cancelled. Raises NotSent, Indeterminate or a ServerError.
        """
        if commands and self._idle:
            payload = b"".join(map(pack_command, commands))
            with trio.CancelScope(shield=True, relative_deadline=GOODBYE_S):
                await self._exchange(lambda: payload, len(commands))

    async def connect(self) -> None:
        """Reach the server once, or raise the reason why not. For one-shot commands, which fail at once."""
        await self.command("PING")

    async def _until_answered(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try, wait, try again. This loop is the whole of what an outage is to everything above."""
        failures = 0
        while True:
            try:
                reply = await attempt()
            except CircuitOpen as error:
                await trio.sleep(error.retry_after)
                continue
            except (TransportError, ServerNotReady) as error:
                self._failing(error)
            except ServerRefused as error:
                if not self._wait_when_refused:
                    raise
                self._failing(error)
            else:
                if self._down_since is not None:
                    self._recovered()
                return reply
            await trio.sleep(self._backoff.delay(failures, self._rng))
            failures += 1

    async def _exchange(
        self, payload: Callable[[], bytes], replies: int, wait_s: float = 0.0, *, call: Call | None = None
    ) -> list[Any]:
        """One exchange on a connection of one's own, with the breaker's leave. Every command passes through here.

        `payload` is asked for once there is a connection: until then an enqueuer may take jobs out of its call.
        """
        if self._closed:
            raise UsageError("this client is closed")
        # Without blocking where possible: each checkpoint costs a turn of the event loop.
        try:
            self._limit.acquire_nowait()
        except trio.WouldBlock:
            await self._limit.acquire()
        try:
            permit = self.breaker.acquire(trio.current_time())
            try:
                connection = self._idle_connection() or await self._open_connection()
                packed = payload()
                sent_before = call is not None and call.maybe_sent
                if call is not None:
                    # Before, not after: a cancellation in mid-exchange leaves no chance to say so.
                    call.maybe_sent = True
                received = await connection.exchange(packed, replies, wait_s + self._settings.read_timeout)
                if call is not None:
                    call.maybe_sent = sent_before  # this attempt has its answer, be it an error
            except TransportError:
                permit.failure(trio.current_time())
                self._drop_idle()
                raise
            except ServerError:
                permit.success(trio.current_time())  # it answered the handshake, if only to refuse
                raise
            except BaseException:
                permit.cancelled(trio.current_time())
                raise
            now = trio.current_time()
            permit.success(now)
            self._give_back(connection, received, now)
            return received
        finally:
            self._limit.release()

    # --- connections -----------------------------------------------------------------------------------------------

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection, used = self._idle.pop()
            if trio.current_time() - used < IDLE_CHECK_S or not connection.stale():
                return connection
            connection.abort()
        return None

    def _drop_idle(self) -> None:
        # What ended one connection has probably ended all. A connection that is silently dead (behind a firewall that
        # forgot it) looks well, and finding out costs a read timeout: nobody should pay that for each one in turn.
        for connection, _ in self._idle:
            connection.abort()
        self._idle.clear()

    async def _open_connection(self) -> Connection:
        endpoint = await self._resolver.resolve()
        timeout_s = self._settings.read_timeout
        connection = await Connection.open(
            endpoint,
            connect_timeout=self._settings.connect_timeout,
            read_timeout=timeout_s,
            client_name=self._name,
        )
        try:
            await check_server(connection, endpoint, timeout_s=timeout_s)
        except BaseException:
            connection.abort()
            raise
        self.connects += 1
        return connection

    def _give_back(self, connection: Connection, received: list[Any], now: float) -> None:
        # READONLY: it is a replica now. Whoever is primary is found by resolving the endpoint again.
        demoted = any(type(reply) is ServerNotReady and reply.code == "READONLY" for reply in received)
        if demoted or self._closed:
            connection.abort()
        else:
            self._idle.append((connection, now))

    # --- what people are told --------------------------------------------------------------------------------------

    def _failing(self, error: InfrastructureError) -> None:
        # Once per outage: every further failure of the same outage says nothing new.
        if self._down_since is None:
            self._down_since = trio.current_time()
            log.warning("redis.unavailable", reason=str(error), kind=type(error).__name__)

    def _recovered(self) -> None:
        if self._down_since is not None:
            log.info("redis.back", after_s=round(trio.current_time() - self._down_since, 3))
            self._down_since = None

    def _breaker_changed(self, change: Transition) -> None:
        level = log.warning if change.new is State.OPEN and change.old is State.CLOSED else log.debug
        level("breaker.changed", old=change.old.value, new=change.new.value, reason=change.reason)
