"""`queue-trio admin inspect`: all there is to know of one job, wherever it is. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from queue_trio.cli.admin.acts import utc_text
from queue_trio.cli.admin.consent import JsonOption
from queue_trio.cli.admin.reaching import Reach, ask, prepare
from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK, one_line, say_error
from queue_trio.cli.output import counted, write, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queue_trio.cli.peeking import Peeked
    from queue_trio.core.job import Lane, Record
    from queue_trio.redis.positions import Position, Remains


@dataclass(slots=True)
class Found:
    """A job in one lane: there, or what is left of it."""

    lane: Lane
    peeked: Peeked | None
    position: Position | None
    remains: Remains

    def as_json(self) -> dict[str, Any]:
        import msgspec

        known = self.peeked.as_json() if self.peeked else {}
        return {
            "queue": self.lane.queue,
            "partition": self.lane.partition,
            **known,
            "position": msgspec.to_builtins(self.position),
            **msgspec.to_builtins(self.remains),
        }


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("inspect")(inspect_job)


def inspect_job(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    queue: Annotated[str | None, typer.Option(metavar="QUEUE", help="Look only in this queue.")] = None,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show those of its failures.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Where a job is, what it is to do, and what happened to it. Exit code 1 if it is nowhere. Changes nothing."""
    from queue_trio.core.job import check_id

    check_id(job_id)
    settings = prepare(ctx)

    async def read(redis: Reach) -> list[Found]:
        now_ms = await redis.now_ms()
        return [await _find(redis, lane, job_id, now_ms) for lane in await redis.lanes(queue)]

    found = ask(settings, read)
    there = [one for one in found if one.peeked is not None]
    left = [one for one in found if one.peeked is None and _left_text(one.remains)]
    if as_json:
        ended = [one.as_json() for one in left]
        write_json(
            {"id": job_id, "found": bool(there), "jobs": [one.as_json() for one in there], "ended": ended}
        )
    elif there:
        for number, one in enumerate(there):
            write("\n".join(([""] if number else []) + list(_lines(one, tracebacks=tracebacks))))
    else:
        say_error(_nowhere(job_id, queue, left))
    return EXIT_OK if there else EXIT_BROKEN


async def _find(redis: Reach, lane: Lane, job_id: str, now_ms: int) -> Found:
    from queue_trio.cli.peeking import Peeked
    from queue_trio.redis.positions import position, remains

    job, keys = await redis.operations.find(lane, job_id), redis.keys(lane)
    left = await remains(redis.client, keys, job_id, now_ms)
    if job is None:
        return Found(lane, None, None, left)
    return Found(lane, Peeked(lane.queue, job, now_ms), await position(redis.client, keys, job), left)


def _nowhere(job_id: str, queue: str | None, left: list[Found]) -> str:
    where = f"not in queue {queue}" if queue else "nowhere"
    if not left:
        return f"job {job_id} is {where}: it never was, or it has completed, or was cancelled or purged, and is gone"
    parts = [f"in queue {one.lane.queue} {_left_text(one.remains)}" for one in left]
    return f"job {job_id} is {where}, as it has ended: {'; '.join(parts)}"


def _left_text(remains: Remains) -> str:
    from queue_trio.cli.peeking import span

    parts = []
    if remains.result_bytes is not None:
        until = remains.result_expires_ms
        more = "" if until is None else f" for another {span(until / 1000)}"
        parts.append(f"its result is kept{more} ({counted(remains.result_bytes, 'byte')})")
    if remains.id_taken_ms is not None:
        parts.append(f"its id stays taken for another {span(remains.id_taken_ms / 1000)}")
    return " and ".join(parts)


# --- as text -------------------------------------------------------------------------------------------------------


def _lines(one: Found, *, tracebacks: bool) -> Iterator[str]:
    from queue_trio.core.job import Record

    peeked = one.peeked
    assert peeked is not None
    job, record = peeked.job, peeked.record
    partition = f", partition {one.lane.partition}" if one.lane.partition else ""
    yield f"{job.id} is {job.state} in queue {one.lane.queue}{partition}"
    facts = dict(_facts(one, peeked))
    if isinstance(record, Record):
        facts |= _record_facts(record, peeked.now_ms)
    else:
        facts |= {"record": record if job.raw is None else f"{record}: {job.raw!r}"}
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"  {name:{width}}  {one_line(value)}"
    failures = peeked.failures
    if failures:
        forgotten = job.tries - len(failures)
        yield f"history, oldest first{f' ({forgotten} before that are forgotten)' if forgotten > 0 else ''}:"
    for at_ms, failure in failures:
        when = "" if at_ms is None else f"{_time(at_ms, peeked.now_ms)}  "
        attempt = f"attempt {failure.attempt}: " if failure.attempt else ""
        worker = f" (worker {one_line(failure.worker)})" if failure.worker else ""
        yield f"  {when}{attempt}{one_line(f'{failure.type}: {failure.message}')}{worker}"
        for line in failure.traceback.splitlines() if tracebacks else ():
            indent = line[: len(line) - len(line.lstrip())]
            yield f"    {indent}{one_line(line)}"


def _facts(one: Found, peeked: Peeked) -> Iterator[tuple[str, str]]:
    from queue_trio.cli.peeking import WHEN

    job = peeked.job
    if job.at_ms is not None and job.state in WHEN:
        yield WHEN[job.state], _time(job.at_ms, peeked.now_ms)
    if job.owner is not None:
        yield "owner", job.owner
    if one.position is not None:
        yield "position", _position_text(one.position)
    yield "retries", str(job.tries)
    yield "crashes", str(job.crashes)
    left = _left_text(one.remains)
    if left:
        yield "besides", left


def _position_text(position: Position) -> str:
    from queue_trio.redis.positions import SEARCHED_MAX

    urgent = f"; {position.more_urgent} more urgent" if position.more_urgent else ""
    if position.before is None:
        if position.of > SEARCHED_MAX:
            return f"behind the first {SEARCHED_MAX} of {position.of}{urgent}"
        return "on its way to a worker"
    return f"{position.before + 1} of {position.of}{urgent}"


def _record_facts(record: Record, now_ms: int) -> dict[str, str]:
    limits = {
        "timeout": record.timeout_ms,
        "keep result": record.keep_result_ms,
        "delay": record.delay_ms or None,
    }
    facts = {
        "task": record.task,
        "arguments": bytes(record.args).decode("utf-8", "replace"),
        "priority": str(record.priority),
        "enqueued": _time(record.enqueued_ms, now_ms) if record.enqueued_ms else "",
        **{name: "" if value is None else f"{value / 1000:g} s" for name, value in limits.items()},
        "max retries": "" if record.max_retries is None else str(record.max_retries),
        "traceparent": record.traceparent or "",
        "headers": ", ".join(f"{name}: {value}" for name, value in (record.headers or {}).items()),
    }
    return {name: value for name, value in facts.items() if value}


def _time(at_ms: int, now_ms: int) -> str:
    from queue_trio.cli.peeking import relative

    return f"{utc_text(at_ms)} ({relative(at_ms, now_ms)})"
