"""`queue-trio config ...`: what is wrong with the settings, what they are and who said so, and what there is to set.

Needs neither an app nor Redis. Nothing here shows a secret: URLs lose their password, other secrets are `***`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.errors import EXIT_OK, say, say_error
from queue_trio.cli.output import Column, counted, write, write_json, write_table
from queue_trio.cli.state import globals_of
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from queue_trio.config.load import Reading
    from queue_trio.config.problems import Origin, Problem
    from queue_trio.core.advice import Doubt
    from queue_trio.core.settings import Settings

_MASK: Final = "***"
_SET: Final = "*"
"""Stands before a setting that is not left to its default."""

commands = typer.Typer(help="Check the settings, and show where they come from.")

JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def register(cli: typer.Typer) -> None:
    """Add the group."""
    cli.add_typer(commands, name="config")


def _read(ctx: typer.Context) -> Reading:
    from queue_trio.config.load import inspect_settings

    return inspect_settings(globals_of(ctx).config)


# --- check ---------------------------------------------------------------------------------------------------------


@commands.command()
def check(
    ctx: typer.Context,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on what is doubtful too.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Tell everything that is wrong with the settings, then what is allowed but doubtful.

    Looks at the file and the environment. Exits with 3 if anything is wrong.
    """
    from queue_trio.core.advice import doubts

    reading = _read(ctx)
    doubtful = () if reading.settings is None else doubts(reading.settings)
    ok = not reading.problems and not (strict and doubtful)
    if as_json:
        write_json(_check_json(reading, doubtful, ok=ok))
    else:
        _say_findings(reading, doubtful, strict=strict)
        if ok:
            write(_all_well(reading, len(doubtful)))
    return EXIT_OK if ok else ConfigError.exit_code


def _say_findings(reading: Reading, doubtful: tuple[Doubt, ...], *, strict: bool) -> None:
    for problem in reading.problems:
        say_error(str(problem))
    for doubt in doubtful:
        line = f"{_named(doubt, reading)}: {doubt.message}"
        if strict:
            say_error(line)
        else:
            say(f"warning: {line}")


def _named(doubt: Doubt, reading: Reading) -> str:
    """The setting to change first, and the others that it is about if they were set, each with its place."""
    places = {setting: reading.origin(*setting.split(".")) for setting in doubt.settings}
    first = doubt.settings[0]
    return ", ".join(
        setting if origin is None else f"{setting} ({origin})"
        for setting, origin in places.items()
        if origin is not None or setting == first
    )


def _all_well(reading: Reading, warnings: int) -> str:
    given = {key[:2] for key in reading.origins if len(key) > 1}
    variables = len({key[:2] for key, origin in reading.origins.items() if origin.variable is not None})
    # What a variable replaces or changes is in the file all the same, but does not count as the file's.
    parts = [f"{counted(len(given) - variables, 'setting')} from {reading.file}"] if reading.file else []
    if variables or reading.file:
        parts.append(f"{variables} from the environment")
    found = ", ".join(parts) or "no file, no variable: every setting has its default"
    return f"ok: {found}" + (f"; {counted(warnings, 'warning')}" if warnings else "")


def _check_json(reading: Reading, doubtful: tuple[Doubt, ...], *, ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "file": None if reading.file is None else str(reading.file),
        "errors": [_problem_json(problem) for problem in reading.problems],
        "warnings": [
            {
                "keys": list(doubt.settings),
                "places": [_place_json(reading.origin(*setting.split("."))) for setting in doubt.settings],
                "message": doubt.message,
            }
            for doubt in doubtful
        ],
    }


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {
        "key": problem.key or None,
        "place": _place_json(problem.origin),
        "message": problem.reason,
        "value": problem.value,
        "allowed": problem.allowed,
        "did_you_mean": problem.suggestion,
    }


def _place_json(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    if origin.variable is not None:
        return {"variable": origin.variable}
    return {"file": str(origin.file), "line": origin.line}


# --- show ----------------------------------------------------------------------------------------------------------


@commands.command()
def show(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those that are left to their default too.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show what is set, and where: in a line of the file or in a variable. As JSON, show every setting."""
    from queue_trio.config.schema import sections

    reading = _read(ctx)
    if reading.problems or reading.settings is None:
        raise reading.error()
    keys = [(section, setting) for section, model in sections().items() for setting in model.model_fields]
    if as_json:
        write_json(
            {"file": None if reading.file is None else str(reading.file), "settings": _json(reading, keys)}
        )
        return EXIT_OK
    given = {key for key in keys if _places(reading, key)}
    rows = [
        (
            _SET if key in given else "",
            ".".join(key),
            _text(_masked(reading.settings, *key)),
            ", ".join(map(str, _places(reading, key))) or "default",
        )
        for key in keys
        if every or key in given
    ]
    if rows:
        # The mark is what makes a setting stand out in a pipe as on any terminal.
        write_table([Column(""), Column("setting", whole=True), Column("value"), Column("from")], rows)
    if len(rows) < len(keys):
        left = (
            "every setting has its default"
            if not rows
            else f"{len(keys) - len(rows)} more have their default"
        )
        say(f"{left}: --all shows them")
    return EXIT_OK


def _json(reading: Reading, keys: list[tuple[str, str]]) -> dict[str, Any]:
    from queue_trio.core.settings import Settings

    assert reading.settings is not None
    return {
        ".".join(key): {
            "value": _masked(reading.settings, *key),
            "default": _masked(Settings(), *key),
            "from": [_place_json(place) for place in _places(reading, key)],
        }
        for key in keys
    }


def _places(reading: Reading, key: tuple[str, str]) -> list[Origin]:
    """Where a setting was written; several places if it is a mapping that was put together. None: it is the default."""
    inside = [origin for at, origin in reading.origins.items() if at[:2] == key and len(at) == 3]
    whole = reading.origins.get(key)
    if whole is not None and all(origin.variable is None for origin in inside):
        return [whole]  # its own line says enough
    return list(dict.fromkeys(inside or ([] if whole is None else [whole])))


def _masked(settings: Settings, section: str, setting: str) -> Any:
    """A value as JSON has it, without what is secret."""
    from pydantic import SecretStr

    from queue_trio.config.schema import plain
    from queue_trio.ops.logging import mask

    value = getattr(getattr(settings, section), setting)
    if (section, setting) == ("redis", "url"):
        return mask(plain(value))
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, dict):
        return {str(name): _MASK if isinstance(v, SecretStr) else plain(v) for name, v in value.items()}
    return plain(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


# --- what there is to set ------------------------------------------------------------------------------------------


@commands.command()
def schema() -> int:
    """Print the JSON Schema of the settings file, for editors and for checks elsewhere."""
    from queue_trio.config.schema import json_schema

    write_json(json_schema())
    return EXIT_OK


@commands.command()
def example() -> int:
    """Print a settings file with every setting as a comment: what it is for, what it may be, its default."""
    from queue_trio.config.docs import example

    write(example().rstrip("\n"))
    return EXIT_OK
