"""queue_trio: a Redis-backed, priority, at-least-once work queue with a worker runtime built of Trio nurseries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from queue_trio.app import App, Job, Task
from queue_trio.context import JobContext
from queue_trio.core.dequeue import Priority
from queue_trio.core.settings import Settings
from queue_trio.errors import QueueTrioError, Retry
from queue_trio.submission import JobId

try:
    __version__ = version("queue-trio")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["App", "Job", "JobContext", "JobId", "Priority", "QueueTrioError", "Retry", "Settings", "Task"]
