"""Slots: nurseries that live on from job to job, so that a job costs a task and no cancel scope of its own.

One slot runs one job at a time. To cancel the job is to cancel its slot's nursery; then the slot gets a new one. Knows
what may happen to a nursery, and neither what a job is nor how many may run at once. Why not a scope for each job:
docs/decisions/018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from queue_trio.runtime.running import Running

log = structlog.get_logger(__name__)

JOBS_MAX: Final = 1000
"""After so many jobs a slot gets a new nursery. A handler can leave a cancel scope open (in an async generator that is
not closed) and nothing tells; it is closed together with the nursery."""


class Slot:
    """Room for one job. `nursery`: where its task lives; None until there is one. `unfit`: for another job."""

    __slots__ = ("jobs", "left_open", "nursery", "running", "unfit")

    def __init__(self, running: Running) -> None:
        self.running = running
        """The job that is here, or was here last."""
        self.nursery: trio.Nursery | None = None
        self.unfit = False
        self.left_open = False
        """The last job's task left a nursery open, for which Trio will complain."""
        self.jobs = 0
        """So many were in this nursery."""

    def cancel(self) -> None:
        """Cancel the job that is here."""
        self.unfit = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()


class Slots:
    """Runs `work(running)` for each job. It raises nothing but what stops it: Cancelled, or Ctrl-C.

    `stopped(running, by_worker)` hears of every job at which `work` was stopped and which it has left unfinished.
    `by_worker`: the whole worker is being cancelled. Otherwise it was something of the handler's own.

    `open` must be given a nursery before the first job starts.
    """

    def __init__(
        self, work: Callable[[Running], Awaitable[None]], stopped: Callable[[Running, bool], None]
    ) -> None:
        self._work = work
        self._stopped = stopped
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
            slot.running = running
            assert slot.nursery is not None
            # A name of its own, or Trio makes one up from the method's for every job.
            slot.nursery.start_soon(self._work, running, name="job")
        else:
            assert self._nursery is not None
            running.slot = slot = Slot(running)
            self._nursery.start_soon(self._keep, slot, name="slot")

    def ended(self, running: Running, *, stopped: bool) -> None:
        """Call this at the end of a job's task. `stopped`: by an exception that it is about to pass on."""
        slot = running.slot
        assert slot is not None
        slot.jobs += 1
        # lowlevel: nothing else tells of a nursery that a handler left open. Trio will end the slot for it.
        if trio.lowlevel.current_task().child_nurseries:
            slot.left_open = slot.unfit = True
            hint = "close async generators, with contextlib.aclosing for one"
            log.error("job.left_nursery_open", job=running.job.id, hint=hint)
        elif stopped:
            slot.unfit = True
        else:
            self._offer(slot)

    def _offer(self, slot: Slot) -> None:
        if self._closing or slot.jobs >= JOBS_MAX:
            slot.cancel()
        elif not slot.unfit:  # else `_keep` makes it anew
            self._idle[slot] = None

    async def _keep(self, slot: Slot) -> None:
        """Keep a slot open, beginning with the job that is in it."""
        is_new = True
        while is_new or not self._closing:
            try:
                await self._open(slot, is_new=is_new)
            except BaseException:
                self._conclude(slot, by_worker=True)
                raise
            self._conclude(slot, by_worker=False)
            is_new = False

    async def _open(self, slot: Slot, *, is_new: bool) -> None:
        """Give a slot a nursery until that is cancelled."""
        slot.jobs = 0
        slot.left_open = False
        try:
            async with trio.open_nursery() as slot.nursery:
                if is_new:
                    slot.nursery.start_soon(self._work, slot.running, name="job")
                    if slot.unfit:  # cancelled before it had a nursery
                        slot.cancel()
                else:
                    slot.unfit = False
                    self._offer(slot)
                try:
                    await trio.sleep_forever()
                finally:
                    # In here, or a job could be started in a nursery that is closing.
                    slot.unfit = True
                    self._idle.pop(slot, None)
        except BaseExceptionGroup as group:
            rest = group.split(RuntimeError)[1] if slot.left_open else group
            if rest is not None:
                raise rest from None

    def _conclude(self, slot: Slot, *, by_worker: bool) -> None:
        if not slot.running.finished:
            self._stopped(slot.running, by_worker)
