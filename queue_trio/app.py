"""What a user's module declares: an App, its tasks, and the jobs made from them. No I/O happens here.

A task stays the plain function it was: calling it runs it. `task.job(...)` makes a Job, checked against the function's
signature; a client puts it in a queue.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    get_args,
    overload,
)

import msgspec

from queue_trio.context import JobContext
from queue_trio.core.dequeue import Priority
from queue_trio.core.job import RECORD_VERSION, Frame, Lane, Record, check_id, check_queue, new_id
from queue_trio.core.limiter import LimitMode, RateLimit, WhenDown
from queue_trio.errors import InternalError, NoClient, UsageError
from queue_trio.signature import Signature

if TYPE_CHECKING:
    from queue_trio.asyncio_client import AsyncioQueueClient
    from queue_trio.client import JobId, QueueClient
    from queue_trio.core.settings import Settings
    from queue_trio.sync_client import SyncQueueClient
    from queue_trio.tracing.spans import Spans

P = ParamSpec("P")
R = TypeVar("R")

PriorityName = Literal["critical", "high", "normal", "low"]
RunIn = Literal["trio", "thread", "process"]

_MAX_SECONDS = 366 * 86400.0
_MAX_RETRIES = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen per task, and again per job. Durations are seconds; None leaves it to the worker's settings.

    `unique_for`: the id stays taken for so long, even after the job has ended.
    """

    priority: Priority = Priority.NORMAL
    delay: float = 0.0
    timeout: float | None = None
    max_retries: int | None = None
    keep_result: float | None = None
    unique_for: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("delay", "unique_for"):
            _check_seconds(name, getattr(self, name), least=0.0)
        for name in ("timeout", "keep_result"):
            _check_seconds(name, getattr(self, name), least=0.001)
        retries = self.max_retries
        if retries is not None and (type(retries) is not int or not 0 <= retries <= _MAX_RETRIES):
            raise UsageError(f"max_retries={retries!r}: give a whole number, from 0 to {_MAX_RETRIES}")
        for header in self.headers.items():
            if not all(map(_is_text, header)):
                raise UsageError(f"headers: {header!r}: names and values must be text")

    def record(
        self, task: str, arguments: bytes = b"{}", *, enqueued_ms: int = 0, traceparent: str | None = None
    ) -> Record:
        """The record of a job with these options."""
        return Record(
            v=RECORD_VERSION,
            task=task,
            args=msgspec.Raw(arguments),
            priority=self.priority,
            enqueued_ms=enqueued_ms,
            delay_ms=round(self.delay * 1000),
            timeout_ms=_ms(self.timeout),
            max_retries=self.max_retries,
            keep_result_ms=_ms(self.keep_result),
            traceparent=traceparent,
            headers=self.headers or None,
        )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _check_seconds(name: str, value: object, *, least: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _MAX_SECONDS:
        raise UsageError(f"{name}={value!r}: give seconds, from {least:g} to {_MAX_SECONDS:.0f}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _priority(value: str) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise UsageError(f"priority={value!r}: choose one of {', '.join(Priority)}") from None


class Job(msgspec.Struct, frozen=True, gc=False):
    """A job that is not queued yet. Enqueueing the same object twice queues it once: the id is made here."""

    task: Task[..., Any]
    id: str
    arguments: bytes
    chosen: Options

    def options(
        self,
        *,
        id: str | None = None,
        priority: PriorityName | Priority | None = None,
        delay: float | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        keep_result: float | None = None,
        unique_for: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Job:
        """The same job with other options; see Options. Raises UsageError for values that make no sense."""
        given = {
            "priority": None if priority is None else _priority(priority),
            "delay": delay,
            "timeout": timeout,
            "max_retries": max_retries,
            "keep_result": keep_result,
            "unique_for": unique_for,
            "headers": headers,
        }
        chosen = replace(self.chosen, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        return Job(self.task, self.id if id is None else check_id(id), self.arguments, chosen)


class Task(Generic[P, R]):
    """A declared function. `run_in`: "trio" for async functions, "thread" or "process" for others."""

    def __init__(
        self,
        app: App,
        function: Callable[..., R],
        *,
        name: str,
        queue: str,
        defaults: Options,
        run_in: RunIn,
        retry_base: float | None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self.app = app
        self.function = function
        self.name = name
        self.lane = Lane(queue)
        self.defaults = defaults
        if defaults.delay or defaults.unique_for or defaults.headers:
            raise InternalError(f"task {name}: a delay, an id or headers are a job's own")
        self.frame = Frame(defaults.record(name))
        """Of jobs for which nothing else is chosen."""
        self.run_in: RunIn = run_in
        self.retry_base = retry_base
        self.rate_limit = rate_limit
        self.signature = Signature(name, function, _locals_around())
        self.__name__ = name.rpartition(".")[2]
        functools.update_wrapper(self, function, updated=())

    @property
    def queue(self) -> str:
        """The name of the queue its jobs go to."""
        return self.lane.queue

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function, here and now."""
        wanted, at = self.signature.context_parameter, self.signature.context_position
        if wanted is None or wanted in kwargs:
            return self.function(*args, **kwargs)
        local = JobContext("local", self.name, self.queue, 1, 0, float("inf"))
        if at is not None and at <= len(args):
            return self.function(*args[:at], local, *args[at:], **kwargs)
        return self.function(*args, **{wanted: local}, **kwargs)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """A job that will call the function with these arguments. Raises InvalidArguments."""
        # The system's entropy, anew for each: copies of a process, forked or from a snapshot, go on with what it held.
        # They would make the same ids in the same millisecond, and the queue would take one's job for a duplicate.
        job_id = new_id(time.time_ns() // 1_000_000, os.urandom(10).hex())
        return Job(self, job_id, self.signature.encode(args, kwargs), self.defaults)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobId:
        """Queue a job through the client that is open; see `App.client`. Raises NoClient, and what it raises."""
        return await self.app.open_client.enqueue(self.job(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def _check_function(function: object) -> None:
    if isinstance(function, Task):
        raise UsageError(
            f"task {function.name} is a task already; declare the function under it again with name="
        )
    if not inspect.isroutine(function) or not hasattr(function, "__qualname__"):
        raise UsageError(f"{function!r} cannot be a task: declare a plain function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"task {function.__qualname__}: it has a yield, and calling it would not run it")


def _module_of(function: Callable[..., Any]) -> str:
    """The module's name as a worker will import it: a program's own file is `__main__` only while it runs."""
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def _locals_around() -> dict[str, Any]:
    """The locals of whoever declares a task inside a function: its annotations may name what is defined there."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


class App:
    """The tasks of one program. `settings`: given, or read from queue-trio.yaml and the environment when first used."""

    def __init__(self, name: str, *, settings: Settings | None = None) -> None:
        self.name = name
        self.tasks: dict[str, Task[..., Any]] = {}
        self.rate_limits: dict[str, RateLimit] = {}
        self._settings = settings
        self._open_clients: list[QueueClient] = []
        self._spans: Spans | None = None

    def __repr__(self) -> str:
        return f"<App {self.name}: {len(self.tasks)} tasks>"

    @property
    def settings(self) -> Settings:
        """Raises ConfigError if they cannot be read."""
        if self._settings is None:
            from queue_trio.config.load import load_settings

            self._settings = load_settings()
        return self._settings

    def configure(self, settings: Settings) -> None:
        """Use these settings from here on. Clients and workers that exist keep theirs."""
        self._settings = settings
        self._spans = None

    @property
    def is_configured(self) -> bool:
        """Whether settings were given, or have been read already."""
        return self._settings is not None

    @overload
    def task(self, function: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: PriorityName | Priority = "normal",
        timeout: float | None = None,
        max_retries: int | None = None,
        retry_base: float | None = None,
        keep_result: float | None = None,
        run_in: RunIn | None = None,
        rate_limit: RateLimit | None = None,
    ) -> _Declare: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: PriorityName | Priority = "normal",
        timeout: float | None = None,
        max_retries: int | None = None,
        retry_base: float | None = None,
        keep_result: float | None = None,
        run_in: RunIn | None = None,
        rate_limit: RateLimit | None = None,
    ) -> Any:
        """Declare a task, as `@app.task` or `@app.task(...)`. Raises UsageError if it cannot be one.

        `name`: what records call it, by default `module.function`; keep it when the function moves. `timeout`,
        `retry_base` (longest wait before the first retry) and `keep_result` are seconds. `rate_limit`: a job starts
        only with a permit of it; see `App.rate_limit`.
        """
        defaults = Options(
            priority=_priority(priority), timeout=timeout, max_retries=max_retries, keep_result=keep_result
        )
        _check_seconds("retry_base", retry_base, least=0.001)
        if rate_limit is not None and not isinstance(rate_limit, RateLimit):
            raise UsageError(f"rate_limit={rate_limit!r}: give what app.rate_limit(...) returned")

        def declare(function: Callable[..., Any]) -> Task[..., Any]:
            _check_function(function)
            called = name or f"{_module_of(function)}.{function.__qualname__}"
            if not _is_text(called):
                raise UsageError(f"task {called!r}: its name must be text")
            is_async = inspect.iscoroutinefunction(function)
            where: RunIn = run_in or ("trio" if is_async else "thread")
            if where not in get_args(RunIn):
                raise UsageError(
                    f"task {called}: run_in={where!r}: choose one of {', '.join(get_args(RunIn))}"
                )
            if is_async != (where == "trio"):
                raise UsageError(
                    f"task {called}: an async function runs in trio, any other in a thread or a process; not {where!r}"
                )
            if called in self.tasks:
                raise UsageError(
                    f"task {called} is declared twice in app {self.name}; give one another name="
                )
            task: Task[..., Any] = Task(
                self,
                function,
                name=called,
                queue=check_queue(queue),
                defaults=defaults,
                run_in=where,
                retry_base=retry_base,
                rate_limit=rate_limit,
            )
            self.tasks[called] = task
            return task

        return declare if function is None else declare(function)

    def rate_limit(
        self,
        name: str,
        limit: int,
        *,
        per: float,
        mode: LimitMode = "window",
        burst: int | None = None,
        jitter: float | None = None,
        when_down: WhenDown = "wait",
    ) -> RateLimit:
        """Declare a rate limit: at most `limit` permits in `per` seconds, over all processes; see RateLimit.

        Give it to `@app.task(rate_limit=...)`, or to a client's `acquire`. Raises UsageError if the numbers make no
        sense, or if this app has declared the name with others.
        """
        made = RateLimit(name, limit, per, mode, burst, jitter, when_down)
        known = self.rate_limits.setdefault(name, made)
        if known != made:
            raise UsageError(
                f"rate limit {name} is declared twice in app {self.name}, and not the same: {known}"
            )
        return known

    @property
    def spans(self) -> Spans | None:
        """What traces this app's calls; None if `tracing.enabled` is off. Raises ConfigError without OpenTelemetry."""
        if self._spans is None and self.settings.tracing.enabled:
            from queue_trio.tracing.provider import open_spans

            self._spans = open_spans(self.settings.tracing, self.name)
        return self._spans

    # --- clients ---------------------------------------------------------------------------------------------------

    @property
    def open_client(self) -> QueueClient:
        """The client opened last. Raises NoClient."""
        if not self._open_clients:
            raise NoClient(
                f"no client is open: call this inside `async with app.client():` of app {self.name!r}"
            )
        return self._open_clients[-1]

    def client(self) -> QueueClient:
        """A client for Trio programs: `async with app.client() as client:`."""
        from queue_trio.client import QueueClient

        return QueueClient(self)

    def sync_client(self) -> SyncQueueClient:
        """A client for programs without an event loop: `with app.sync_client() as client:`. Safe for many threads."""
        from queue_trio.sync_client import SyncQueueClient

        return SyncQueueClient(self)

    def asyncio_client(self) -> AsyncioQueueClient:
        """A client for asyncio programs: `async with app.asyncio_client() as client:`."""
        from queue_trio.asyncio_client import AsyncioQueueClient

        return AsyncioQueueClient(self)


class _Declare:
    """What `@app.task(...)` returns, for type checkers: a decorator that keeps the function's signature."""

    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any: ...
