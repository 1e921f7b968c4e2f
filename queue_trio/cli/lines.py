"""NDJSON from standard input: raw lines in batches, and what one line may say. It queues nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from queue_trio.errors import InvalidArguments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from queue_trio.app import App, Job

    class Source(Protocol):
        """A binary stream that can give what is there."""

        def read1(self, size: int = ..., /) -> bytes: ...


BATCH: Final = 1000
"""Lines that are checked, then queued, together."""

READ_SIZE: Final = 64 * 1024

_SLACK: Final = 64 * 1024


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job. `args`: by name, or by position. The rest are the options of `Job.options`."""

    task: str | None = None
    args: dict[str, Any] | list[Any] = {}
    id: str | None = None
    priority: str | None = None
    delay: float | None = None
    timeout: float | None = None
    max_retries: int | None = None
    keep_result: float | None = None
    unique_for: float | None = None
    headers: dict[str, str] | None = None


class RawLine(msgspec.Struct, frozen=True):
    """`number` counts from 1. `too_long`: `text` is only its beginning."""

    number: int
    text: bytes
    too_long: bool = False


_decode = msgspec.json.Decoder(Line).decode


def read_batches(source: Source, *, line_max: int) -> Iterator[list[RawLine]]:
    """The lines that are there, at most BATCH at a time; blank ones are left out but counted. Blocks for more.

    Of a line longer than `line_max` bytes only the beginning is kept, so memory is bounded whatever comes.
    """
    pending = b""
    number = 0
    skipping = False
    batch: list[RawLine] = []
    while True:
        chunk = source.read1(READ_SIZE)
        *whole, pending = (pending + chunk).split(b"\n")
        if not chunk and pending:
            whole, pending = [*whole, pending], b""
        for text in whole:
            if skipping:  # the end of a line whose beginning was too long already
                skipping = False
                continue
            number += 1
            if text.strip():
                batch.append(RawLine(number, text[:line_max], len(text) > line_max))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if len(pending) > line_max:
            if not skipping:
                number += 1
                batch.append(RawLine(number, pending[:line_max], too_long=True))
                skipping = True
            pending = b""
        if batch:
            yield batch
            batch = []
        if not chunk:
            return


def line_max_of(max_payload: int) -> int:
    """How long a line may be that can still be a job of `max_payload` bytes."""
    # Every byte of a string can be written as a \\u escape of six.
    return 6 * max_payload + _SLACK


def job_from_line(app: App, raw: RawLine, *, default_task: str | None, line_max: int) -> Job:
    """The job that a line describes. Raises UsageError in the words of `task.job`, without the line's number."""
    from queue_trio.cli.tasks import find_task, make_job

    if raw.too_long:
        raise InvalidArguments(f"longer than {line_max} bytes, more than any job may be")
    try:
        line = _decode(raw.text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArguments(f"not a job: {error}") from None
    name = line.task or default_task
    if name is None:
        raise InvalidArguments('no task: say {"task": "name", ...}')
    options = {
        key: value
        for key in (
            "id",
            "priority",
            "delay",
            "timeout",
            "max_retries",
            "keep_result",
            "unique_for",
            "headers",
        )
        if (value := getattr(line, key)) is not None
    }
    return make_job(find_task(app, name), line.args, options)
