"""The Store in memory: the readable model of the queue, for unit tests, examples and simulation.

One process, nothing kept. What becomes of jobs is in `memory.lane`; a conformance suite in `tests/store` holds
`RedisStore` to the same behaviour. Knows no Redis and no clock: the time of jobs is what `clock` says. Only `wait` and
`pull` wait, on Trio's clock.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import TYPE_CHECKING

import trio

from queue_trio.core.job import Claim, Enqueued, Lane, State
from queue_trio.core.operations import TRAIL_LENGTH_MAX
from queue_trio.core.store import MAX_BATCH, PROMOTE_LIMIT, AuditReport, LaneStats, PeekedJob, Renewed, Swept
from queue_trio.memory.lane import MemoryLane
from queue_trio.memory.limiter import MemoryLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import NewJob, Outcome


class MemoryStore:
    """See `core.store.Store`. `clock` gives the time in milliseconds; it is asked once per step."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lanes: defaultdict[Lane, MemoryLane] = defaultdict(MemoryLane)
        self._announced: set[Lane] = set()
        self.limiter = MemoryLimiter(lambda: clock() * 1000)
        self.trail: deque[bytes] = deque(maxlen=TRAIL_LENGTH_MAX)
        """For `memory.operations`: what operators did."""

    async def enter(self, lane: Lane) -> tuple[MemoryLane, int]:
        """The lane and the time. The one checkpoint of each call comes first: cancelled there, nothing has happened."""
        await trio.lowlevel.checkpoint()
        return self._lanes[lane], self._clock()

    async def enqueue(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        *,
        max_length: int = 0,
        timeout_s: float = math.inf,
        meanwhile: object = None,
    ) -> list[Enqueued]:
        at, now = await self.enter(lane)
        self._announced.add(lane)
        answers = []
        for job in jobs:
            waiting = len(at.scheduled) + sum(map(len, at.ready.values()))
            answers.append(at.enqueue(job, now, full=0 < max_length <= waiting))
        at.tell(answers.count(Enqueued.CREATED))
        return answers

    async def claim(
        self,
        lane: Lane,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        order: Sequence[Priority],
        outcomes: Sequence[Outcome] = (),
    ) -> Claim:
        at, now = await self.enter(lane)
        accepted = at.settle_all(outcomes, now) if outcomes else None
        if at.paused:
            return Claim([], paused=True, drain=worker in at.draining, accepted=accepted)
        at.promote(now, PROMOTE_LIMIT)
        want = min(want, MAX_BATCH)
        ids: list[str] = []
        for priority in order:
            while at.ready[priority] and len(ids) < want:
                ids.append(at.ready[priority].popleft())
        due = min(at.scheduled.values(), default=None) if len(ids) < want else None
        next_due_ms = None if due is None else max(0, due - now)
        jobs = at.lease(ids, worker, now + lease_ms)
        return Claim(jobs, next_due_ms, drain=worker in at.draining, accepted=accepted)

    async def wait(self, lanes: Sequence[Lane], *, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for lane in lanes:
                    nursery.start_soon(self._wait_one, self._lanes[lane], nursery.cancel_scope)

    async def _wait_one(self, at: MemoryLane, others: trio.CancelScope) -> None:
        while not at.wake:
            await at.news.wait()
        at.wake -= 1
        others.cancel()

    async def pull(self, lane: Lane, *, worker: str, priority: Priority, timeout_s: float) -> bool:
        at, _ = await self.enter(lane)
        with trio.move_on_after(timeout_s):
            while not at.ready[priority]:
                await at.news.wait()
        if not at.ready[priority]:
            return False
        at.inboxes[worker][priority].append(at.ready[priority].popleft())
        return True

    async def adopt(self, lane: Lane, *, worker: str, want: int, lease_ms: int) -> Claim:
        at, now = await self.enter(lane)
        ids: list[str] = []
        for inbox in at.inboxes[worker].values():
            while inbox and len(ids) < min(want, MAX_BATCH):
                ids.append(inbox.popleft())
        claimed = at.lease(ids, worker, now + lease_ms)
        return Claim(claimed, paused=at.paused, drain=worker in at.draining)

    async def settle(self, lane: Lane, outcomes: Sequence[Outcome]) -> list[bool]:
        at, now = await self.enter(lane)
        return at.settle_all(outcomes, now)

    async def renew(
        self, lane: Lane, *, worker: str, lease_ms: int, held: Sequence[tuple[str, str]]
    ) -> Renewed:
        at, now = await self.enter(lane)
        at.workers[worker] = now
        at.leases[worker] = lease_ms
        lost: list[str] = []
        for id_, token in held:
            if id_ in at.leased and at.jobs[id_].token == token:
                at.leased[id_] = now + lease_ms
            else:
                lost.append(id_)
                at.forgive(id_, token)
        return Renewed(tuple(lost), worker in at.draining)

    async def sweep(
        self, lane: Lane, *, lease_ms: int, max_crashes: int, limit: int = PROMOTE_LIMIT, recovery_ms: int = 0
    ) -> Swept:
        at, now = await self.enter(lane)
        return at.sweep(now, lease_ms, max_crashes, limit, recovery_ms)

    async def register(self, lane: Lane, *, worker: str, info: str) -> None:
        at, now = await self.enter(lane)
        self._announced.add(lane)
        at.workers[worker] = now
        at.worker_info[worker] = info
        at.draining.discard(worker)

    async def deregister(self, lane: Lane, *, worker: str) -> None:
        at, _ = await self.enter(lane)
        at.bury(worker)

    async def pause(self, lane: Lane, paused: bool) -> None:
        at, _ = await self.enter(lane)
        at.paused = paused

    async def result(self, lane: Lane, job_id: str) -> bytes | None:
        at, now = await self.enter(lane)
        value, until_ms = at.results.get(job_id, (None, 0))
        return value if now < until_ms else None

    async def lanes(self) -> list[Lane]:
        await trio.lowlevel.checkpoint()
        return sorted(self._announced, key=str)

    async def stats(self, lane: Lane) -> LaneStats:
        at, _ = await self.enter(lane)
        return at.stats(str(lane))

    async def peek(self, lane: Lane, state: State, *, count: int) -> list[PeekedJob]:
        at, _ = await self.enter(lane)
        return at.peek(state, count)

    async def audit(self, lane: Lane, *, repair: bool = False) -> AuditReport:
        """Nobody else can reach into this store, so there is nothing that `repair` could do."""
        at, _ = await self.enter(lane)
        return AuditReport(stats=at.stats(str(lane)), checked=len(at.jobs), violations=tuple(at.audit()))
