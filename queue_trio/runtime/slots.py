"""Slots: nurseries that live on from job to job, so that a job costs a task and no cancel scope of its own.

One slot runs one job at a time. To cancel the job is to cancel its slot's nursery; then the slot gets a new one. Knows
nothing of what a job is, nor of how many may run at once: there are as many slots as there were ever jobs at once.
Why not a scope for each job: docs/decisions/018.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import structlog
import trio

if TYPE_CHECKING:
    from queue_trio.runtime.running import Running

log = structlog.get_logger(__name__)

Work: TypeAlias = "Callable[[Running], Awaitable[None]]"


class Slot:
    """Room for one job. `nursery`: where its task lives; None until there is one."""

    __slots__ = ("cancelled", "nursery")

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel the job that runs here."""
        self.cancelled = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()


class Slots:
    """Runs jobs as `work(running)`, which raises Cancelled when it was cancelled and nothing else.

    `open` must be given a nursery before the first job starts.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self._idle: dict[Slot, None] = {}
        """The one used last is at the end."""

    def open(self, nursery: trio.Nursery) -> None:
        """The slots' own nurseries are in `nursery`."""
        self._nursery = nursery

    def close(self) -> None:
        """End the slots that are idle now, and the others when they are."""
        self._closing = True
        for slot in self._idle:
            slot.cancel()

    def start(self, running: Running) -> None:
        """Run a job in a slot that is idle, or in a new one."""
        if self._idle:
            running.slot = slot = self._idle.popitem()[0]
            assert slot.nursery is not None
            # A name of its own, or Trio makes one up from the method's for every job.
            slot.nursery.start_soon(self._work, running, name="job")
        else:
            assert self._nursery is not None
            running.slot = slot = Slot()
            self._nursery.start_soon(self._keep, slot, running, name="slot")

    def free(self, running: Running) -> None:
        """A job has ended. Call it at the end of its task, unless that was cancelled."""
        assert running.slot is not None
        # lowlevel: nothing else tells of a nursery that a handler left open (in an async generator that is not closed).
        # Trio will end the slot for it, and must not end another job with it.
        if not trio.lowlevel.current_task().child_nurseries:
            self._offer(running.slot)

    def _offer(self, slot: Slot) -> None:
        if self._closing:
            slot.cancel()
        elif not slot.cancelled:  # else `_keep` makes it anew
            self._idle[slot] = None

    async def _keep(self, slot: Slot, running: Running | None) -> None:
        """Keep a slot open, beginning with a job."""
        while True:
            try:
                async with trio.open_nursery() as slot.nursery:
                    if running is None:
                        slot.cancelled = False
                        self._offer(slot)
                    else:
                        slot.nursery.start_soon(self._work, running, name="job")
                        if slot.cancelled:  # before it had a nursery
                            slot.nursery.cancel_scope.cancel()
                    running = None
                    try:
                        await trio.sleep_forever()
                    finally:
                        # In here, or a job could be started in a nursery that is closing.
                        slot.cancelled = True
                        self._idle.pop(slot, None)
            except Exception:
                log.exception("job.left_open", hint="close async generators with contextlib.aclosing")
            if self._closing:
                return
