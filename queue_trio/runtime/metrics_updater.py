"""Keeps the lengths of the queues at hand: one script call for each queue every few seconds, whoever reads them.

What it holds is as old as its last answer. During an outage it holds nothing rather than what was true before. A server
that refuses to tell costs numbers, never the worker. It does not know what a metric is called or who exports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from queue_trio.core.job import Failure, UndecodableRecord, decode_record
from queue_trio.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import Lane
    from queue_trio.core.operations import Head, Lengths, Operations

log = structlog.get_logger(__name__)

STALE_INTERVALS: Final = 2.0
"""What is older than so many intervals is stale..."""
STALE_MIN_S: Final = 2.0
"""...but a single slow answer does not make it so."""


class MetricsUpdater:
    """`interval_s` between two looks, longer or shorter by the share `jitter` at random, so that workers spread out."""

    def __init__(
        self,
        operations: Operations,
        lanes: Sequence[Lane],
        *,
        interval_s: float,
        jitter: float,
        rng: Random,
    ) -> None:
        self._operations = operations
        self._lanes = lanes
        self._interval_s = interval_s
        self._jitter = jitter
        self._rng = rng
        self._stale_s = max(STALE_MIN_S, STALE_INTERVALS * interval_s * (1 + jitter))
        self._latest: dict[Lane, tuple[float, Lengths]] = {}
        self._began: float | None = None

    async def run(self) -> None:
        """Look for ever, beginning at once. An outage makes one look long."""
        self._began = trio.current_time()
        while True:
            for lane in self._lanes:
                try:
                    lengths = await self._operations.lengths(lane)
                except InfrastructureError as error:
                    log.warning("metrics.no_lengths", queue=lane.queue, reason=str(error))
                else:
                    self._latest[lane] = trio.current_time(), lengths
            await trio.sleep(self._interval_s * self._rng.uniform(1 - self._jitter, 1 + self._jitter))

    def lengths(self, lane: Lane) -> Lengths | None:
        """The lane's counts, or None if what is known is stale."""
        found = self._latest.get(lane)
        return found[1] if found is not None and trio.current_time() - found[0] <= self._stale_s else None

    def age_s(self, lane: Lane) -> float:
        """Since the lane was looked at; before the first time, since the updater began."""
        found = self._latest.get(lane)
        since = self._began if found is None else found[0]
        return 0.0 if since is None else trio.current_time() - since


def oldest_ready_ages_s(lengths: Lengths) -> dict[Priority, float]:
    """Per priority, how long the job that goes next has been ready; 0 where there is none.

    Counted from its enqueueing and its delay by the client's clock, for a job that failed from when its retry was due
    by the server's. A record that says neither (undecodable, or larger than HEAD_BYTES_MAX) counts from now.
    """
    ages = dict.fromkeys(lengths.ready, 0.0)
    for head in lengths.heads:
        since_ms = _ready_since_ms(head)
        if since_ms is not None:
            ages[head.priority] = max(0.0, (lengths.now_ms - since_ms) / 1000)
    return ages


def _ready_since_ms(head: Head) -> int | None:
    if head.failure is not None:
        at_ms, _, encoded = head.failure.partition(" ")
        try:
            return int(at_ms) + msgspec.json.decode(encoded, type=Failure).retry_ms
        except (ValueError, msgspec.DecodeError):
            return None
    if head.raw is None:
        return None
    try:
        record = decode_record(head.raw)
    except UndecodableRecord:
        return None
    return record.enqueued_ms + record.delay_ms if record.enqueued_ms else None
