"""One Redis as the store sees it: a call is sent until it is answered, through outages, or its caller gives up.

Owns the connections (a small pool), the circuit breaker and the waiting between tries. Every script may be sent twice
(see `session`), so any transport failure is tried again here and nowhere else: above this module an outage is only a
call that takes long. Knows no key and no job.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
import trio

from queue_trio.core.backoff import Backoff
from queue_trio.core.breaker import Breaker, State, Transition
from queue_trio.errors import (
    CircuitOpen,
    InfrastructureError,
    NotSent,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
    TransportError,
)
from queue_trio.redis.connection import Connection, pack_command
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.server import check_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from queue_trio.core.settings import RedisSettings
    from queue_trio.redis.endpoint import Resolver
    from queue_trio.redis.scripts import Script

log = structlog.get_logger(__name__)

IDLE_CHECK_S = 1.0
"""A connection idle for longer is looked at before use: the server may have closed it meanwhile."""


@dataclass(slots=True)
class Call:
    """One script call under way. It can be sent any number of times; the server acts once."""

    script: Script
    keys: tuple[str, ...]
    args: Sequence[Any]
    maybe_sent: bool = field(default=False, init=False)
    """An attempt ended indeterminate: the server may have acted already."""

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
        self.reconnects = 0

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
        """Close every connection. Idempotent."""
        self._closed = True
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.aclose()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> Any:
        """Send `call` until it is answered. Bound it with a cancel scope.

        Raises ServerUnusable and, unless `wait_when_refused`, ServerRefused; any other ServerError is a script's bug.
        """
        attempt = 0
        while True:
            try:
                return await self._attempt(call)
            except CircuitOpen as error:
                await trio.sleep(error.retry_after)
                continue
            except ServerUnusable:
                raise
            except (TransportError, ServerNotReady) as error:
                self._failing(error)
            except ServerRefused as error:
                if not self._wait_when_refused:
                    raise
                self._failing(error)
            await trio.sleep(self._backoff.delay(attempt, self._rng))
            attempt += 1

    async def command(self, *args: str | bytes | int | float, wait_s: float = 0.0) -> Any:
        """One plain command, sent once. `wait_s`: for how long the command itself blocks on the server.

        Raises NotSent, Indeterminate or a ServerError.
        """
        async with self._connection() as connection:
            return await connection.execute(*args, timeout=wait_s + self._settings.read_timeout)

    async def ask(self, *args: str | bytes | int | float) -> Any:
        """One plain command that may be sent twice, sent until it is answered. Bound it with a cancel scope."""
        (reply,) = await self.ask_many([args])
        return reply

    async def ask_many(self, commands: Sequence[tuple[str | bytes | int | float, ...]]) -> list[Any]:
        """Plain commands that may be sent twice, in one round trip, sent until they are answered."""
        attempt = 0
        while True:
            try:
                async with self._connection() as connection:
                    replies = await connection.pipeline(commands, timeout=self._settings.read_timeout)
                for reply in replies:
                    if isinstance(reply, ServerError):
                        raise reply
                self._recovered()
                return replies
            except CircuitOpen as error:
                await trio.sleep(error.retry_after)
                continue
            except ServerUnusable:
                raise
            except (TransportError, ServerNotReady) as error:
                self._failing(error)
            await trio.sleep(self._backoff.delay(attempt, self._rng))
            attempt += 1

    async def connect(self) -> None:
        """Make one connection, or raise the reason why there is none. For one-shot commands, which fail at once."""
        async with self._connection() as connection:
            await connection.execute("PING", timeout=self._settings.read_timeout)

    async def _attempt(self, call: Call) -> Any:
        async with self._connection() as connection:
            try:
                timeout = self._settings.read_timeout
                (reply,) = await connection.exchange(call.payload("EVALSHA", call.script.sha), 1, timeout)
                if isinstance(reply, ServerError) and reply.code == "NOSCRIPT":
                    (reply,) = await connection.exchange(call.payload("EVAL", call.script.text), 1, timeout)
            except TransportError as error:
                if not isinstance(error, NotSent):
                    call.maybe_sent = True
                raise
            if isinstance(reply, ServerError):
                if reply.code == "READONLY":
                    # A replica now: whoever is primary is found by resolving the endpoint again.
                    connection.abort()
                raise reply
        if self._down_since is not None:
            self._recovered()
        return reply

    # --- connections -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of one's own for one exchange, with the breaker's leave."""
        async with self._limit:
            permit = self.breaker.acquire(trio.current_time())
            connection: Connection | None = None
            try:
                connection = await self._borrow()
                yield connection
            except TransportError:
                permit.failure(trio.current_time())
                raise
            except ServerError:
                permit.success(trio.current_time())
                self._give_back(connection)
                raise
            except BaseException:
                permit.cancelled(trio.current_time())
                raise
            else:
                permit.success(trio.current_time())
                self._give_back(connection)

    async def _borrow(self) -> Connection:
        if self._closed:
            raise NotSent("the client is closed")
        while self._idle:
            connection, used = self._idle.pop()
            if connection.usable and (trio.current_time() - used < IDLE_CHECK_S or not connection.stale()):
                return connection
            connection.abort()
        endpoint = await self._resolver.resolve()
        connection = await Connection.open(
            endpoint,
            connect_timeout=self._settings.connect_timeout,
            read_timeout=self._settings.read_timeout,
            client_name=self._name,
        )
        try:
            await check_server(connection, endpoint, timeout_s=self._settings.read_timeout)
        except BaseException:
            connection.abort()
            raise
        self.reconnects += 1
        return connection

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None or not connection.usable:
            return
        if self._closed:
            connection.abort()
        else:
            self._idle.append((connection, trio.current_time()))

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
