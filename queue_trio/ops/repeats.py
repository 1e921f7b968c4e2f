"""Keeps the same log line from being written for ever: so many of one kind per window, and a count of the rest.

Limited are our own events and those of the libraries we bring; what a handler logs is never touched. There is no timer:
a count is told with the next line of any kind after its window's end, or when the program ends.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from queue_trio.context import job_in_scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, WrappedLogger

KINDS_MAX: Final = 1000
"""Kinds that are told apart at once; task names of jobs that nobody declared may be endless."""

_OURS: Final = ("queue_trio", "opentelemetry", "urllib3", "hypercorn", "redis", "asyncio", "trio")


def is_ours(name: object) -> bool:
    """Whether a logger of this name is one of ours, or of a library that we bring."""
    return isinstance(name, str) and name.partition(".")[0] in _OURS


class _Window:
    __slots__ = ("began", "count", "level", "suppressed")

    def __init__(self, began: float, suppressed: int = 0) -> None:
        self.began = began
        self.count = 0
        self.suppressed = suppressed
        self.level = ""


class RepeatLimit:
    """A structlog processor. A kind is an event's name and its task; a library's is its logger and its template.

    `say(event)` writes the lines `log.suppressed`. `window_s`: seconds of `clock`. Safe for any thread.
    """

    def __init__(
        self,
        limit: int,
        window_s: float,
        say: Callable[[EventDict], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, Any], _Window] = {}
        self._tell_at = float("inf")
        """The first end of a window in which something was suppressed."""
        self._forget_at = 0.0

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The event as it is. Raises structlog.DropEvent for one too many."""
        limited = getattr(logger, "ours", False)
        now = self._clock()
        if now >= self._tell_at:
            self._tell(now)
        if limited and not self._counts(_kind(event), method, now):
            raise structlog.DropEvent
        return event

    def flush(self) -> None:
        """Tell all counts now."""
        self._tell(float("inf"))

    def _counts(self, kind: tuple[str, Any], level: str, now: float) -> bool:
        with self._lock:
            window = self._windows.get(kind)
            if window is None and len(self._windows) >= KINDS_MAX:
                self._forget(now)
                if len(self._windows) >= KINDS_MAX:
                    kind = (kind[0], None)
                    window = self._windows.get(kind)
            if window is None or now >= window.began + self._window_s:
                # What an old one has suppressed has just been told; what another thread has added since is not lost.
                untold = 0 if window is None else window.suppressed
                window = self._windows[kind] = _Window(now, untold)
                if untold:
                    window.level = level
                    self._tell_at = min(self._tell_at, now + self._window_s)
            window.count += 1
            if window.count <= self._limit:
                return True
            window.suppressed += 1
            window.level = level
            self._tell_at = min(self._tell_at, window.began + self._window_s)
            return False

    def _tell(self, now: float) -> None:
        counts: list[tuple[tuple[str, Any], _Window]] = []
        with self._lock:
            self._tell_at = float("inf")
            for kind, window in list(self._windows.items()):
                if not window.suppressed:
                    continue
                end = window.began + self._window_s
                if now >= end:
                    counts.append((kind, window))
                    del self._windows[kind]
                else:
                    self._tell_at = min(self._tell_at, end)
        for (name, task), window in counts:
            about = {} if task is None else {"task": task}
            self._say(
                {"event": "log.suppressed", "level": window.level, "kind": name}
                | about
                | {"count": window.suppressed, "window_s": self._window_s}
            )

    def _forget(self, now: float) -> None:
        if now < self._forget_at:
            return  # looking through all of them has its price
        self._forget_at = now + self._window_s / 10
        for kind, window in list(self._windows.items()):
            if now >= window.began + self._window_s and not window.suppressed:
                del self._windows[kind]


def _kind(event: EventDict) -> tuple[str, Any]:
    task = event.get("task")
    if task is None and (scope := job_in_scope.get()) is not None:
        task = scope.task
    return str(event.get("_template", event.get("event"))), task
