"""Calls a handler where it belongs: in Trio, in a thread, or in a process. Knows nothing of leases and outcomes.

A cancelled async handler unwinds, and a process is killed. A thread can do neither: it is abandoned, and `on_late_end`
tells when it has ended after all, so that its slot is not given away while it still works.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio.to_process
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESS_START_S = 20.0
"""For a worker process to start."""
PROCESS_TRIES = 3
"""An idle process may have died (killed to free memory, say): that is found out, and another taken, so many times."""

# --- threads ---------------------------------------------------------------------------------------------------------


class _Unlimited:
    """The executor limits threads itself. Not even a checkpoint, so a call that was not cancelled before does start."""

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        pass

    def release_on_behalf_of(self, borrower: object) -> None:
        pass


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

    async def run(self) -> Any:
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

        # Cancelled here, no thread is started and nothing abandoned. After this it is started for certain.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await trio.to_thread.run_sync(
                call,
                abandon_on_cancel=True,
                limiter=_Unlimited(),  # type: ignore[arg-type]  # Trio asks for no more than these two methods
            )
        except trio.Cancelled:
            with self._lock:
                self.abandoned = not self._ended
            raise


def _tell(token: trio.lowlevel.TrioToken, callback: Callable[[], object]) -> None:
    try:
        token.run_sync_soon(callback)
    except trio.RunFinishedError:
        return  # the worker is gone, and with it whoever waited for the slot


# --- processes -------------------------------------------------------------------------------------------------------


class Processes:
    """Worker processes, at most `limit` at once, kept from one call to the next."""

    def __init__(self, limit: int) -> None:
        self._limiter = trio.CapacityLimiter(limit)
        self._pids: set[int] = set()

    async def run(
        self, function: Callable[..., Any], raw_arguments: bytes, on_start: Callable[[], object]
    ) -> Any:
        """Run a module-level task's function in a process, which is killed when this is cancelled.

        `on_start` is called when there is a process and the function begins.
        """
        async with self._limiter:
            await self._make_ready()
            # No checkpoint until AnyIO takes the process that was used last: it is the one just made ready.
            on_start()
            return await anyio.to_process.run_sync(
                call_by_name,
                function.__module__,
                function.__qualname__,
                raw_arguments,
                cancellable=True,
                limiter=nullcontext(),  # type: ignore[arg-type]  # AnyIO's own default is the number of cores
            )

    async def _make_ready(self) -> None:
        for left in reversed(range(PROCESS_TRIES)):
            # Shielded, because AnyIO would forget a process whose start is cancelled.
            with trio.CancelScope(shield=True, relative_deadline=PROCESS_START_S) as scope:
                try:
                    pid = await anyio.to_process.run_sync(
                        get_ready,
                        cancellable=True,
                        limiter=nullcontext(),  # type: ignore[arg-type]
                    )
                except anyio.BrokenWorkerProcess:
                    if left:
                        continue
                    raise
                self._pids.add(pid)
                return
            if scope.cancelled_caught:
                raise TimeoutError(f"no worker process within {PROCESS_START_S:g} s")

    async def aclose(self) -> None:
        """End the processes that this object has used. AnyIO keeps its pool until the end of `trio.run`."""
        try:
            workers = anyio.to_process._process_pool_workers.get()
            idle = anyio.to_process._process_pool_idle_workers.get()
        except LookupError:
            return  # there has never been one
        ours = [entry for entry in idle if entry[0].pid in self._pids]
        for entry in ours:
            idle.remove(entry)
            workers.discard(entry[0])
        with trio.CancelScope(shield=True):  # a killed process does not keep us waiting
            for process, _ in ours:
                if process.returncode is None:
                    process.kill()
                await process.aclose()


def get_ready() -> int:
    """In the worker process, before each call: what ends the worker is the worker's to handle. Returns the process id.

    A terminal sends Ctrl-C, and systemd SIGTERM, to the whole group. Handlers and not SIG_IGN, which children inherit.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _nothing)
    return os.getpid()


def _nothing(number: int, frame: object) -> None:
    pass


def call_by_name(module: str, qualname: str, raw_arguments: bytes) -> Any:
    """In the worker process: import the task again and call its function. Arguments travel as JSON."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.function(**found.signature.decode(raw_arguments))
