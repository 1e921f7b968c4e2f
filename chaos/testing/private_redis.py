"""A real Redis of one test's own: what `private_redis` gives. The server itself is `queue_trio.embedded`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from queue_trio.embedded import open_embedded_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.testing.driver import Driver
    from queue_trio.embedded import EmbeddedRedis


class PrivateRedis:
    """A running server, empty at first, that keeps what it has acknowledged over `kill` and `start`."""

    def __init__(self, driver: Driver, server: EmbeddedRedis) -> None:
        self._driver = driver
        self._server = server

    def __repr__(self) -> str:
        return f"<PrivateRedis {self.url}, {'running' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        """Straight to it: `redis://127.0.0.1:PORT/0`. Restarts keep it."""
        return self._server.url

    @property
    def address(self) -> str:
        """HOST:PORT, for a proxy in front of it."""
        return f"127.0.0.1:{self._server.port}"

    @property
    def pid(self) -> int:
        """The process id; after it ended, the id it had."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the process exists. A frozen one does."""
        return self._server.running

    @property
    def log(self) -> Path:
        """What the server printed, over all its restarts."""
        return self._server.log

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Does nothing if it is down."""
        self._driver.call(self._server.kill)

    def start(self) -> None:
        """Start it again with its data, where it was; back when it answers. Does nothing if it is up.

        Raises InfrastructureError, with the end of its log, if it does not.
        """
        if not self._server.running:
            self._driver.call(self._server.restart)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nobody answers. Raises UsageError if it is down."""
        self._driver.call(self._server.freeze)

    def thaw(self) -> None:
        """SIGCONT: it answers what has piled up. Raises UsageError if it is down."""
        self._server.thaw()


@contextmanager
def open_private_redis(driver: Driver) -> Iterator[PrivateRedis]:
    """Run a server inside the block. Raises ConfigError if there is no program for it, InfrastructureError."""
    with driver.enter(open_embedded_redis(port=True, appendfsync="always")) as server:
        yield PrivateRedis(driver, server)
        driver.call(server.kill)  # its data is nobody's: why wait until it has written it all
