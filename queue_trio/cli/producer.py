"""`queue-trio producer` enqueues the files of a folder; `queue-trio all` also runs them, in the same process."""

from __future__ import annotations

import math
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.errors import EXIT_INTERRUPTED, EXIT_OK, say
from queue_trio.cli.output import counted, write, write_json
from queue_trio.cli.state import open_app
from queue_trio.core.dequeue import PRIORITIES
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trio

    from queue_trio.app import App
    from queue_trio.client import QueueClient
    from queue_trio.core.settings import LogSettings
    from queue_trio.ops.http import HttpServer
    from queue_trio.runtime.producer import Producer, ProducerCounts
    from queue_trio.runtime.worker import Worker

REDRAW_S: Final = 0.2
LINE_S: Final = 5.0

Target = Annotated[
    str, typer.Argument(metavar="MODULE:APP", help="Where the App is; `:app` may be left out.")
]
TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="The task whose first parameter takes a path, or the last part of its name."
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to look through.")]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Files to take, relative to DIR, such as '**/*.py'. May be given several times."
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Files to leave out; wins over --include.")
]
Priorities = Annotated[
    list[str] | None,
    typer.Option(
        "--priority", metavar="EXT=NAME", help="Priority by extension, such as .py=high. Several times."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(metavar="N", help="Enqueue N files a second at most; by default as fast as it goes."),
]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(producer)
    cli.command("all")(produce_and_work)


def producer(
    ctx: typer.Context,
    target: Target,
    task: TaskName,
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with files that appear or change, until SIGTERM or Ctrl-C.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    priority: Priorities = None,
    rate: Rate = None,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as one JSON object.")] = False,
) -> int:
    """Enqueue one job for every file of a folder; one that has not changed since the last time is not enqueued again.

    While Redis is unreachable the producer waits for it. What cannot be read is reported, counted and left out.
    """
    app = open_app(ctx, target, _flags(include, exclude, priority))

    import trio

    run = _Run(app, task, folder, watch=watch, rate=rate)
    trio.run(run.produce)
    counts = run.counts
    if as_json:
        write_json(_as_json(counts))
    else:
        write(_summary(counts))
    return EXIT_INTERRUPTED if run.stopped and not watch else EXIT_OK


def produce_and_work(
    ctx: typer.Context,
    target: Target,
    task: TaskName,
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with files that appear or change.")] = False,
    include: Include = None,
    exclude: Exclude = None,
    priority: Priorities = None,
    rate: Rate = None,
) -> int:
    """A producer and a worker in one process, until SIGTERM or Ctrl-C; a second one cancels what still runs.

    Without --watch the folder is looked through once, and the worker goes on.
    """
    app = open_app(ctx, target, _flags(include, exclude, priority))

    import trio

    from queue_trio.cli.worker import freeze_heap
    from queue_trio.ops.service import open_http
    from queue_trio.runtime.worker import Worker

    run = _Run(app, task, folder, watch=watch, rate=rate)
    worker = Worker(app)
    http = open_http(worker)
    freeze_heap()
    trio.run(run.produce_and_work, worker, http)
    write(_summary(run.counts))
    return EXIT_OK


def _flags(
    include: list[str] | None, exclude: list[str] | None, priority: list[str] | None
) -> dict[str, Any]:
    by_extension: dict[str, str] = {}
    for word in priority or ():
        extension, separator, name = word.partition("=")
        if not separator or not extension.strip(".") or not name:
            raise UsageError(f"--priority {word}: write an extension and a priority, such as .py=high")
        if name not in PRIORITIES:
            raise UsageError(f"--priority {word}: choose one of {', '.join(PRIORITIES)}")
        by_extension[extension] = name
    return {
        "producer.include": include,
        "producer.exclude": exclude,
        "producer.priorities": by_extension or None,
    }


class _Run:
    """One run of either command. `stopped`: by a signal."""

    def __init__(self, app: App, task: str, folder: Path, *, watch: bool, rate: float | None) -> None:
        from queue_trio.cli.tasks import find_task
        from queue_trio.runtime.producer import ProducerCounts

        if rate is not None and not 0.001 <= rate < math.inf:
            raise UsageError(f"--rate {rate:g}: give files per second, 0.001 or more")
        self._app = app
        self._rate = rate
        self._task = find_task(app, task)
        self._folder = folder
        self._watch = watch
        self.counts = ProducerCounts()
        self.stopped = False

    async def produce(self) -> None:
        """The producer alone."""
        import trio

        async with self._app.client() as client:
            producer = self._producer(client)
            with _progress(self._app.settings.log, self.counts) as show:
                async with trio.open_nursery() as nursery:
                    await nursery.start(
                        self._watch_signals, nursery.cancel_scope.cancel, nursery.cancel_scope.cancel
                    )
                    nursery.start_soon(show)
                    await (producer.watch() if self._watch else producer.scan())
                    nursery.cancel_scope.cancel()

    async def produce_and_work(self, worker: Worker, http: HttpServer | None) -> None:
        """The producer and a worker: one nursery, one way to end."""
        import trio

        from queue_trio.ops.service import run_service

        async with self._app.client() as client:
            producer = self._producer(client)
            with _progress(self._app.settings.log, self.counts) as show:
                async with trio.open_nursery() as nursery:
                    producing = trio.CancelScope()

                    def stop() -> None:
                        producing.cancel()
                        worker.drain()

                    async def produce() -> None:
                        with producing:
                            await (producer.watch() if self._watch else producer.scan())

                    await nursery.start(self._watch_signals, stop, worker.cancel)
                    nursery.start_soon(show)
                    nursery.start_soon(produce)
                    await run_service(worker, http)
                    nursery.cancel_scope.cancel()

    def _producer(self, client: QueueClient) -> Producer:
        from queue_trio.runtime.producer import Producer

        settings = self._app.settings.producer
        producer = Producer(self._task, self._folder, client, settings, rate=self._rate)
        self.counts = producer.counts
        return producer

    async def _watch_signals(
        self,
        first: Callable[[], None],
        further: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        import trio

        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for _ in received:
                (further if self.stopped else first)()
                self.stopped = True


# --- what is shown -------------------------------------------------------------------------------------------------


def _summary(counts: ProducerCounts) -> str:
    parts = [
        f"{counted(counts.created, 'file')} enqueued",
        f"{counts.unchanged} unchanged since the last time",
    ]
    if counts.unsure:
        parts.append(f"{counts.unsure} either of the two, because a reply was lost")
    if counts.skipped:
        parts.append(f"{counts.skipped} skipped")
    return ", ".join(parts)


def _as_json(counts: ProducerCounts) -> dict[str, int]:
    return {
        "created": counts.created,
        "unchanged": counts.unchanged,
        "unsure": counts.unsure,
        "skipped": counts.skipped,
    }


@dataclass(slots=True)
class _Above:
    """A stream for the log that writes above what moves at the bottom of the terminal."""

    print_above: Callable[[str], None]

    def write(self, text: str) -> None:
        self.print_above(text)

    def flush(self) -> None:
        """Every write is shown at once."""

    def isatty(self) -> bool:
        return True


@contextmanager
def _progress(log: LogSettings, counts: ProducerCounts) -> Iterator[Callable[[], Any]]:
    """Sends the log where it belongs, and yields what shows how far it is until cancelled."""
    import trio

    from queue_trio.ops.logging import configure_logging

    def line() -> str:
        waiting = "waiting for Redis or for room in the queue · " if counts.waiting else ""
        return waiting + _summary(counts)

    if not sys.stderr.isatty():
        configure_logging(log)

        async def say_lines() -> None:
            said = ""
            while True:
                await trio.sleep(LINE_S)
                if line() != said:
                    said = line()
                    say(said)

        yield say_lines
        return

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    above: Any = _Above(lambda text: console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True))
    configure_logging(log, above)
    try:
        # It is drawn when we say so: no thread of rich's own.
        with Live(console=console, auto_refresh=False, transient=True) as live:

            async def draw() -> None:
                while True:
                    live.update(Text(line(), style="dim"), refresh=True)
                    await trio.sleep(REDRAW_S)

            yield draw
    finally:
        configure_logging(log)
