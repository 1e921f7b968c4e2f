"""Jobs into their queues, for all three clients: lane by lane, call by call, and with patience where a queue is full.

Knows what to send and when to try again. A `Port` knows how to send and to wait; what an outage is, the layers below.

Within a lane the order is kept: what was refused goes before what was not sent yet. A full lane does not hold up
another one. While a lane is full its calls are as small as the room that was found, so that looking for room is cheap.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, Protocol

from queue_trio.core.backoff import Backoff
from queue_trio.core.job import Enqueued
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import CircuitOpen, DeadlineExceeded, ServerRefused
from queue_trio.redis.enqueue_call import piece_end
from queue_trio.submission import conclude, only_some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queue_trio.app import Job
    from queue_trio.core.job import Lane, NewJob
    from queue_trio.submission import JobId, Terms

ROOM: Final = Backoff(base=0.05, cap=0.25)
"""Between two looks for room in a full queue. Who has waited long must look nearly as often as who has just come."""

LOOK_S: Final = 0.05
"""No look for room begins with less time left: cut off before its answer, its outcome would be unknown."""


class Port(Protocol):
    """How one kind of client sends and waits."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    async def put(
        self, lane: Lane, jobs: Sequence[NewJob], deadline: float, *, fail_fast: bool
    ) -> Sequence[Enqueued]:
        """One call's worth of jobs. Raises what an enqueue raises."""


class _Rest:
    """What one lane has yet to take, from `at` on. `positions`: where the jobs stand in the caller's list."""

    __slots__ = ("at", "count_max", "jobs", "positions")

    def __init__(self, positions: list[int], jobs: list[NewJob]) -> None:
        self.positions = positions
        self.jobs = jobs
        self.at = 0
        self.count_max = MAX_BATCH

    def settle(self, end: int, replies: Sequence[Enqueued]) -> bool:
        """Note the replies to the jobs up to `end`. True if all were taken; else the refused are next."""
        start = self.at
        refused = [start + n for n, reply in enumerate(replies) if reply is Enqueued.REFUSED]
        self.at = end - len(refused)
        if not refused:
            self.count_max = min(MAX_BATCH, 2 * self.count_max)
            return True
        self.jobs[self.at : end] = [self.jobs[n] for n in refused]
        self.positions[self.at : end] = [self.positions[n] for n in refused]
        self.count_max = max(1, self.at - start)
        return False


class Intake:
    """One enqueue of many jobs. `by_lane`: as `submission.prepare_many` gives it."""

    def __init__(
        self,
        port: Port,
        jobs: Sequence[Job],
        by_lane: Mapping[Lane, tuple[list[int], list[NewJob]]],
        terms: Terms,
        *,
        max_length: int,
        rng: random.Random | None = None,
    ) -> None:
        self._port = port
        self._jobs = jobs
        self._rests = {lane: _Rest(positions, batch) for lane, (positions, batch) in by_lane.items()}
        self._terms = terms
        self._max_length = max_length
        self._rng = rng
        self._answers = [Enqueued.REFUSED] * len(jobs)
        self._taken = 0

    async def run(self) -> list[JobId]:
        """One id per job, in order. Raises QueueFull, naming those that got in, and what `Port.put` raises."""
        deadline = self._port.now() + self._terms.timeout_s
        await self._fill(deadline, full=False)
        if self._terms.wait_for_room and any(rest.at < len(rest.jobs) for rest in self._rests.values()):
            await self._wait_for_room(deadline)
        return conclude(self._jobs, self._answers, self._max_length)

    async def _wait_for_room(self, deadline: float) -> None:
        rng = self._rng or random.Random()
        failures = 0
        while any(rest.at < len(rest.jobs) for rest in self._rests.values()):
            left = deadline - self._port.now()
            delay = ROOM.delay(failures, rng)
            if left - delay < LOOK_S:
                await self._port.sleep(max(0.0, left))
                return
            await self._port.sleep(delay)
            before = self._taken
            await self._fill(deadline, full=True)
            failures = failures + 1 if self._taken == before else 0

    async def _fill(self, deadline: float, *, full: bool) -> None:
        for lane, rest in self._rests.items():
            try:
                await self._fill_lane(lane, rest, deadline)
            except (DeadlineExceeded, ServerRefused, CircuitOpen) as error:
                if full and isinstance(error, DeadlineExceeded):
                    return  # the time was spent on waiting for room, and that is what the caller is told
                if not self._taken:
                    raise
                raise only_some(self._taken, len(self._jobs), error) from error

    async def _fill_lane(self, lane: Lane, rest: _Rest, deadline: float) -> None:
        while rest.at < len(rest.jobs):
            start, end = rest.at, piece_end(rest.jobs, rest.at, rest.count_max)
            piece = rest.jobs[start:end]
            replies = await self._port.put(lane, piece, deadline, fail_fast=self._terms.fail_fast)
            for position, reply in zip(rest.positions[start:end], replies, strict=True):
                self._answers[position] = reply
            self._taken += len(replies) - replies.count(Enqueued.REFUSED)
            if self._terms.wait_for_room:
                if not rest.settle(end, replies):
                    return
            else:
                rest.at = end
