"""What every command knows from the global options, and how settings come together for it.

Precedence: the command's own flags, then the environment, then the YAML file, then the defaults. An app that was built
with `settings=` keeps those in the place of the environment and the file, unless `--config` names a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from queue_trio.errors import ConfigError
from queue_trio.masking import learn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import typer

    from queue_trio.app import App
    from queue_trio.core.settings import Settings

_FLAGS: Final = {"worker.dequeue_strategy": "--strategy", "producer.priorities": "--priority"}
"""The options that are not named as their setting is."""


@dataclass(slots=True)
class Globals:
    """The options before the command."""

    config: Path | None = None
    debug: bool = False


def globals_of(ctx: typer.Context) -> Globals:
    """The global options of this run."""
    found = ctx.find_root().obj
    return found if isinstance(found, Globals) else Globals()


def read_settings(ctx: typer.Context, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a command without an app. `flags`: see `with_flags`. Raises ConfigError."""
    from queue_trio.config.load import load_settings

    settings = with_flags(load_settings(globals_of(ctx).config), flags or {})
    learn(settings)
    return settings


def open_app(ctx: typer.Context, target: str, flags: Mapping[str, Any] | None = None) -> App:
    """Load `module:app` and give it the settings of this run. Raises AppLoadError and ConfigError."""
    from queue_trio.cli.loading import load_app
    from queue_trio.config.load import FILE_VARIABLE, load_settings

    config = globals_of(ctx).config
    if config is not None:
        # The module may ask for its settings while it is imported, and process handlers import it again.
        os.environ[FILE_VARIABLE] = str(config.absolute())
    app = load_app(target)
    if config is not None or not app.is_configured:
        app.configure(load_settings(config))
    app.configure(with_flags(app.settings, flags or {}))
    learn(app.settings)
    return app


def with_flags(settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """`settings` with those `flags` ("worker.lease": value) that are not None. Raises ConfigError, naming the flag."""
    from pydantic import ValidationError

    from queue_trio.config.schema import is_secret
    from queue_trio.core.settings import Settings

    given = {name: value for name, value in flags.items() if value is not None}
    if not given:
        return settings
    values = settings.model_dump(exclude_unset=True)  # so that it is still known what was set
    for name, value in given.items():
        section, _, key = name.partition(".")
        values.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_context=False):
            loc = [str(part) for part in problem["loc"] if part != "[key]"]
            name, inside = ".".join(loc[:2]), loc[2:]
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if name in given:
                at = " ".join([flag_of(name), *inside])
                shown = "" if is_secret(name.split(".")) else f"is {problem['input']!r}, "
                lines.append(f"{at}: {shown}{message}")
            else:  # two settings that contradict each other, one of them from a flag
                flag_names = ", ".join(flag_of(other) for other in given if other.startswith(f"{name}."))
                lines.append(f"{flag_names or 'settings'}: {name}: {message}")
        raise ConfigError("\n".join(lines)) from None


def flag_of(setting: str) -> str:
    """The option that sets "worker.lease", and so on."""
    section, _, key = setting.partition(".")
    prefix = f"{section}-" if section in ("http", "log") else ""
    return _FLAGS.get(setting, f"--{prefix}{key.replace('_', '-')}")


def log_doubts(settings: Settings) -> None:
    """Log a warning for everything that is allowed and probably not meant. After `configure_logs`."""
    import structlog

    from queue_trio.core.advice import doubts

    for doubt in doubts(settings):
        structlog.get_logger(__name__).warning(
            "settings.doubtful", settings=", ".join(doubt.settings), reason=doubt.message
        )


def configure_logs(settings: Settings) -> None:
    """Send the log where the settings say. Before anything can log."""
    from queue_trio.ops.logging import configure_logging

    configure_logging(settings.log)
