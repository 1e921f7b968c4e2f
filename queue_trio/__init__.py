"""queue_trio: a Redis-backed, priority, at-least-once work queue with a worker runtime built of Trio nurseries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from queue_trio.app import App, Job, Task
from queue_trio.context import JobContext
from queue_trio.core.dequeue import Priority
from queue_trio.core.settings import Settings
from queue_trio.errors import QueueTrioError, Retry
from queue_trio.submission import JobId

if TYPE_CHECKING:
    __version__: str

__all__ = ["App", "Job", "JobContext", "JobId", "Priority", "QueueTrioError", "Retry", "Settings", "Task"]


def __getattr__(name: str) -> str:
    """The version, looked up only when asked for: reading package metadata takes longer than importing the rest."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("queue-trio")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
