"""`queue-trio admin audit`: is every job in exactly one place, do the counts add up; and with --repair, make it so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
from queue_trio.cli.admin.reaching import Reach, ask, prepare, queue_name, say_empty, split_lane
from queue_trio.cli.admin.stats import stats_json
from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK
from queue_trio.cli.output import Column, counted, write, write_json, write_table

if TYPE_CHECKING:
    from queue_trio.core.store import AuditReport


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(audit)


def audit(
    ctx: typer.Context,
    queue: QueueArgument = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is wrong; asks first.")] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    who: AsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check that every job is in exactly one place and that the counts add up. Exit code 1 if that is not so."""
    settings = prepare(ctx)

    async def check(redis: Reach, *, repair: bool = False) -> list[AuditReport]:
        return [await redis.store.audit(lane, repair=repair) for lane in await redis.lanes(queue)]

    async def put_right(redis: Reach) -> tuple[list[AuditReport], list[AuditReport]]:
        async with written_down(redis, Act("audit --repair", queue, who)) as act:
            repaired = await check(redis, repair=True)
            after = await check(redis)
            act.counts = {"violations": sum(len(report.violations) for report in repaired)}
            if not all(report.ok for report in after):
                act.outcome = "not everything could be repaired"
            return repaired, after

    if repair:
        demand_consent("--repair changes the queues", yes=yes, dry_run=dry_run, as_json=as_json)
    reports = ask(settings, check)
    after = None
    if repair and not dry_run and not all(report.ok for report in reports):
        if not yes:
            _show_audit(reports)
            agree("Repair?")
        reports, after = ask(settings, put_right)
    ok = all(report.ok for report in (reports if after is None else after))
    if as_json:
        write_json({"ok": ok, "queues": [_audit_json(report) for report in reports]})
    elif not reports:
        say_empty(settings)
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

    queue, partition = split_lane(report.stats.lane)
    return {
        "queue": queue,
        "partition": partition,
        "ok": report.ok,
        "checked": report.checked,
        "violations": msgspec.to_builtins(report.violations),
        "stats": stats_json(report.stats),
    }


def _show_audit(reports: list[AuditReport]) -> None:
    for report in reports:
        name, one = queue_name(report.stats.lane), report.stats
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
