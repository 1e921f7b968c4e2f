"""Calls a handler where it belongs: in Trio, in a thread, or in a process. Knows nothing of leases and outcomes.

A cancelled async handler unwinds, and a process is killed. A thread can do neither: it is abandoned, and `on_late_end`
tells when it has ended after all, so that its slot is not given away while it still works.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

import anyio.to_process
import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class ThreadCall:
    """One call of a sync handler in a thread."""

    def __init__(
        self, function: Callable[..., Any], arguments: dict[str, Any], on_late_end: Callable[[], object]
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._on_late_end = on_late_end
        self._lock = threading.Lock()
        self._ended = False
        self.abandoned = False

    async def run(self, limiter: trio.CapacityLimiter) -> Any:
        """What the function returns or raises. When cancelled while it runs, `abandoned` is True afterwards."""
        token = trio.lowlevel.current_trio_token()  # the thread's only way back in after it was abandoned

        def call() -> Any:
            try:
                return self._function(**self._arguments)
            finally:
                # The lock closes the race between a handler that ends and a deadline that passes just then: exactly
                # one side sees the other's mark.
                with self._lock:
                    self._ended = True
                    late = self.abandoned
                if late:
                    _tell(token, self._on_late_end)

        try:
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        except trio.Cancelled:
            with self._lock:
                self.abandoned = not self._ended
            raise


def _tell(token: trio.lowlevel.TrioToken, callback: Callable[[], object]) -> None:
    try:
        token.run_sync_soon(callback)
    except trio.RunFinishedError:
        return  # the worker is gone, and with it whoever waited for the slot


async def run_in_process(function: Callable[..., Any], raw_arguments: bytes) -> Any:
    """Run a module-level task's function in a worker process, which is killed when this is cancelled."""
    return await anyio.to_process.run_sync(
        call_by_name, function.__module__, function.__qualname__, raw_arguments, cancellable=True
    )


def call_by_name(module: str, qualname: str, raw_arguments: bytes) -> Any:
    """In the worker process: import the task again and call its function. Arguments travel as JSON."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.function(**found.signature.decode(raw_arguments))
