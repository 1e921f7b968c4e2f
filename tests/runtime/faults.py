"""A relay between a worker and its Redis, with the faults of a bad network: cut, refuse, black hole."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from queue_trio.core.settings import RedisSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from queue_trio.embedded import EmbeddedRedis

FAST: dict[str, Any] = {
    "connect_timeout": 0.3,
    "read_timeout": 0.3,
    "backoff_base": 0.02,
    "backoff_cap": 0.2,
    "breaker_open_wait": 0.1,
}
"""Settings of Redis that make every patience short, so that outages can be short too."""


def recovery_bound_s(settings: RedisSettings) -> float:
    """How long after the end of an outage a call is answered at the latest.

    The caller may just have begun its longest wait between tries, or the breaker its longest (half as much again), and
    then find a probe of somebody else's under way. The rest is for connecting, and for a machine that is busy.
    """
    return settings.backoff_cap + 2.5 * settings.breaker_open_wait + 1.0


class _Gate:
    def __init__(self) -> None:
        self.open = trio.Event()
        self.open.set()


class FaultyRelay:
    """Forwards what comes to `port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._streams: set[trio.SocketStream] = set()
        self._gate = _Gate()
        self.refusing = False
        self.port = 0
        self.accepted = 0
        self.on_bytes: Callable[[bytes], bool] = lambda data: False
        """Sees what goes either way; True cuts the connection in the middle of it."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """End every connection, now."""
        for stream in self._streams:
            stream.socket.close()
        self._streams.clear()

    def refuse(self, refusing: bool) -> None:
        """Whether to end every connection, those to come as well."""
        self.refusing = refusing
        if refusing:
            self.cut()

    def swallow(self, swallowing: bool) -> None:
        """Whether to forward nothing more, and say nothing. What was swallowed goes on its way afterwards."""
        if swallowing:
            self._gate.open = trio.Event()
        else:
            self._gate.open.set()

    def forget(self) -> None:
        """Swallow for ever what comes on the connections there are, as a firewall that forgot them; new ones work."""
        self._gate.open = trio.Event()
        self._gate = _Gate()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        gate = self._gate
        if self.refusing:
            client.socket.close()
            return
        async with client:
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target)
            except OSError:
                return
            self._streams |= {client, server}
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, client, server, gate, nursery.cancel_scope)
                nursery.start_soon(self._pump, server, client, gate, nursery.cancel_scope)
            self._streams -= {client, server}

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, gate: _Gate, both: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await gate.open.wait()
                if self.on_bytes(bytes(data)):
                    await sink.send_all(data[: len(data) // 2])
                    break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()


@asynccontextmanager
async def faulty_relay(redis: EmbeddedRedis) -> AsyncIterator[FaultyRelay]:
    """A relay to `redis`."""
    assert redis.port is not None
    relay = FaultyRelay(redis.port)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay._serve, listeners)
        try:
            yield relay
        finally:
            nursery.cancel_scope.cancel()
