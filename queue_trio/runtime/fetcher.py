"""Claims jobs for free slots: never more than can start at once, or a low job would sit here while a high one waits.

Idle, it blocks on the wake tokens of its lanes. It does not run jobs and does not know what an outage is: a claim
takes as long as it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from queue_trio.core.dequeue import LaneOrder, Looped, Strategy
from queue_trio.core.job import Lane
from queue_trio.core.store import MAX_BATCH

if TYPE_CHECKING:
    from queue_trio.core.job import Claim
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.core.store import Store
    from queue_trio.runtime.executor import Executor
    from queue_trio.runtime.settler import Settler


class Fetcher:
    """`strategy` orders the priorities of a lane, `lane_order` the lanes."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        settler: Settler,
        settings: WorkerSettings,
        strategy: Strategy,
        *,
        worker: str,
        stop_patience_s: float,
    ) -> None:
        self._store = store
        self._executor = executor
        self._settler = settler
        self._settings = settings
        self._strategy = strategy
        self._lane_order = LaneOrder.parse(settings.queues)
        self._worker = worker
        self._stop_patience_s = stop_patience_s
        self._backlog_max = 2 * max(settings.concurrency, MAX_BATCH)
        self._stopping = False
        self._waiting = trio.CancelScope()
        self._claiming = trio.CancelScope()
        self.lanes = tuple(Lane(queue) for queue in sorted(self._lane_order.order()))
        self.consuming_since: float | None = None

    def stop(self) -> None:
        """Claim nothing more. A claim under way may finish, for a while, so that no job is leased to nobody."""
        self._stopping = True
        self._waiting.cancel()
        self._claiming.deadline = trio.current_time() + self._stop_patience_s

    async def run(self) -> None:
        """Claim until stopped."""
        self.consuming_since = trio.current_time()
        while not self.stopping:
            with trio.CancelScope() as self._waiting:
                await self._executor.wait_for_slot()
                await self._settler.wait_below(self._backlog_max)
            if self.stopping:
                break
            pause_s = 0.0
            with trio.CancelScope() as self._claiming:
                pause_s = await self._looped_round() if isinstance(self._strategy, Looped) else await self._round()
            if pause_s > 0 and not self.stopping:
                with trio.CancelScope() as self._waiting:
                    await self._store.wait(self.lanes, timeout_s=pause_s)
        self.consuming_since = None

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping

    async def _round(self) -> float:
        """One claim per lane, in order, while slots are free. Returns how long to wait for more, 0 if there is more."""
        pause_s = self._settings.poll_interval
        for queue in self._lane_order.order():
            want = min(self._executor.free, MAX_BATCH)
            if want <= 0:
                return 0.0
            lane = Lane(queue)
            claim = await self._store.claim(
                lane,
                worker=self._worker,
                want=want,
                lease_ms=self._settings.lease_ms,
                order=self._strategy.order(),
            )
            self._start(lane, claim)
            if len(claim.jobs) == want:
                return 0.0
            if claim.next_due_ms is not None:
                pause_s = min(pause_s, claim.next_due_ms / 1000)
        # At least a millisecond: Redis's clock has just said that nothing is due.
        return max(pause_s, 0.001)

    async def _looped_round(self) -> float:
        """The classic loop: for each lane and priority, one blocking move into the inbox, then a lease for it."""
        for queue in self._lane_order.order():
            lane = Lane(queue)
            if await self._adopt(lane):
                return self._settings.poll_interval
            for priority in self._strategy.order():
                if self._stopping or self._executor.free <= 0:
                    return 0.0
                moved = await self._store.pull(
                    lane, worker=self._worker, priority=priority, timeout_s=self._settings.looped_wait
                )
                if moved:
                    await self._adopt(lane)
                    break
        return 0.0

    async def _adopt(self, lane: Lane) -> bool:
        """Lease what is in the inbox; True if the lane is paused."""
        claim = await self._store.adopt(
            lane, worker=self._worker, want=self._executor.free, lease_ms=self._settings.lease_ms
        )
        self._start(lane, claim)
        return claim.paused

    def _start(self, lane: Lane, claim: Claim) -> None:
        if claim.jobs:
            self._executor.start(lane, claim.jobs)
