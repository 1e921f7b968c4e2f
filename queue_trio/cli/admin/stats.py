"""`queue-trio admin stats`: how many jobs are where, and how many have ended. What `watch` shows over and over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from queue_trio.cli.admin.consent import JsonOption, QueueArgument
from queue_trio.cli.admin.reaching import Reach, ask, prepare, queue_name, say_empty, split_lane
from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.output import Column, counted, write, write_json, write_table
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from queue_trio.core.store import LaneStats

    Table = tuple[list[Column], list[list[object]]]


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(stats)


def stats(
    ctx: typer.Context,
    queue: QueueArgument = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=86400, metavar="S", help="With --watch: seconds between looks, by default 2."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """How many jobs are where, and how many have ended.

    With --watch, the table stays in its place and shows rates; with --json too, it is one object a line.
    """
    if interval is not None and not watch:
        raise UsageError("--interval goes with --watch")
    settings = prepare(ctx)
    if watch:
        from queue_trio.cli.admin import watch as watching

        watching.run(settings, queue, interval_s=2.0 if interval is None else interval, as_json=as_json)
        return EXIT_OK

    async def read(redis: Reach) -> list[LaneStats]:
        return await read_stats(redis, queue)

    found = ask(settings, read)
    if as_json:
        write_json({"queues": [stats_json(one) for one in found]})
    elif not found:
        say_empty(settings)
    else:
        # Two tables, because one of them all is too wide for a terminal of 80 characters.
        first, second = tables(found)
        write_table(*first)
        write("")
        write_table(*second)
        if remarks(found):
            write("\n" + "\n".join(remarks(found)))
    return EXIT_OK


async def read_stats(redis: Reach, queue: str | None) -> list[LaneStats]:
    """One look at every lane of `queue`, or of all. Raises UsageError."""
    return [await redis.store.stats(lane) for lane in await redis.lanes(queue)]


def stats_json(one: LaneStats) -> dict[str, Any]:
    """Everything that is known of a lane, for programs."""
    import msgspec

    queue, partition = split_lane(one.lane)
    extra = {"ready_total": one.ready_total, "imbalance": one.imbalance}
    return {"queue": queue, "partition": partition, **msgspec.to_builtins(one), **extra}


def tables(found: Sequence[LaneStats], rates: Mapping[str, Sequence[str]] | None = None) -> list[Table]:
    """Where jobs are, and what became of them; with `rates` by lane (enqueued/s, completed/s) if there are any."""
    from queue_trio.core.dequeue import PRIORITIES

    places = [str(priority) for priority in PRIORITIES] + ["scheduled", "leased", "dead", "workers"]
    ends = ["enqueued", "completed", "cancelled", "purged"]
    where = [
        [
            queue_name(one.lane),
            *(one.ready.get(priority, 0) for priority in PRIORITIES),
            *(one.scheduled, one.leased, one.dead, one.workers),
        ]
        for one in found
    ]
    ended = [
        [queue_name(one.lane), one.enqueued, one.completed, one.cancelled, one.purged]
        + ([] if rates is None else list(rates.get(one.lane, ("", ""))))
        for one in found
    ]
    more = [] if rates is None else ["enqueued/s", "completed/s"]
    return [(_columns(places), where), (_columns(ends + more), ended)]


def _columns(names: Sequence[str]) -> list[Column]:
    return [Column("queue"), *(Column(name, number=True) for name in names)]


def remarks(found: Sequence[LaneStats]) -> list[str]:
    """What an operator should know besides the numbers."""
    return [f"{queue_name(one.lane)}: {remark}" for one in found for remark in _remarks(one)]


def _remarks(one: LaneStats) -> Iterator[str]:
    if one.paused:
        yield "paused: workers claim nothing from it"
    if one.ready_total + one.scheduled and not one.workers:
        yield "no worker serves it"
    if one.dead:
        queue = split_lane(one.lane)[0]
        yield f"{counted(one.dead, 'dead job')}: see `queue-trio admin peek {queue} --state dead`"
    if one.imbalance:
        yield "the counts do not add up: run `queue-trio admin audit`"
