"""Is this worker alive, and is it doing its work? Asked by probes, by metrics, and by people.

Alive means that the event loop turns. Ready means that jobs are being taken: Redis answers, the breaker is closed, the
worker is registered, it fetches, and it is not on its way out. Knows nothing of HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from queue_trio.core.breaker import State
from queue_trio.errors import CircuitOpen, InfrastructureError, UsageError
from queue_trio.masking import mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.runtime.worker import Worker

PROBE_S: Final = 1.0
"""Redis has so long to answer a PING: with what a probe itself takes, an outage shows within two seconds."""

FRESH_S: Final = 0.2
"""A report is given again for so long, so that many who ask cost one PING."""

WATCH_S: Final = 2.0

LATE_S: Final = 2.0
"""The fetcher may be held up for so long, by a claim or by outcomes that must be settled first, and still count as
fetching."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing readiness depends on. `since_s`: when it came to be so, seconds since the epoch."""

    ok: bool
    since_s: float
    why: str

    def as_json(self) -> dict[str, Any]:
        """For the answer of /readyz."""
        since = datetime.fromtimestamp(self.since_s, UTC).isoformat(timespec="milliseconds")
        return {"ok": self.ok, "since": since.replace("+00:00", "Z"), "why": self.why}


@dataclass(frozen=True, slots=True)
class Report:
    """Every check by name."""

    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks.values())

    def as_json(self) -> dict[str, Any]:
        """For the answer of /readyz."""
        return {
            "ready": self.ready,
            "checks": {name: check.as_json() for name, check in self.checks.items()},
        }


class _Finding(NamedTuple):
    """Whether it is so, why, and for how long that is known to have been so."""

    ok: bool
    why: str
    lasts_s: float = 0.0


class Health:
    """Judges one worker. `wall_clock`: seconds since the epoch."""

    def __init__(
        self, worker: Worker, *, stall_limit_s: float, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._worker = worker
        self._stall_limit_s = stall_limit_s
        self._wall_clock = wall_clock
        self._asking = trio.Lock()
        self._asked_at: float | None = None
        self.report = Report()

    def alive(self) -> Check:
        """Whether the loop turns. While it is stuck nobody is answered at all; afterwards this says so for a while."""
        late_s = self._worker.watchdog.worst_lag_s
        ok = late_s <= self._stall_limit_s
        why = "the event loop turns" if ok else f"the event loop was stuck for {late_s:.1f} s"
        return Check(ok, self._wall_clock(), why)

    async def ready(self) -> Report:
        """What is so now, or was a moment ago. Takes PROBE_S at most."""
        async with self._asking:
            now = trio.current_time()
            if self._asked_at is None or now - self._asked_at > FRESH_S:
                found = {
                    "redis": await self._redis(),
                    "breaker": self._breaker(),
                    "registered": self._registered(),
                    "fetching": self._fetching(),
                    "draining": self._draining(),
                }
                self._asked_at = trio.current_time()
                self.report = Report({name: self._since(name, it) for name, it in found.items()})
        return self.report

    async def watch(self) -> None:
        """Look every WATCH_S for ever, so that `since` is true although nobody asked just then."""
        while True:
            await self.ready()
            await trio.sleep(WATCH_S)

    def _since(self, name: str, finding: _Finding) -> Check:
        before = self.report.checks.get(name)
        since_s = self._wall_clock() - finding.lasts_s
        if before is not None and before.ok is finding.ok:
            since_s = min(since_s, before.since_s)
        return Check(finding.ok, since_s, finding.why)

    # --- checks ----------------------------------------------------------------------------------------------------

    async def _redis(self) -> _Finding:
        client = self._worker.redis
        if client is None:
            return _Finding(True, "the store is in memory")
        try:
            await client.probe(PROBE_S)
        except InfrastructureError as error:
            since, why = client.down_since, str(error)
            if isinstance(error, CircuitOpen) and client.reason:
                why = client.reason  # why it opened
            return _Finding(False, mask(why), 0.0 if since is None else trio.current_time() - since)
        except UsageError:
            return _Finding(False, "the worker has closed its connections")
        return _Finding(True, "answers")

    def _breaker(self) -> _Finding:
        client = self._worker.redis
        if client is None:
            return _Finding(True, "there is none")
        now = trio.current_time()
        state, opened_at = client.breaker.state(now), client.breaker.opened_at
        return _Finding(state is State.CLOSED, state.value, 0.0 if opened_at is None else now - opened_at)

    def _registered(self) -> _Finding:
        if self._worker.registered:
            return _Finding(True, f"as {self._worker.id}")
        left = self._worker.draining
        return _Finding(False, "has left the registry" if left else "has not reached the registry yet")

    def _draining(self) -> _Finding:
        if not self._worker.draining:
            return _Finding(True, "takes jobs")
        running = self._worker.in_flight
        return _Finding(False, f"draining, {running} {'job' if running == 1 else 'jobs'} still running")

    def _fetching(self) -> _Finding:
        worker, fetcher, now = self._worker, self._worker.fetcher, trio.current_time()
        if fetcher.consuming_since is None:
            return _Finding(False, fetcher.activity)
        late_s = now - fetcher.due_at
        if late_s > LATE_S:
            reason = worker.redis.reason if worker.redis is not None else None
            why = f"{fetcher.activity}, held up for {late_s:.1f} s"
            return _Finding(False, f"{why}: {mask(reason)}" if reason else why, late_s)
        if fetcher.paused and fetcher.paused >= set(worker.lanes):
            return _Finding(False, "every queue it serves is paused")
        if fetcher.last_claim_at is None:
            return _Finding(False, "no claim has been answered yet")
        return _Finding(True, fetcher.activity)
