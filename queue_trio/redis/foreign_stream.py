"""One stream of enqueue calls for the clients on redis-py: group commit, a sequence number per call, once and no more.

What `session` and `enqueuer` are to the Trio client. Whoever finds the stream free sends what all callers, threads or
asyncio tasks, have brought meanwhile, and goes on with the same number until it is answered or out of time.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING

from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import CircuitOpen, DeadlineExceeded, OutcomeUnknown, QueueTrioError, ServerError
from queue_trio.redis import scripts
from queue_trio.redis.enqueue_call import MAX_CALL_BYTES, answers, arguments, twin
from queue_trio.redis.keys import LaneKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.job import Enqueued, Lane, NewJob
    from queue_trio.redis.foreign import Foreign, Wire


class _Part:
    """What one caller brought, and what became of it."""

    __slots__ = ("answers", "batch", "error", "jobs", "size", "withdrawn")

    def __init__(self, jobs: Sequence[NewJob]) -> None:
        self.jobs = jobs
        self.size = sum(len(job.record) for job in jobs)
        self.batch: _Batch | None = None
        self.withdrawn = False
        self.answers: list[Enqueued] = []
        self.error: QueueTrioError | None = None

    @property
    def settled(self) -> bool:
        return bool(self.answers) or self.error is not None


class _Batch:
    """One call under way. `maybe_sent`: the server may have acted on it, so its jobs are fixed."""

    __slots__ = ("maybe_sent", "parts", "seq")

    def __init__(self, seq: int, parts: list[_Part]) -> None:
        self.seq = seq
        self.parts = parts
        self.maybe_sent = False

    def alive(self) -> bool:
        return any(not part.withdrawn for part in self.parts)


class Stream:
    """Enqueue calls to one lane. `fail_fast`: all who use it give up at the first failure."""

    def __init__(self, foreign: Foreign, lane: Lane, max_length: int, *, fail_fast: bool = False) -> None:
        self._foreign = foreign
        self.fail_fast = fail_fast
        self._script = scripts.load("enqueue")
        keys = LaneKeys(lane, foreign.prefix)
        session = keys.session(f"{secrets.token_hex(8)}:enqueue:{max_length}")
        self._keys = self._script.keys(keys, {"session": session})
        self.session_key = session
        self._max_length = max_length
        self._seq = 0
        self._doubtful = False
        self._turn = foreign.port.lock()
        self._guard = threading.Lock()
        """Between sending a batch and withdrawing from it. Never held while waiting."""
        self._waiting: deque[_Part] = deque()
        self._batch: _Batch | None = None

    @property
    def forgettable(self) -> bool:
        """Whether the server may forget the session: no copy of a request can still be on its way there."""
        return self._seq > 0 and self._batch is None and not self._doubtful

    async def enqueue(self, jobs: Sequence[NewJob], deadline: float) -> list[Enqueued]:
        """One piece of `split`. Raises DeadlineExceeded, OutcomeUnknown, or what the server answered.

        With `fail_fast` also CircuitOpen: nothing was queued.
        """
        part = _Part(jobs)
        now = self._foreign.port.now
        failures = self._foreign.outage.failures
        with self._guard:
            self._waiting.append(part)
        reason: QueueTrioError | None = None
        certain = False
        try:
            if await self._turn.acquire(deadline - now()):
                try:
                    while not part.settled:
                        if self.fail_fast:
                            self._foreign.give_up_after(failures)
                        await self._send(deadline)
                except (DeadlineExceeded, CircuitOpen) as error:
                    reason = error
                finally:
                    certain = self._withdraw(part)
                    self._turn.release()
        finally:
            certain = self._withdraw(part) or certain
        if part.error is not None:
            raise twin(part.error) from part.error
        if part.settled:
            return part.answers
        if certain and isinstance(reason, CircuitOpen):
            raise reason
        why = f": {reason}" if reason is not None else ""
        if certain:
            raise DeadlineExceeded(f"out of time, and nothing was queued{why}")
        end = "given up" if isinstance(reason, CircuitOpen) else "out of time"
        raise OutcomeUnknown(
            f"{end} without an answer, and the job may or may not be queued{why}; "
            "enqueue the same job object again to be sure: its id keeps it from being queued twice"
        )

    def _withdraw(self, part: _Part) -> bool:
        """Let go of a part that is not settled. True if it is certain that its jobs are not and will not be queued."""
        with self._guard:
            if part.settled:
                return False
            part.withdrawn = True
            if part.batch is None:
                if part in self._waiting:
                    self._waiting.remove(part)
                return True
            return not part.batch.maybe_sent

    async def _send(self, deadline: float) -> None:
        """Send one batch until it is answered, and hand out its answers. Raises DeadlineExceeded or CircuitOpen."""
        with self._guard:
            if self._batch is None or not self._batch.alive():
                self._doubtful = self._doubtful or (self._batch is not None and self._batch.maybe_sent)
                # A call that nobody waits for any more is given up: the next one has a new number.
                self._batch = self._next_batch()
            batch = self._batch
        try:
            reply = await self._foreign.persevere(
                lambda wire, left: self._attempt(batch, wire, left), deadline, fail_fast=self.fail_fast
            )
        except (DeadlineExceeded, CircuitOpen):
            raise
        except QueueTrioError as error:
            failure = error
            if batch.maybe_sent:
                failure = OutcomeUnknown(f"an attempt had no reply, and then the server refused: {error}")
            with self._guard:
                for part in batch.parts:
                    part.error = failure
                self._batch = None
            return
        with self._guard:
            if reply is not None:
                at = 0
                found = answers(reply)
                for part in batch.parts:
                    part.answers = found[at : at + len(part.jobs)]
                    at += len(part.jobs)
            self._batch = None

    def _next_batch(self) -> _Batch:
        parts: list[_Part] = []
        count = size = 0
        while self._waiting:
            part = self._waiting[0]
            count, size = count + len(part.jobs), size + part.size
            if parts and (count > MAX_BATCH or size > MAX_CALL_BYTES):
                break
            parts.append(self._waiting.popleft())
        self._seq += 1
        batch = _Batch(self._seq, parts)
        for part in parts:
            part.batch = batch
        return batch

    async def _attempt(self, batch: _Batch, wire: Wire, timeout_s: float) -> bytes | None:
        with self._guard:
            sent_before = batch.maybe_sent
            self._doubtful = self._doubtful or sent_before
            if not sent_before:
                # Nobody has seen this number yet: who ran out of time is taken out, and can be told so for certain.
                batch.parts = [part for part in batch.parts if not part.withdrawn]
                if not batch.parts:
                    return None
            batch.maybe_sent = True
            jobs = [job for part in batch.parts for job in part.jobs]
        tail = (len(self._keys), *self._keys, batch.seq, *arguments(self._max_length, jobs))
        try:
            try:
                reply = await self._foreign.exchange(wire, ("EVALSHA", self._script.sha, *tail), timeout_s)
            except ServerError as error:
                if error.code != "NOSCRIPT":
                    raise
                reply = await self._foreign.exchange(wire, ("EVAL", self._script.text, *tail), timeout_s)
        except ServerError:
            batch.maybe_sent = sent_before  # an answer, and one that says nothing has changed
            raise
        assert isinstance(reply, bytes)
        return reply
