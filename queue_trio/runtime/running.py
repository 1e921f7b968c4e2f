"""A job we hold the lease of, from its claim until its outcome is settled."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queue_trio.context import JobInScope
    from queue_trio.core.job import ClaimedJob, Lane, Record
    from queue_trio.runtime.counts import TaskCounts
    from queue_trio.runtime.plan import Plan
    from queue_trio.runtime.slots import Slot
    from queue_trio.tracing.spans import Receipt, Run


class Ending(Enum):
    """Why we cancelled a handler."""

    LOST = auto()
    SHUTDOWN = auto()
    TIMEOUT = auto()


class Running:
    """`finished`: the handler has ended, the outcome waits to be settled.

    `began` and `deadline` are on Trio's clock, and set when the handler starts: waiting for a thread is not running.
    `cleanup_failure`: what a cancelled handler raised on its way out.
    """

    __slots__ = (
        "about",
        "arguments",
        "began",
        "cleanup_failure",
        "counts",
        "deadline",
        "ending",
        "finished",
        "job",
        "lane",
        "number",
        "plan",
        "receipt",
        "record",
        "slot",
        "span",
    )

    # What is known once its record has been read.
    about: JobInScope
    plan: Plan
    record: Record
    arguments: dict[str, Any]

    def __init__(
        self, lane: Lane, job: ClaimedJob, number: int, counts: TaskCounts, receipt: Receipt | None
    ) -> None:
        self.lane = lane
        self.job = job
        self.number = number
        self.slot: Slot | None = None
        self.ending: Ending | None = None
        self.finished = False
        self.counts = counts
        self.receipt = receipt
        self.span: Run | None = None
        self.began = 0.0
        self.deadline = math.inf
        self.cleanup_failure: BaseException | None = None

    @property
    def timeout_s(self) -> float:
        """For how long the handler may run."""
        timeout_ms = self.record.timeout_ms
        return self.plan.timeout_s if timeout_ms is None else timeout_ms / 1000

    def end(self, ending: Ending) -> None:
        """Cancel the handler. The first reason counts, but for a lost lease: then its outcome is another's to tell."""
        if not self.finished and (self.ending is None or ending is Ending.LOST):
            self.ending = ending
            if self.slot is not None:
                self.slot.cancel()
