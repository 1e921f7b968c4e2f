"""Sweeps: promotes due jobs and takes expired leases back. Every worker does it; any number of them may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from queue_trio.core.job import Lane
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.core.store import Store
    from queue_trio.runtime.counts import Counts

log = structlog.get_logger(__name__)

LIMIT = 200
"""Jobs per sweep call; a full one is followed by another at once."""


class Reaper:
    """Jittered by a quarter either way, so that many reapers spread out.

    `recovery_ms`: how long a worker may take to reconnect after an outage.
    """

    def __init__(
        self,
        store: Store,
        lanes: Sequence[Lane],
        settings: WorkerSettings,
        counts: Counts,
        *,
        rng: Random,
        recovery_ms: int = 0,
    ) -> None:
        self._store = store
        self._recovery_ms = recovery_ms
        self._lanes = lanes
        self._settings = settings
        self._counts = counts
        self._rng = rng
        # Jitter included, well below the half lease after which a sweep takes the silence for an outage.
        self._interval_s = min(settings.sweep_interval, settings.lease / 3)
        self._holding: set[Lane] = set()

    async def run(self) -> None:
        """Sweep for ever, beginning at once."""
        while True:
            for lane in self._lanes:
                while await self.sweep(lane):
                    pass
            await trio.sleep(self._interval_s * self._rng.uniform(0.75, 1.25))

    async def sweep(self, lane: Lane) -> bool:
        """One sweep of one lane; True if there is more to do."""
        swept = await self._store.sweep(
            lane,
            lease_ms=self._settings.lease_ms,
            max_crashes=self._settings.max_crashes,
            limit=LIMIT,
            recovery_ms=self._recovery_ms,
        )
        if not swept.hold_ms:
            self._holding.discard(lane)
        elif lane not in self._holding:
            self._holding.add(lane)
            log.info("sweep.holding", lane=str(lane), for_ms=swept.hold_ms, why="no sweep for half a lease")
        if swept.reclaimed:
            log.warning(
                "jobs.reclaimed", lane=str(lane), count=len(swept.reclaimed), jobs=swept.reclaimed[:5]
            )
        for job_id in swept.poisoned:
            log.error("job.poison", lane=str(lane), job=job_id)
        for worker in swept.buried_workers:
            log.warning("worker.gone", lane=str(lane), worker=worker)
        counts = self._counts.queue(lane.queue)
        counts.reclaimed += len(swept.reclaimed)
        counts.poisoned += len(swept.poisoned)
        return LIMIT in (swept.promoted, len(swept.reclaimed) + len(swept.poisoned))
