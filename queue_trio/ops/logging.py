"""What a log line looks like: text for people at a terminal, one JSON object a line for machines, no secrets in either.

Our own modules log through structlog; libraries that use the standard `logging` come out in the same shape, from
warning up. A reader that has gone away (a closed pipe) loses lines and never stops the program.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from queue_trio.core.settings import LogSettings

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_MASK: Final = "***"
# What stands between "://" and the last "@" before a space or a quote is somebody's login.
_URL_LOGIN: Final = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s'\"]*(?=@)")
_NAMED: Final = re.compile(
    r"\b([\w-]*(?:password|passwd|secret|api[_-]?key|access[_-]?token)['\"]?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
    re.IGNORECASE,
)
_SECRET_KEY: Final = re.compile(r"password|passwd|secret|api_?key|access_?token", re.IGNORECASE)


def configure_logging(settings: LogSettings, stream: TextIO | None = None, *, final: bool = False) -> None:
    """Send structlog's events and the standard library's warnings to `stream`, by default standard error.

    Levels below `log.level` cost next to nothing: their methods do nothing at all. `final`: loggers may remember what
    is set here, which makes that cheaper still; for a program that calls this once, at its start.
    """
    stream = sys.stderr if stream is None else stream
    console = settings.format == "console" or (settings.format == "auto" and _is_terminal(stream))
    level = _LEVELS[settings.level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
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
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=final,
    )
    _route_standard_library(stream, [*shared, _name_of_logger, *last], max(level, logging.WARNING))


def mask_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor: replaces passwords in every text of the event, at any depth, by `***`."""
    return {key: _masked_entry(key, value) for key, value in event.items()}


def mask(text: str) -> str:
    """`text` without the passwords of URLs and of `password=...`."""
    if "://" in text:
        text = _URL_LOGIN.sub(rf"\1:{_MASK}", text)
    return _NAMED.sub(rf"\1{_MASK}", text)


def _masked_entry(key: object, value: Any) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key) and isinstance(value, str | bytes):
        return _MASK
    return _masked(value)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _masked_entry(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask(repr(value))


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

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *args: Any) -> _Lines:
        return self

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
        event: Any = {"event": message, "_logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            event["exc_info"] = record.exc_info
        for processor in self._processors:
            event = processor(None, record.levelname.lower(), event)
        self._write(event)


def _name_of_logger(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
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
