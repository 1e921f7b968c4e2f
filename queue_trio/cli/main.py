"""The command line: `queue-trio COMMAND`. Puts the commands together and turns whatever ends one into an exit code.

Each command module has a `register(cli)`, and imports what is heavy (trio, redis, the runtime) only when it runs.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

import queue_trio
from queue_trio.cli.errors import (
    EXIT_CODES,
    EXIT_OK,
    EXIT_OUTPUT_CLOSED,
    EXIT_USAGE,
    PROGRAM,
    report,
    say_error,
)
from queue_trio.cli.output import write
from queue_trio.cli.state import Globals

COMMANDS: Final = ("worker", "producer", "enqueue", "admin", "config", "check", "demo")
"""The modules of `queue_trio.cli` that bring commands, in the order of the help."""

_ANYWHERE: Final = ("--config", "--debug")

cli = typer.Typer(
    name=PROGRAM,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes:\n\n" + "\n\n".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        write(f"{PROGRAM} {queue_trio.__version__}")
        raise typer.Exit


@cli.callback()
def _global_options(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="Settings file, instead of ./queue-trio.yaml."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A Redis-backed, priority, at-least-once work queue with a Trio runtime.

    --config and --debug may also come after the command.
    """
    ctx.obj = Globals(config, debug)


for _name in COMMANDS:
    import_module(f"queue_trio.cli.{_name}").register(cli)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line, given without the program's name, and give its exit code."""
    options, rest = _hoisted(sys.argv[1:] if arguments is None else arguments)
    arguments = options + rest
    try:
        code = cli(arguments or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        if not arguments:
            return EXIT_USAGE
    except typer.TyperException as error:
        return _wrong_usage(error)
    except typer.Abort:
        say_error("nothing was done: you did not agree")
        return EXIT_USAGE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_OK
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends here as an exit code
        return report(error, debug="--debug" in options)
    return code if isinstance(code, int) else EXIT_OK


def run() -> None:
    """The console script."""
    code = main()
    if code == EXIT_OUTPUT_CLOSED:
        _forget_output()
    sys.exit(code)


def _hoisted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The global options, wherever people wrote them, and the rest."""
    first: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        if argument == "--":
            rest += arguments[at:]
            break
        if argument.partition("=")[0] in _ANYWHERE:
            taken = 2 if argument == "--config" else 1
            first += arguments[at : at + taken]
            at += taken
        else:
            rest.append(argument)
            at += 1
    return first, rest


def _wrong_usage(error: typer.TyperException) -> int:
    ctx = getattr(error, "ctx", None)
    hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
    say_error(error.format_message().rstrip(".") + hint)
    return error.exit_code


def _forget_output() -> None:
    """What is still buffered has no reader; without this, the interpreter would complain about it while it ends."""
    with Path("/dev/null").open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
