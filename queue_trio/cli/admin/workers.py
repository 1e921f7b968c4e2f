"""`queue-trio admin workers|drain`: who works, and asking one of them to finish what it has and end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.admin.acts import Act, written_down
from queue_trio.cli.admin.consent import (
    AsOption,
    DryRunOption,
    JsonOption,
    QueueArgument,
    YesOption,
    agree,
    demand_consent,
)
from queue_trio.cli.admin.reaching import Reach, ask, prepare
from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK, say_error
from queue_trio.cli.output import Column, counted, progress, write, write_json, write_table
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queue_trio.core.job import Lane
    from queue_trio.core.operations import WorkerSeen

LOOK_S: Final = 0.5
"""How often `drain --wait` looks."""


@dataclass(slots=True)
class Seen:
    """A worker, in all the lanes it is registered in."""

    id: str
    lanes: dict[Lane, WorkerSeen] = field(default_factory=dict)

    @property
    def leased(self) -> int:
        return sum(one.leased for one in self.lanes.values())

    @property
    def silent_ms(self) -> int:
        return min(one.silent_ms for one in self.lanes.values())

    @property
    def lease_ms(self) -> int:
        return max(one.lease_ms for one in self.lanes.values())

    @property
    def silent(self) -> bool:
        """Whether it should have been heard of: it is frozen, cut off, or dead."""
        return self.silent_ms > self.lease_ms > 0

    @property
    def draining(self) -> bool:
        return any(one.draining for one in self.lanes.values())

    @property
    def info(self) -> dict[str, Any]:
        """What it registered with: host, pid, app, queues, concurrency. Empty if that is not JSON."""
        try:
            found = json.loads(next(iter(self.lanes.values())).info)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def as_json(self) -> dict[str, Any]:
        known = {name: self.info.get(name) for name in ("host", "pid", "app", "queues", "concurrency")}
        return {
            "id": self.id,
            **known,
            "leased": self.leased,
            "silent_ms": self.silent_ms,
            "lease_ms": self.lease_ms,
            "silent": self.silent,
            "draining": self.draining,
            "registered": [
                {"queue": lane.queue, "partition": lane.partition, "leased": one.leased}
                for lane, one in self.lanes.items()
            ],
        }


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command()(workers)
    commands.command()(drain)


async def read_workers(redis: Reach, queue: str | None) -> list[Seen]:
    """Every worker of `queue`, or all, the one heard of last first. Raises UsageError."""
    found: dict[str, Seen] = {}
    for lane in await redis.lanes(queue):
        for one in await redis.operations.workers(lane):
            found.setdefault(one.id, Seen(one.id)).lanes[lane] = one
    return sorted(found.values(), key=lambda seen: (seen.silent_ms, seen.id))


def workers(ctx: typer.Context, queue: QueueArgument = None, as_json: JsonOption = False) -> int:
    """Every worker that is registered: where it runs, what it serves, how many jobs it has. Changes nothing."""
    settings = prepare(ctx)

    async def read(redis: Reach) -> list[Seen]:
        return await read_workers(redis, queue)

    found = ask(settings, read)
    if as_json:
        write_json({"workers": [seen.as_json() for seen in found]})
    elif found:
        show(found)
    else:
        write("no worker is registered" + (f" for queue {queue}" if queue else ""))
    return EXIT_OK


def show(found: Iterable[Seen]) -> None:
    """A table of workers."""
    columns = (
        Column("worker", whole=True),
        Column("host"),
        Column("pid", number=True),
        Column("app"),
        Column("queues"),
        Column("jobs", number=True),
        Column("heard", whole=True),
        Column("state", whole=True),
    )
    write_table(columns, [_row(seen) for seen in found])


def _row(seen: Seen) -> list[str]:
    from queue_trio.cli.peeking import span

    info = seen.info
    jobs = f"{seen.leased}/{info.get('concurrency', '?')}"
    known = [str(info.get(name, "?")) for name in ("host", "pid", "app", "queues")]
    return [seen.id, *known, jobs, f"{span(seen.silent_ms / 1000)} ago", _state(seen)]


def _state(seen: Seen) -> str:
    return " ".join(word for word, so in (("silent", seen.silent), ("draining", seen.draining)) if so)


# --- drain ---------------------------------------------------------------------------------------------------------


def drain(
    ctx: typer.Context,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Its id, or how only this one begins.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has left.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", help="With --wait: give up after so many seconds, by default 60."),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask a worker to claim nothing more, finish what it has, and end. Exit code 1 if it has not left in time.

    What it cannot finish within its shutdown_grace it gives back. Whatever started it may start it again.
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout goes with --wait")
    timeout_s = 60.0 if timeout is None else timeout
    demand_consent("drain ends a worker", yes=yes, dry_run=dry_run, as_json=as_json)
    settings = prepare(ctx)

    async def look(redis: Reach) -> Seen:
        return _only(await read_workers(redis, None), worker)

    async def act(redis: Reach) -> tuple[bool, Seen]:
        async with written_down(redis, Act("drain", None, who, {"worker": seen.id})) as done:
            asked = [await redis.operations.request_drain(lane, seen.id) for lane in seen.lanes]
            if not any(asked):
                done.outcome = "it had left already"
        if wait and any(asked):
            return await _until_left(redis, seen, timeout_s)
        return not any(asked), seen

    seen = ask(settings, look)
    left = False
    if not dry_run:
        if not yes:
            show([seen])
            agree("Drain it?")
        left, seen = ask(settings, act)
    if as_json:
        write_json({"dry_run": dry_run, "left": left, "worker": seen.as_json()})
    elif dry_run:
        show([seen])
        write(f"worker {seen.id} would be asked to drain")
    elif left:
        write(f"worker {seen.id} {'is taken for dead' if seen.silent else 'has left'}{_silence(seen)}")
    else:
        write(f"worker {seen.id} is asked to drain; it holds {counted(seen.leased, 'job')}{_silence(seen)}")
    if not wait or dry_run or left:
        return EXIT_OK
    say_error(f"worker {seen.id} has not left within {timeout_s:g} s{_silence(seen) or ': it drains'}")
    return EXIT_BROKEN


def _silence(seen: Seen) -> str:
    from queue_trio.cli.peeking import span

    if not seen.silent:
        return ""
    heard = span(seen.silent_ms / 1000)
    return f": not heard of for {heard}, so it is frozen, cut off or dead; it drains if it comes back"


def _only(found: list[Seen], beginning: str) -> Seen:
    """The worker that is meant. Raises UsageError if none is, or several are."""
    matching = [seen for seen in found if seen.id.startswith(beginning)]
    exact = [seen for seen in matching if seen.id == beginning]
    if exact or (len(matching) == 1 and beginning):
        return (exact or matching)[0]
    if matching and beginning:
        ids = ", ".join(seen.id for seen in matching[:5])
        raise UsageError(f"worker {beginning!r} could be any of {len(matching)}: {ids}: write more of it")
    known = "; see `queue-trio admin workers`" if found else ": no worker is registered"
    raise UsageError(f"no worker's id begins with {beginning!r}{known}")


async def _until_left(redis: Reach, seen: Seen, timeout_s: float) -> tuple[bool, Seen]:
    """Whether it left the registry in time, and how it was seen last."""
    import trio

    with progress(f"worker {seen.id} drains") as tell, trio.move_on_after(timeout_s):
        while True:
            now = next((one for one in await read_workers(redis, None) if one.id == seen.id), None)
            if now is None:
                return True, seen
            seen = now
            tell(f"worker {seen.id} drains: {counted(seen.leased, 'job')} to go")
            await trio.sleep(LOOK_S)
    return False, seen
