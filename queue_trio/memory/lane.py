"""One lane in memory: where each job is, and every way it moves. Synchronous: each method is one atomic step.

Every move of a job goes through `core.job.advance`, so it does nothing that the picture in `core/job.py` does not show.
It is told the time, in milliseconds, and waits for nothing: it only says when there is news.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import ClaimedJob, Enqueued, Event, State, Verdict, advance, recorded_priority
from queue_trio.core.store import (
    MAX_HISTORY,
    POISON,
    WORKER_SILENT_LEASES,
    LaneStats,
    PeekedJob,
    Swept,
    Violation,
)
from queue_trio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queue_trio.core.job import NewJob, Outcome

_WAKE_TOKENS_MAX = 64
_EVENTS = {Verdict.RETRY: Event.RETRY, Verdict.DEAD: Event.BURY, Verdict.DONE: Event.COMPLETE}


@dataclass(slots=True)
class _Job:
    record: bytes
    priority: Priority
    state: State
    token: str = ""
    """Of the current lease; empty while there is none."""
    tries: int = 0
    crashes: list[str] = field(default_factory=list)
    """Tokens of the leases lost: a worker that comes back alive can take its own off again and no other."""
    errors: list[str] = field(default_factory=list)

    def remember(self, now: int, failure: bytes) -> None:
        self.errors = [*self.errors, f"{now} {failure.decode()}"][-MAX_HISTORY:]

    def forgive(self, token: str) -> None:
        self.crashes = [other for other in self.crashes if other != token]


_Lists = dict[Priority, deque[str]]


def _empty_lists() -> _Lists:
    return {priority: deque() for priority in PRIORITIES}


class MemoryLane:
    """See the module."""

    def __init__(self) -> None:
        self.jobs: dict[str, _Job] = {}
        self.ready = _empty_lists()
        self.inboxes: defaultdict[str, _Lists] = defaultdict(_empty_lists)
        self.scheduled: dict[str, int] = {}
        self.leased: dict[str, int] = {}
        self.dead: dict[str, int] = {}
        self.unique: dict[str, int] = {}
        self.results: dict[str, tuple[bytes, int]] = {}
        self.workers: dict[str, int] = {}
        self.worker_info: dict[str, str] = {}
        self.leases: dict[str, int] = {}
        self.draining: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.paused = False
        self.swept_ms: int | None = None
        self.hold_until_ms = 0
        self.wake = 0
        self.news = trio.Event()

    # --- moving a job ----------------------------------------------------------------------------------------------

    def by_time(self, place: dict[str, int], until_ms: float = math.inf) -> list[str]:
        """The ids of `place` up to a time, earliest first; of equals by priority and name, as Redis sorts them."""
        rank = {id_: self.jobs[id_].priority.rank if place is self.scheduled else 0 for id_ in place}
        return sorted(
            (id_ for id_ in place if place[id_] <= until_ms), key=lambda id_: (place[id_], rank[id_], id_)
        )

    def end_lease(self, id_: str, event: Event) -> _Job:
        job = self.jobs[id_]
        job.state, job.token = advance(job.state, event), ""
        del self.leased[id_]
        return job

    def to_front(self, ids: Sequence[str]) -> None:
        """The first of `ids` will be the foremost of its priority."""
        for id_ in reversed(ids):
            self.ready[self.jobs[id_].priority].appendleft(id_)

    def tell(self, count: int) -> None:
        """As many wake tokens as there are jobs or workers, whichever is fewer."""
        if count:
            self.wake = max(self.wake, min(count, _WAKE_TOKENS_MAX, max(1, len(self.workers))))
            self.news.set()
            self.news = trio.Event()

    def promote(self, now: int, limit: int) -> int:
        due = self.by_time(self.scheduled, now)[:limit]
        for id_ in due:
            job = self.jobs[id_]
            job.state = advance(job.state, Event.DUE)
            del self.scheduled[id_]
            self.ready[job.priority].append(id_)
        return len(due)

    def lease(self, ids: Iterable[str], worker: str, deadline_ms: int) -> list[ClaimedJob]:
        claimed: list[ClaimedJob] = []
        for id_ in ids:
            if not claimed:
                self.counts["claims"] += 1
            job = self.jobs[id_]
            job.state, job.token = advance(job.state, Event.CLAIM), f"{worker}:{self.counts['claims']}"
            self.leased[id_] = deadline_ms
            claimed.append(ClaimedJob(id_, job.token, job.record, job.tries, len(job.crashes)))
        return claimed

    # --- transitions -----------------------------------------------------------------------------------------------

    def enqueue(self, job: NewJob, now: int, full: bool) -> Enqueued:
        if self.unique.get(job.id, 0) > now or job.id in self.jobs:
            return Enqueued.DUPLICATE
        if full:
            return Enqueued.REFUSED
        state = State.SCHEDULED if job.delay_ms > 0 else State.READY
        self.jobs[job.id] = _Job(job.record, job.priority, state)
        if state is State.SCHEDULED:
            self.scheduled[job.id] = now + job.delay_ms
        else:
            self.ready[job.priority].append(job.id)
        if job.unique_ms > 0:
            self.unique[job.id] = now + job.unique_ms
        self.counts["enqueued"] += 1
        return Enqueued.CREATED

    def settle_all(self, outcomes: Sequence[Outcome], now: int) -> list[bool]:
        """Per outcome, whether its lease was current, and has ended."""
        states = [self.settle(outcome, now) for outcome in outcomes]
        for outcome, state in zip(outcomes, states, strict=True):
            if state is None:
                self.forgive(outcome.id, outcome.token)
        self.to_front(
            [outcome.id for outcome, state in zip(outcomes, states, strict=True) if state is State.READY]
        )
        self.tell(states.count(State.READY) + states.count(State.SCHEDULED))
        return [state is not None for state in states]

    def settle(self, outcome: Outcome, now: int) -> State | None:
        """The job's new state, or None if the token is not that of its current lease."""
        id_, verdict, due = outcome.id, outcome.verdict, now + outcome.delay_ms
        if id_ not in self.leased or self.jobs[id_].token != outcome.token:
            return None
        released = Event.RELEASE_LATER if outcome.delay_ms > 0 else Event.RELEASE
        job = self.end_lease(id_, _EVENTS.get(verdict, released))
        if verdict is Verdict.DONE:
            del self.jobs[id_]
            self.counts["completed"] += 1
            if outcome.keep_ms:
                self.results[id_] = (outcome.detail, now + outcome.keep_ms)
        else:
            if verdict in (Verdict.RETRY, Verdict.DEAD):
                job.remember(now, outcome.detail)
            if verdict is Verdict.RETRY:
                job.tries += 1
            if job.state is State.SCHEDULED:
                self.scheduled[id_] = due
            elif job.state is State.DEAD:
                self.dead[id_] = now
        return job.state

    def forgive(self, id_: str, token: str) -> None:
        if id_ in self.jobs:
            self.jobs[id_].forgive(token)

    def sweep(self, now: int, lease_ms: int, max_crashes: int, limit: int, recovery_ms: int = 0) -> Swept:
        longest_ms = max(lease_ms, *self.leases.values(), 0)
        hold_ms = max(longest_ms, recovery_ms)
        swept_ms = now if self.swept_ms is None else self.swept_ms
        # Nobody swept for half a lease: an outage, in which nobody could renew either. Hold all leases.
        if now - swept_ms > lease_ms / 2:
            self.hold_until_ms = now + hold_ms
        if now < swept_ms:  # the clock has gone back
            self.hold_until_ms = min(self.hold_until_ms, now + hold_ms)
            self.leased = {id_: min(until_ms, now + longest_ms) for id_, until_ms in self.leased.items()}
        self.swept_ms = now
        promoted = self.promote(now, limit)
        self.unique = {id_: until_ms for id_, until_ms in self.unique.items() if until_ms > now}
        if now < self.hold_until_ms:
            self.tell(promoted)
            return Swept(promoted, hold_ms=self.hold_until_ms - now)
        reclaimed: list[str] = []
        poisoned: list[str] = []
        for id_ in self.by_time(self.leased, now)[:limit]:
            job = self.jobs[id_]
            job.crashes.append(job.token)
            if len(job.crashes) > max_crashes:
                self.end_lease(id_, Event.BURY).remember(now, POISON)
                self.dead[id_] = now
                poisoned.append(id_)
            else:
                self.end_lease(id_, Event.RECLAIM)
                reclaimed.append(id_)
        self.to_front(reclaimed)
        self.tell(promoted + len(reclaimed))
        silent_ms = now - WORKER_SILENT_LEASES * longest_ms
        silent = tuple(worker for worker, seen_ms in self.workers.items() if seen_ms <= silent_ms)
        for worker in silent:
            self.bury(worker, silent=True)
        return Swept(promoted, tuple(reclaimed), tuple(poisoned), silent)

    def bury(self, worker: str, *, silent: bool = False) -> None:
        self.workers.pop(worker, None)
        self.worker_info.pop(worker, None)
        self.leases.pop(worker, None)
        if not silent:
            self.draining.discard(worker)
        returned = [id_ for inbox in self.inboxes.pop(worker, _empty_lists()).values() for id_ in inbox]
        self.to_front(returned)
        self.tell(len(returned))

    # --- what operators do -----------------------------------------------------------------------------------------

    def cancel(self, id_: str) -> State | None:
        """CANCELLED, or the state it is left in."""
        job = self.jobs.get(id_)
        if job is None:
            return None
        if id_ in self.scheduled:
            del self.scheduled[id_]
        elif id_ in self.ready[job.priority]:
            self.ready[job.priority].remove(id_)
        else:
            return job.state
        self.counts["cancelled"] += 1
        return advance(self.jobs.pop(id_).state, Event.CANCEL)

    def _died(self, id_: str, at_ms: int | None) -> bool:
        return id_ in self.dead and at_ms in (None, self.dead[id_])

    def purge(self, id_: str, at_ms: int | None) -> bool:
        if not self._died(id_, at_ms):
            return False
        del self.dead[id_]
        advance(self.jobs.pop(id_).state, Event.PURGE)
        self.counts["purged"] += 1
        return True

    def replay(self, id_: str, at_ms: int | None) -> bool:
        if not self._died(id_, at_ms):
            return False
        del self.dead[id_]
        job = self.jobs[id_]
        job.state = advance(job.state, Event.REPLAY)
        # Not what it was enqueued with: Redis knows the priority of a dead job from its record only.
        job.priority = recorded_priority(job.record) or Priority.NORMAL
        job.tries, job.crashes = 0, []
        self.ready[job.priority].append(id_)
        return True

    # --- reads -----------------------------------------------------------------------------------------------------

    def lists(self) -> Iterable[_Lists]:
        return (self.ready, *self.inboxes.values())

    def stats(self, name: str) -> LaneStats:
        return LaneStats(
            lane=name,
            ready={priority: sum(len(lists[priority]) for lists in self.lists()) for priority in PRIORITIES},
            scheduled=len(self.scheduled),
            leased=len(self.leased),
            dead=len(self.dead),
            records=len(self.jobs),
            workers=len(self.workers),
            paused=self.paused,
            **{
                name: self.counts[name]
                for name in ("enqueued", "completed", "cancelled", "purged", "adjusted")
            },
        )

    def peek(self, state: State, count: int) -> list[PeekedJob]:
        place = {State.SCHEDULED: self.scheduled, State.LEASED: self.leased, State.DEAD: self.dead}.get(state)
        if place is not None:
            ids = self.by_time(place)
        elif state is State.READY:
            ids = [id_ for priority in PRIORITIES for id_ in self.ready[priority]]
        else:
            raise InternalError(f"{state} jobs are gone: there is nothing to peek at")
        return [self.peeked(id_) for id_ in ids[:count]]

    def peeked(self, id_: str) -> PeekedJob:
        """A job as an operator sees it; the priority only if its place tells it."""
        job = self.jobs[id_]
        places = {State.SCHEDULED: self.scheduled, State.LEASED: self.leased, State.DEAD: self.dead}
        return PeekedJob(
            id=id_,
            state=job.state,
            raw=job.record,
            at_ms=places[job.state][id_] if job.state in places else None,
            priority=None if job.state is State.DEAD else job.priority,
            owner=job.token or None,
            tries=job.tries,
            crashes=len(job.crashes),
            errors=tuple(job.errors),
        )

    def audit(self) -> list[Violation]:
        places: defaultdict[str, list[State]] = defaultdict(list)
        listed = [id_ for lists in self.lists() for ids in lists.values() for id_ in ids]
        for state, ids in (
            (State.READY, listed),
            (State.SCHEDULED, self.scheduled),
            (State.LEASED, self.leased),
            (State.DEAD, self.dead),
        ):
            for id_ in ids:
                places[id_].append(state)
        expected = {id_: [job.state] for id_, job in self.jobs.items()}
        return [
            Violation(id_, f"is in {places.get(id_)}, and should be in {expected.get(id_)}")
            for id_ in sorted(expected.keys() | places.keys())
            if places.get(id_) != expected.get(id_)
        ]
