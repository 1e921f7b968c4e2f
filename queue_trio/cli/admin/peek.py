"""`queue-trio admin peek`: the jobs that come next, or that died, with their arguments. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

import typer

from queue_trio.cli.admin.consent import JsonOption
from queue_trio.cli.admin.reaching import Reach, ask, prepare
from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.output import write, write_json
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from queue_trio.cli.peeking import Peeked
    from queue_trio.core.job import Lane, State
    from queue_trio.core.store import PeekedJob

PeekState = Literal["ready", "scheduled", "leased", "dead"]
STATES: Final = get_args(PeekState)


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(peek)


def peek(
    ctx: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUEUE|STATE]",
            help="Only this queue, not all; or which jobs: ready, scheduled, leased or dead.",
        ),
    ] = None,
    state: Annotated[PeekState | None, typer.Option(help="Which jobs.", show_default="ready")] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="Only this queue, even if it is named like a state.")
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=10_000, metavar="N", help="Jobs per queue.")
    ] = 10,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show those of failed jobs.")] = False,
    as_json: JsonOption = False,
) -> int:
    """The jobs that come next, with their arguments; for failed ones, what happened. Changes nothing."""
    from queue_trio.cli import peeking
    from queue_trio.core.job import State

    queue, chosen = _chosen(what, state, queue)
    settings = prepare(ctx)

    async def read(redis: Reach) -> list[Peeked]:
        lanes = await redis.lanes(queue)
        now_ms = await redis.now_ms()
        found = []
        for lane in lanes:
            jobs = await _first(redis, lane, State(chosen), count)
            found += [peeking.Peeked(lane.queue, job, now_ms) for job in jobs]
        return found

    found = ask(settings, read)
    if as_json:
        write_json({"state": chosen, "jobs": [one.as_json() for one in found]})
    elif found:
        peeking.show(found, tracebacks=tracebacks)
    else:
        write(f"no {chosen} jobs" + (f" in queue {queue}" if queue else ""))
    return EXIT_OK


async def _first(redis: Reach, lane: Lane, state: State, count: int) -> list[PeekedJob]:
    """The next `count` jobs; the dead page by page, as these are many and hold tracebacks."""
    from queue_trio.core.job import State
    from queue_trio.core.store import MAX_BATCH

    if state is not State.DEAD:
        return await redis.store.peek(lane, state, count=count)
    found: list[PeekedJob] = []
    after = None
    while len(found) < count:
        page = await redis.operations.browse_dead(lane, after=after, count=min(MAX_BATCH, count - len(found)))
        if not page:
            break
        found += page
        after = (page[-1].at_ms or 0, page[-1].id)
    return found


def _chosen(what: str | None, state: str | None, queue: str | None) -> tuple[str | None, str]:
    """The queue and the state that are meant. Raises UsageError if one is named twice."""
    if what is not None and what in STATES:
        if state is not None and state != what:
            raise UsageError(
                f"{what!r} is a state, and so is --state {state}: for a queue named so, use --queue {what}"
            )
        return queue, what
    if what is not None and queue is not None and what != queue:
        raise UsageError(f"two queues are named, {what!r} and --queue {queue}: name one, or none for all")
    return what if queue is None else queue, state or "ready"
