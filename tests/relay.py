"""A TCP relay that loses a reply on command: the request is delivered, and then the line goes dead.

That is the fault which no client can tell from a request that never arrived, so it is the one to test with.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator


class Relay:
    """Forwards what comes to `port`. `url` is the server's with the port replaced."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._marker: bytes | None = None
        self._times = 0
        self.port = 0
        self.lost = 0
        """Replies lost so far."""

    @property
    def url(self) -> str:
        return f"{'redis' if self._tls is None else 'rediss'}://127.0.0.1:{self.port}/0"

    def lose_replies(self, times: int = 1, *, to: bytes = b"EVALSHA") -> None:
        """The next `times` requests that hold the word `to` are delivered, and their connections cut at the reply."""
        self._marker, self._times = to, times

    async def _serve(self, tcp: trio.SocketStream) -> None:
        client: trio.abc.Stream = tcp
        if self._tls is not None:
            client = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
        async with client:
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target)
            except OSError:
                return
            doomed = trio.Event()
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._up, client, server, doomed, nursery.cancel_scope)
                nursery.start_soon(self._down, client, server, doomed, nursery.cancel_scope)

    async def _up(
        self, client: trio.abc.Stream, server: trio.SocketStream, doomed: trio.Event, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in client:
                if self._times and self._marker is not None and self._marker in data:
                    self._times -= 1
                    doomed.set()
                await server.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    async def _down(
        self, client: trio.abc.Stream, server: trio.SocketStream, doomed: trio.Event, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in server:
                if doomed.is_set():
                    self.lost += 1
                    break
                await client.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()


@asynccontextmanager
async def open_relay(target: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Relay]:
    """A relay to the server on port `target` of this machine. With `tls`, it is what speaks TLS for that server."""
    relay = Relay(target, tls)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay._serve, listeners)
        try:
            yield relay
        finally:
            nursery.cancel_scope.cancel()
