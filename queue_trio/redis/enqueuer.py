"""Group commit for enqueue: many callers, one session, as few round trips as the crowd allows.

Whoever finds the session free sends what all callers have brought meanwhile. There is no background task: the sending
is done by one of those who wait, and handed to the next if that one is cancelled or out of time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from queue_trio.core.job import Enqueued
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import DeadlineExceeded, OutcomeUnknown, QueueTrioError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.job import NewJob
    from queue_trio.redis.scripts import Script
    from queue_trio.redis.session import Session

MAX_CALL_BYTES: Final = 4 * 1024 * 1024
"""Record bytes per call, roughly: one call must not block the server for long. A single larger record goes alone."""

_ANSWERS: Final = {"c": Enqueued.CREATED, "d": Enqueued.DUPLICATE, "r": Enqueued.REFUSED}


class _Part:
    """What one caller brought, and what became of it."""

    __slots__ = ("abandoned", "answers", "error", "jobs", "sent", "size")

    def __init__(self, jobs: Sequence[NewJob]) -> None:
        self.jobs = jobs
        self.size = sum(len(job.record) for job in jobs)
        self.sent = False
        self.abandoned = False
        self.answers: list[Enqueued] = []
        self.error: QueueTrioError | None = None

    @property
    def settled(self) -> bool:
        return bool(self.answers) or self.error is not None


class Enqueuer:
    """Enqueues to one lane."""

    def __init__(self, session: Session, script: Script, keys: tuple[str, ...], max_length: int) -> None:
        self._session = session
        self._script = script
        self._keys = keys
        self._max_length = max_length
        self._turn = trio.Lock()
        self._waiting: deque[_Part] = deque()
        self._under_way: list[_Part] = []

    async def enqueue(self, jobs: Sequence[NewJob], timeout_s: float) -> list[Enqueued]:
        """At most MAX_BATCH jobs. Raises DeadlineExceeded, OutcomeUnknown, or what the server answered."""
        part = _Part(jobs)
        self._waiting.append(part)
        try:
            with trio.move_on_after(timeout_s):
                async with self._turn:
                    while not part.settled:
                        await self._send()
        finally:
            if not part.settled:
                part.abandoned = True
                if not part.sent:
                    self._waiting.remove(part)
        if part.error is not None:
            # A fresh exception for each caller: one object raised in many tasks would mix up their tracebacks.
            raise part.error.with_traceback(None)
        if part.settled:
            return part.answers
        if part.sent:
            raise OutcomeUnknown(
                f"no answer within {timeout_s:g} s, and the job may or may not be queued; "
                "enqueue the same job object again to be sure, its id makes that safe"
            )
        raise DeadlineExceeded(f"Redis could not be reached within {timeout_s:g} s; nothing was queued")

    async def _send(self) -> None:
        """Send one call and hand out its answers."""
        try:
            if self._session.unanswered is not None and not all(part.abandoned for part in self._under_way):
                reply = await self._session.again()
            else:
                self._under_way = self._next_batch()
                reply = await self._session.call(self._script, self._keys, self._arguments())
        except QueueTrioError as error:
            for part in self._under_way:
                part.error = error
            return
        at = 0
        letters = reply.decode()
        for part in self._under_way:
            part.answers = [_ANSWERS[letter] for letter in letters[at : at + len(part.jobs)]]
            at += len(part.jobs)

    def _next_batch(self) -> list[_Part]:
        batch = [self._waiting.popleft()]
        count, size = len(batch[0].jobs), batch[0].size
        while self._waiting:
            part = self._waiting[0]
            count, size = count + len(part.jobs), size + part.size
            if count > MAX_BATCH or size > MAX_CALL_BYTES:
                break
            batch.append(self._waiting.popleft())
        for part in batch:
            part.sent = True
        return batch

    def _arguments(self) -> list[str | int | bytes]:
        arguments: list[str | int | bytes] = [self._max_length]
        for part in self._under_way:
            for job in part.jobs:
                arguments += (job.id, job.priority.rank, job.delay_ms, job.unique_ms, job.record)
        return arguments
