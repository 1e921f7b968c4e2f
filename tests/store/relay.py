"""A relay between a client and Redis that loses requests, replies, or parts of replies, on command.

Real sockets both ways. It speaks no Redis: an exchange is a request that came in and the reply to it, which is how the
transport under test uses a connection. Exchanges that carry a marker (a script's digest) are numbered from 0; what is
to happen to each is a `Fault`.
"""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import hiredis
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Kind(Enum):
    DROP_REQUEST = "the request never arrives"
    LOSE_REPLY = "the request arrives, its reply is lost"
    CUT_REPLY = "the reply is cut after some bytes"
    HOLD_REPLY = "the reply comes after the caller has lost patience"
    LATE_REQUEST = "the caller sees a cut; the request is kept and can be delivered later"


@dataclass(frozen=True)
class Fault:
    kind: Kind
    offset: int = 0
    """For CUT_REPLY: how many bytes get through."""


@dataclass
class Relay:
    """Count the exchanges that carry `marker`; do to the n-th what `faults[n]` says."""

    path: Path
    target: Path
    marker: bytes = b""
    faults: dict[int, Fault] = field(default_factory=dict)
    seen: int = 0
    reply_sizes: list[int] = field(default_factory=list)
    late: list[bytes] = field(default_factory=list)
    blocked: bool = False
    """While set, every exchange that carries the marker is dropped before it reaches the server."""
    arrived: trio.Event = field(default_factory=trio.Event)
    """Set when an exchange that carries the marker has come in."""
    gate: trio.Event | None = None
    """While set and not open, replies of exchanges that carry the marker wait for it."""

    def arm(self, marker: str, fault: Fault | None = None) -> None:
        """The next exchange with this marker is number 0 and gets `fault`."""
        self.marker, self.seen = marker.encode(), 0
        self.faults = {} if fault is None else {0: fault}
        self.reply_sizes.clear()
        self.arrived = trio.Event()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def deliver_late(self) -> bytes:
        """Deliver the oldest request kept, over a connection of its own, and give the server's reply."""
        async with await trio.open_unix_socket(self.target) as server:
            await server.send_all(self.late.pop(0))
            return await _whole(server)

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection: requests one after the other, until either side or a fault ends it."""
        async with client, await trio.open_unix_socket(self.target) as server:
            try:
                while await self._exchange(client, server):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the caller lost patience first

    async def _exchange(self, client: trio.SocketStream, server: trio.SocketStream) -> bool:
        request = await _whole(client)
        if not request:
            return False
        fault: Fault | None = None
        marked = bool(self.marker) and self.marker in request
        if marked:
            fault = self.faults.get(self.seen)
            self.seen += 1
            self.arrived.set()
            if self.blocked:
                return False
        match fault:
            case Fault(Kind.DROP_REQUEST):
                return False
            case Fault(Kind.LATE_REQUEST):
                self.late.append(request)
                return False
        await server.send_all(request)
        reply = await _whole(server)
        if marked:
            self.reply_sizes.append(len(reply))
            if self.gate is not None:
                await self.gate.wait()
        match fault:
            case Fault(Kind.LOSE_REPLY):
                return False
            case Fault(Kind.CUT_REPLY, offset):
                await client.send_all(reply[:offset])
                return False
            case Fault(Kind.HOLD_REPLY):
                # Until the caller hangs up, which it does when its patience ends.
                await client.receive_some(1)
                return False
        await client.send_all(reply)
        return True


async def _whole(stream: trio.SocketStream) -> bytes:
    """Read until what came is whole RESP (a request looks like any other list); nothing at the end of the stream."""
    data = b""
    while True:
        chunk = await stream.receive_some(65536)
        if not chunk:
            return b""
        data += chunk
        if _is_whole(data):
            return data


def _is_whole(data: bytes) -> bool:
    """Whether a number put behind it comes out as one: in the middle of something it would be taken for its rest."""
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    last: object = None
    try:
        reader.feed(data + b":7\r\n")
        while (reply := reader.gets()) is not Ellipsis:
            last = reply
    except hiredis.ProtocolError:
        return False
    return last == 7


@asynccontextmanager
async def open_relay(target: Path) -> AsyncIterator[Relay]:
    """A relay in front of the server that listens on the unix socket `target`."""
    with tempfile.TemporaryDirectory(prefix="relay") as folder:
        relay = Relay(Path(folder) / "socket", target)
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(str(relay.path))
        sock.listen(64)
        listener = trio.SocketListener(sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, relay.serve, [listener])
            try:
                yield relay
            finally:
                nursery.cancel_scope.cancel()
