"""`queue-trio admin ...`: looks into the queues, and repairs them. Needs settings only; fails at once without Redis."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK, say
from queue_trio.cli.output import Column, counted, write, write_json, write_table
from queue_trio.cli.state import configure_logs, read_settings
from queue_trio.errors import NotSent, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from queue_trio.core.job import Lane
    from queue_trio.core.settings import Settings
    from queue_trio.core.store import AuditReport, LaneStats
    from queue_trio.redis.client import Client
    from queue_trio.redis.store import RedisStore

T = TypeVar("T")

PATIENCE_S: Final = 3.0
"""A one-shot command that reached Redis, and then does not any more, gives up after so long."""

commands = typer.Typer(help="Look into the queues, and repair them.")

QueueArgument = Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="Only this queue, not all.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
PeekState = Literal["ready", "scheduled", "leased", "dead"]


def register(cli: typer.Typer) -> None:
    """Add the group."""
    cli.add_typer(commands, name="admin")


# --- stats ---------------------------------------------------------------------------------------------------------


@commands.command()
def stats(ctx: typer.Context, queue: QueueArgument = None, as_json: JsonOption = False) -> int:
    """How many jobs are where, and how many have ended."""
    settings = _prepare(ctx)

    async def read(store: RedisStore) -> list[LaneStats]:
        return [await store.stats(lane) for lane in await _lanes(store, queue)]

    found = _ask(settings, read)
    if as_json:
        write_json({"queues": [_stats_json(one) for one in found]})
    elif not found:
        _say_empty(settings)
    else:
        _show_stats(found)
    return EXIT_OK


def _stats_json(one: LaneStats) -> dict[str, Any]:
    import msgspec

    queue, partition = _split(one.lane)
    extra = {"ready_total": one.ready_total, "imbalance": one.imbalance}
    return {"queue": queue, "partition": partition, **msgspec.to_builtins(one), **extra}


def _split(lane: str) -> tuple[str, int]:
    queue, _, partition = lane.rpartition(".")
    return queue, int(partition)


def _show_stats(found: list[LaneStats]) -> None:
    from queue_trio.core.dequeue import PRIORITIES

    # Two tables, because one of them all is too wide for a terminal of 80 characters.
    _write_counts(
        [str(priority) for priority in PRIORITIES] + ["scheduled", "leased", "dead", "workers"],
        {
            one.lane: [
                *(one.ready.get(priority, 0) for priority in PRIORITIES),
                one.scheduled,
                one.leased,
                one.dead,
                one.workers,
            ]
            for one in found
        },
    )
    write("")
    _write_counts(
        ["enqueued", "completed", "cancelled", "purged"],
        {one.lane: [one.enqueued, one.completed, one.cancelled, one.purged] for one in found},
    )
    remarks = [f"{_name(one.lane)}: {remark}" for one in found for remark in _remarks(one)]
    if remarks:
        write("\n" + "\n".join(remarks))


def _write_counts(names: list[str], rows: dict[str, list[int]]) -> None:
    columns = [Column("queue", whole=True), *(Column(name, number=True) for name in names)]
    write_table(columns, [[_name(lane), *counts] for lane, counts in rows.items()])


def _remarks(one: LaneStats) -> Iterator[str]:
    if one.paused:
        yield "paused: workers claim nothing from it"
    if one.ready_total + one.scheduled and not one.workers:
        yield "no worker serves it"
    if one.dead:
        yield f"{counted(one.dead, 'dead job')}: see `queue-trio admin peek {_split(one.lane)[0]} --state dead`"
    if one.imbalance:
        yield "the counts do not add up: run `queue-trio admin audit`"


def _name(lane: str) -> str:
    """The queue's name; with its partition only where there are several."""
    return lane.removesuffix(".0")


# --- peek ----------------------------------------------------------------------------------------------------------


@commands.command()
def peek(
    ctx: typer.Context,
    queue: QueueArgument = None,
    state: Annotated[PeekState, typer.Option(help="Which jobs.")] = "ready",
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=10_000, metavar="N", help="Jobs per queue.")
    ] = 10,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show those of failed jobs.")] = False,
    as_json: JsonOption = False,
) -> int:
    """The jobs that come next, with their arguments; for failed ones, what happened. Changes nothing."""
    from queue_trio.cli import peeking
    from queue_trio.core.job import State

    settings = _prepare(ctx)

    async def read(store: RedisStore) -> list[peeking.Peeked]:
        lanes = await _lanes(store, queue)
        seconds, micros = await store.client.ask("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        found = []
        for lane in lanes:
            jobs = await store.peek(lane, State(state), count=count)
            found += [peeking.Peeked(lane.queue, job, now_ms) for job in jobs]
        return found

    found = _ask(settings, read)
    if as_json:
        write_json({"state": state, "jobs": [one.as_json() for one in found]})
    elif found:
        peeking.show(found, tracebacks=tracebacks)
    else:
        write(f"no {state} jobs" + (f" in queue {queue}" if queue else ""))
    return EXIT_OK


# --- audit ---------------------------------------------------------------------------------------------------------


@commands.command()
def audit(
    ctx: typer.Context,
    queue: QueueArgument = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is wrong; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: only say what is wrong.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Check that every job is in exactly one place and that the counts add up. Exit code 1 if that is not so."""
    settings = _prepare(ctx)

    async def check(store: RedisStore, *, repair: bool = False) -> list[AuditReport]:
        return [await store.audit(lane, repair=repair) for lane in await _lanes(store, queue)]

    async def put_right(store: RedisStore) -> tuple[list[AuditReport], list[AuditReport]]:
        return await check(store, repair=True), await check(store)

    # Without a terminal to ask on, this must be known before anything is looked at.
    if repair and not (yes or dry_run) and (as_json or not sys.stdin.isatty()):
        raise UsageError("--repair changes the queues: add --yes, or --dry-run to see first what is wrong")
    reports = _ask(settings, check)
    after = None
    if repair and not dry_run and not all(report.ok for report in reports):
        if not yes:
            _show_audit(reports)
            typer.confirm("Repair?", abort=True, err=True)
        reports, after = _ask(settings, put_right)
    ok = all(report.ok for report in (reports if after is None else after))
    if as_json:
        write_json({"ok": ok, "queues": [_audit_json(report) for report in reports]})
    elif not reports:
        _say_empty(settings)
    else:
        _show_audit(reports)
        if after is not None:
            write(
                "repaired: every promise holds now" if ok else "not everything could be repaired; audit again"
            )
        elif not ok:
            write("repair with `queue-trio admin audit --repair`")
    return EXIT_OK if ok else EXIT_BROKEN


def _audit_json(report: AuditReport) -> dict[str, Any]:
    import msgspec

    queue, partition = _split(report.stats.lane)
    return {
        "queue": queue,
        "partition": partition,
        "ok": report.ok,
        "checked": report.checked,
        "violations": msgspec.to_builtins(report.violations),
        "stats": _stats_json(report.stats),
    }


def _show_audit(reports: list[AuditReport]) -> None:
    for report in reports:
        name, one = _name(report.stats.lane), report.stats
        wrong = len(report.violations)
        if report.ok:
            write(f"{name}: {counted(report.checked, 'job')} checked, every promise holds")
            continue
        write(
            f"{name}: {counted(report.checked, 'job')} checked, {wrong} {'is' if wrong == 1 else 'are'} wrong"
        )
        if wrong:
            write_table(
                (Column("job"), Column("problem"), Column("repaired")),
                [(violation.id, violation.problem, violation.repaired) for violation in report.violations],
            )
        if one.imbalance:
            jobs = counted(abs(one.imbalance), "job")
            what = f"{jobs} lost" if one.imbalance > 0 else f"{jobs} too many"
            write(
                f"{name}: the counts do not add up, {what}: {one.enqueued} enqueued, "
                f"{one.completed} completed, {one.cancelled} cancelled, {one.purged} purged, {report.live} there"
            )


# --- one look at Redis ---------------------------------------------------------------------------------------------


def _prepare(ctx: typer.Context) -> Settings:
    settings = read_settings(ctx)
    configure_logs(settings)
    return settings


def _ask(settings: Settings, question: Callable[[RedisStore], Awaitable[T]]) -> T:
    """What `question` finds out. Raises at once if Redis cannot be reached, and soon if it goes away."""
    import trio

    async def run() -> T:
        async with _store(settings) as store:
            return await question(store)

    return trio.run(run)


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[RedisStore]:
    import trio

    from queue_trio.cli.enqueue import reach
    from queue_trio.redis.client import Client
    from queue_trio.redis.store import RedisStore

    client = Client.from_settings(settings.redis, name="queue-trio:admin")
    try:
        await reach(client.connect)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, client)
            yield RedisStore(client, prefix=settings.redis.prefix)
            nursery.cancel_scope.cancel()
    finally:
        await client.aclose()


async def _give_up(client: Client) -> None:
    """Raise once Redis has been gone for too long: the calls themselves would wait for ever, as a worker's must."""
    import trio

    while True:
        await trio.sleep(PATIENCE_S / 10)
        since = client.down_since
        if since is not None and trio.current_time() - since > PATIENCE_S:
            raise NotSent(f"Redis went away and did not come back within {PATIENCE_S:g} s")


async def _lanes(store: RedisStore, queue: str | None) -> list[Lane]:
    """The lanes of `queue`, or all. Raises UsageError for a queue that has none."""
    from difflib import get_close_matches

    lanes = await store.lanes()
    if queue is None:
        return lanes
    found = [lane for lane in lanes if lane.queue == queue]
    if not found:
        known = sorted({lane.queue for lane in lanes})
        close = get_close_matches(queue, known, n=1)
        if close:
            hint = f"did you mean {close[0]}?"
        else:
            hint = f"there are {', '.join(known)}" if known else "there are no queues yet"
        raise UsageError(f"queue {queue!r} never had a job or a worker: {hint}")
    return found


def _say_empty(settings: Settings) -> None:
    from queue_trio.redis.endpoint import parse_url

    where = parse_url(settings.redis.url.get_secret_value()).display
    say(f"no queues yet: no job or worker ever came to {where} with the prefix {settings.redis.prefix!r}")
