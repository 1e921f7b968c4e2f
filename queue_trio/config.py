"""Reads the settings from a YAML file and the environment, and says everything that is wrong with them at once.

The environment wins over the file: `QUEUE_TRIO_WORKER__CONCURRENCY=32` over `worker: {concurrency: 8}`. What settings
there are, and their bounds, is `core.settings`; this module knows where a value came from, so that an error can say so.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError
from queue_trio.redis.endpoint import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

PREFIX: Final = "QUEUE_TRIO_"
LEVEL: Final = "__"
DEFAULT_FILE: Final = "queue-trio.yaml"
FILE_VARIABLE: Final = "QUEUE_TRIO_CONFIG"

NOT_SETTINGS: Final = (FILE_VARIABLE, "QUEUE_TRIO_EMBEDDED_SERVER", "QUEUE_TRIO_TEST_SERVERS")
"""Variables with our prefix that mean something else. Other ones are ignored unless they look like a setting."""

_MAX_SHOWN: Final = 60

Key = tuple[str, ...]
Origins = dict[Key, str]
"""Where each value was written: `file:line`, or the variable's name."""


def load_settings(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from `path`, else the file QUEUE_TRIO_CONFIG names, else queue-trio.yaml here if it exists.

    `environ`: instead of the process's environment. Raises ConfigError, one line for each thing that is wrong.
    """
    variables = os.environ if environ is None else environ
    problems: list[str] = []
    origins: Origins = {}
    file = _find_file(path, variables)
    from_file = _read_file(file, origins, problems) if file is not None else {}
    from_environment = _read_environment(variables, origins, problems)
    values = _merged(from_file, from_environment)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_explain(problem, origins) for problem in error.errors(include_url=False)]
        url = values.get("redis", {}).get("url") if isinstance(values.get("redis"), dict) else None
        problems += _check_url({"url": url}, origins) if isinstance(url, str) else []
    else:
        redis = settings.redis
        address = {
            "url": redis.url.get_secret_value(),
            "tls_ca_file": redis.tls_ca_file,
            "tls_cert_file": redis.tls_cert_file,
            "tls_key_file": redis.tls_key_file,
            "tls_verify": None if redis.tls_verify else False,
        }
        problems += _check_url(address, origins)
        if not problems:
            return settings
    raise ConfigError("\n".join(dict.fromkeys(problems)))


# --- the file ------------------------------------------------------------------------------------------------------


def _find_file(path: Path | None, variables: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    named = variables.get(FILE_VARIABLE)
    if named:
        return Path(named)
    here = Path(DEFAULT_FILE)
    return here if here.is_file() else None


def _read_file(file: Path, origins: Origins, problems: list[str]) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_yaml_where(file, error)}: not YAML: {_yaml_reason(error)}") from None
    except (ValueError, RecursionError) as error:  # such as the date 2024-99-99, or brackets without end
        raise ConfigError(f"{file}: not YAML: {error}") from None
    if root is None or values is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError(f"{file}:1: must hold sections, such as `worker:`, each with its settings below it")
    before = len(problems)
    _note_lines(file, root, (), origins, problems)
    if len(problems) > before:
        raise ConfigError("\n".join(problems))
    # A section with nothing below it is empty, not null.
    return {str(key): {} if value is None and key in _sections() else value for key, value in values.items()}


def _note_lines(file: Path, node: yaml.Node, at: Key, origins: Origins, problems: list[str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = f"{file}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{where}: a key must be a plain word")
            continue
        name = key_node.value
        if name in seen:
            problems.append(f"{'.'.join((*at, name))} ({where}): is there twice, first in line {seen[name]}")
        seen.setdefault(name, line)
        origins[(*at, name)] = where
        if len(at) < 8:  # an alias may make a mapping contain itself
            _note_lines(file, value_node, (*at, name), origins, problems)


def _yaml_where(file: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{file}:{mark.line + 1}" if mark is not None else str(file)


def _yaml_reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.problem, error.context) if part)
    return " ".join(str(error).split())


# --- the environment -----------------------------------------------------------------------------------------------


def _read_environment(variables: Mapping[str, str], origins: Origins, problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable in sorted(variables):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        section, separator, rest = variable.removeprefix(PREFIX).lower().partition(LEVEL)
        if not separator:
            problems += _misspelt_variable(variable)
            continue
        key, *deeper = rest.split(LEVEL)
        model = _sections().get(section)
        if model is None:
            close = get_close_matches(section, _sections(), n=1)
            hint = (
                f"did you mean {PREFIX}{close[0].upper()}{LEVEL}{rest.upper()}?"
                if close
                else _known(_sections())
            )
            problems.append(f"{variable}: there is no section {section!r}: {hint}")
            continue
        if key not in model.model_fields:
            close = get_close_matches(key, model.model_fields, n=1)
            hint = f"did you mean {_variable(section, close[0])}?" if close else _known(model.model_fields)
            problems.append(f"{variable}: {section} has no setting {key!r}: {hint}")
            continue
        value = _from_text(model, key, deeper, variables[variable])
        _put(found, (section, key, *deeper), value, problems, variable)
        origins[(section, key, *deeper)] = variable
    return found


def _put(into: dict[str, Any], key: Key, value: Any, problems: list[str], variable: str) -> None:
    for part in key[:-1]:
        below = into.setdefault(part, {})
        if not isinstance(below, dict):
            problems.append(f"{variable}: a shorter variable already sets all of it: keep one of them")
            return
        into = below
    into[key[-1]] = value


def _from_text(model: type[BaseModel], key: str, deeper: list[str], text: str) -> Any:
    """A variable's value: text for what is text or a number, YAML for lists, mappings and what may be null."""
    annotation = model.model_fields[key].annotation
    kinds = {getattr(kind, "__origin__", kind) for kind in (annotation, *get_args(annotation))}
    if deeper or not kinds & {dict, tuple, type(None)}:
        return text
    if type(None) in kinds and text.lower() in ("", "null", "none"):
        return None
    if kinds & {dict, tuple}:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        # Globs begin with a star, which is an alias in YAML: a plain "a,b" is a list too.
        if tuple in kinds and isinstance(value, str):
            return [part.strip() for part in text.split(",")]
        return value
    return text


def _misspelt_variable(variable: str) -> Iterator[str]:
    """One underscore where two belong, or no section at all. Variables that resemble nothing are not ours."""
    names = [_variable(section, key) for section, model in _sections().items() for key in model.model_fields]
    flat = {name.replace(LEVEL, "_"): name for name in names}
    for close in get_close_matches(variable.upper(), [*flat, *NOT_SETTINGS], n=1, cutoff=0.85):
        yield f"{variable}: is not a setting: did you mean {flat.get(close, close)}?"


def _variable(*key: str) -> str:
    return PREFIX + LEVEL.join(key).upper()


# --- what is wrong -------------------------------------------------------------------------------------------------


def _explain(problem: ErrorDetails, origins: Origins) -> str:
    key = tuple(str(part) for part in problem["loc"] if part != "[key]")
    name = ".".join(key) or "settings"
    where = _where(key, origins)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(key[:-1])
        close = get_close_matches(key[-1].lower(), known, n=1)
        what = "section" if len(key) == 1 else "setting"
        return f"{name}{where}: there is no such {what}: {f'did you mean {close[0]}?' if close else _known(known)}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return (
            f"{name}{where}: is {_shown(problem['input'])}, but must hold settings, such as {_example(key)}"
        )
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if _field_of(key) is None and not key:
        return f"{name}{where}: {message}"
    if problem["type"] == "value_error" and len(key) == 1:
        return f"{name}{where}: {message}"  # two settings that contradict each other: the message names both
    value = "" if _secret(key) else f"is {_shown(problem['input'])}, "
    return f"{name}{where}: {value}{message}"


def _where(key: Key, origins: Origins) -> str:
    for length in range(len(key), 0, -1):
        origin = origins.get(key[:length])
        if origin is not None:
            return f" ({origin})"
    return ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _check_url(address: dict[str, Any], origins: Origins) -> list[str]:
    try:
        endpoint = parse_url(**address, setting=f"redis.url{_where(('redis', 'url'), origins)}")
        if endpoint.tls:
            endpoint.ssl_context()
    except ConfigError as error:
        return [str(error)]
    return []


# --- what there is -------------------------------------------------------------------------------------------------


def _sections() -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _known_keys(at: Key) -> list[str]:
    model = Settings if not at else _sections().get(at[0])
    return [] if model is None else list(model.model_fields)


def _known(names: Mapping[str, Any] | list[str]) -> str:
    return f"choose one of {', '.join(names)}"


def _field_of(key: Key) -> Any:
    model = _sections().get(key[0]) if len(key) > 1 else None
    return None if model is None else model.model_fields.get(key[1])


def _secret(key: Key) -> bool:
    field = _field_of(key)
    return field is not None and field.annotation is SecretStr


def _example(key: Key) -> str:
    model = _sections().get(key[0])
    return f"{next(iter(model.model_fields))}: ..." if model is not None else "worker: {concurrency: 8}"


def _merged(base: Any, top: Any) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        return base | {key: _merged(base[key], value) if key in base else value for key, value in top.items()}
    return top
