"""Reads the settings from a YAML file and the environment, and says everything that is wrong with them at once.

The environment wins over the file: `QUEUE_TRIO_WORKER__CONCURRENCY=32` over `worker: {concurrency: 8}`. What settings
there are, and their bounds, is `core.settings`; this module knows where a value came from, so that an error can say so,
and `config.problems` how.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from queue_trio.config.problems import (
    FILE_VARIABLE,
    NOT_SETTINGS,
    Origin,
    Origins,
    Problem,
    explain,
    mentions,
    misspelt_variable,
    unknown_section,
    unknown_setting,
    wrong_value,
)
from queue_trio.config.schema import LEVEL, PREFIX, Key, is_number, sections
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError
from queue_trio.redis.endpoint import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DEFAULT_FILE", "FILE_VARIABLE", "NOT_SETTINGS", "Reading", "inspect_settings", "load_settings"]

DEFAULT_FILE: Final = "queue-trio.yaml"

_HEADERS: Final = ("tracing", "headers")
"""Whose names may be written in any case, and cannot be written as variables: there, `_` stands for `-`."""


@dataclass(slots=True)
class Reading:
    """What was found. `settings`: what is left if everything that is wrong is left out, or None if nothing is.

    Only without `problems` are they the settings that were meant.
    """

    file: Path | None = None
    settings: Settings | None = None
    problems: list[Problem] = field(default_factory=list)
    origins: Origins = field(default_factory=dict)

    def origin(self, *key: str) -> Origin | None:
        """Where the value at `key`, or the first thing in it, was written; None if it is the default."""
        inside = (origin for at, origin in self.origins.items() if at[: len(key)] == key)
        return self.origins.get(key) or next(inside, None)

    def error(self) -> ConfigError:
        """All problems as one error, a line for each."""
        return ConfigError("\n".join(dict.fromkeys(map(str, self.problems))))


def load_settings(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from `path`, else the file QUEUE_TRIO_CONFIG names, else queue-trio.yaml here if it exists.

    `environ`: instead of the process's environment. Raises ConfigError, one line for each thing that is wrong.
    """
    reading = inspect_settings(path, environ=environ)
    if reading.problems or reading.settings is None:
        raise reading.error()
    return reading.settings


def inspect_settings(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Reading:
    """As `load_settings`, but everything there is to know about them, mistakes included. Raises nothing."""
    variables = os.environ if environ is None else environ
    reading = Reading(_find_file(path, variables))
    who = f" (named by {FILE_VARIABLE})" if path is None and variables.get(FILE_VARIABLE) else ""
    try:
        from_file = {} if reading.file is None else _read_file(reading.file, who, reading)
    except _Unusable as unusable:
        reading.problems.append(Problem("", Origin(reading.file, unusable.line), str(unusable)))
        # No more than the variables' names: what their values contradict may be in the file.
        _read_environment(variables, reading)
    else:
        _judge(_merged(from_file, _read_environment(variables, reading)), reading)
    reading.problems = sorted(dict.fromkeys(reading.problems), key=_place)
    return reading


def _place(problem: Problem) -> tuple[bool, int]:
    """What is in the file comes first, in its order."""
    origin = problem.origin
    return (origin is None or origin.file is None, 0 if origin is None else origin.line or 0)


# --- the file ------------------------------------------------------------------------------------------------------


def _find_file(path: Path | None, variables: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    named = variables.get(FILE_VARIABLE)
    if named:
        return Path(named)
    here = Path(DEFAULT_FILE)
    return here if here.is_file() else None


class _Unusable(Exception):
    """There is nothing in a file that could be judged as settings."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def _read_file(file: Path, who: str, reading: Reading) -> dict[str, Any]:
    """The sections of a file. `who`: named it. Raises _Unusable."""
    try:
        text = file.read_text("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise _Unusable(f"cannot be read{who}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _Unusable(f"not YAML: {_yaml_reason(error)}", None if mark is None else mark.line + 1) from None
    except (ValueError, RecursionError) as error:  # such as the date 2024-99-99, or brackets without end
        raise _Unusable(f"not YAML: {error}") from None
    if root is None or values is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise _Unusable("must hold sections, such as `worker:`, each with its settings below it", 1)
    _note_lines(file, root, (), reading)
    return _cleaned(values, reading)


def _note_lines(file: Path, node: yaml.Node, at: Key, reading: Reading) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        where = Origin(file, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            reading.problems.append(Problem("", where, "a key must be a plain word"))
            continue
        name = key_node.value.lower() if at == _HEADERS else key_node.value
        if name in seen:
            reason = f"is there twice, first in line {seen[name]}"
            reading.problems.append(Problem(".".join((*at, name)), where, reason))
        seen.setdefault(name, key_node.start_mark.line + 1)
        reading.origins[(*at, name)] = where
        if len(at) < 8:  # an alias may make a mapping contain itself
            _note_lines(file, value_node, (*at, name), reading)


def _cleaned(values: dict[Any, Any], reading: Reading) -> dict[str, Any]:
    """A file's values, without those that YAML and Python understand in a way that nobody means."""
    # A section with nothing below it is empty, not null.
    found = {
        str(name): {} if below is None and name in sections() else below for name, below in values.items()
    }
    for name, below in found.items():
        if isinstance(below, dict) and name in sections():
            found[name] = _without_truths(below, (name,), reading)
    headers = found.get("tracing", {}).get("headers") if isinstance(found.get("tracing"), dict) else None
    if isinstance(headers, dict):
        found["tracing"]["headers"] = _lower(headers)
    return found


def _without_truths(values: dict[Any, Any], at: Key, reading: Reading) -> dict[Any, Any]:
    kept = dict(values)
    for name, value in values.items():
        key = (*at, str(name))
        if isinstance(value, bool) and is_number(key):
            reading.problems.append(wrong_value(key, value, None, reading.origins))
            del kept[name]
        elif isinstance(value, dict) and len(key) == 2:
            kept[name] = _without_truths(value, key, reading)
    return kept


def _lower(headers: dict[Any, Any]) -> dict[Any, Any]:
    return {name.lower() if isinstance(name, str) else name: value for name, value in headers.items()}


def _yaml_reason(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    reason = ", ".join(part for part in (error.problem, error.context) if part)
    # The name of an alias or a tag is quoted there, and may be a password that somebody wrote without quotes.
    masked = re.sub(r"(alias|tag) '[^']*'", r"\1", reason)
    hint = ": a value that begins with `*`, `!` or `&` must stand in quotes" if masked != reason else ""
    return masked + hint


# --- the environment -----------------------------------------------------------------------------------------------


def _read_environment(variables: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable in sorted(variables):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        section, separator, rest = variable.removeprefix(PREFIX).lower().partition(LEVEL)
        setting, *deeper = rest.split(LEVEL)
        model = sections().get(section)
        if not separator:
            reading.problems += misspelt_variable(variable)
        elif model is None:
            reading.problems.append(unknown_section(variable, section, rest))
        elif setting not in model.model_fields:
            reading.problems.append(unknown_setting(variable, section, setting))
        else:
            if (section, setting) == _HEADERS:
                deeper = [part.replace("_", "-") for part in deeper]
            key = (section, setting, *deeper)
            _put(found, key, _from_text(model, setting, deeper, variables[variable]), variable, reading)
    return found


def _put(into: dict[str, Any], key: Key, value: Any, variable: str, reading: Reading) -> None:
    origin = Origin(variable=variable)
    for part in key[:-1]:
        below = into.setdefault(part, {})
        if not isinstance(below, dict):
            reason = "a shorter variable already sets all of it: keep one of them"
            reading.problems.append(Problem("", origin, reason))
            return
        into = below
    if isinstance(value, dict) and key == _HEADERS:
        value = _lower(value)
    into[key[-1]] = value
    reading.origins[key] = origin
    if isinstance(value, dict):
        reading.origins.update({(*key, str(name)): origin for name in value})


def _from_text(model: type[BaseModel], key: str, deeper: list[str], text: str) -> Any:
    """A variable's value: text for what is text or a number, YAML for lists, mappings and what may be null."""
    annotation = model.model_fields[key].annotation
    kinds = {getattr(kind, "__origin__", kind) for kind in (annotation, *get_args(annotation))}
    if deeper or not kinds & {dict, tuple, type(None)}:
        return text
    # A variable that is empty because another one was not set must not take a password away.
    nothing = ("null", "none") if SecretStr in kinds else ("", "null", "none")
    if type(None) in kinds and text.lower() in nothing:
        return None
    if kinds & {dict, tuple}:
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            value = text
        # Globs begin with a star, which is an alias in YAML: a plain "a,b" is a list too.
        if tuple in kinds and not isinstance(value, list | dict):
            return [part.strip() for part in text.split(",")]
        return value
    return text


# --- both ----------------------------------------------------------------------------------------------------------


def _judge(values: dict[str, Any], reading: Reading) -> None:
    """Validate, again and again without what was found wrong: a wrong value hides contradictions between others."""
    dropped: set[Key] = set()
    while True:
        try:
            reading.settings = Settings.model_validate(values)
            break
        except ValidationError as error:
            wrong = error.errors(include_url=False)
        for found in wrong:
            key = tuple(str(part) for part in found["loc"])[:2]
            # What contradicts the default of a setting that is itself wrong may well fit what was meant.
            if len(key) > 1 or not any(
                k[0] == key[0] and mentions(found["msg"], k[1]) for k in dropped if k[1:]
            ):
                reading.problems.append(explain(found, reading.origins))
        # What cannot be found by its name (a key may be a date, or a number) goes with its section.
        if not (_drop(values, [found["loc"][:2] for found in wrong]) or _drop(values, [wrong[0]["loc"][:1]])):
            return
        dropped |= {tuple(str(part) for part in found["loc"])[:2] for found in wrong}
    _check_address(reading, dropped)


def _drop(values: dict[str, Any], keys: Sequence[tuple[int | str, ...]]) -> int:
    """Leave out what is at `keys`, sections or settings; how many of them were there."""
    count = 0
    for key in keys:
        at: Any = values if len(key) == 1 else values.get(str(key[0])) if key else None
        for name in [name for name in at if str(name) == str(key[-1])] if isinstance(at, dict) else ():
            del at[name]
            count += 1
    return count


def _check_address(reading: Reading, dropped: set[Key]) -> None:
    """The URL, and the TLS files it goes with, which only `redis.endpoint` understands."""
    assert reading.settings is not None
    redis = reading.settings.redis
    if ("redis",) in dropped or ("redis", "url") in dropped:
        return
    files = ("tls_ca_file", "tls_cert_file", "tls_key_file")
    address: dict[str, Any] = {name: getattr(redis, name) for name in files}
    address["tls_verify"] = None if redis.tls_verify else False
    if any(("redis", name) in dropped for name in address):
        address = {}
    try:
        endpoint = parse_url(redis.url.get_secret_value(), **address)
        if endpoint.tls:
            endpoint.ssl_context()
    except ConfigError as error:
        reason = str(error).removeprefix("redis.url: ")
        about = next((name for name in files if name in reason or str(address.get(name)) in reason), "url")
        reading.problems.append(Problem(f"redis.{about}", reading.origins.get(("redis", about)), reason))


def _merged(base: Any, top: Any) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        return base | {key: _merged(base[key], value) if key in base else value for key, value in top.items()}
    return top
