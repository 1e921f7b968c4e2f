"""A task's signature: which arguments fit, checked with pydantic when a job is built and again before it runs.

Arguments are stored by name, as a JSON object, so that a record can be read by eye and a reordered signature still
understands old jobs. What a caller leaves out is left out of the record; the function's own default applies when it
runs. A parameter annotated `JobContext` is the runtime's to fill in and no argument.

JSON decides what survives. A value comes back as its annotation says: bytes as base64, NaN and infinity as strings,
datetimes as ISO 8601. Where the annotation leaves a choice (`Any`, `str | bytes`), it comes back as JSON has it.
"""

from __future__ import annotations

import inspect
import types
import typing
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import msgspec
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import CoreConfig, PydanticSerializationError, SchemaSerializer, SchemaValidator

# The standard library's lacks what pydantic needs before Python 3.12.
from typing_extensions import NotRequired, TypedDict  # noqa: UP035

from queue_trio.context import JobContext
from queue_trio.errors import InvalidArguments, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NO_ARGUMENTS = b"{}"

_LONG = 4000
"""What pydantic has written is read back at once if it has more bytes: it writes numbers of over 4300 digits, but does
not read them."""


_CONFIG: CoreConfig = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "strings",
    "title": "arguments",
}

_PLAIN = msgspec.json.Encoder()


class Signature:
    """The arguments of one function. Raises UsageError if it cannot be a task.

    `names`: what annotations may name besides the function's globals, such as the locals around its definition.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], names: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.context_parameter: str | None = None
        """The parameter that takes the JobContext, if there is one."""
        self.context_position: int | None = None
        """Its place among the positional parameters, if it has one."""
        hints = _hints(name, function, names or {})
        fields: dict[str, Any] = {}
        self._positional: list[str] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise UsageError(
                    f"task {name}: parameter {parameter} has no name a record could store it under; "
                    "use named parameters (a list or a dict for many)"
                )
            hint = hints.get(parameter.name, Any)
            positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if _is_context(hint):
                if self.context_parameter is not None:
                    raise UsageError(f"task {name}: two parameters are annotated JobContext; keep one")
                self.context_parameter = parameter.name
                self.context_position = len(self._positional) if positional else None
                continue
            fields[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
            if positional:
                self._positional.append(parameter.name)
        schema = _schema(name, fields)
        self._names = list(fields)
        # The configuration of a TypedDict checks its values but does not reach the writing of them: hence both by hand.
        validator = SchemaValidator(schema, _CONFIG)
        self._validate = validator.validate_python
        self._validate_json = validator.validate_json
        self._to_json = SchemaSerializer(schema, _CONFIG).to_json
        self._plain = _is_plain(schema)

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments as a JSON object. Raises InvalidArguments, naming the parameter and what would fit."""
        if not self._names and not args and not kwargs:
            return NO_ARGUMENTS
        if len(args) > len(self._positional):
            raise InvalidArguments(
                f"task {self.name}: {len(args)} positional arguments given, at most {len(self._positional)} fit"
            )
        if args:
            named = dict(zip(self._positional, args, strict=False))
            if kwargs:
                twice = named.keys() & kwargs.keys()
                if twice:
                    raise InvalidArguments(f"task {self.name}: argument {min(twice)!r} is given twice")
                named.update(kwargs)
        else:
            named = kwargs
        try:
            return self._write(self._validate(named))
        except ValidationError as error:
            raise InvalidArguments(self._explain(error)) from None
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            where = self._culprit(named)
            raise InvalidArguments(f"task {self.name}: {where} cannot be stored as JSON: {error}") from None

    def decode(self, raw: bytes | memoryview) -> dict[str, Any]:
        """Keyword arguments for the function. Raises InvalidArguments, as `encode` does."""
        try:
            arguments: dict[str, Any] = self._validate_json(bytes(raw))
        except ValidationError as error:
            raise InvalidArguments(self._explain(error)) from None
        return arguments

    def _write(self, checked: dict[str, Any]) -> bytes:
        if self._plain:
            try:
                return _PLAIN.encode(checked)  # the same text in a fifth of the time
            except (TypeError, ValueError):
                pass  # pydantic can write it, or knows what is wrong with it
        raw = self._to_json(checked, warnings="error")
        if len(raw) > _LONG:
            self._validate_json(raw)
        return raw

    def _culprit(self, named: dict[str, Any]) -> str:
        for name, value in named.items():
            try:
                self._to_json({name: value}, warnings="error")
            except (PydanticSerializationError, UnicodeEncodeError):
                return repr(name)
        return "an argument"

    def _explain(self, error: ValidationError) -> str:
        problems = []
        list_names = False
        for problem in error.errors(include_url=False, include_context=False):
            kind, own = problem["type"], len(problem["loc"]) == 1
            where = ".".join(str(part) for part in problem["loc"]) or "arguments"
            if kind == "missing":
                problems.append(f"{where!r} is missing")
                list_names = list_names or own
            elif kind == "extra_forbidden":
                close = get_close_matches(where, self._names, n=1) if own else []
                hint = f", did you mean {close[0]!r}?" if close else ""
                problems.append(f"{where!r} is not a parameter of this task{hint}")
                list_names = list_names or (own and not close)
            else:
                problems.append(f"{where!r}: {_lowered(problem['msg'])}")
        names = f" (parameters: {', '.join(self._names) or 'none'})" if list_names else ""
        return f"task {self.name}: {'; '.join(problems)}{names}"


def _hints(name: str, function: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters' annotations. Not the one of the return value: nothing here needs it to be importable."""
    plain = inspect.unwrap(function)
    annotations = {
        key: hint for key, hint in getattr(plain, "__annotations__", {}).items() if key != "return"
    }
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__=annotations),
            globalns=getattr(plain, "__globals__", {}),
            localns=dict(names),
            include_extras=True,
        )
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise UsageError(
            f"task {name}: an annotation cannot be resolved: {error}; "
            "what it names must be imported when the program runs, not only for type checkers"
        ) from None


def _schema(name: str, fields: dict[str, Any]) -> Any:
    typed_dict: Any = TypedDict  # made of what is known only now, which type checkers do not expect
    arguments = typed_dict("Arguments", fields)
    # Also what a standard dataclass or a TypedDict among the arguments goes by; a pydantic model goes by its own.
    arguments.__pydantic_config__ = ConfigDict(
        extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
    )
    try:
        return TypeAdapter(arguments).core_schema
    except PydanticUserError as error:
        reason = " ".join(error.message.split())
        raise UsageError(f"task {name}: pydantic cannot check its arguments: {reason}") from None


def _is_plain(schema: Any) -> bool:
    """Whether JSON has but one way to say these arguments."""
    plain_field = {"type", "schema", "required", "metadata"}
    return schema["type"] == "typed-dict" and all(
        field.keys() <= plain_field and _is_plain_value(field["schema"])
        for field in schema["fields"].values()
    )


def _is_plain_value(schema: Any) -> bool:
    match schema["type"]:
        case "int" | "str" | "bool" | "none":  # a float may be infinite
            return "serialization" not in schema
        case "nullable":
            return "serialization" not in schema and _is_plain_value(schema["schema"])
        case "list" if "items_schema" in schema:
            return "serialization" not in schema and _is_plain_value(schema["items_schema"])
    return False


def _is_context(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        return any(part is JobContext for part in get_args(hint))
    return hint is JobContext


def _lowered(message: str) -> str:
    """With a small first letter. Only the first: the rest may quote names."""
    return message[:1].lower() + message[1:]
