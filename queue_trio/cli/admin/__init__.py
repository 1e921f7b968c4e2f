"""`queue-trio admin ...`: looks into the queues, and repairs them. Needs settings only; fails at once without Redis.

One module for each group of commands, each with a `register(commands)`. What changes something asks first (`consent`)
and is written down (`acts`); what only looks changes nothing.
"""

from __future__ import annotations

import typer

from queue_trio.cli import bench
from queue_trio.cli.admin import audit, cancel, dead, inspection, pausing, peek, stats, trail, workers

commands = typer.Typer(help="Look into the queues, and repair them.")

for _module in (stats, peek, inspection, workers, pausing, cancel, dead, audit, trail, bench):
    _module.register(commands)


def register(cli: typer.Typer) -> None:
    """Add the group."""
    cli.add_typer(commands, name="admin")
