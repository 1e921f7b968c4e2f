"""Walks through the dead jobs page by page and picks those that are meant. Changes nothing, and holds one page.

A page is bounded twice, by MAX_BATCH jobs and by bytes, so neither the server nor we choke on many or on large ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from queue_trio.cli.admin.filters import Filters, Kind, identify
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.job import Lane
    from queue_trio.core.operations import Operations
    from queue_trio.core.store import PeekedJob

PAGE_BYTES: Final = 4 * 1024 * 1024
FIRST_PAGE: Final = 50
"""Jobs of the first page, before it is known how large they are."""


class Dead(NamedTuple):
    """A dead job that is meant."""

    job: PeekedJob
    kind: Kind


class Sifter:
    """The jobs that fit, the longest dead first, queue by queue. `now_ms`: the server's clock when this was asked."""

    def __init__(
        self,
        operations: Operations,
        lanes: Sequence[Lane],
        filters: Filters,
        *,
        now_ms: int,
        limit: int | None = None,
    ) -> None:
        self._operations = operations
        self._lanes = list(lanes)
        self._filters = filters
        self._since_ms = filters.since_ms(now_ms)
        self._until_ms = filters.until_ms(now_ms)
        self._left = limit
        self._count = FIRST_PAGE
        self._after = self._start
        self.looked = 0
        """Jobs looked at so far."""

    @property
    def _start(self) -> tuple[int, str] | None:
        # No id is empty, so this is in front of the first death that fits.
        return None if self._since_ms is None else (self._since_ms, "")

    async def page(self) -> tuple[Lane, list[Dead]] | None:
        """What fits of the next page, maybe nothing; None at the end."""
        while self._lanes and self._left != 0:
            lane = self._lanes[0]
            jobs = await self._operations.browse_dead(lane, after=self._after, count=self._count)
            in_time = [job for job in jobs if (job.at_ms or 0) <= self._until_ms]
            if len(in_time) < len(jobs) or not jobs:
                self._lanes.pop(0)
                self._after = self._start
            else:
                last = (jobs[-1].at_ms or 0, jobs[-1].id)
                if self._after is not None and last <= self._after:
                    raise InternalError(f"queue {lane.queue}: the dead jobs have no order, at {last}")
                self._after = last
            if in_time:
                self._fit_page(in_time)
                return lane, self._pick(in_time)
        return None

    def _pick(self, jobs: Sequence[PeekedJob]) -> list[Dead]:
        self.looked += len(jobs)
        found = []
        for job in jobs:
            task, error, kind = identify(job)
            if self._filters.fits(task, error):
                found.append(Dead(job, kind))
        found = found[: self._left]
        if self._left is not None:
            self._left -= len(found)
        return found

    def _fit_page(self, jobs: Sequence[PeekedJob]) -> None:
        size = sum(len(job.raw or b"") + sum(map(len, job.errors)) for job in jobs)
        self._count = max(1, min(MAX_BATCH, PAGE_BYTES * len(jobs) // max(size, 1)))
