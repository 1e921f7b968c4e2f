"""Group commit for enqueue: many callers, one session, and calls that many share.

Whoever finds the session free leads: it sends what all callers have brought meanwhile, until its own part is answered,
and then lets one of those lead who still wait. There is no background task, and who is cancelled or out of time hands
over like any other. All parts of a call wake in the same turn of the event loop.

Those who will not wait for the end of an outage (`Client.fail_fast`) share calls with those who do: at the first
failure their time is over, and the call goes on for the others.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Final

import trio

from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import CircuitOpen, DeadlineExceeded, OutcomeUnknown, QueueTrioError, ServerError
from queue_trio.redis.enqueue_call import MAX_CALL_BYTES, answers, arguments, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queue_trio.core.job import Enqueued, NewJob
    from queue_trio.redis.scripts import Script
    from queue_trio.redis.session import Session

CROWD: Final = 16
"""Of so many callers only half go along with a call. For fewer, a second call costs more than it hides."""


class _Part:
    """What one caller brought, and what became of it. `deadline`: on Trio's clock.

    `impatient`: the caller does not wait for the end of an outage. `over`: it waits no longer, and `trouble` is why, if
    it is not the time. `meanwhile`: the caller's work for the time of a call, if it is the one who leads.
    """

    __slots__ = (
        "abandoned",
        "answers",
        "deadline",
        "error",
        "impatient",
        "jobs",
        "leads",
        "meanwhile",
        "over",
        "scope",
        "size",
        "trouble",
        "wake",
    )

    def __init__(
        self,
        jobs: Sequence[NewJob],
        deadline: float,
        *,
        impatient: bool,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self.jobs = jobs
        self.meanwhile = meanwhile
        self.size = len(jobs[0].record) if len(jobs) == 1 else sum(len(job.record) for job in jobs)
        self.deadline = deadline
        self.impatient = impatient
        self.abandoned = False
        self.leads = False
        self.over = False
        self.scope: trio.CancelScope | None = None
        """While it leads, if it may have to wait. Who follows has none of its own: see `Enqueuer._keep_watch`."""
        self.wake: trio.Event | None = None
        """Of a follower: set when it is settled, is to lead, is over, or is to keep watch."""
        self.answers: list[Enqueued] = []
        self.error: QueueTrioError | None = None
        self.trouble: CircuitOpen | None = None

    @property
    def settled(self) -> bool:
        return bool(self.answers) or self.error is not None

    @property
    def waits(self) -> bool:
        """Whether somebody may yet send it: it has no answer, and nobody has given it up."""
        return not (self.answers or self.error is not None or self.over or self.abandoned)

    def end(self) -> None:
        """Let its caller go, without an answer."""
        self.over = True
        if self.scope is None:
            self.rouse()
        else:
            self.scope.cancel()

    def rouse(self) -> None:
        """Let it look at what became of it, if it follows."""
        if self.wake is not None:
            self.wake.set()


class Enqueuer:
    """Enqueues to one lane."""

    def __init__(self, session: Session, script: Script, keys: tuple[str, ...], max_length: int) -> None:
        self._session = session
        session.on_trouble = self._end_impatience
        self._script = script
        self._keys = keys
        self._max_length = max_length
        self._led = False
        self._crowd = 0
        """How many were there when the last call was answered: who had shared it may come again."""
        self._watch: trio.CancelScope | None = None
        self._waiting: deque[_Part] = deque()
        self._under_way: list[_Part] = []

    async def enqueue(
        self, jobs: Sequence[NewJob], timeout_s: float, meanwhile: Callable[[], None] | None = None
    ) -> list[Enqueued]:
        """At most MAX_BATCH jobs. Raises DeadlineExceeded, OutcomeUnknown, or what the server answered.

        Within `Client.fail_fast` also CircuitOpen: nothing was queued. `meanwhile` is called, in the caller's task, if
        that is the one who leads.
        """
        timeout_s = max(0.0, timeout_s)
        impatient = self._session.client.failing_fast
        part = _Part(jobs, trio.current_time() + timeout_s, impatient=impatient, meanwhile=meanwhile)
        self._waiting.append(part)
        try:
            if self._led:
                await self._follow(part)
            else:
                self._led = part.leads = True
                await self._lead(part, gather=True)
        finally:
            if not part.settled:
                self._withdraw(part)
            if part.leads:
                self._hand_over(part)
            self._appoint()
        if part.error is not None:
            raise twin(part.error) from part.error
        if part.settled:
            return part.answers
        if part.abandoned:
            what = (
                f"no answer within {round(timeout_s, 3):g} s" if part.trouble is None else str(part.trouble)
            )
            raise OutcomeUnknown(
                f"{what}, and the job may or may not be queued; "
                "enqueue the same job object again to be sure: its id keeps it from being queued twice"
            ) from part.trouble
        if part.trouble is not None:
            raise twin(part.trouble) from part.trouble.__cause__
        reason = self._session.client.reason
        why = "" if reason is None else f" ({reason})"
        raise DeadlineExceeded(
            f"Redis could not be reached within {round(timeout_s, 3):g} s{why}; nothing was queued"
        )

    async def _lead(self, part: _Part, *, gather: bool) -> None:
        with ExitStack() as stack:

            def limit_time() -> None:
                if part.scope is None:
                    part.scope = stack.enter_context(trio.CancelScope(deadline=part.deadline))

            if gather:
                await self._gather()
            leads = True
            while leads:
                # A scope is the dearest thing in an enqueue. Who has time for an exchange needs one only if that fails.
                now = trio.current_time()
                if part.impatient or now + self._session.client.exchange_max_s(now) > part.deadline:
                    limit_time()
                answered = await self._send(part, limit_time)
                try:
                    if part.settled:
                        leads = False
                        if self._hand_over(part) and self._crowd >= CROWD:
                            # The next call leaves before those of this one run on: the server works while they do.
                            await trio.lowlevel.cancel_shielded_checkpoint()
                finally:
                    for one in answered:
                        one.rouse()

    async def _follow(self, part: _Part) -> None:
        while part.waits and not part.leads:
            if part.wake is None or part.wake.is_set():
                part.wake = trio.Event()
            if self._watch is None:
                await self._keep_watch(part.wake)
            else:
                if part.deadline < self._watch.deadline:
                    self._watch.deadline = part.deadline
                await part.wake.wait()
        if part.waits:
            self._appoint()
            await self._lead(part, gather=self._crowd < CROWD)

    async def _keep_watch(self, wake: trio.Event) -> None:
        """Follow, and see to it that nobody who follows waits for longer than it will.

        One scope for all of them: it is the dearest thing in a call that is shared.
        """
        try:
            with trio.CancelScope(deadline=min(one.deadline for one in self._followers())) as self._watch:
                await wake.wait()
        finally:
            self._watch = None
            now = trio.current_time()
            for one in list(self._followers()):
                if one.deadline <= now:
                    one.end()

    def _appoint(self) -> None:
        # Whoever stops to follow sees to it that somebody keeps watch: also one who was woken for that and now goes.
        if self._watch is None and (self._waiting or self._under_way):
            for part in self._followers():
                part.rouse()
                return

    def _followers(self) -> Iterator[_Part]:
        return (part for part in chain(self._under_way, self._waiting) if part.waits and not part.leads)

    async def _gather(self) -> None:
        # Those who shared the last call have just been woken and may come again. Without waiting for them they would
        # share the next call without this part, and every second call would carry a single one. Two turns of the event
        # loop, because within one Trio runs tasks in any order. Nobody waits who came alone the last time, too.
        for _ in range(2):
            if len(self._waiting) < self._crowd:
                await trio.lowlevel.checkpoint()

    def _hand_over(self, leader: _Part) -> bool:
        """Whether there is somebody who leads now."""
        successor = next(self._followers(), None)
        if successor is None:
            self._led = leader.leads = False
            return False
        successor.leads = True
        leader.leads = False
        successor.rouse()
        return True

    def _end_impatience(self, trouble: CircuitOpen) -> None:
        for part in (*self._under_way, *self._waiting):
            if part.impatient and part.waits:
                part.trouble = trouble
                part.end()

    def _withdraw(self, part: _Part) -> None:
        """Take back what has not left this process. What has may happen, and can only be given up."""
        if part in self._waiting:
            self._waiting.remove(part)
            return
        call = self._session.unanswered
        if call is None or call.maybe_sent:
            part.abandoned = True
            return
        # Another caller goes on trying for the rest of the batch; ours must not be in what it sends.
        self._under_way.remove(part)
        call.args = (call.args[0], *self._arguments())

    async def _send(self, leader: _Part, on_wait: Callable[[], None]) -> list[_Part]:
        """Send one call and hand out its answers. Returns the parts that have theirs, still to be woken."""
        try:
            call = self._session.unanswered
            if call is None or all(part.abandoned for part in self._under_way):
                self._under_way = self._next_batch()
                call = self._session.begin(self._script, self._keys, self._arguments())
            call.meanwhile = leader.meanwhile  # also in place of that of a leader who has gone
            call.look = self._crowd == 1
            call.busy = self._crowd >= CROWD  # half of them have work to do until the reply comes
            call.on_wait = on_wait
            reply = await self._session.again()
        except QueueTrioError as error:
            failure = error
            if isinstance(error, ServerError) and self._session.refused_in_doubt:
                failure = OutcomeUnknown(f"an attempt had no reply, and then the server refused: {error}")
            for part in self._under_way:
                part.error = failure
        else:
            at = 0
            found = answers(reply)
            for part in self._under_way:
                part.answers = found[at : at + len(part.jobs)]
                at += len(part.jobs)
        answered, self._under_way = self._under_way, []
        self._crowd = len(answered) + len(self._waiting)
        return answered

    def _next_batch(self) -> list[_Part]:
        # Of a crowd that comes again and again half goes along: while the server works on it, the other half runs.
        crowd = max(self._crowd, len(self._waiting))
        parts_max = crowd if crowd < CROWD else (crowd + 1) // 2
        batch = [self._waiting.popleft()]
        count, size = len(batch[0].jobs), batch[0].size
        while self._waiting and len(batch) < parts_max:
            part = self._waiting[0]
            count, size = count + len(part.jobs), size + part.size
            if count > MAX_BATCH or size > MAX_CALL_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _arguments(self) -> list[str | int | bytes]:
        return arguments(self._max_length, (job for part in self._under_way for job in part.jobs))
