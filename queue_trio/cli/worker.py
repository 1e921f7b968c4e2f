"""`queue-trio worker module:app`: runs jobs until it is told to stop."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated

import typer

from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.state import configure_logs, log_doubts, open_app

if TYPE_CHECKING:
    from queue_trio.app import App
    from queue_trio.ops.http import HttpServer
    from queue_trio.runtime.worker import Worker


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(worker)


def worker(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="Where the App is; `:app` may be left out.")
    ],
    queues: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help='Queues to serve: "emails,default" in that order, or "emails:3,default:1".'
        ),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Jobs that run at once.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of those, in threads.")] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help="Of those, in processes.")] = None,
    lease: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds without a sign of life until others take its jobs."),
    ] = None,
    sweep_interval: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Seconds between looks for expired leases; at most a third of a lease."
        ),
    ] = None,
    shutdown_grace: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds that running jobs get to finish on SIGTERM.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How priorities are served: strict, weighted or looped."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Serve health, metrics and a page here; 0 picks a free port."),
    ] = None,
    http_host: Annotated[str | None, typer.Option(metavar="HOST", help="On this address.")] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Least severe level logged: debug, info, warning, error."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(metavar="NAME", help="auto, console or json.")] = None,
) -> int:
    """Run the jobs of an app's queues until SIGTERM or Ctrl-C; a second one cancels what still runs and gives it back.

    Without a flag, a setting comes from the environment, then queue-trio.yaml, then its default. While Redis is
    unreachable the worker waits for it.
    """
    flags = {
        "worker.queues": queues,
        "worker.concurrency": concurrency,
        "worker.threads": threads,
        "worker.processes": processes,
        "worker.lease": lease,
        "worker.sweep_interval": sweep_interval,
        "worker.shutdown_grace": shutdown_grace,
        "worker.dequeue_strategy": strategy,
        "http.port": http_port,
        "http.host": http_host,
        "log.level": log_level,
        "log.format": log_format,
    }
    app = open_app(ctx, target, flags)
    configure_logs(app.settings)
    log_doubts(app.settings)

    import trio

    from queue_trio.ops.service import open_http
    from queue_trio.runtime.worker import Worker

    _warn_of_idle_queues(app)
    running = Worker(app)
    http = open_http(running)
    freeze_heap()
    trio.run(run_with_signals, running, http)
    return EXIT_OK


def freeze_heap() -> None:
    """Take what is there for good out of the garbage collector's sight. For a process that is about to run for long.

    What was imported never becomes garbage, and looking through it stopped the event loop for 40 ms, now and then.
    """
    gc.collect()
    gc.freeze()


def _warn_of_idle_queues(app: App) -> None:
    """A queue that is served although no task is declared for it is misspelt, most of the time."""
    from difflib import get_close_matches

    import structlog

    from queue_trio.core.dequeue import LaneOrder

    known = {task.queue for task in app.tasks.values()}
    for queue in sorted(set(LaneOrder.parse(app.settings.worker.queues).order()) - known):
        close = get_close_matches(queue, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the tasks' queues are {', '.join(sorted(known))}"
        structlog.get_logger(__name__).warning("worker.queue_without_tasks", queue=queue, hint=hint)


async def run_with_signals(worker: Worker, http: HttpServer | None) -> None:
    """Run `worker` until a signal drains it."""
    import trio

    from queue_trio.ops.service import run_service
    from queue_trio.runtime.signals import watch_signals

    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, worker.drain, worker.cancel)
        await run_service(worker, http)
        nursery.cancel_scope.cancel()
