"""`queue-trio admin pause|resume`: stop a queue, and let it go on.

They do not ask: each undoes the other, loses nothing, and is wanted at once when it is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from queue_trio.cli.admin.acts import Act, written_down
from queue_trio.cli.admin.consent import AsOption, DryRunOption, JsonOption
from queue_trio.cli.admin.reaching import Reach, ask, prepare, queue_name, say_empty, split_lane
from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.output import write, write_json
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from queue_trio.core.job import Lane

QueueToStop = Annotated[str | None, typer.Argument(metavar="QUEUE", help="Which queue.", show_default=False)]
AllOption = Annotated[bool, typer.Option("--all", help="Every queue.")]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command()(pause)
    commands.command()(resume)


def pause(
    ctx: typer.Context,
    queue: QueueToStop = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Let workers claim nothing more from a queue. What runs goes on; enqueueing too."""
    return _set(ctx, queue, everything, paused=True, dry_run=dry_run, who=who, as_json=as_json)


def resume(
    ctx: typer.Context,
    queue: QueueToStop = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Let workers claim from a paused queue again."""
    return _set(ctx, queue, everything, paused=False, dry_run=dry_run, who=who, as_json=as_json)


def _set(
    ctx: typer.Context,
    queue: str | None,
    everything: bool,
    *,
    paused: bool,
    dry_run: bool,
    who: str | None,
    as_json: bool,
) -> int:
    what = "pause" if paused else "resume"
    if (queue is None) != everything:
        raise UsageError(f"{what}: name one queue, or use --all")
    settings = prepare(ctx)

    async def act(redis: Reach) -> dict[Lane, bool]:
        lanes = await redis.lanes(queue)
        changed = {lane: (await redis.store.stats(lane)).paused != paused for lane in lanes}
        if dry_run or not lanes:
            return changed
        async with written_down(redis, Act(what, queue or "--all", who)) as done:
            # All of them, also those that are so already: what was read may be old by now.
            for lane in lanes:
                await redis.store.pause(lane, paused)
            done.counts = {"changed": sum(changed.values())}
        return changed

    changed = ask(settings, act)
    if as_json:
        queues = [
            {"queue": lane.queue, "partition": lane.partition, "changed": new}
            for lane, new in changed.items()
        ]
        write_json({"paused": paused, "dry_run": dry_run, "queues": queues})
    elif not changed:
        say_empty(settings)
    for lane, new in changed.items() if not as_json else ():
        write(f"{queue_name(str(lane))}: {_remark(lane, paused=paused, new=new, dry_run=dry_run)}")
    return EXIT_OK


def _remark(lane: Lane, *, paused: bool, new: bool, dry_run: bool) -> str:
    queue = split_lane(str(lane))[0]
    if not new:
        return "is paused already" if paused else "is not paused"
    if dry_run:
        return "would be paused" if paused else "would go on"
    if paused:
        return f"paused; what runs goes on; undo it with `queue-trio admin resume {queue}`"
    return "goes on"
