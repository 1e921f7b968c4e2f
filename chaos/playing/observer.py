"""Looks at the queue and the workers several times a second, and writes down what it sees. Producers tell themselves.

Counts come straight from Redis, past every proxy, by the same call that the worker's own gauges use; breaker, errors
and handlers come from each worker's /metrics. What does not answer in time is left out: a hole in the timeline is what
an outage looks like. It changes nothing and decides nothing.
"""

from __future__ import annotations

import math
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import trio
from pydantic import SecretStr

from chaos.history import Observation
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import QueueTrioError
from queue_trio.redis.client import Client
from queue_trio.redis.operations import RedisOperations
from queue_trio.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from chaos.history import Journal

INTERVAL_S: Final = 0.2
_ASK_S: Final = 0.15
_METRICS_S: Final = 0.7
"""/metrics asks Redis whether it is there, which takes the worker as long as its own timeout."""
_METRICS_BYTES_MAX: Final = 4_000_000

_IN_FLIGHT: Final = re.compile(rb"^queue_trio_jobs_in_flight (\S+)$", re.MULTILINE)
_ERRORS: Final = re.compile(rb'^queue_trio_redis_errors_total\{kind="(\w+)"\} (\S+)$', re.MULTILINE)
_RECONNECTS: Final = re.compile(rb"^queue_trio_redis_reconnects_total (\S+)$", re.MULTILINE)
_BREAKER: Final = re.compile(rb'^queue_trio_breaker_state\{state="(\w+)"\} 1(?:\.0)?$', re.MULTILINE)

_PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": _ASK_S,
    "read_timeout": _ASK_S,
    "backoff_base": 0.01,
    "backoff_cap": 0.05,
    "breaker_open_wait": 0.05,
    "breaker_min_samples": 10_000,
    "max_connections": 2,
}
"""It must see Redis again before the workers do, so that it cannot be what a recovery is measured by."""


class _Seen:
    """What one worker last said."""

    def __init__(self) -> None:
        self.breaker = ""
        self.in_flight = 0
        self.errors = 0
        self.connects = 0
        self.fresh = False


class Observer:
    """Made by `open_observer`. `watch` and `unwatch` workers as they come and go."""

    def __init__(
        self, journal: Journal, operations: RedisOperations, lane: Lane, nursery: trio.Nursery
    ) -> None:
        self._journal = journal
        self._operations = operations
        self._lane = lane
        self._nursery = nursery
        self._watched: dict[str, tuple[trio.CancelScope, _Seen]] = {}
        self.last = Observation(at_s=-math.inf)

    def watch(self, name: str, url: str) -> None:
        """Ask the worker that serves at `url`, from now on under this name; its predecessor is not asked any more."""
        self.unwatch(name)
        scope, seen = trio.CancelScope(), _Seen()
        self._watched[name] = scope, seen
        self._nursery.start_soon(self._follow, url, scope, seen)

    def unwatch(self, name: str) -> None:
        """Do not ask it any more."""
        found = self._watched.pop(name, None)
        if found is not None:
            found[0].cancel()

    async def look(self) -> Observation:
        """What is seen now; written down too."""
        counts: dict[str, Any] = {}
        with trio.move_on_after(_ASK_S):
            try:
                lengths = await self._operations.lengths(self._lane)
            except QueueTrioError:
                lengths = None
            if lengths is not None:
                counts = {
                    "ready": {str(priority): count for priority, count in lengths.ready.items()},
                    "scheduled": lengths.scheduled,
                    "leased": lengths.leased,
                    "dead": lengths.dead,
                    "completed": lengths.completed,
                }
        fresh = {name: seen for name, (_, seen) in self._watched.items() if seen.fresh}
        breaker = {name: seen.breaker for name, seen in fresh.items() if seen.breaker}
        errors = {name: seen.errors for name, seen in fresh.items()}
        connects = {name: seen.connects for name, seen in fresh.items()}
        in_flight = {name: seen.in_flight for name, seen in fresh.items()}
        self.last = Observation(
            at_s=self._journal.clock(),
            breaker=breaker,
            errors=errors,
            connects=connects,
            in_flight=in_flight,
            **counts,
        )
        self._journal.append(self.last)
        return self.last

    async def _run(self) -> None:
        next_at = trio.current_time()
        while True:
            await self.look()
            next_at = max(next_at + INTERVAL_S, trio.current_time())
            await trio.sleep_until(next_at)

    async def _follow(self, url: str, scope: trio.CancelScope, seen: _Seen) -> None:
        with scope:
            while True:
                text = await _get(url, "/metrics")
                seen.fresh = text is not None
                if text is not None:
                    _read(text, seen)
                await trio.sleep(INTERVAL_S)


def connects_of(reconnects: int, not_sent: int) -> int:
    """Tries to connect: those that worked, in place of a connection that broke, and those that sent nothing."""
    return reconnects + not_sent


def _read(text: bytes, seen: _Seen) -> None:
    found = _BREAKER.search(text)
    seen.breaker = found[1].decode() if found else ""
    errors = {kind: round(float(count)) for kind, count in _ERRORS.findall(text)}
    reconnects = _RECONNECTS.search(text)
    seen.errors = sum(errors.values())
    seen.connects = connects_of(round(float(reconnects[1])) if reconnects else 0, errors.get(b"NotSent", 0))
    in_flight = _IN_FLIGHT.search(text)
    seen.in_flight = round(float(in_flight[1])) if in_flight else 0


async def _get(url: str, path: str) -> bytes | None:
    """The body of a 200, or None. One connection for each: a killed worker leaves nothing to clean up."""
    parts = urlsplit(url)
    head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\nAccept: text/plain\r\n\r\n"
    answer = b""
    with trio.move_on_after(_METRICS_S) as scope:
        try:
            async with await trio.open_tcp_stream(parts.hostname or "", parts.port or 80) as stream:
                await stream.send_all(head.encode())
                async for data in stream:
                    answer += data
                    if len(answer) > _METRICS_BYTES_MAX:
                        return None
        except (OSError, trio.BrokenResourceError):
            return None
    head_part, _, body = answer.partition(b"\r\n\r\n")
    return body if not scope.cancelled_caught and b" 200" in head_part.partition(b"\r\n")[0] else None


@asynccontextmanager
async def open_observer(
    journal: Journal,
    url: str,
    *,
    prefix: str = "qt",
    queue: str = "default",
    workers: Mapping[str, str] | None = None,
) -> AsyncIterator[Observer]:
    """Look at the queue at `url`, and at the workers, names to addresses, until the end of the block."""
    settings = RedisSettings(url=SecretStr(url), prefix=prefix, **_PATIENCE)
    client = Client.from_settings(settings, name="queue-trio:chaos:observer")
    store = RedisStore(client, prefix=prefix)
    try:
        async with trio.open_nursery() as nursery:
            observer = Observer(journal, RedisOperations(store), Lane(queue), nursery)
            for name, address in (workers or {}).items():
                observer.watch(name, address)
            nursery.start_soon(observer._run)
            yield observer
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, relative_deadline=1):
            await store.aclose()
        await client.aclose()
