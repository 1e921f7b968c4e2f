"""What a log line looks like: text for people at a terminal, one JSON object a line for machines, no secrets in either.

Our own modules log through structlog; libraries that use the standard `logging` come out in the same shape, from
warning up. While a job runs, every line says which one, and in which trace: ours, the handler's, and those of tasks and
threads it starts. A handler in a process of its own is out of reach. A reader that has gone away (a closed pipe) loses
lines and never stops the program.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

from queue_trio.context import job_in_scope
from queue_trio.masking import mask, mask_event
from queue_trio.ops.repeats import RepeatLimit, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from queue_trio.core.settings import LogSettings

__all__ = ["configure_logging", "flush_suppressed", "mask", "mask_secrets"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(
    settings: LogSettings,
    stream: TextIO | None = None,
    *,
    final: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send structlog's events and the standard library's warnings to `stream`, by default standard error.

    `clock`: seconds, for `log.repeat_window`. Levels below `log.level` cost next to nothing: their methods do nothing
    at all. `final`: loggers may remember what is set here, which makes that cheaper still; for a program that calls
    this once, at its start.
    """
    flush_suppressed()
    stream = sys.stderr if stream is None else stream
    console = settings.format == "console" or (settings.format == "auto" and _is_terminal(stream))
    level = _LEVELS[settings.level]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    last: list[Processor]
    if console:
        colors = _is_terminal(stream)
        # Exceptions become text before secrets are masked, and the renderer is left nothing to format by itself.
        last = [structlog.processors.format_exc_info, mask_secrets, _console(colors)]
    else:
        # Without locals: they may hold anything, and a line should stay a line.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(tracebacks),
            mask_secrets,
            structlog.processors.JSONRenderer(default=repr),
        ]
    write = _Lines(stream).msg

    def say(event: EventDict) -> None:
        write(_through([stamp, *last], event["level"], event))

    repeats = RepeatLimit(settings.repeat_limit, settings.repeat_window, say, clock)
    _limits[:] = [repeats]
    shared: list[Processor] = [
        repeats,
        structlog.contextvars.merge_contextvars,
        add_job,
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=final,
    )
    _route_standard_library(stream, [*shared, _name_of_logger, *last], max(level, logging.WARNING))


def mask_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor: replaces passwords in every text of the event, at any depth, by `***`."""
    return mask_event(event)


def add_job(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor: says for which job the current task or thread works, and in which trace."""
    scope = job_in_scope.get()
    if scope is None:
        return event
    event.setdefault("job", scope.job)
    event.setdefault("task", scope.task)
    event.setdefault("queue", scope.queue)
    event.setdefault("attempt", scope.attempt)
    if scope.trace_id:
        event.setdefault("trace_id", scope.trace_id)
        event.setdefault("span_id", scope.span_id)
    elif scope.traceparent:
        # Nobody keeps that trace, and still its id leads from here to the line of whoever enqueued the job.
        event.setdefault("trace_id", scope.traceparent[3:35])
        event.setdefault("span_id", scope.traceparent[36:52])
    return event


_limits: list[RepeatLimit] = []
"""The one in use."""


@atexit.register
def flush_suppressed() -> None:
    """Log how many lines were kept back and not told of yet. The end of the program does."""
    for limit in _limits:
        limit.flush()


# --- where lines go ------------------------------------------------------------------------------------------------


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _console(colors: bool) -> Processor:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        for key, value in event.items():
            # One event, one line: what has line breaks of its own may only be an exception or a stack.
            if isinstance(value, str) and key not in ("exception", "stack") and not value.isprintable():
                event[key] = value.encode("unicode_escape").decode()
        return str(renderer(logger, method, event))

    return render


class _Lines:
    """A structlog logger, and its own factory: each message is one write. A closed pipe swallows it."""

    def __init__(self, stream: TextIO, *, ours: bool = False) -> None:
        self._stream = stream
        self.ours = ours

    def __call__(self, *args: Any) -> _Lines:
        return _Lines(self._stream, ours=bool(args) and is_ours(args[0]))

    def msg(self, message: str) -> None:
        try:
            # One write, or the lines of two threads would mix.
            self._stream.write(message + "\n")
            self._stream.flush()
        except UnicodeEncodeError:
            self.msg(message.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            return  # Whoever read this has gone away, or the stream is closed: nobody is left to be told.

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class _Handler(logging.Handler):
    """Takes the standard library's records through the same processors."""

    def __init__(self, write: Callable[[str], None], processors: list[Processor]) -> None:
        super().__init__()
        self._write = write
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        event: EventDict = {
            "event": message,
            "_logger": record.name,
            "_template": f"{record.name}: {record.msg}",
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exc_info"] = record.exc_info
        try:
            line = _through(self._processors, record.levelname.lower(), event, _Library(is_ours(record.name)))
        except structlog.DropEvent:
            return
        self._write(line)


class _Library:
    """What stands in for a structlog logger when a record of the standard library passes the processors."""

    def __init__(self, ours: bool) -> None:
        self.ours = ours


def _through(processors: list[Processor], level: str, event: Any, logger: Any = None) -> str:
    """The line that the processors make of an event."""
    for processor in processors:
        event = processor(logger, level, event)
    return str(event)


def _name_of_logger(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop("_template", None)
    name = event.pop("_logger", None)
    if name is not None:
        event["logger"] = name
    return event


def _route_standard_library(stream: TextIO, processors: list[Processor], level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(_Handler(_Lines(stream).msg, processors))
    root.setLevel(level)
    logging.captureWarnings(True)
