"""What is wrong with settings, each mistake as one `Problem`: which key, written where, its value, what is allowed.

It knows pydantic's findings and where values were written. It reads nothing; `config.py` does. No problem ever shows a
value that is a secret, or one that stands where a secret may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from queue_trio.config.schema import LEVEL, PREFIX, allowed, choices, is_secret, node_of, sections, variable
from queue_trio.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

Key = tuple[str, ...]

FILE_VARIABLE: Final = "QUEUE_TRIO_CONFIG"
NOT_SETTINGS: Final = (FILE_VARIABLE, "QUEUE_TRIO_EMBEDDED_SERVER", "QUEUE_TRIO_TEST_SERVERS")
"""Variables with our prefix that mean something else. Other ones are ignored unless they look like a setting."""

_SHOWN_MAX: Final = 60
_OWN_WORDS: Final = frozenset({"value_error", "assertion_error"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a line of a file, or a variable."""

    file: Path | None = None
    line: int | None = None
    variable: str | None = None

    def __str__(self) -> str:
        if self.variable is not None:
            return self.variable
        return f"{self.file}" if self.line is None else f"{self.file}:{self.line}"


Origins = dict[Key, Origin]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `str` is its line; `reason` says all there is to say, the other fields again what is in it.

    `key`: "worker.lease", or empty if it is about a file or a variable as a whole. `value`: as it was written.
    """

    key: str
    origin: Origin | None
    reason: str
    value: str | None = None
    allowed: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        where = "" if self.origin is None else f" ({self.origin})"
        line = f"{self.key}{where}: {self.reason}" if self.key else f"{self.origin}: {self.reason}"
        return " ".join(line.split())  # a key may be anything, line breaks included


def origin_of(key: Key, origins: Mapping[Key, Origin]) -> Origin | None:
    """Where the value at `key`, or else what it is in, was written."""
    for length in range(len(key), 0, -1):
        if (origin := origins.get(key[:length])) is not None:
            return origin
    return None


# --- values --------------------------------------------------------------------------------------------------------


def explain(found: ErrorDetails, origins: Mapping[Key, Origin]) -> Problem:
    """One of pydantic's findings, in our words."""
    key = tuple(str(part) for part in found["loc"] if part != "[key]")
    if found["loc"] and found["loc"][-1] == "[key]":
        return _wrong_name(key, origins)
    if found["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown_key(key, origins)
    if found["type"] in ("model_type", "model_attributes_type"):
        return _no_section(key, found["input"], origins)
    message = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if len(key) == 1 and found["type"] in _OWN_WORDS:
        return _contradiction(key[0], message, origins)
    if found["type"] in _OWN_WORDS:
        return wrong_value(key, found["input"], message, origins)
    return wrong_value(key, found["input"], None, origins, instead=message)


def wrong_value(
    key: Key, value: Any, message: str | None, origins: Mapping[Key, Origin], *, instead: str = "is wrong"
) -> Problem:
    """`message`: what to do. Without one, what is allowed says it, or `instead` if that is not known."""
    can_be = allowed(key)
    if message is None:
        message = instead if can_be is None else f"should be {can_be}"
    close = get_close_matches(str(value).lower(), choices(key), n=1)
    if close:
        message += f": did you mean {close[0]}?"
    if "text" in (can_be or "") and isinstance(value, int | float):
        message += ": write it in quotes"
    shown = None if is_secret(key) else _shown(value)
    return Problem(
        key=".".join(key) or "settings",
        origin=origin_of(key, origins),
        reason=message if shown is None else f"is {shown}, {message}",
        value=shown,
        allowed=can_be,
        suggestion=close[0] if close else None,
    )


def _wrong_name(key: Key, origins: Mapping[Key, Origin]) -> Problem:
    """What stands left of the colon inside a setting that is a mapping."""
    names = node_of(key[:2]) or {}
    known = names.get("propertyNames", {}).get("enum", [])
    close = get_close_matches(key[-1].lower(), known, n=1)
    hint = f"did you mean {close[0]}?" if close else _choose(known) if known else "it must be text"
    return Problem(
        key=".".join(key),
        origin=origin_of(key, origins),
        reason=f"there is no such name: {hint}",
        allowed=", ".join(known) or None,
        suggestion=close[0] if close else None,
    )


def _unknown_key(key: Key, origins: Mapping[Key, Origin]) -> Problem:
    model = Settings if len(key) == 1 else sections()[key[0]]
    known = list(model.model_fields)
    close = get_close_matches(key[-1].lower(), known, n=1)
    what = "section" if len(key) == 1 else "setting"
    elsewhere = [f"{name}.{key[-1]}" for name, other in sections().items() if key[-1] in other.model_fields]
    close = close or elsewhere  # in the wrong section, or in none
    hint = f"did you mean {' or '.join(close)}?" if close else _choose(known)
    return Problem(
        key=".".join(key),
        origin=origin_of(key, origins),
        reason=f"there is no such {what}: {hint}",
        allowed=", ".join(known),
        suggestion=close[0] if close else None,
    )


def _no_section(key: Key, value: Any, origins: Mapping[Key, Origin]) -> Problem:
    model = sections().get(key[0]) if key else None
    example = "worker: {concurrency: 8}" if model is None else f"{next(iter(model.model_fields))}: ..."
    shown = None if is_secret(key) else _shown(value)
    reason = f"must hold settings, such as {example}"
    return Problem(
        key=".".join(key) or "settings",
        origin=origin_of(key, origins),
        reason=reason if shown is None else f"is {shown}, but {reason}",
        value=shown,
        allowed="settings",
    )


def _contradiction(section: str, message: str, origins: Mapping[Key, Origin]) -> Problem:
    """Two settings of a section that contradict each other: the message names both, and one at least was set."""
    named = [(section, name) for name in sections()[section].model_fields if mentions(message, name)]
    key = next((key for key in named if key in origins), (section,))
    return Problem(key=".".join(key), origin=origin_of(key, origins), reason=message)


def mentions(message: str, name: str) -> bool:
    """Whether `name` is one of the words of `message`."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) is not None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


# --- variables -----------------------------------------------------------------------------------------------------


def unknown_section(name: str, section: str, rest: str) -> Problem:
    """A variable whose first part is no section."""
    close = get_close_matches(section, sections(), n=1)
    meant = f"{PREFIX}{close[0].upper()}{LEVEL}{rest.upper()}" if close else None
    return _unknown_variable(name, f"there is no section {section!r}", meant, sections())


def unknown_setting(name: str, section: str, key: str) -> Problem:
    """A variable whose second part is no setting of its section."""
    known = sections()[section].model_fields
    close = get_close_matches(key, known, n=1)
    meant = variable(section, close[0]) if close else None
    return _unknown_variable(name, f"{section} has no setting {key!r}", meant, known)


def misspelt_variable(name: str) -> Iterator[Problem]:
    """One underscore where two belong, or no section at all. Variables that resemble nothing are not ours."""
    names = [variable(section, key) for section, model in sections().items() for key in model.model_fields]
    flat = {name.replace(LEVEL, "_"): name for name in names}
    for close in get_close_matches(name.upper(), [*flat, *NOT_SETTINGS], n=1, cutoff=0.85):
        yield _unknown_variable(name, "is not a setting", flat.get(close, close), ())


def _unknown_variable(name: str, reason: str, meant: str | None, known: Iterable[str]) -> Problem:
    return Problem(
        key="",
        origin=Origin(variable=name),
        reason=f"{reason}: {f'did you mean {meant}?' if meant else _choose(known)}",
        allowed=", ".join(known) or None,
        suggestion=meant,
    )


def _choose(names: Iterable[str]) -> str:
    return f"choose one of {', '.join(names)}"
