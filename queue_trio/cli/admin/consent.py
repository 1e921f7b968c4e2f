"""The options that commands share, and how those that change something get leave to: asked, or given with --yes."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer

from queue_trio.errors import UsageError

QueueArgument: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[QUEUE]", help="Only this queue, not all.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done; change nothing.")
]
AsOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Who does this, for the audit trail, instead of user@host."),
]


def demand_consent(what: str, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Raises UsageError where nobody can be asked and nobody agreed. Before anything is looked at."""
    if not (yes or dry_run) and (as_json or not sys.stdin.isatty()):
        raise UsageError(f"{what}: add --yes, or --dry-run to see first what would be done")


def agree(question: str) -> None:
    """Ask on the terminal. Raises typer.Abort unless the answer is yes."""
    typer.confirm(question, abort=True, err=True)
