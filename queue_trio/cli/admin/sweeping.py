"""How purge-dlq and replay-dlq go about it: count what is meant, ask, then act batch by batch, and say what was done.

Knows the order of things; what is done to a batch is a `Deed`. A Ctrl-C lets the batch under way end, so what is said
is what is so; a second one does not wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from queue_trio.cli.admin.acts import Act, written_down
from queue_trio.cli.admin.consent import agree, demand_consent
from queue_trio.cli.admin.filters import Filters, Tally
from queue_trio.cli.admin.reaching import Reach, ask, stop_on_signals
from queue_trio.cli.admin.sifting import Sifter
from queue_trio.cli.errors import EXIT_OK, leaves, say
from queue_trio.cli.output import Column, counted, progress, write, write_json, write_table
from queue_trio.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from queue_trio.cli.admin.sifting import Dead
    from queue_trio.core.job import Lane
    from queue_trio.core.settings import Settings

KINDS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. `verb` and `past`: such as "purge" and "purged"."""

    verb: str
    past: str
    queue: str | None
    filters: Filters
    limit: int | None
    yes: bool
    dry_run: bool
    who: str | None
    as_json: bool

    @property
    def command(self) -> str:
        return f"{self.verb}-dlq"


@dataclass(slots=True)
class Done:
    """What was done so far. `gone`: jobs that were meant, but that somebody else had replayed or purged by then."""

    tally: Tally = field(default_factory=Tally)
    begun: bool = False
    gone: int = 0
    interrupted: bool = False

    def count(self, lane: Lane, batch: Sequence[Dead], accepted: Sequence[bool]) -> None:
        """Count a batch by what the store answered."""
        for (job, kind), did in zip(batch, accepted, strict=True):
            if did:
                self.tally.add(lane.queue, kind, job.at_ms)
            else:
                self.gone += 1


class Deed(Protocol):
    """What is done to the jobs that are meant."""

    def details(self, *, ended: bool) -> dict[str, Any]:
        """What the audit trail should know besides the filters: what is intended, or when it has ended, what is so."""
        ...

    def remark(self) -> str:
        """What to say at the end, such as where the jobs are now; or nothing."""
        ...

    async def act(
        self, redis: Reach, lane: Lane, batch: Sequence[Dead], done: Done, stop: trio.Event
    ) -> None:
        """Act on at most MAX_BATCH jobs and count them in `done`. May end early once `stop` is set."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


def sweep(settings: Settings, plan: Plan, deed: Deed) -> int:
    """Do it, from the question to the answer, and give the exit code."""
    meant, asked_ms = None, None
    if plan.dry_run or not plan.yes:
        meant, asked_ms = _survey(settings, plan)
        if plan.dry_run or not meant.total:
            _tell(plan, deed, Done(), meant)
            return EXIT_OK
        _show_kinds(meant)
        agree(f"{plan.verb.capitalize()} {counted(meant.total, 'dead job')}?")
    done = Done()
    try:
        ask(settings, lambda redis: _act(redis, plan, deed, done, meant, asked_ms))
    except BaseException as error:
        if done.begun:
            _note_how_far(error, plan, deed, done)
        raise
    finally:
        deed.close()
    _tell(plan, deed, done, meant)
    if done.interrupted:
        raise KeyboardInterrupt
    return EXIT_OK


def _note_how_far(error: BaseException, plan: Plan, deed: Deed, done: Done) -> None:
    """People need to know how far it got, whatever ended it."""
    causes = list(leaves(error))
    # A call that was cut off, by an outage or a second Ctrl-C, may have reached the server.
    doubt = any(isinstance(cause, InfrastructureError | KeyboardInterrupt) for cause in causes)
    text = f"{counted(done.tally.total, 'job')} {plan.past} before that{', and maybe one batch more' * doubt}"
    if deed.remark():
        text += f"; {deed.remark()}"
    for cause in causes:
        cause.add_note(text)
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        say(f"interrupted in the middle of a batch: {text}")


def _survey(settings: Settings, plan: Plan) -> tuple[Tally, int]:
    """What is meant, and the server's time of that."""

    async def count(redis: Reach) -> tuple[Tally, int]:
        tally, now_ms = Tally(), await redis.now_ms()
        sifter = await _sifter(redis, plan, plan.limit, now_ms)
        with progress("counting the dead jobs") as tell:
            while (page := await sifter.page()) is not None:
                lane, batch = page
                for job, kind in batch:
                    tally.add(lane.queue, kind, job.at_ms)
                tell(f"{counted(sifter.looked, 'dead job')} looked at, {tally.total} fit")
        return tally, now_ms

    return ask(settings, count)


async def _act(
    redis: Reach, plan: Plan, deed: Deed, done: Done, meant: Tally | None, asked_ms: int | None
) -> None:
    # As of when it was asked: nobody agreed to jobs that died, or came of age, while the question stood there.
    now_ms = await redis.now_ms() if asked_ms is None else asked_ms
    sifter = await _sifter(redis, plan, meant.total if meant else plan.limit, now_ms)
    of_all = f" of {meant.total}" if meant else ""
    limit = {} if plan.limit is None else {"limit": plan.limit}
    filters = plan.filters.as_json() | limit
    details = ({"filters": filters} if filters else {}) | deed.details(ended=False)
    async with (
        stop_on_signals() as stop,
        written_down(redis, Act(plan.command, plan.queue, plan.who, details)) as act,
    ):
        done.begun = True
        try:
            await _sweep_pages(redis, sifter, plan, deed, done, stop, of_all)
        finally:
            # However it ends, the trail's last entry tells what was done.
            act.counts = {plan.past: done.tally.total}
            act.details |= deed.details(ended=True)
        if stop.is_set():
            done.interrupted = True
            act.outcome = "interrupted"


async def _sweep_pages(
    redis: Reach, sifter: Sifter, plan: Plan, deed: Deed, done: Done, stop: trio.Event, of_all: str
) -> None:
    with progress(f"{plan.verb} dead jobs") as tell:
        while not stop.is_set() and (page := await sifter.page()) is not None:
            lane, batch = page
            if batch:
                await deed.act(redis, lane, batch, done, stop)
            tell(f"{done.tally.total}{of_all} {plan.past}, {counted(sifter.looked, 'dead job')} looked at")


async def _sifter(redis: Reach, plan: Plan, limit: int | None, now_ms: int) -> Sifter:
    lanes = await redis.lanes(plan.queue)
    return Sifter(redis.operations, lanes, plan.filters, now_ms=now_ms, limit=limit)


# --- what is shown -------------------------------------------------------------------------------------------------


def _tell(plan: Plan, deed: Deed, done: Done, meant: Tally | None) -> None:
    if plan.as_json:
        shown = meant if plan.dry_run and meant is not None else done.tally
        write_json(
            {
                "dry_run": plan.dry_run,
                "matched": shown.total + done.gone,
                plan.past: done.tally.total,
                "gone": done.gone,
                "interrupted": done.interrupted,
                **deed.details(ended=True),
                "kinds": shown.as_json(),
            }
        )
        return
    if plan.dry_run and meant is not None and meant.total:
        _show_kinds(meant)
        write(f"{counted(meant.total, 'dead job')} would be {plan.past}; nothing was changed")
        return
    if not done.tally.total and not done.interrupted:
        which = "no dead jobs" + (f" in queue {plan.queue}" if plan.queue else "")
        fit = " that fit" if plan.filters.as_json() else ""
        gone = f"; {done.gone} were gone by then" if done.gone else ""
        write(f"{which}{fit}: nothing to {plan.verb}{gone}")
        return
    if meant is None and done.tally.total:
        _show_kinds(done.tally)
    parts = [f"{counted(done.tally.total, 'job')} {plan.past}"]
    if done.interrupted:
        parts[0] = f"interrupted: {parts[0]}, the rest is as it was"
    if done.gone:
        parts.append(f"{done.gone} were gone by then")
    if deed.remark():
        parts.append(deed.remark())
    (say if done.interrupted else write)("; ".join(parts))


def _show_kinds(tally: Tally) -> None:
    several = len({queue for queue, _ in tally.kinds}) > 1
    columns = [Column("jobs", number=True), Column("task"), Column("error")]
    rows: list[list[object]] = [[count, kind.task, kind.error] for (_, kind), count in _top(tally)]
    if several:
        columns.insert(1, Column("queue"))
        for row, ((queue, _), _count) in zip(rows, _top(tally), strict=True):
            row.insert(1, queue)
    write_table(columns, rows)
    more = len(tally.kinds) - KINDS_SHOWN
    if more > 0:
        write(f"and {counted(more, 'kind')} more")


def _top(tally: Tally) -> list[tuple[tuple[str, Any], int]]:
    return tally.kinds.most_common(KINDS_SHOWN)


def demand(plan: Plan) -> None:
    """Raises UsageError where nobody agreed and nobody can be asked."""
    what = "purge-dlq takes jobs away" if plan.verb == "purge" else "replay-dlq runs jobs again"
    demand_consent(what, yes=plan.yes, dry_run=plan.dry_run, as_json=plan.as_json)
