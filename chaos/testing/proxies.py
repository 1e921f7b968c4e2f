"""Proxies whose network goes bad when a test says so: what `toxiproxy` and `chaos_proxy` give.

A fault is there when the method that makes it returns: the server was asked again and said so. It goes with `heal`, at
the end of a `with`, or with the server at the end of the test. What the faults really do to a connection is in
`chaos.driving.toxiproxy`, which drives the server.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import trio

from chaos.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from chaos.driving.toxiproxy import Proxy, Stream
    from chaos.driving.toxiproxy_server import ToxiproxyServer
    from chaos.testing.driver import Driver


class Fault:
    """One fault, which is there already. `with` heals it at the end of the block; so does `heal`, once or more often.

    `proof`: what Toxiproxy said when it was asked whether the fault is there.
    """

    def __init__(self, proof: str, heal: Callable[[], None]) -> None:
        self.proof = proof
        self._heal = heal

    def __repr__(self) -> str:
        return f"<Fault {self.proof}>"

    def heal(self) -> None:
        """Take it away, and read back that it is gone. Raises HarnessError."""
        self._heal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()


class ChaosProxy:
    """A proxy that is up and, at first, passes everything on. Its faults add up.

    `stream` is the way that a fault works on: "upstream" are requests, to the server; "downstream" replies. Every
    method raises HarnessError if Toxiproxy does not do it.
    """

    def __init__(self, driver: Driver, server: ToxiproxyServer, proxy: Proxy) -> None:
        self._driver = driver
        self._server = server
        self._proxy = proxy
        self._count = 0

    def __repr__(self) -> str:
        faults = [] if self._proxy.enabled else ["down"]
        faults += map(str, self._proxy.toxics.values())
        return f"<ChaosProxy {self.address} -> {self._proxy.upstream}: {', '.join(faults) or 'no fault'}>"

    @property
    def address(self) -> str:
        """HOST:PORT where it listens, the same over every fault."""
        return self._proxy.listen

    @property
    def url(self) -> str:
        """For a client of the Redis behind it: `redis://HOST:PORT/0`."""
        return f"redis://{self.address}/0"

    def down(self) -> Fault:
        """Close every connection and refuse new ones, until `up`."""
        return Fault(self._driver.call(self._proxy.disable), self.up)

    def up(self) -> None:
        """Listen again. Does nothing if it does; toxics stay."""
        self._driver.call(self._surely, self._proxy.enable)

    def latency(self, ms: int, *, jitter_ms: int = 0, stream: Stream = "downstream") -> Fault:
        """Everything comes so much later, give or take up to `jitter_ms`. Connecting does not."""
        return self._add("latency", stream, latency=ms, jitter=jitter_ms)

    def timeout(self, ms: int, *, stream: Stream = "downstream") -> Fault:
        """Nothing comes through, and the connection is closed after `ms` of it. 0: it is never closed, a black hole.

        With "downstream" requests are still carried out: their replies are lost. Its heal closes the connections.
        """
        return self._add("timeout", stream, timeout=ms)

    def bandwidth(self, kb_per_s: int, *, stream: Stream = "downstream") -> Fault:
        """A thin link, each connection of its own. 0: nothing comes through."""
        return self._add("bandwidth", stream, rate=kb_per_s)

    def reset(self, ms: int = 0, *, stream: Stream = "downstream") -> Fault:
        """Connections that are made from now on are reset `ms` after data came; those that are open are closed then."""
        return self._add("reset_peer", stream, timeout=ms)

    def cut_after(self, count_bytes: int, *, stream: Stream = "downstream") -> Fault:
        """Connections that are made from now on are closed after so many bytes, in the middle of whatever it is."""
        return self._add("limit_data", stream, bytes=count_bytes)

    def slices(self, size_bytes: int, *, delay_us: int = 0, stream: Stream = "downstream") -> Fault:
        """Everything comes in pieces of that size, `delay_us` microseconds apart."""
        return self._add("slicer", stream, average_size=size_bytes, size_variation=0, delay=delay_us)

    def slow_close(self, ms: int, *, stream: Stream = "downstream") -> Fault:
        """The end of a connection is passed on so much later."""
        return self._add("slow_close", stream, delay=ms)

    def heal(self) -> None:
        """Up, and no toxics."""
        self._driver.call(self._server.heal, self._proxy)

    def _add(self, kind: str, stream: Stream, **attributes: int) -> Fault:
        from chaos.driving.toxiproxy import (
            Toxic,  # not above: it needs the extra, and `chaos.testing` must not
        )

        self._count += 1
        name = f"{kind}-{self._count}"
        proof = self._driver.call(self._proxy.add, Toxic(name, kind, stream, attributes))
        return Fault(proof, lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        if name in self._proxy.toxics:
            self._driver.call(self._surely, lambda: self._proxy.remove(name))

    async def _surely(self, heal: Callable[[], Awaitable[str]]) -> str:
        """A server that does not do it, as one does whose API is deadlocked, is replaced: same ports, same faults."""
        from chaos.driving.toxiproxy_server import RESTART_S

        try:
            return await heal()
        except HarnessError:
            with trio.move_on_after(RESTART_S):
                return await self._server.restart()
        raise HarnessError(f"Toxiproxy was not restarted within {RESTART_S:g} s")


class Toxiproxy:
    """A server of one test's own. Its proxies go with it at the end of the test."""

    def __init__(self, driver: Driver, server: ToxiproxyServer) -> None:
        self._driver = driver
        self._server = server

    def __repr__(self) -> str:
        return f"<Toxiproxy {self.url}>"

    @property
    def url(self) -> str:
        """Of its control API, for what is not offered here."""
        return self._server.api.url

    @property
    def pid(self) -> int:
        """The process id."""
        return self._server.pid

    def proxy(self, upstream: str) -> ChaosProxy:
        """One more proxy, on a free port, in front of HOST:PORT. Raises HarnessError."""
        name = f"proxy-{len(self._server.proxies) + 1}"
        proxy = self._driver.call(self._server.create, name, upstream)
        return ChaosProxy(self._driver, self._server, proxy)


@contextmanager
def open_toxiproxy(driver: Driver, binary: Path) -> Iterator[Toxiproxy]:
    """Run a server inside the block. Raises HarnessError."""
    from chaos.driving import toxiproxy_server

    with driver.enter(toxiproxy_server.open_toxiproxy(binary)) as server:
        yield Toxiproxy(driver, server)
