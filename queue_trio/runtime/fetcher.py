"""Claims jobs for free slots: never more than can start at once, or a low job would sit here while a high one waits.

Idle, it blocks on the wake tokens of its lanes. It does not run jobs and does not know what an outage is: a claim
takes as long as it takes.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import trio

from queue_trio.core.dequeue import LaneOrder, Looped, Strategy
from queue_trio.core.job import Lane, Outcome, Verdict
from queue_trio.core.store import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.core.job import Claim
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.core.store import Store
    from queue_trio.runtime.executor import Executor
    from queue_trio.runtime.settler import Settler
    from queue_trio.tracing.spans import Spans


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
        spans: Spans | None = None,
    ) -> None:
        self._store = store
        self._spans = spans
        self._began_ns = 0
        self._executor = executor
        self._settler = settler
        self._settings = settings
        self._looped = isinstance(strategy, Looped)
        self._lane_order = LaneOrder.parse(settings.queues)
        self._worker = worker
        self._backlog_max = 2 * max(settings.concurrency, MAX_BATCH)
        # Half of the slots at a time: while one half runs, the next is fetched, and neither waits for the other.
        self._want_max = min(MAX_BATCH, (settings.concurrency + 1) // 2)
        self._stopping = False
        self._waiting = trio.CancelScope()
        self._claiming = trio.CancelScope()
        self.lanes = tuple(Lane(queue) for queue in sorted(LaneOrder.parse(settings.queues).order()))
        # A copy for each lane: taking turns together, one lane could always meet the same priority's turn.
        self._strategies = {lane: copy.deepcopy(strategy) for lane in self.lanes}
        self.consuming_since: float | None = None
        self.claiming: Lane | None = None
        """A claim of this lane has no answer yet. After `run`: it was cut off, and may have leased jobs to us."""
        self.pulling: Lane | None = None
        """The same for a blocking move: it was cut off, and may yet put a job into our inbox."""
        self.activity = "starting"
        """What it is doing, for people: also "waiting for a slot", "waiting for outcomes to be settled", "claiming",
        "waiting for jobs", "stopping" or "stopped"."""
        self.due_at = math.inf
        """Trio's time at which it does something else, if nothing holds it up. Waiting for a slot has no end."""
        self.last_claim_at: float | None = None
        """Trio's time when a claim was last answered."""
        self.paused: set[Lane] = set()
        """Lanes whose last claim said that they are paused."""
        self.on_drain: Callable[[], object] = lambda: None
        """Called when a claim says that an operator wants this worker to drain; as often as it says so."""

    def stop(self, patience_s: float) -> None:
        """Claim nothing more. A claim under way may finish, for a while, so that no job is leased to nobody."""
        self._stopping = True
        if self.activity != "stopped":
            self.activity = "stopping"
        self._executor.rouse()
        self._waiting.cancel()
        if self.pulling is not None:
            patience_s = max(patience_s, 2 * self._settings.looped_wait)  # it will end by itself
        self._claiming.deadline = min(self._claiming.deadline, trio.current_time() + patience_s)

    async def run(self) -> None:
        """Claim until stopped."""
        self.consuming_since = trio.current_time()
        with self._claiming:
            while not self.stopping():
                if self._executor.free <= 0:
                    self._does("waiting for a slot", math.inf)
                    await self._executor.slot_freed()
                elif self._settler.backlog >= self._backlog_max:
                    self._does("waiting for outcomes to be settled")
                    with trio.CancelScope() as self._waiting:
                        await self._settler.wait_below(self._backlog_max)
                else:
                    pause_s = await self._looped_round() if self._looped else await self._round()
                    if pause_s > 0 and not self.stopping():
                        self._does("waiting for jobs", pause_s)
                        with trio.CancelScope() as self._waiting:
                            await self._store.wait(self.lanes, timeout_s=pause_s)
        self.consuming_since = None
        self.activity = "stopped"

    async def give_back(self) -> None:
        """Release what a claim that was cut off has leased to us, and what a move has put into our inbox."""
        if self.claiming is not None:
            lane = self.claiming
            self._release(
                lane, await self._claim(lane, 1)
            )  # the store answers what it would have answered then
        if self.pulling is not None:
            lane, lease_ms = self.pulling, self._settings.lease_ms
            self._release(lane, await self._store.adopt(lane, worker=self._worker, want=1, lease_ms=lease_ms))

    def _release(self, lane: Lane, claim: Claim) -> None:
        for job in claim.jobs:
            self._settler.add(lane, Outcome(job.id, job.token, Verdict.RELEASE))

    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping

    def _does(self, activity: str, takes_s: float = 0.0) -> None:
        if not self._stopping:
            self.activity = activity
            self.due_at = trio.current_time() + takes_s

    async def _round(self) -> float:
        """One claim per lane, in order, while slots are free. Returns how long to wait for more, 0 if there is more."""
        pause_s = self._settings.poll_interval
        for queue in self._lane_order.order():
            want = min(self._executor.free, self._want_max)
            if want <= 0 or self.stopping():
                return 0.0
            lane = Lane(queue)
            claim = await self._claim(lane, want)
            self._start(lane, claim)
            if len(claim.jobs) == want:
                return 0.0
            if claim.next_due_ms is not None:
                pause_s = min(pause_s, claim.next_due_ms / 1000)
        # At least a millisecond: Redis's clock has just said that nothing is due.
        return max(pause_s, 0.001)

    async def _claim(self, lane: Lane, want: int) -> Claim:
        self._claim_begins(lane)
        accepted: list[bool] | None = None
        outcomes = self._settler.take_along(lane)
        try:
            claim = await self._store.claim(
                lane,
                worker=self._worker,
                want=want,
                lease_ms=self._settings.lease_ms,
                order=self._strategies[lane].order(),
                outcomes=outcomes,
            )
            accepted = claim.accepted
        finally:
            self._settler.landed(lane, accepted)
        self._claim_answered(lane, claim)
        return claim

    def _claim_begins(self, lane: Lane) -> None:
        self.claiming = lane
        self._does("claiming")
        if self._spans is not None:
            self._began_ns = self._spans.now_ns()

    def _claim_answered(self, lane: Lane, claim: Claim) -> None:
        self.claiming = None
        self.last_claim_at = trio.current_time()
        if claim.paused:
            self.paused.add(lane)
        else:
            self.paused.discard(lane)
        if claim.drain:
            self.on_drain()

    async def _looped_round(self) -> float:
        """The classic loop: look at each priority in turn, and if there is nothing anywhere, wait at each in turn."""
        pause_s = (
            self._settings.poll_interval
        )  # only if every lane is paused: otherwise the moves have waited
        awake: list[Lane] = []
        for queue in self._lane_order.order():
            lane = Lane(queue)
            if not self._may_claim():
                return 0.0
            if not await self._adopt(lane):
                awake.append(lane)
        for wait_s in (0.0, self._settings.looped_wait):
            for lane in awake:
                pause_s = 0.0
                if await self._pull(lane, wait_s):
                    return 0.0
        return pause_s

    async def _pull(self, lane: Lane, wait_s: float) -> bool:
        """One move from each priority until one brings a job, then a lease for it. True if one did."""
        for priority in self._strategies[lane].order():
            if not self._may_claim():
                return True
            self._does("waiting for jobs" if wait_s else "claiming", wait_s)
            self.pulling = lane
            moved = await self._store.pull(lane, worker=self._worker, priority=priority, timeout_s=wait_s)
            self.pulling = None
            if moved:
                await self._adopt(lane)
                return True
        return False

    def _may_claim(self) -> bool:
        return not self.stopping() and self._executor.free > 0

    async def _adopt(self, lane: Lane) -> bool:
        """Lease what is in the inbox; True if the lane is paused."""
        self._claim_begins(lane)
        claim = await self._store.adopt(
            lane, worker=self._worker, want=self._executor.free, lease_ms=self._settings.lease_ms
        )
        self._claim_answered(lane, claim)
        self._start(lane, claim)
        return claim.paused

    def _start(self, lane: Lane, claim: Claim) -> None:
        if claim.jobs:
            spans = self._spans
            receipt = None if spans is None else spans.claimed(lane.queue, self._began_ns, len(claim.jobs))
            self._executor.start(lane, claim.jobs, receipt)
