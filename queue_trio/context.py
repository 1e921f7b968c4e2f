"""What a handler may know about the job it is running."""

from __future__ import annotations

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
