"""Notices a blocked event loop before leases are lost, and says which handler blocks it.

Only a thread can see that the loop is stuck. It reads the loop's own stack at that moment, and names the task whose
function is on it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType, FrameType

log = structlog.get_logger(__name__)

TICK_S = 0.1
"""The loop's own beat, so lateness is known to that; a lower limit makes it quicker."""
LAG_WINDOW_S = 15.0
"""`worst_lag_s` looks back for so long, and for up to as long again."""


class StallWatchdog:
    """`limit_s`: how long the loop may be stuck unreported. `handlers`: each handler's code and its task's name."""

    def __init__(
        self,
        limit_s: float,
        handlers: Mapping[CodeType, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit_s
        self._tick_s = min(TICK_S, limit_s / 4)
        self._handlers = handlers
        self._clock = clock
        self._beat = clock()
        self._stop = threading.Event()
        self._ticking = False
        self.stalls = 0
        self._window_end = -math.inf
        self._lag_now_s = 0.0
        self._lag_before_s = 0.0

    @property
    def worst_lag_s(self) -> float:
        """The longest the loop was late in the last LAG_WINDOW_S to twice that, being late right now included."""
        now = self._clock()
        self._turn(now)
        late_s = now - self._beat - self._tick_s if self._ticking else 0.0
        return max(self._lag_now_s, self._lag_before_s, late_s)

    def _turn(self, now: float) -> None:
        if now >= self._window_end:
            over = now >= self._window_end + LAG_WINDOW_S
            self._lag_before_s = 0.0 if over else self._lag_now_s
            self._lag_now_s = 0.0
            self._window_end = now + LAG_WINDOW_S

    async def run(self) -> None:
        """Watch until cancelled."""
        thread_id = threading.get_ident()
        self._beat = self._clock()
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._tick)
                await trio.to_thread.run_sync(
                    self._watch, thread_id, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
            finally:
                # The thread sees this within a moment; abandoning it is only not waiting for that moment.
                self._stop.set()
                self._ticking = False

    async def _tick(self) -> None:
        while True:
            self._ticking = True
            before = self._clock()
            await trio.sleep(self._tick_s)
            self._beat = now = self._clock()
            self._turn(now)
            self._lag_now_s = max(self._lag_now_s, now - before - self._tick_s)

    def _watch(self, thread_id: int) -> None:
        reported = False
        while not self._stop.wait(self._limit_s / 4):
            stuck_s = self._clock() - self._beat
            if stuck_s < self._limit_s:
                reported = False
            elif not reported:
                reported = True
                self.stalls += 1
                self._report(thread_id, stuck_s)

    def _report(self, thread_id: int, stuck_s: float) -> None:
        frame = sys._current_frames().get(thread_id)
        log.error(
            "loop.stalled",
            task=self._name(frame),
            stuck_s=round(stuck_s, 2),
            hint='a handler blocks the event loop: await instead, or declare it as a def with run_in="thread"',
            stack="".join(traceback.format_stack(frame)[-6:]) if frame else "",
        )

    def _name(self, frame: FrameType | None) -> str:
        while frame is not None:
            name = self._handlers.get(frame.f_code)
            if name is not None:
                return name
            frame = frame.f_back
        return "unknown"
