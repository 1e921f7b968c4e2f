"""What a handler may know about the job it is running, and what log lines and traces take from it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from queue_trio.errors import NoClient

if TYPE_CHECKING:
    from queue_trio.client import QueueClient


@dataclass(frozen=True, slots=True)
class JobContext:
    """Ask for it with a parameter annotated `JobContext`; type checkers want it first.

    `attempt`: 1 for the first run. `deadline`: when the handler is cancelled, in seconds of Trio's clock.
    `fencing_token`: grows with every claim in the job's queue; hand it to a store of your own so that it can refuse a
    worker that has lost its lease without noticing (Kleppmann, "How to do distributed locking", 2016).
    """

    id: str
    task: str
    queue: str
    attempt: int
    fencing_token: int
    deadline: float
    enqueued_ms: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    open_client: QueueClient | None = None

    @property
    def client(self) -> QueueClient:
        """To enqueue more jobs. Raises NoClient when the function was called directly, outside a worker."""
        if self.open_client is None:
            raise NoClient(
                f"task {self.task} was called directly: there is no worker whose client it could use"
            )
        return self.open_client


class JobInScope:
    """The job that the current task or thread works for.

    `trace_id` and `span_id`, in hexadecimal, are those of the span that runs it, empty if none does. `traceparent` is
    what jobs enqueued from here pass on if no span is active: None without tracing, "" for a trace that is not kept and
    has no id yet. Mutable, because the job's task sets it once and learns the rest on its way.
    """

    __slots__ = ("attempt", "deadline", "job", "queue", "span_id", "task", "trace_id", "traceparent")

    def __init__(self, job: str, task: str, queue: str, attempt: int) -> None:
        self.job = job
        self.task = task
        self.queue = queue
        self.attempt = attempt
        self.trace_id = ""
        self.span_id = ""
        self.traceparent: str | None = None
        self.deadline = math.inf


job_in_scope: ContextVar[JobInScope | None] = ContextVar("queue_trio.job_in_scope", default=None)
"""Set once in the task that runs a job. Tasks and threads that the handler starts inherit it."""
