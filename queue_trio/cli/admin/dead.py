"""`queue-trio admin purge-dlq|replay-dlq`: take dead jobs away, or let them run again; all, or those that fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from queue_trio.cli.admin.consent import AsOption, DryRunOption, JsonOption, QueueArgument, YesOption
from queue_trio.cli.admin.filters import Filters, parse_age
from queue_trio.cli.admin.reaching import Reach, prepare
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from queue_trio.cli.admin.export import Export
    from queue_trio.cli.admin.pace import Pace
    from queue_trio.cli.admin.sifting import Dead
    from queue_trio.cli.admin.sweeping import Done
    from queue_trio.core.job import Lane

TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="GLOB", help="Only of these tasks, such as 'mail.*'.")
]
ErrorOption = Annotated[
    str | None,
    typer.Option("--error", metavar="TEXT", help="Only if the last error's type or message has this in it."),
]
OlderOption = Annotated[
    float | None,
    typer.Option(
        "--older-than", metavar="AGE", parser=parse_age, help="Only if it died before: 90s, 15m, 12h, 7d."
    ),
]
NewerOption = Annotated[
    float | None,
    typer.Option(
        "--newer-than", metavar="AGE", parser=parse_age, help="Only if it died since: 90s, 15m, 12h, 7d."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="So many at most, the longest dead first.")
]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command("purge-dlq")(purge_dlq)
    commands.command("replay-dlq")(replay_dlq)


def purge_dlq(
    ctx: typer.Context,
    queue: QueueArgument = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    limit: LimitOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Where what is purged is kept, as NDJSON; by default purged-QUEUE-TIME.ndjson in this folder.",
        ),
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Keep nothing of what is purged.")] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take dead jobs away for good, after writing them to a file.

    Each batch is on the disk before it is purged. How to enqueue it again: docs/dead-letters.md.
    """
    from queue_trio.cli.admin.export import Export, demand_new
    from queue_trio.cli.admin.sweeping import Plan, demand, sweep

    if export is not None and no_export:
        raise UsageError("--export and --no-export contradict each other")
    filters = _filters(task, error, older, newer)
    plan = Plan("purge", "purged", queue, filters, limit, yes, dry_run, who, as_json)
    demand(plan)
    if export is not None:
        demand_new(export)
    settings = prepare(ctx)
    path = None if no_export else export or _default_path(queue)
    return sweep(settings, plan, _Purge(None if path is None or dry_run else Export(path)))


def replay_dlq(
    ctx: typer.Context,
    queue: QueueArgument = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    limit: LimitOption = None,
    rate: Annotated[float, typer.Option(min=0, metavar="N", help="Jobs per second; 0 for no limit.")] = 100.0,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Let dead jobs run again, behind those that wait, with all their retries. Their history stays."""
    from queue_trio.cli.admin.pace import Pace
    from queue_trio.cli.admin.sweeping import Plan, demand, sweep
    from queue_trio.core.store import MAX_BATCH

    filters = _filters(task, error, older, newer)
    plan = Plan("replay", "replayed", queue, filters, limit, yes, dry_run, who, as_json)
    demand(plan)
    return sweep(prepare(ctx), plan, _Replay(Pace(rate, batch_max=MAX_BATCH), rate))


def _filters(task: str | None, error: str | None, older_s: float | None, newer_s: float | None) -> Filters:
    if older_s is not None and newer_s is not None and older_s > newer_s:
        raise UsageError("--older-than is longer than --newer-than: nothing can be both")
    return Filters(task, error, older_s, newer_s)


def _default_path(queue: str | None) -> Path:
    import time

    from queue_trio.cli.admin.acts import utc_text
    from queue_trio.cli.admin.export import default_path
    from queue_trio.core.job import check_queue

    if queue is not None:
        check_queue(queue)  # it becomes part of a file's name
    return default_path(queue, utc_text(round(time.time() * 1000)))


def _named(batch: Sequence[Dead]) -> tuple[list[str], list[int | None]]:
    """The jobs that were looked at, and no others: who has died again since is left alone."""
    return [dead.job.id for dead in batch], [dead.job.at_ms for dead in batch]


@dataclass(slots=True)
class _Purge:
    """Writes a batch down, then purges it."""

    export: Export | None

    def details(self, *, ended: bool) -> dict[str, Any]:
        there = self.export is not None and (self.export.written or not ended)
        return {"export": str(self.export.path.absolute()) if self.export and there else None}

    def remark(self) -> str:
        return f"they are kept in {self.export.path}" if self.export and self.export.written else ""

    async def act(
        self, redis: Reach, lane: Lane, batch: Sequence[Dead], done: Done, stop: trio.Event
    ) -> None:
        if self.export is not None:
            await self.export.append(lane, [dead.job for dead in batch])
        ids, died_ms = _named(batch)
        done.count(lane, batch, await redis.operations.purge(lane, ids, died_ms=died_ms))

    def close(self) -> None:
        if self.export is not None:
            self.export.close()


@dataclass(slots=True)
class _Replay:
    """Replays a batch, in smaller ones if there is a limit to the rate."""

    pace: Pace
    rate: float

    def details(self, *, ended: bool) -> dict[str, Any]:
        return {"rate": self.rate}

    def remark(self) -> str:
        return ""

    async def act(
        self, redis: Reach, lane: Lane, batch: Sequence[Dead], done: Done, stop: trio.Event
    ) -> None:
        import trio

        for at in range(0, len(batch), self.pace.batch):
            piece = batch[at : at + self.pace.batch]
            with trio.move_on_after(self.pace.take(len(piece), trio.current_time())):
                await stop.wait()
            if stop.is_set():
                return
            ids, died_ms = _named(piece)
            done.count(lane, piece, await redis.operations.replay(lane, ids, died_ms=died_ms))

    def close(self) -> None:
        """Nothing is held."""
