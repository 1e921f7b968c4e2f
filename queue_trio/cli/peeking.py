"""Jobs as an operator wants to see them: decoded where that is possible, as raw bytes where it is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from queue_trio.cli.errors import mask, one_line
from queue_trio.cli.output import Column, write, write_table
from queue_trio.core.job import Failure, Record, State, UndecodableRecord, decode_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.store import PeekedJob

WHEN = {State.SCHEDULED: "due", State.LEASED: "lease ends", State.DEAD: "died"}
"""What `PeekedJob.at_ms` is, by state."""


@dataclass(frozen=True, slots=True)
class Peeked:
    """One job, with the queue it is in and the server's time when it was looked at."""

    queue: str
    job: PeekedJob
    now_ms: int

    @property
    def record(self) -> Record | str:
        """The record, or why there is none."""
        try:
            return decode_record(self.job.raw)
        except UndecodableRecord as error:
            return str(error)

    @property
    def failures(self) -> list[tuple[int | None, Failure]]:
        """What happened to it and when (server milliseconds), oldest first."""
        return [_failure(text) for text in self.job.errors]

    def as_json(self) -> dict[str, Any]:
        """Everything that is known, for programs."""
        job, record = self.job, self.record
        known = record if isinstance(record, Record) else None
        return {
            "queue": self.queue,
            "id": job.id,
            "state": str(job.state),
            "priority": str(job.priority) if job.priority else str(known.priority) if known else None,
            "task": known.task if known else None,
            "record": _record_json(known) if known else None,
            "undecodable": None if known else record,
            "raw": None if known or job.raw is None else repr(job.raw),
            "at_ms": job.at_ms,
            "owner": job.owner,
            "retries": job.tries,
            "crashes": job.crashes,
            "errors": [{"at_ms": at_ms, **msgspec.to_builtins(failure)} for at_ms, failure in self.failures],
        }


def _record_json(record: Record) -> dict[str, Any]:
    found = json.loads(msgspec.json.encode(msgspec.structs.replace(record, args=msgspec.Raw(b"{}"))))
    assert isinstance(found, dict)
    return {"priority": str(record.priority), **found, "args": _arguments_json(bytes(record.args))}


def _arguments_json(raw: bytes) -> Any:
    """The arguments, or their text if that is not what a program could read again: msgspec never looked into them."""
    try:
        found = json.loads(raw)
        json.dumps(found, allow_nan=False, indent=2)  # as `write_json` does
    except (ValueError, RecursionError):
        return raw.decode(errors="backslashreplace")
    return found


def last_failure(job: PeekedJob) -> Failure | None:
    """What ended it, or None if nothing is known. As it is, with whatever passwords the message has."""
    if not job.errors:
        return None
    encoded = job.errors[-1].partition(" ")[2]
    try:
        return msgspec.json.decode(encoded, type=Failure)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return Failure(type="?", message=job.errors[-1])


def _failure(text: str) -> tuple[int | None, Failure]:
    """One entry of the history: "<server ms> <failure JSON>". Without passwords: drivers put URLs into messages."""
    at_ms, _, encoded = text.partition(" ")
    try:
        failure = msgspec.json.decode(encoded, type=Failure)
        masked = msgspec.structs.replace(
            failure, message=mask(failure.message), traceback=mask(failure.traceback)
        )
        return int(at_ms), masked
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None, Failure(type="?", message=mask(text))


def show(found: Sequence[Peeked], *, tracebacks: bool) -> None:
    """A table of the jobs, and below it what happened to those that failed."""
    several = len({one.queue for one in found}) > 1
    state = found[0].job.state
    when = WHEN.get(state)
    retried = any(one.job.tries or one.job.crashes for one in found)
    columns = [Column("job", whole=True), Column("priority"), Column("task"), Column("arguments")]
    if several:
        columns.insert(0, Column("queue", whole=True))
    if when:
        columns.append(Column(when, whole=True))
    if retried:
        columns += [Column("retries", number=True), Column("crashes", number=True)]
    rows = []
    for one in found:
        row = _cells(one)
        if several:
            row.insert(0, one.queue)
        if when:
            row.append("" if one.job.at_ms is None else relative(one.job.at_ms, one.now_ms))
        if retried:
            row += [str(one.job.tries), str(one.job.crashes)]
        rows.append(row)
    write_table(columns, rows)
    for one in found:
        _show_failures(one, tracebacks=tracebacks, several=several)


def _cells(one: Peeked) -> list[str]:
    record = one.record
    priority = one.job.priority
    if isinstance(record, Record):
        arguments = bytes(record.args).decode("utf-8", "replace")
        return [one.job.id, str(priority or record.priority), record.task, arguments]
    raw = "" if one.job.raw is None else f": {one.job.raw!r}"
    return [one.job.id, str(priority or "?"), "?", f"{record}{raw}"]


def _show_failures(one: Peeked, *, tracebacks: bool, several: bool) -> None:
    failures = one.failures
    if not failures:
        return
    write(f"{one.queue} {one_line(one.job.id)}:" if several else f"{one_line(one.job.id)}:")
    for at_ms, failure in failures:
        when = "" if at_ms is None else f"{relative(at_ms, one.now_ms)}, "
        attempt = f"attempt {failure.attempt}: " if failure.attempt else ""
        worker = f" (worker {one_line(failure.worker)})" if failure.worker else ""
        write(f"  {when}{attempt}{one_line(f'{failure.type}: {failure.message}')}{worker}")
        if tracebacks:
            for line in failure.traceback.splitlines():
                indent = line[: len(line) - len(line.lstrip())]
                write(f"    {indent}{one_line(line)}")


def relative(at_ms: int, now_ms: int) -> str:
    """Such as "in 1.5 min" and "2.0 s ago"."""
    seconds = (at_ms - now_ms) / 1000
    return f"in {span(seconds)}" if seconds >= 0 else f"{span(-seconds)} ago"


def span(seconds: float) -> str:
    """A duration in its largest unit, such as "1.5 min"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
