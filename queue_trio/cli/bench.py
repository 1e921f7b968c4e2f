"""`queue-trio admin bench`: what this machine does with jobs that do nothing, and how many workers a load needs.

Measures on a private server that it starts, never on the configured one, and reads no settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.output import Column, counted, progress, write, write_json, write_table
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from queue_trio.bench import Results
    from queue_trio.core.capacity import Need

_HINT: Final = "--load needs --job-ms, the time a job takes on average, and the other way round"


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(bench)


def bench(
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="S", help="How long to measure, roughly.")
    ] = 10.0,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, metavar="N", help="Jobs of a round; by default what fits the time."
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="Jobs that run at once.")
    ] = 32,
    load: Annotated[
        float | None, typer.Option(min=0.001, metavar="N", help="Say what N jobs a second need.")
    ] = None,
    job_ms: Annotated[
        float | None, typer.Option(min=0, metavar="MS", help="For --load: how long a job takes on average.")
    ] = None,
    cpu_ms: Annotated[
        float, typer.Option(min=0, metavar="MS", help="For --load: how much of that it computes, in Python.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> int:
    """Measure no-op jobs on this machine, on a private Redis, and say how many workers a load needs.

    The rates are those of one worker process, with the client and Redis on the same machine. --load N --job-ms M adds
    how many processes and which concurrency N jobs a second of M ms need, with headroom of 50 %.
    """
    if (load is None) != (job_ms is None):
        raise UsageError(_HINT)
    if cpu_ms > (job_ms or 0.0):
        raise UsageError("--cpu-ms is a part of --job-ms and cannot be more")

    import trio

    from queue_trio.bench import measure
    from queue_trio.core.capacity import workers_for
    from queue_trio.core.settings import LogSettings
    from queue_trio.ops.logging import configure_logging

    configure_logging(LogSettings(level="error"))
    with progress("measuring") as tell:

        async def run() -> Results:
            return await measure(seconds=seconds, jobs=jobs, concurrency=concurrency, tell=tell)

        results = trio.run(run)
    need = None
    if load is not None and job_ms is not None:
        need = workers_for(
            load,
            job_s=job_ms / 1000,
            cpu_s=cpu_ms / 1000,
            run_per_s=results.median("run_jobs_per_s"),
            pickup_s=results.median("pickup_p50_ms") / 1000,
        )
    if as_json:
        write_json(
            _json(results) | ({} if need is None else {"need": _need_json(results, need, load or 0.0)})
        )
        return EXIT_OK
    _show(results)
    if need is not None and load is not None and job_ms is not None:
        _show_need(results, need, load, job_ms, cpu_ms)
    return EXIT_OK


def _json(results: Results) -> dict[str, Any]:
    return {
        "server": results.server,
        "python": results.python,
        "cores": results.cores,
        "jobs": results.jobs,
        "rounds": results.rounds,
        "seconds": round(results.seconds, 3),
        "figures": {
            name: {"median": results.median(name), "min": min(samples), "max": max(samples)}
            for name, samples in results.figures.items()
        },
    }


def _need_json(results: Results, need: Need, load: float) -> dict[str, Any]:
    return {
        "processes": need.processes,
        "concurrency": need.concurrency,
        "in_flight": need.in_flight,
        "busy_processes": need.busy,
        "redis_busy": _redis_busy(results, load),
    }


def _show(results: Results) -> None:
    from queue_trio.bench import LABELS

    columns = [
        Column("figure", whole=True),
        *(Column(name, number=True) for name in ("median", "min", "max")),
    ]
    rows = [
        (label, *map(_number, (results.median(name), min(samples), max(samples))))
        for name, label in LABELS.items()
        if (samples := results.figures.get(name))
    ]
    write_table(columns, rows)
    write(
        f"{results.server}, Python {results.python}, {counted(results.cores, 'core')}, {results.seconds:.1f} s: "
        f"{results.jobs:,} jobs in {counted(results.rounds, 'round')}, each ran exactly once."
    )


def _number(value: float) -> str:
    """Three figures that count, and whole numbers from a hundred on."""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 2 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{min(digits, 4)}f}"


def _show_need(results: Results, need: Need, load: float, job_ms: float, cpu_ms: float) -> None:
    from queue_trio.core.capacity import HEADROOM

    run, pickup_ms = results.median("run_jobs_per_s"), results.median("pickup_p50_ms")
    redis_us, redis_busy = results.median("redis_cpu_us_per_job"), _redis_busy(results, load)
    factor, slots = 1 + HEADROOM, f"{_number(need.in_flight)} jobs"
    workers = "1 worker process" if need.processes == 1 else f"{need.processes} worker processes, each"
    computing = f" + {cpu_ms:g} ms" if cpu_ms else ""
    cores = f"; this machine has {counted(results.cores, 'core')}" if need.processes > results.cores else ""
    too_much = ": too much for one Redis" if redis_busy * factor > 1 else ""
    write(
        f"\n{load:g} jobs/s of {job_ms:g} ms: {workers} with --concurrency {need.concurrency}, {HEADROOM:.0%} headroom"
    )
    write(
        f"  at once    {load:g}/s × ({job_ms:g} ms + {_number(pickup_ms)} ms pickup) = {slots}; "
        f"× {factor:g} / {need.processes} = {need.concurrency}"
    )
    write(
        f"  processes  {load:g}/s × (1 / {_number(run)}/s{computing}) = {_number(need.busy)} busy; "
        f"× {factor:g} = {_number(need.busy * factor)}{cores}"
    )
    write(
        f"  Redis      {load:g}/s × {_number(redis_us)} µs = {_number(redis_busy * 100)} % of its one core{too_much}"
    )
    if not cpu_ms:
        write("Jobs are taken to wait and not to compute; --cpu-ms says how much of their time they do.")


def _redis_busy(results: Results, load: float) -> float:
    return load * results.median("redis_cpu_us_per_job") / 1e6
