"""queue_trio: a Redis-backed, priority, at-least-once work queue with a worker runtime built of Trio nurseries."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know better; importing `typing` would take longer than all the rest
if TYPE_CHECKING:
    from queue_trio.app import App, Job, Task
    from queue_trio.context import JobContext
    from queue_trio.core.dequeue import Priority
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.permits import Permit
    from queue_trio.core.settings import Settings
    from queue_trio.errors import QueueTrioError, Retry
    from queue_trio.submission import JobId

    __version__: str

__all__ = [
    "App",
    "Job",
    "JobContext",
    "JobId",
    "Permit",
    "Priority",
    "QueueTrioError",
    "RateLimit",
    "Retry",
    "Settings",
    "Task",
]

_LATER = {
    "App": "app",
    "Job": "app",
    "JobContext": "context",
    "JobId": "submission",
    "Permit": "core.permits",
    "Priority": "core.dequeue",
    "QueueTrioError": "errors",
    "RateLimit": "core.limiter",
    "Retry": "errors",
    "Settings": "core.settings",
    "Task": "app",
}
"""Where names come from that are looked up when first used: the command line needs few of them, and must be quick."""


if not TYPE_CHECKING:  # or a type checker would believe in any name

    def __getattr__(name):
        """A name that was not needed till now, or the version: reading package metadata takes its time too."""
        if name == "__version__":
            return _version()
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("queue-trio")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
