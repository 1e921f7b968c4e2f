"""Keeps leases alive: one call per lane for everything held, at a third of the lease. Also the worker's heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.core.job import Lane
    from queue_trio.core.store import Store
    from queue_trio.runtime.executor import Executor


class Renewer:
    """A third of the lease: one renewal may fail and a second still comes in time."""

    def __init__(
        self, store: Store, executor: Executor, lanes: Sequence[Lane], *, worker: str, lease_ms: int
    ) -> None:
        self._store = store
        self._executor = executor
        self._lanes = lanes
        self._worker = worker
        self._lease_ms = lease_ms
        self._calling = trio.Lock()
        self.on_drain: Callable[[], object] = lambda: None
        """Called when the store says that an operator wants this worker to drain; as often as it says so."""

    async def run(self) -> None:
        """Renew for ever, beginning at once: that tells the others how long our leases are."""
        while True:
            async with self._calling:
                for lane in self._lanes:
                    await self.renew(lane)
            await trio.sleep(self._lease_ms / 3000)

    async def stop(self) -> None:
        """Return when no renewal is under way, and begin no other.

        A renewal cut off on its way could reach the server after we have left, and enter us in the registry again.
        """
        await self._calling.acquire()

    async def renew(self, lane: Lane) -> None:
        """Renew everything held in one lane, and stop the handlers whose lease is gone."""
        held = [(job_id, running.job.token) for job_id, running in self._executor.held.get(lane, {}).items()]
        renewed = await self._store.renew(lane, worker=self._worker, lease_ms=self._lease_ms, held=held)
        tokens = dict(held)
        for job_id in renewed.lost:
            self._executor.lost(lane, job_id, tokens[job_id])
        if renewed.drain:
            self.on_drain()
