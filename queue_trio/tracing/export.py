"""Gets ended spans to a collector, or loses them: whatever it does, nobody waits for it and memory is bounded.

The SDK's batch processor is not used, because it can neither tell how many spans it lost nor end within a limit.
Imports the SDK: import it late.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from queue_trio.masking import mask

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 512
"""Spans per export."""
INTERVAL_S: Final = 1.0
"""How long spans wait for others to be sent together."""
QUIET_S: Final = 60.0
"""Between two log lines about spans that were dropped."""


class Export(SpanProcessor):
    """A bounded queue of ended spans, and a daemon thread that sends them while there are any.

    Ending a span never blocks: with the queue full it is dropped. Every loss is counted in `dropped` and logged, at
    once and then once in a while. The exporter is made and shut down in the thread, so an idle process holds no
    connection, and a forked one never uses its parent's.
    """

    def __init__(
        self,
        make_exporter: Callable[[], SpanExporter],
        *,
        queue_size: int,
        endpoint: str = "",
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_exporter = make_exporter
        self._queue_size = queue_size
        self._endpoint = endpoint
        self._interval_s = interval_s
        self._clock = clock
        self.dropped = 0
        self._untold = 0
        self._quiet_until = -float("inf")
        self._reason = ""
        self._start_over()
        os.register_at_fork(after_in_child=self._start_over)

    def _start_over(self) -> None:
        """Also in a forked process: what waits here is the parent's to send, and its thread and locks stay there."""
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[ReadableSpan] = deque()
        self._thread: threading.Thread | None = None
        self._exporter: SpanExporter | None = None
        self._under_way = 0
        self._hurried = 0
        self._stuck = False
        self._pid = os.getpid()

    def on_end(self, span: ReadableSpan) -> None:
        """Send it soon."""
        with self._changed:
            reason = self._take(span)
        if reason:
            self._drop(1, reason)

    def _take(self, span: ReadableSpan) -> str:
        """Put it in the queue, or say why not."""
        if len(self._queue) >= self._queue_size:
            return "there are more spans than the collector takes"
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="queue_trio spans", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter is on its way out
                return str(error)
            self._thread = thread
        self._queue.append(span)
        if len(self._queue) == BATCH_SIZE:
            self._changed.notify_all()
        return ""

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is left to send, `timeout_s` seconds at most; False if something is."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            try:
                done = self._changed.wait_for(lambda: self._thread is None, timeout_s)
            finally:
                self._hurried -= 1
            self._stuck = not done
        return done

    def end(self, timeout_s: float) -> None:
        """The program ends: wait for the last spans, but not a second time for a collector that did not take them."""
        if self._pid != os.getpid() or (not self._stuck and self.flush(timeout_s)):
            return
        with self._changed:
            lost = len(self._queue) + self._under_way
            self._queue.clear()
        if lost:
            self._quiet_until = -float("inf")
            self._drop(lost, self._reason or "the collector did not take them before the program ended")

    def listen(self, record: logging.LogRecord) -> bool:
        """A filter for the exporter's logger: what ours says becomes the reason in our lines, which are far fewer."""
        if threading.current_thread() is not self._thread:
            return True  # another's exporter
        try:
            self._reason = mask(record.getMessage())
        except (TypeError, ValueError):
            self._reason = str(record.msg)
        return False

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            while batch := self._next_batch():
                self._send(batch)
            if self._exporter is not None:
                self._exporter.shutdown()
                self._exporter = None
            with self._changed:
                if not self._queue:
                    self._thread = None
                    self._changed.notify_all()
                    return

    def _next_batch(self) -> list[ReadableSpan]:
        with self._changed:
            self._changed.wait_for(self._due, self._interval_s)
            batch = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
            self._under_way = len(batch)
        return batch

    def _due(self) -> bool:
        return self._hurried > 0 or len(self._queue) >= BATCH_SIZE

    def _send(self, batch: list[ReadableSpan]) -> None:
        failed, self._reason = True, ""
        try:
            if self._exporter is None:
                self._exporter = self._make_exporter()
            failed = self._exporter.export(batch) is not SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001  # whatever it is, it costs these spans and no more
            self._reason = mask(f"{type(error).__name__}: {error}")
        if failed:
            self._drop(len(batch), self._reason or "the collector did not take them")
        else:
            self._stuck = False

    def _drop(self, count: int, reason: str) -> None:
        now = self._clock()
        with self._changed:
            self.dropped += count
            self._untold += count
            if now < self._quiet_until:
                return
            self._quiet_until = now + QUIET_S
            told, self._untold = self._untold, 0
        log.warning("tracing.spans_dropped", count=told, reason=reason, endpoint=self._endpoint)
