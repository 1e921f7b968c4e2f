"""`queue-trio enqueue module:app`: one job from arguments, or many from lines of JSON. Fails at once without Redis."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from queue_trio.cli.errors import EXIT_ARGUMENTS, EXIT_OK, mask, say, write_error
from queue_trio.cli.output import counted, write, write_json
from queue_trio.cli.state import configure_logs, open_app
from queue_trio.errors import InfrastructureError, InvalidArguments, JobError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queue_trio.app import App, Job
    from queue_trio.cli.lines import RawLine, Source
    from queue_trio.client import QueueClient
    from queue_trio.submission import JobId

STDIN = "-"


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(enqueue)


def enqueue(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="Where the App is; `:app` may be left out.")
    ],
    task: Annotated[
        str | None,
        typer.Argument(metavar="[TASK]", help="The task's name, or the last part of it; - is --stdin."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARGUMENT]...",
            help="name=value, where a value that reads as JSON is JSON; or one JSON object or array with all of them.",
        ),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "--stdin",
            help='Read jobs from standard input, one JSON object a line: {"task": ..., "args": {...}}, and if '
            "wanted id, priority, delay, timeout, max_retries, keep_result, unique_for, headers.",
        ),
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write bad lines to standard error as JSON and go on; exit 7.")
    ] = False,
    job_id: Annotated[
        str | None, typer.Option("--id", help="The job's id; a second job of that id is none.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="NAME", help="critical, high, normal or low.")
    ] = None,
    delay: Annotated[float | None, typer.Option(metavar="S", help="Seconds until it may run.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds it may run.")] = None,
    max_retries: Annotated[int | None, typer.Option(metavar="N", help="How often it is run again.")] = None,
    wait_if_full: Annotated[
        bool,
        typer.Option(
            "--wait-if-full", help="Wait for room in a full queue, for up to client.timeout seconds a batch."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each job.")] = False,
) -> int:
    """Queue one job, or those that standard input describes.

    Prints the job's id. From standard input, every thousand lines are checked before any of them is queued; a bad line
    ends the run and says what is queued already.
    """
    chosen = {
        "id": job_id,
        "priority": priority,
        "delay": delay,
        "timeout": timeout,
        "max_retries": max_retries,
    }
    options = {name: value for name, value in chosen.items() if value is not None}
    from_stdin = stdin or task == STDIN
    if from_stdin and (arguments or options):
        raise UsageError("with --stdin, arguments and options of a job belong into its line")
    if not from_stdin and task is None:
        raise UsageError("name a task, or use --stdin")
    if not from_stdin and skip_bad:
        raise UsageError("--skip-bad goes with --stdin")
    # Without it, as the settings say: QUEUE_TRIO_CLIENT__ON_FULL.
    app = open_app(ctx, target, {"client.on_full": "wait" if wait_if_full else None})
    configure_logs(app.settings)

    import trio

    if from_stdin:
        default = None if task in (None, STDIN) else task
        return trio.run(_Feed(app, default, skip_bad=skip_bad, as_json=as_json).run)
    assert task is not None
    job = _job_from_words(app, task, arguments or [], options)
    trio.run(_enqueue_one, app, job, as_json)
    return EXIT_OK


def _job_from_words(app: App, task: str, words: list[str], options: dict[str, Any]) -> Job:
    from queue_trio.cli.tasks import find_task, make_job, parse_arguments, quote_hint

    found = find_task(app, task)
    try:
        return make_job(found, parse_arguments(found, words), options)
    except InvalidArguments as error:
        hint = quote_hint(error)
        if hint:
            error.add_note(hint)
        raise


async def _enqueue_one(app: App, job: Job, as_json: bool) -> None:
    async with app.client() as client:
        await reach(client.connect)
        job_id = await client.enqueue(job)
    if as_json:
        write_json(_as_json(job, job_id), indent=None)
        return
    write(job_id)
    if not job_id.created:
        say(f"a job with the id {job_id} is there already: nothing was added")


def _as_json(job: Job, job_id: JobId) -> dict[str, Any]:
    return {"id": str(job_id), "task": job.task.name, "queue": job.task.queue, "created": job_id.created}


async def reach(connect: Callable[[], Any]) -> None:
    """Call `connect`; if Redis cannot be reached, the error says which setting to look at."""
    from queue_trio.errors import TransportError

    try:
        await connect()
    except TransportError as error:
        error.add_note("start Redis there, or correct redis.url (QUEUE_TRIO_REDIS__URL)")
        raise


@dataclass(slots=True)
class _Counts:
    created: int = 0
    duplicates: int = 0
    bad: int = 0
    last_line: int = 0

    @property
    def queued(self) -> int:
        return self.created + self.duplicates


class _Feed:
    """One run over standard input."""

    def __init__(self, app: App, default_task: str | None, *, skip_bad: bool, as_json: bool) -> None:
        from queue_trio.cli.lines import line_max_of

        self._app = app
        self._default_task = default_task
        self._skip_bad = skip_bad
        self._as_json = as_json
        self._line_max = line_max_of(app.settings.client.max_payload)
        self._counts = _Counts()

    async def run(self) -> int:
        """Queue everything. Raises what is wrong with a line, or with Redis, noting how far it got."""
        from queue_trio.cli.lines import read_batches

        counts = self._counts
        async with self._app.client() as client:
            await reach(client.connect)
            with _progress(counts) as show:
                try:
                    # Reading blocks the event loop: while there is nothing to queue, nothing else is to be done.
                    for batch in read_batches(cast("Source", sys.stdin.buffer), line_max=self._line_max):
                        await self._queue(client, batch)
                        show()
                except KeyboardInterrupt:
                    say(f"interrupted: {self._progress_so_far()}")
                    raise
        self._summarise()
        return EXIT_ARGUMENTS if counts.bad else EXIT_OK

    async def _queue(self, client: QueueClient, batch: list[RawLine]) -> None:
        counts = self._counts
        jobs = [job for raw in batch if (job := self._job(raw, batch[0].number)) is not None]
        try:
            ids = await client.enqueue_many(jobs)
        except (InfrastructureError, JobError, InvalidArguments) as error:
            error.add_note(
                f"{self._progress_so_far()}; those from line {batch[0].number} on may or may not be"
            )
            error.add_note("with an id in every line, sending all of them again is safe")
            raise
        created = sum(job_id.created for job_id in ids)
        counts.created += created
        counts.duplicates += len(ids) - created
        counts.last_line = batch[-1].number
        if self._as_json:
            for job, job_id in zip(jobs, ids, strict=True):
                write_json(_as_json(job, job_id), indent=None)

    def _job(self, raw: RawLine, first_line: int) -> Job | None:
        from queue_trio.cli.lines import job_from_line

        try:
            job = job_from_line(self._app, raw, default_task=self._default_task, line_max=self._line_max)
            self._check_size(job)
            return job
        except UsageError as error:
            if self._skip_bad:
                self._counts.bad += 1
                # The text as it came, secrets and all: it is there to be corrected and sent again.
                text = raw.text.decode("utf-8", "backslashreplace")
                write_error(json.dumps({"line": raw.number, "reason": mask(str(error)), "text": text}))
                return None
            error.args = (f"standard input, line {raw.number}: {error}",)
            error.add_note(
                f"{self._progress_so_far()}, nothing from line {first_line} on; "
                f"correct the line and send those from {first_line} on, or use --skip-bad"
            )
            raise

    def _check_size(self, job: Job) -> None:
        """Raises PayloadTooLarge for this line, rather than later for the whole batch."""
        from queue_trio.submission import prepare

        if len(job.arguments) > self._app.settings.client.max_payload // 2:
            prepare(job, now_ms=0, max_payload=self._app.settings.client.max_payload)

    def _progress_so_far(self) -> str:
        if not self._counts.last_line:
            return "no job is queued yet"
        return f"{counted(self._counts.queued, 'job')} queued, up to line {self._counts.last_line}"

    def _summarise(self) -> None:
        counts = self._counts
        if self._as_json:
            summary = {"created": counts.created, "duplicates": counts.duplicates, "bad": counts.bad}
            write_json({"summary": summary}, indent=None)
            return
        there = f", {counts.duplicates} were there already" if counts.duplicates else ""
        bad = f", {counted(counts.bad, 'bad line')} skipped" if counts.bad else ""
        write(f"{counted(counts.created, 'job')} queued{there}{bad}")


@contextmanager
def _progress(counts: _Counts) -> Iterator[Callable[[], None]]:
    """Shows on a terminal how far it is; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading standard input") as status:
        yield lambda: status.update(f"{counted(counts.queued, 'job')} queued")
