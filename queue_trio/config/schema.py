"""What can be set, for those who ask: the JSON Schema for editors, and from it each setting's bounds in words.

Everything here is read from the models in `core.settings`, and only when it is wanted: for an error, a document, or
`queue-trio config`. It knows nothing of files, variables and values.
"""

from __future__ import annotations

import ast
import inspect
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, SecretStr

from queue_trio.core import settings as models
from queue_trio.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic.fields import FieldInfo

Key = tuple[str, ...]

PREFIX: Final = "QUEUE_TRIO_"
LEVEL: Final = "__"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_QUEUE: Final = r"\s*[A-Za-z0-9_-]{1,64}\s*"
_WEIGHED: Final = _QUEUE + r":\s*0*[1-9][0-9]*\s*"

_VALIDATED: Final[Mapping[Key, tuple[dict[str, Any], str]]] = {
    ("redis", "url"): ({"pattern": r"^(rediss?|unix)://"}, "a redis://, rediss:// or unix:// URL"),
    ("redis", "prefix"): (
        {"pattern": r"^[A-Za-z0-9_\-.:]{1,64}$"},
        "1 to 64 letters, digits, '_', '-', '.' or ':'",
    ),
    ("worker", "queues"): (
        {"pattern": rf"^({_QUEUE}(,{_QUEUE})*|{_WEIGHED}(,{_WEIGHED})*)$"},
        "names with commas between them, each with :WEIGHT or none",
    ),
    ("http", "host"): ({"pattern": r"^[0-9A-Za-z:._%-]+$"}, "a host name or an address"),
    ("http", "token"): ({"pattern": r"^[!-~]+$"}, "1 or more visible ASCII characters, or null"),
    ("tracing", "endpoint"): ({}, "an http:// or https:// URL"),
    ("tracing", "headers"): (
        {
            "propertyNames": {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
            "additionalProperties": {
                "type": "string",
                "pattern": r"^[!-~]([ -~]*[!-~])?$",
                "format": "password",
                "writeOnly": True,
            },
        },
        "a mapping of header names to text",
    ),
}
"""What validators check in code: the same for the schema (or nearly: it cannot count), and in words."""


# --- what there is -------------------------------------------------------------------------------------------------


@cache
def sections() -> Mapping[str, type[BaseModel]]:
    """The model of each section, by its name."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def field_of(key: Sequence[str]) -> FieldInfo | None:
    """The setting that `key` names or is inside of; None for sections and for what there is not."""
    model = sections().get(key[0]) if len(key) > 1 else None
    return None if model is None else model.model_fields.get(key[1])


def is_secret(key: Sequence[str]) -> bool:
    """Whether the value there may be, or may hold, a secret. A whole section that has one does."""
    if len(key) > 1:
        field = field_of(key)
        return field is not None and _holds_secret(field.annotation)
    below = [sections()[key[0]]] if key and key[0] in sections() else sections().values()
    return any(_holds_secret(field.annotation) for model in below for field in model.model_fields.values())


def _holds_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_holds_secret, get_args(annotation)))


def variable(*key: str) -> str:
    """The environment variable that sets `key`."""
    return PREFIX + LEVEL.join(key).upper()


def plain(value: Any) -> Any:
    """A setting's value as JSON has it, secrets included: tuples become lists, seconds lose their `.0`."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@cache
def descriptions() -> Mapping[Key, str]:
    """What each section and setting is for, from the docstrings; empty where the source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(models))
    except OSError:
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[Key, str] = {}
    for name, model in sections().items():
        if (node := classes.get(model.__name__)) is None:
            continue
        found[name,] = _one_line(ast.get_docstring(node) or "")
        for statement, following in zip(node.body, node.body[1:], strict=False):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=setting)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name, setting] = _one_line(text)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- the schema ----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the settings file, with descriptions and defaults, and without references."""
    return deepcopy(_schema())


@cache
def _schema() -> dict[str, Any]:
    whole = Settings.model_json_schema()
    definitions = whole["$defs"]
    properties: dict[str, Any] = {}
    for name, model in sections().items():
        properties[name] = {
            "description": descriptions().get((name,), ""),
            "type": ["object", "null"],  # `worker:` with nothing below it is an empty section
            "additionalProperties": False,
            "properties": {
                setting: _setting(
                    (name, setting),
                    _resolved(definitions[model.__name__]["properties"][setting], definitions),
                )
                for setting in model.model_fields
            },
        }
    return {
        "$schema": DIALECT,
        "title": "queue-trio.yaml",
        "description": "Settings of queue_trio. Durations are seconds, sizes are bytes.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
    }


def _setting(key: Key, node: dict[str, Any]) -> dict[str, Any]:
    stricter, _ = _VALIDATED.get(key, ({}, ""))
    for option in node.get("anyOf", [node]):
        if option.get("type") != "null":
            option.update(stricter)
    field = field_of(key)
    assert field is not None
    # Pydantic's own default hides what is secret by its type, though a default is known to everybody.
    return {"description": descriptions().get(key, ""), **node, "default": plain(field.default)}


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Any:
    """`node` with each reference replaced by what it refers to, and without pydantic's titles."""
    if isinstance(node, list):
        return [_resolved(inner, definitions) for inner in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found = _resolved(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: value for name, value in found.items() if name != "description"}
    return {name: _resolved(inner, definitions) for name, inner in node.items() if name != "title"}


# --- in words ------------------------------------------------------------------------------------------------------


def node_of(key: Sequence[str]) -> dict[str, Any] | None:
    """The schema of one setting, or of what is inside a setting that is a mapping or a list."""
    if field_of(key) is None:
        return None
    node: dict[str, Any] = _schema()["properties"][key[0]]["properties"][key[1]]
    for _ in key[2:]:
        options = [node, *node.get("anyOf", [])]
        inner = next((o[k] for o in options for k in ("additionalProperties", "items") if k in o), None)
        if not isinstance(inner, dict):
            return None
        node = inner
    return node


def allowed(key: Sequence[str]) -> str | None:
    """What a setting may be, such as "a whole number from 1 to 256"; None for what there is not."""
    if len(key) == 2 and tuple(key) in _VALIDATED:
        return _VALIDATED[key[0], key[1]][1]
    node = node_of(key)
    return None if node is None else in_words(node)


def choices(key: Sequence[str]) -> list[str]:
    """The words that a setting must be one of; empty if it may be others too."""
    node = node_of(key)
    return [] if node is None else list(node.get("enum", ()))


def is_number(key: Sequence[str]) -> bool:
    """Whether `key` is a number. A truth value, which Python takes for 0 or 1, is a mistake there."""
    node = node_of(key)
    options = [] if node is None else [node, *node.get("anyOf", [])]
    return any(option.get("type") in ("integer", "number") for option in options)


def in_words(node: Mapping[str, Any]) -> str:
    """A schema, in English."""
    if "anyOf" in node:
        return ", or ".join(in_words(option) for option in node["anyOf"])
    if "enum" in node:
        *others, last = [repr(choice) for choice in node["enum"]]
        return f"{', '.join(others)} or {last}" if others else last
    match node.get("type"):
        case "integer" | "number":
            return _number_in_words(node)
        case "array":
            return f"a list of {in_words(node['items']).removeprefix('a ')}"
        case "object":
            names = "names"
            if "enum" in node.get("propertyNames", {}):
                names = in_words(node["propertyNames"])
            return f"a mapping of {names} to {in_words(node['additionalProperties'])}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case _:
            return "text, not empty" if node.get("minLength") else "text"


def _number_in_words(node: Mapping[str, Any]) -> str:
    noun = "a whole number" if node["type"] == "integer" else "a number"
    least, above, most = (node.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None:
        return f"{noun} above {above:.10g}" + (f", up to {_amount(most)}" if most is not None else "")
    if least is not None and most is not None:
        return f"{noun} from {least:.10g} to {_amount(most)}"
    return f"{noun}, {least:.10g} or more" if least is not None else noun


def _amount(number: float) -> str:
    """A bound, and if nobody can read it, what it is: some are seconds and some are bytes."""
    days, mebibytes = number / 86400, number / 2**20
    if days > 1 and days.is_integer():
        return f"{number:.10g} ({days:g} days)"
    return f"{number:.10g}" + (f" ({mebibytes:g} MiB)" if mebibytes >= 1 and mebibytes.is_integer() else "")
