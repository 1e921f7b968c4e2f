"""How one task runs: everything that does not change from job to job, worked out once when the worker starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queue_trio.core.backoff import Backoff
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.app import RunIn, Task
    from queue_trio.core.limiter import RateLimit
    from queue_trio.core.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """`timeout_s` and `keep_result_ms` apply unless the job's own record says otherwise.

    `at_once`: its jobs wait for no permit, no thread and no process before they start.
    """

    name: str
    queue: str
    function: Callable[..., Any]
    decode: Callable[[bytes | memoryview], dict[str, Any]]
    context_parameter: str | None
    run_in: RunIn
    timeout_s: float
    max_retries: int
    keep_result_ms: int
    backoff: Backoff
    rate_limit: RateLimit | None
    at_once: bool


def make_plan(task: Task[..., Any], settings: WorkerSettings) -> Plan:
    """The plan for `task`. Raises UsageError if its declaration and the settings contradict each other."""
    chosen = task.defaults
    if task.run_in == "process" and task.function.__module__ == "__main__":
        raise UsageError(f"task {task.name}: a process cannot import it from __main__; move it to a module")
    if task.run_in == "process" and task.signature.context_parameter:
        raise UsageError(f"task {task.name}: a JobContext does not reach another process; use a thread")
    if task.run_in == "process" and not _found_by_name(task):
        function = task.function
        raise UsageError(
            f"task {task.name}: a process finds it as {function.__module__}.{function.__qualname__}, and what is there "
            "is not the task; declare it with @app.task at the top of its module"
        )
    base = task.retry_base or settings.retry_base
    return Plan(
        name=task.name,
        queue=task.queue,
        function=task.function,
        decode=task.signature.decode,
        context_parameter=task.signature.context_parameter,
        run_in=task.run_in,
        timeout_s=settings.timeout if chosen.timeout is None else chosen.timeout,
        max_retries=settings.max_retries if chosen.max_retries is None else chosen.max_retries,
        keep_result_ms=round((chosen.keep_result or 0) * 1000),
        backoff=Backoff(base=base, cap=max(base, settings.retry_cap)),
        rate_limit=task.rate_limit,
        at_once=task.run_in == "trio" and task.rate_limit is None,
    )


def _found_by_name(task: Task[..., Any]) -> bool:
    """As `handlers.call_by_name` will look for it in the other process."""
    found: Any = sys.modules.get(task.function.__module__)
    for part in task.function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is task
