"""SIGTERM and SIGINT drain; a second one cancels."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


async def watch_signals(
    drain: Callable[[], None],
    cancel: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `drain` on the first signal and `cancel` on every further one, until cancelled. Main thread only."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        draining = False
        async for number in received:
            name = signal.Signals(number).name
            if draining:
                log.warning("worker.cancelling", signal=name)
                cancel()
            else:
                log.info("worker.draining", signal=name, hint="once more to cancel running jobs")
                drain()
                draining = True
