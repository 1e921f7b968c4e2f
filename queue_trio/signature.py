"""A task's signature: which arguments fit, checked with pydantic when a job is built and again before it runs.

Arguments are stored by name, as a JSON object, so that a record can be read by eye and a reordered signature still
understands old jobs. What a caller leaves out is left out of the record; the function's own default applies when it
runs. A parameter annotated `JobContext` is the runtime's to fill in and no argument.
"""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import NotRequired, TypedDict

from queue_trio.context import JobContext
from queue_trio.errors import InvalidArguments, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

NO_ARGUMENTS = b"{}"


class Signature:
    """The arguments of one function. Raises UsageError if it cannot be a task."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.context_parameter: str | None = None
        """The parameter that takes the JobContext, if there is one."""
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise UsageError(f"task {name}: an annotation cannot be resolved: {error}") from None
        fields: dict[str, Any] = {}
        self._positional: list[str] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise UsageError(
                    f"task {name}: parameter {parameter} has no name a record could store it under; "
                    "use named parameters (a list or a dict for many)"
                )
            hint = hints.get(parameter.name, Any)
            if hint is JobContext:
                self.context_parameter = parameter.name
                continue
            fields[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                self._positional.append(parameter.name)
        arguments = TypedDict("Arguments", fields)  # type: ignore[misc]
        arguments.__pydantic_config__ = ConfigDict(extra="forbid")
        try:
            self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
        except PydanticUserError as error:
            raise UsageError(f"task {name}: pydantic cannot check its arguments: {error.message}") from None
        self._takes_none = not fields
        self._validate_json = self._adapter.validator.validate_json

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments as a JSON object. Raises InvalidArguments, naming the parameter and what would fit."""
        if self._takes_none and not args and not kwargs:
            return NO_ARGUMENTS
        if len(args) > len(self._positional):
            raise InvalidArguments(
                f"task {self.name}: {len(args)} positional arguments given, at most {len(self._positional)} fit"
            )
        named = dict(zip(self._positional, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise InvalidArguments(f"task {self.name}: argument {min(twice)!r} is given twice")
        named.update(kwargs)
        try:
            return self._adapter.dump_json(self._adapter.validate_python(named))
        except ValidationError as error:
            raise InvalidArguments(self._explain(error)) from None
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise InvalidArguments(f"task {self.name}: an argument cannot be stored as JSON: {error}") from None

    def decode(self, raw: bytes | memoryview) -> dict[str, Any]:
        """Keyword arguments for the function. Raises InvalidArguments, as `encode` does."""
        try:
            return self._validate_json(bytes(raw))
        except ValidationError as error:
            raise InvalidArguments(self._explain(error)) from None

    def _explain(self, error: ValidationError) -> str:
        problems = []
        for problem in error.errors(include_url=False, include_context=False):
            where = ".".join(str(part) for part in problem["loc"]) or "arguments"
            what = {"missing": "is missing", "extra_forbidden": "is not a parameter of this task"}.get(problem["type"])
            problems.append(f"{where!r} {what}" if what else f"{where!r}: {problem['msg'].lower()}")
        return f"task {self.name}: {'; '.join(problems)}"
