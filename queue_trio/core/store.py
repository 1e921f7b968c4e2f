"""The Store: every transition of a job as one method, batch-first. Interface and value types only.

Two implementations stand behind it, `redis.store.RedisStore` and `memory.MemoryStore`, and one conformance suite
holds both to the same behaviour. A method returns when the transition has happened exactly once, however long an
outage that takes; callers bound it with a cancel scope. Each is atomic for its lane, and time is the store's own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

from queue_trio.core.job import Failure, State, encode_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import Claim, Enqueued, Lane, NewJob, Outcome
    from queue_trio.core.limiter import Limiter

MAX_BATCH = 500
"""Jobs per call at most: every script stays short and far below Lua's limit on unpacked values."""

PROMOTE_LIMIT = 200
"""Due jobs that one claim or sweep moves at most."""

MAX_HISTORY = 10
"""Failures that are remembered of one job: the last so many."""

WORKER_SILENT_LEASES = 3
"""A worker not heard of for so many leases is taken out of the registry."""

POISON = encode_failure(Failure(type="Poison", message="its worker was lost too often while running it"))


class Swept(msgspec.Struct, frozen=True):
    """What one sweep did. `hold_ms`: for how long expired leases are left alone after an outage, 0 if they are not."""

    promoted: int = 0
    reclaimed: tuple[str, ...] = ()
    poisoned: tuple[str, ...] = ()
    buried_workers: tuple[str, ...] = ()
    hold_ms: int = 0


class Renewed(msgspec.Struct, frozen=True, gc=False):
    """What one renewal found. `lost`: ids no longer ours. `drain`: an operator wants this worker to drain and end."""

    lost: tuple[str, ...] = ()
    drain: bool = False


class LaneStats(msgspec.Struct, frozen=True):
    """Counts of one lane, read in one atomic step."""

    lane: str
    ready: dict[Priority, int]
    scheduled: int
    leased: int
    dead: int
    records: int
    enqueued: int
    completed: int
    cancelled: int
    purged: int
    adjusted: int
    workers: int
    paused: bool

    @property
    def ready_total(self) -> int:
        return sum(self.ready.values())

    @property
    def imbalance(self) -> int:
        """The conservation law's left side minus its right side: 0, or something was lost or invented."""
        live = self.scheduled + self.ready_total + self.leased + self.dead
        return self.enqueued + self.adjusted - self.completed - self.cancelled - self.purged - live


class PeekedJob(msgspec.Struct, frozen=True):
    """One job as an operator sees it. `at_ms`: due, lease deadline or time of death, in server milliseconds.

    `errors`: the history, oldest first, each entry "<server ms> <core.job.Failure as JSON>".
    """

    id: str
    state: State
    raw: bytes | None
    at_ms: int | None = None
    priority: Priority | None = None
    owner: str | None = None
    tries: int = 0
    crashes: int = 0
    errors: tuple[str, ...] = ()


class Violation(msgspec.Struct, frozen=True):
    """One broken promise the audit found: an id, and what is wrong with it."""

    id: str
    problem: str
    repaired: str = ""


class AuditReport(msgspec.Struct, frozen=True):
    """The audit's result for one lane."""

    stats: LaneStats
    checked: int
    violations: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        return not self.violations and self.stats.imbalance == 0 and self.stats.records == self.live

    @property
    def live(self) -> int:
        return self.stats.scheduled + self.stats.ready_total + self.stats.leased + self.stats.dead


class Store(Protocol):
    """See the module. All durations are milliseconds unless the name says otherwise."""

    @property
    def limiter(self) -> Limiter:
        """Rate limits, kept in the same place."""
        ...

    async def enqueue(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        *,
        max_length: int = 0,
        timeout_s: float = math.inf,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Enqueued]:
        """Create jobs; one answer per job, in order. `max_length`: refuse beyond so many waiting jobs, 0 for never.

        `meanwhile` is work for the time until the answer; called any number of times, or never, and must not raise.

        Raises DeadlineExceeded after `timeout_s` if nothing was created, OutcomeUnknown if that is not known.
        """
        ...

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
        """Promote what is due, then lease up to `want` ready jobs to `worker`, looking at priorities in `order`.

        `outcomes`: at most MAX_BATCH to settle before, in the same round trip. Cancelled, each of the two must be asked
        for again, as if it had been cancelled by itself.
        """
        ...

    async def wait(self, lanes: Sequence[Lane], *, timeout_s: float) -> None:
        """Block until a job may be ready in one of `lanes`, or the time is over. May return early."""
        ...

    async def pull(self, lane: Lane, *, worker: str, priority: Priority, timeout_s: float) -> bool:
        """Move the oldest ready job of `priority` into the worker's inbox; False if there is none.

        `timeout_s`: how long to wait for one, 0 for not at all.
        """
        ...

    async def adopt(self, lane: Lane, *, worker: str, want: int, lease_ms: int) -> Claim:
        """Lease up to `want` jobs of the worker's inbox."""
        ...

    async def settle(self, lane: Lane, outcomes: Sequence[Outcome]) -> list[bool]:
        """End leases; per outcome True if accepted, False if the token was stale and nothing changed."""
        ...

    async def renew(
        self, lane: Lane, *, worker: str, lease_ms: int, held: Sequence[tuple[str, str]]
    ) -> Renewed:
        """Extend the leases of `held` (id, token) and the worker's own heartbeat."""
        ...

    async def sweep(
        self, lane: Lane, *, lease_ms: int, max_crashes: int, limit: int = PROMOTE_LIMIT, recovery_ms: int = 0
    ) -> Swept:
        """Promote what is due, take expired leases back, clear away workers that are gone.

        After an outage leases are left alone for the longest lease of any worker, and at least for `recovery_ms`.
        """
        ...

    async def register(self, lane: Lane, *, worker: str, info: str) -> None:
        """Enter the worker in the lane's registry."""
        ...

    async def deregister(self, lane: Lane, *, worker: str) -> None:
        """Take the worker out of the registry and give back what is in its inbox."""
        ...

    async def pause(self, lane: Lane, paused: bool) -> None:
        """While paused, claims return nothing. Leased jobs go on. Works with memory full."""
        ...

    async def result(self, lane: Lane, job_id: str) -> bytes | None:
        """The stored result, or None."""
        ...

    async def lanes(self) -> list[Lane]:
        """Every lane that has ever had a job or a worker."""
        ...

    async def stats(self, lane: Lane) -> LaneStats:
        """The lane's counts, at one instant."""
        ...

    async def peek(self, lane: Lane, state: State, *, count: int) -> list[PeekedJob]:
        """Up to `count` jobs of that state, the next one to go first. Changes nothing."""
        ...

    async def audit(self, lane: Lane, *, repair: bool = False) -> AuditReport:
        """Check promise S and the conservation law from the keys alone; with `repair`, put right what is wrong."""
        ...
