"""Every error queue_trio raises, grouped by whose fault it is.

Four branches, so that a caller can decide what to do from the class alone:

- `UsageError`: the caller's mistake. Retrying the same call cannot help.
- `InfrastructureError`: the network's or the server's fault. The job is not to blame; retrying later may help.
- `JobError`: what became of one job.
- `InternalError`: our own bug. Please report it.

Every class carries the `exit_code` with which the command line ends when the error reaches it.
"""

from __future__ import annotations

from typing import ClassVar


class QueueTrioError(Exception):
    """The root of the tree; catch it to catch everything queue_trio raises on purpose."""

    exit_code: ClassVar[int] = 1


# --- the caller's mistake ------------------------------------------------------------------------------------------


class UsageError(QueueTrioError):
    """The caller asked for something that cannot be done; the message says what to change."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """A setting is unknown, has the wrong type, or contradicts another one."""

    exit_code: ClassVar[int] = 3


class AppLoadError(UsageError):
    """`module:app` could not be imported, or names something that is not an App."""

    exit_code: ClassVar[int] = 4


class UnknownTask(UsageError):
    """No task of that name is declared in this app."""


class InvalidArguments(UsageError):
    """Arguments do not fit the task's signature."""

    exit_code: ClassVar[int] = 7


class PayloadTooLarge(InvalidArguments):
    """The encoded record is larger than `max_payload`."""


class NoClient(UsageError):
    """`task.enqueue(...)` was called outside `async with app.client()`."""


# --- the network's or the server's fault ---------------------------------------------------------------------------


class InfrastructureError(QueueTrioError):
    """Redis, or the way to it, is in trouble. Contrast `UsageError`: here the same call may succeed later."""

    exit_code: ClassVar[int] = 5


class TransportError(InfrastructureError):
    """A connection could not be made, or broke."""


class NotSent(TransportError):
    """No byte of the command left this process: retrying it is always safe. Contrast `Indeterminate`."""


class CircuitOpen(NotSent):
    """The breaker is open, so nothing was attempted."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds until the breaker lets a probe through."""


class Indeterminate(TransportError):
    """The command was sent, its reply never came: it may or may not have run. Contrast `NotSent`."""


class ProtocolError(Indeterminate):
    """The peer's bytes are not RESP. The connection has been closed."""


class OutcomeUnknown(InfrastructureError):
    """The deadline passed while the outcome was indeterminate: the job may or may not be queued.

    Enqueue the same Job object again to be sure. Its id keeps it from being queued twice while the job exists, and for
    its `unique_for` seconds after that.
    """


class DeadlineExceeded(InfrastructureError):
    """The deadline passed and the call is known not to have happened."""


class ServerError(InfrastructureError):
    """Redis answered with an error reply. `code` is its first word, such as `LOADING` or `OOM`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServerNotReady(ServerError):
    """The server will be able to do this later (LOADING, BUSY, READONLY, ...); nothing was changed."""


class ServerRefused(ServerError):
    """The server refuses writes until an operator acts (OOM, MISCONF, NOREPLICAS); nothing was changed."""


class ServerUnusable(ServerError):
    """Waiting will not help: wrong password, no permission, too old, or a policy that would evict jobs."""

    exit_code: ClassVar[int] = 6


# --- what became of a job ------------------------------------------------------------------------------------------


class JobError(QueueTrioError):
    """One job's outcome, not a fault of the queue."""


class Retry(JobError):
    """Raise it in a handler to run the job again, after `delay` seconds (default: the task's backoff).

    It uses one of the job's retries, like any other failure; it only chooses the delay.
    """

    def __init__(self, reason: str = "retry requested", *, delay: float | None = None) -> None:
        if delay is not None and not 0 <= delay < float("inf"):
            raise ValueError(f"Retry(delay={delay!r}): a delay is a number of seconds, 0 or more")
        super().__init__(reason)
        self.delay = delay


class QueueFull(JobError):
    """The queue is at its `max_length`: the job was refused and is not queued. `accepted`: ids that did get in."""

    def __init__(self, message: str, accepted: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.accepted = accepted


class JobTimeout(JobError):
    """The handler ran longer than its `timeout`."""


class ResultTooLarge(JobError):
    """The result to keep is larger than `worker.max_result`."""


class NoResult(JobError):
    """No result is stored under this id: not finished, never asked for, or expired."""


# --- our own bug ---------------------------------------------------------------------------------------------------


class InternalError(QueueTrioError):
    """An invariant of queue_trio does not hold: a bug, please report it."""

    exit_code: ClassVar[int] = 70
