"""Jobs into their queues, for all three clients: portion by portion, lane by lane, call by call, patiently.

Knows what to send and when to try again. A `Port` knows how to send and to wait; what an outage is, the layers below.

Within a lane the order is kept: what was refused goes before what was not sent yet. Within a portion a full lane does
not hold up another one. While a lane is full its calls are as small as the room that was found, so that looking for
room is cheap. The next portion is made while the server works on a call, and waits until the one before it is taken.
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
    from collections.abc import Callable, Iterator, Sequence

    from queue_trio.core.job import Lane, NewJob
    from queue_trio.submission import JobId, Portion, Terms

ROOM: Final = Backoff(base=0.05, cap=0.25)
"""Between two looks for room in a full queue. Who has waited long must look nearly as often as who has just come."""

LOOK_S: Final = 0.05
"""No look for room begins with less time left: cut off before its answer, its outcome would be unknown."""


class Port(Protocol):
    """How one kind of client sends and waits."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    async def put(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        deadline: float,
        *,
        fail_fast: bool,
        meanwhile: Callable[[], None] | None,
    ) -> Sequence[Enqueued]:
        """One call's worth of jobs. Raises what an enqueue raises.

        `meanwhile` is work for the time until the reply, if there is any; who can do only one thing at once leaves it.
        """


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
    """One enqueue of many jobs."""

    def __init__(
        self,
        port: Port,
        portions: Iterator[Portion],
        terms: Terms,
        *,
        max_length: int,
        rng: random.Random | None = None,
    ) -> None:
        self._port = port
        self._portions = portions
        self._drawn = False
        self._ahead: Portion | None = None
        self._trouble: Exception | None = None
        self._rests: dict[Lane, _Rest] = {}
        self._terms = terms
        self._max_length = max_length
        self._rng = rng
        self._done: list[JobId] = []
        """Those of the portions before the present one."""
        self._answers: list[Enqueued] = []
        self._count = 0
        self._taken = 0

    async def run(self) -> list[JobId]:
        """One id per job, in order. Raises QueueFull, naming those that got in, and what `Port.put` raises.

        Also what making a portion raises. If there were portions before, a note says how many jobs are queued.
        """
        try:
            while (portion := self._take_portion()) is not None:
                with portion.sending:
                    await self._send(portion)
        except Exception as error:
            if self._done:
                error.add_note(f"the first {len(self._done)} jobs are queued")
            if self._trouble is not None and self._trouble is not error:
                error.add_note(f"and what the jobs came from failed: {self._trouble!r}")
            raise
        finally:
            if self._ahead is not None:
                self._ahead.sending.close()
        return self._done

    def _draw(self) -> None:
        """Make the next portion, unless it is there already. What fails is raised when its turn comes."""
        if not self._drawn:
            self._drawn = True
            try:
                self._ahead = next(self._portions, None)
            except Exception as error:  # noqa: BLE001  # whatever the caller's generator raises
                self._trouble = error

    def _take_portion(self) -> Portion | None:
        self._draw()
        if self._trouble is not None:
            raise self._trouble
        portion, self._ahead = self._ahead, None
        self._drawn = False
        return portion

    async def _send(self, portion: Portion) -> None:
        deadline = self._port.now() + self._terms.timeout_s
        self._count = len(self._done) + len(portion.ids)
        self._answers = [Enqueued.REFUSED] * len(portion.ids)
        lanes = portion.by_lane.items()
        self._rests = {lane: _Rest(positions, batch) for lane, (positions, batch) in lanes}
        await self._fill(deadline, full=False)
        if self._terms.wait_for_room and self._refused:
            await self._wait_for_room(deadline)
        self._done += conclude(portion.ids, self._answers, self._max_length, before=self._done)

    @property
    def _refused(self) -> bool:
        return any(rest.at < len(rest.jobs) for rest in self._rests.values())

    async def _wait_for_room(self, deadline: float) -> None:
        rng = self._rng or random.Random()
        failures = 0
        while self._refused:
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
                raise only_some(self._taken, self._count, error) from error

    async def _fill_lane(self, lane: Lane, rest: _Rest, deadline: float) -> None:
        while rest.at < len(rest.jobs):
            start, end = rest.at, piece_end(rest.jobs, rest.at, rest.count_max)
            piece = rest.jobs[start:end]
            replies = await self._port.put(
                lane,
                piece,
                deadline,
                fail_fast=self._terms.fail_fast,
                meanwhile=None if self._drawn else self._draw,
            )
            for position, reply in zip(rest.positions[start:end], replies, strict=True):
                self._answers[position] = reply
            self._taken += len(replies) - replies.count(Enqueued.REFUSED)
            if self._terms.wait_for_room:
                if not rest.settle(end, replies):
                    return
            else:
                rest.at = end
