"""The command line, `python -m chaos`: puts the commands together, and turns what ends one into an exit code.

Exit codes: 0 if every verdict is what its scenario expects, 1 if one is not, 2 for a wrong command line, 3 for a
scenario or an environment that is not as it must be, 130 when interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

import typer

from chaos.cli.terminal import EXIT_CONFIG
from queue_trio.errors import ConfigError

COMMANDS: Final = ("scenarios", "fuzz", "mutants")
"""The modules of `chaos.cli` that bring commands, in the order of the help."""

cli = typer.Typer(
    name="chaos",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Break things around queue_trio, and judge from the outside whether it keeps its promises.",
)
for name in COMMANDS:
    import_module(f"chaos.cli.{name}").register(cli)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line, given without the program's name, and give its exit code."""
    try:
        code = cli(arguments, prog_name="python -m chaos", standalone_mode=False)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except typer.TyperException as error:
        sys.stderr.write(f"python -m chaos: {error.format_message()}\n")
        return error.exit_code
    return code if isinstance(code, int) else 0
