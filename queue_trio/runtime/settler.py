"""Group commit of outcomes: whatever has ended since the last round trip is settled in one script call.

Outcomes wait through an outage; the executor's leases and the fetcher's back-pressure bound how many there can be.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from queue_trio.core.store import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.core.job import Lane, Outcome
    from queue_trio.core.store import Store
    from queue_trio.tracing.spans import Spans

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Results and tracebacks per call, roughly."""


class Settler:
    """`on_settled(lane, outcomes, accepted)` hears of every outcome once, when its fate is known.

    While a worker is busy its claims take outcomes along (`take_along`, then `landed`): one round trip for both. The
    settler itself settles what no claim takes.
    """

    def __init__(self, store: Store, *, spans: Spans | None = None) -> None:
        self._store = store
        self._spans = spans
        self._waiting: dict[Lane, deque[Outcome]] = {}
        self._work = trio.Event()
        self._progress = trio.Event()
        self._under_way: dict[Lane, list[Outcome]] = {}
        self._settling: Lane | None = None
        self._claimed: Lane | None = None
        self._began_ns = 0
        self.backlog = 0
        self.on_settled: Callable[[Lane, Sequence[Outcome], Sequence[bool]], None] = lambda *_: None

    def add(self, lane: Lane, outcome: Outcome) -> None:
        """Settle this soon."""
        queue = self._waiting.get(lane)
        if queue is None:
            queue = self._waiting[lane] = deque()
        queue.append(outcome)
        self.backlog += 1
        self._work.set()

    def take_along(self, lane: Lane) -> list[Outcome]:
        """Outcomes for a claim of this lane that is about to be made. What ends meanwhile waits for the next one.

        Call `landed` when the claim has its answer, or has none.
        """
        if lane in self._under_way and lane != self._settling:
            return []  # cut off on its way: it is `run`'s to ask what became of it
        self._claimed = lane
        if lane == self._settling or not self._waiting.get(lane):
            return []
        if self._spans is not None:
            self._began_ns = self._spans.now_ns()
        return self._batch_of(lane)

    def landed(self, lane: Lane, accepted: list[bool] | None) -> None:
        """What the claim brought back; None if nothing went along, or nobody knows what became of it."""
        self._claimed = None
        if accepted is not None:
            self._conclude(lane, accepted, self._began_ns)
        if self.backlog:
            self._work.set()

    async def wait_below(self, limit: int) -> None:
        """Return when fewer than `limit` outcomes wait."""
        while self.backlog >= limit:
            await self._progress.wait()

    async def run(self) -> None:
        """Settle for ever."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            # What has ended has freed a slot as well: a claim that is made for it goes first, and takes this along.
            await trio.lowlevel.checkpoint()
            await self.flush()

    async def flush(self) -> None:
        """Settle everything that waits now, but for what waits for a claim.

        Cancelled half way, nothing is forgotten: it can be called again. Then the same batch goes out again first, so
        that the store can tell what became of it.
        """
        # One batch of each lane in turn: no busy lane may keep the others waiting. A new lane may join meanwhile.
        while lanes := [lane for lane in self._waiting if self._due(lane)]:
            for lane in lanes:
                if self._due(lane):
                    await self._settle(lane)

    def _due(self, lane: Lane) -> bool:
        return lane != self._claimed and bool(self._waiting[lane])

    async def _settle(self, lane: Lane) -> None:
        self._settling = lane
        began_ns = 0 if self._spans is None else self._spans.now_ns()
        try:
            accepted = await self._store.settle(lane, self._batch_of(lane))
        finally:
            self._settling = None
        self._conclude(lane, accepted, began_ns)

    def _batch_of(self, lane: Lane) -> list[Outcome]:
        batch = self._under_way.get(lane)
        if batch is None:
            batch = self._under_way[lane] = _batch(self._waiting[lane])
        return batch

    def _conclude(self, lane: Lane, accepted: list[bool], began_ns: int) -> None:
        batch, queue = self._under_way.pop(lane), self._waiting[lane]
        if self._spans is not None:
            self._spans.settled(lane.queue, began_ns, batch, accepted)
        for _ in batch:
            queue.popleft()
        self.on_settled(lane, batch, accepted)
        self.backlog -= len(batch)
        self._progress.set()
        self._progress = trio.Event()


def _batch(queue: deque[Outcome]) -> list[Outcome]:
    batch: list[Outcome] = []
    size = 0
    for outcome in queue:
        size += len(outcome.detail)
        if len(batch) == MAX_BATCH or (batch and size > MAX_BATCH_BYTES):
            break
        batch.append(outcome)
    return batch
