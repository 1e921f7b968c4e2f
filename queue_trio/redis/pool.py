"""The connections of one client: those that lie idle, a limit on all of them, and how a new one is made ready.

Knows where the server is and whether it will do. Does not know what is sent, nor the breaker, nor retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from queue_trio.errors import ServerRefused, ServerUnusable
from queue_trio.redis.connection import Connection
from queue_trio.redis.server import EVICTS, check_server

if TYPE_CHECKING:
    from queue_trio.core.settings import RedisSettings
    from queue_trio.redis.endpoint import Resolver

CLOSE_TIMEOUT_S = 0.1
"""For saying goodbye on all connections together, which only TLS does; then they are closed without."""

IDLE_CHECK_S = 1.0
"""A connection idle for longer is looked at before use: the server may have closed it meanwhile."""


class Pool:
    """Whoever holds a place of `limit` may `take_idle` or `open` a connection, and gives it back or aborts it."""

    def __init__(self, resolver: Resolver, settings: RedisSettings, *, name: str) -> None:
        self._resolver = resolver
        self._settings = settings
        self._name = name
        # Not a CapacityLimiter: who holds which place nobody asks, and remembering it costs each command a microsecond.
        self.limit = trio.Semaphore(settings.max_connections, max_value=settings.max_connections)
        self.idle: list[Connection] = []
        """The one used last is at the end."""
        self.closed = False
        self.lost = 0
        """Connections that broke, or were found broken, and have not been replaced yet."""
        self.connects = 0
        self.reconnects = 0
        """Connections made in place of lost ones."""

    def take_idle(self, now: float) -> Connection | None:
        """A connection that is there and looks well, if there is one."""
        while self.idle:
            connection = self.idle.pop()
            if now - connection.answered_at < IDLE_CHECK_S or not connection.stale():
                return connection
            connection.abort()
            self.lost += 1
        return None

    async def open(self) -> Connection:
        """A new connection, ready for use. Raises NotSent, or a ServerError if the server will not do (yet)."""
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
        except ServerUnusable as error:
            connection.abort()
            if self.connects and error.code == EVICTS:
                # It was fit when we began: who is at work waits for an operator, as with a full memory.
                raise ServerRefused(error.code, str(error)) from error
            raise
        except BaseException:
            connection.abort()
            raise
        self.connects += 1
        if self.lost:
            self.lost -= 1
            self.reconnects += 1
        return connection

    def give_back(self, connection: Connection) -> None:
        """Its exchange is complete. Once the pool is closed, so is the connection."""
        if self.closed:
            connection.abort()
        else:
            self.idle.append(connection)

    def drop_idle(self) -> None:
        """Close what lies idle.

        What ended one connection has probably ended all. A connection that is silently dead (behind a firewall that
        forgot it) looks well, and finding out costs a read timeout: nobody should pay that for each one in turn.
        """
        for connection in self.idle:
            connection.abort()
        self.lost += len(self.idle)
        self.idle.clear()

    async def aclose(self) -> None:
        """Close every connection. Idempotent; cancelled, it closes them all the same."""
        self.closed = True
        connections = list(self.idle)
        self.idle.clear()
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    for connection in connections:
                        nursery.start_soon(connection.aclose)
        finally:
            for connection in connections:
                connection.abort()
