"""`queue-trio admin cancel`: ends jobs that have not begun. One that runs, or is dead, is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.admin.acts import Act, written_down
from queue_trio.cli.admin.consent import (
    AsOption,
    DryRunOption,
    JsonOption,
    YesOption,
    agree,
    demand_consent,
)
from queue_trio.cli.admin.reaching import Reach, ask, prepare
from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK
from queue_trio.cli.output import Column, counted, write, write_json, write_table

if TYPE_CHECKING:
    from queue_trio.core.job import Lane, State

    Place = tuple[str, Lane | None, State | None]

NAMED_MAX: Final = 20
"""Ids that an entry of the audit trail names."""


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(cancel)


def cancel(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The jobs.")],
    queue: Annotated[str | None, typer.Option(metavar="QUEUE", help="Only this queue, not all.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """End jobs that are ready or scheduled: they are gone, and will not run. Exit code 1 if one of them was not.

    A job that runs is left alone, as nothing can take back what it did; for a dead one there is purge-dlq.
    """
    from queue_trio.core.job import State, check_id

    demand_consent("cancel ends jobs", yes=yes, dry_run=dry_run, as_json=as_json)
    wanted = list(dict.fromkeys(map(check_id, ids)))
    settings = prepare(ctx)

    async def look(redis: Reach) -> list[Place]:
        lanes = await redis.lanes(queue)
        return [place for job_id in wanted for place in await _places(redis, lanes, job_id)]

    async def act(redis: Reach, places: list[Place]) -> list[Place]:
        details = {"ids": [job_id for job_id, *_ in places[:NAMED_MAX]]}
        async with written_down(redis, Act("cancel", queue, who, details)) as done:
            after: list[Place] = []
            for job_id, lane, _ in places:
                state = None if lane is None else await redis.operations.cancel(lane, job_id)
                after.append((job_id, lane, state))
                done.counts = {"asked": len(places), "cancelled": _count(after, State.CANCELLED)}
            return after

    places = ask(settings, look)
    possible = [place for place in places if place[2] in (State.READY, State.SCHEDULED)]
    if possible and not dry_run:
        if not yes:
            _show(places, dry_run=True)
            agree(f"Cancel {counted(len(possible), 'job')}?")
        places = ask(settings, lambda redis: act(redis, places))
    if as_json:
        write_json({"dry_run": dry_run, "jobs": [_as_json(place) for place in places]})
    else:
        _show(places, dry_run=dry_run)
    good = len(possible) if dry_run else _count(places, State.CANCELLED)
    return EXIT_OK if good == len(places) else EXIT_BROKEN


async def _places(redis: Reach, lanes: list[Lane], job_id: str) -> list[Place]:
    """Where the job is: an id may be in several queues, each with a job of its own."""
    found: list[Place] = []
    for lane in lanes:
        job = await redis.operations.find(lane, job_id)
        if job is not None:
            found.append((job_id, lane, job.state))
    return found or [(job_id, None, None)]


def _count(places: list[Place], state: State) -> int:
    return sum(found is state for _, _, found in places)


def _as_json(place: Place) -> dict[str, Any]:
    from queue_trio.core.job import State

    job_id, lane, state = place
    return {
        "id": job_id,
        "queue": None if lane is None else lane.queue,
        "state": None if state is None else str(state),
        "cancelled": state is State.CANCELLED,
    }


def _show(places: list[Place], *, dry_run: bool) -> None:
    columns = (Column("job", whole=True), Column("queue"), Column("what"))
    rows = [
        (job_id, lane.queue if lane else "", _remark(state, dry_run=dry_run))
        for job_id, lane, state in places
    ]
    write_table(columns, rows)
    if dry_run and not any(state is not None for *_, state in places):
        write("nothing to cancel")


def _remark(state: State | None, *, dry_run: bool) -> str:
    from queue_trio.core.job import State

    match state:
        case None:
            return "is nowhere: it has ended, or never was"
        case State.CANCELLED:
            return "cancelled"
        case State.LEASED:
            return "runs, and is left alone"
        case State.DEAD:
            return "is dead: use purge-dlq"
        case _ if dry_run:
            return f"is {state}, would be cancelled"
        case _:
            return "is on its way to a worker, and is left alone"
