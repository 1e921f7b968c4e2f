"""`queue-trio demo`: the whole queue at work on real files, with a server of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from queue_trio.cli.output import write_json

PIPE_WIDTH = 120
"""Characters of a line where there is no terminal to say."""


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(demo)


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="The files to take; by default those of Python's standard library."
        ),
    ] = None,
    crash: Annotated[bool, typer.Option("--crash", help="Kill one worker with SIGKILL half way.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Worker processes.")] = 2,
    slow: Annotated[int, typer.Option(min=0, metavar="MS", help="Let every job take at least so long.")] = 0,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where the manifest goes; by default a new temporary file."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with the workers' logs and results.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
    svg: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Show the queue at work on this machine: one job for every file of a folder, and proof that all came out right.

    Starts a private Redis, worker processes and a producer; nothing of them is left at the end, or after Ctrl-C. Exits
    with 1 if the result is not what reading the same files directly gives.
    """
    import trio
    from rich.console import Console

    from queue_trio.core.settings import LogSettings
    from queue_trio.demo.display import print_summary, save_svg
    from queue_trio.demo.run import Options, run_demo
    from queue_trio.ops.logging import configure_logging

    configure_logging(LogSettings(level="error"))
    options = Options(folder=folder, crash=crash, workers=workers, slow_ms=slow, manifest=manifest, keep=keep)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    report = trio.run(run_demo, options, console)
    if as_json:
        write_json(report.to_json())
    else:
        print_summary(console, report)
    if svg is not None:
        save_svg(svg, report)
    return report.exit_code
