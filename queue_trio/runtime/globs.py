"""Which files of a folder are meant: globs over paths relative to it, with `/` between names.

- `*` is any run of characters, `?` one character, `[abc]`, `[a-z]` and `[!abc]` one of a set; none of them a `/`.
- `**` as a whole name is any number of folders, none included; at the end it is everything below.
- A pattern that ends in `/` means everything below that folder: `build/` is `build/**`.
- A pattern matches the whole path: `*.py` is a file in the folder itself, `**/*.py` one at any depth.
- Case counts, and a name that begins with a dot is like any other.

Our own, because `glob.translate` and `PurePath.full_match` came with Python 3.13, and `fnmatch` lets `*` match `/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def translate(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for `fullmatch`. Raises UsageError if it can match nothing."""
    whole = f"{pattern}**" if pattern.endswith("/") else pattern
    names = whole.split("/")
    if not pattern or {"", ".", ".."} & set(names):
        raise UsageError(
            f"glob {pattern!r}: it is matched against paths relative to the folder, such as 'sub/file.txt'; "
            "give one without a leading '/', '.' or '..'"
        )
    last = len(names) - 1
    parts = []
    for at, name in enumerate(names):
        if name == "**":
            parts.append("(?s:.+)" if at == last else "(?:[^/]+/)*")
        else:
            parts.append(_name(name) + ("" if at == last else "/"))
    return re.compile("".join(parts))


def _name(name: str) -> str:
    """One name of a pattern."""
    found: list[str] = []
    at = 0
    while at < len(name):
        character = name[at]
        at += 1
        if character == "*":
            if found[-1:] != ["[^/]*"]:
                found.append("[^/]*")
        elif character == "?":
            found.append("[^/]")
        elif character == "[" and (end := name.find("]", at + (2 if name[at : at + 1] == "!" else 1))) != -1:
            found.append(_set(name[at:end]))
            at = end + 1
        else:
            found.append(re.escape(character))
    return "".join(found)


def _set(inside: str) -> str:
    """`abc`, `a-z` or `!abc`. A range that runs backwards holds nothing, as in the shell."""
    negated = inside.startswith("!")
    left = inside[negated:]
    members = []
    while left:
        if len(left) >= 3 and left[1] == "-":
            if left[0] <= left[2]:
                members.append(f"{re.escape(left[0])}-{re.escape(left[2])}")
            left = left[3:]
        else:
            members.append(re.escape(left[0]))
            left = left[1:]
    some = "".join(members)
    if negated:
        return f"[^/{some}]"
    return f"(?!/)[{some}]" if some else "(?!)"


@dataclass(frozen=True)
class Globs:
    """Include and exclude patterns; exclude wins."""

    _include: tuple[re.Pattern[str], ...]
    _exclude: tuple[re.Pattern[str], ...]
    _prune: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, include: Iterable[str], exclude: Iterable[str]) -> Globs:
        """Raises UsageError for a pattern that can match nothing."""
        excluded = tuple(exclude)
        below = [
            pattern.removesuffix("**").rstrip("/") for pattern in excluded if pattern.endswith(("/**", "/"))
        ]
        return cls(
            tuple(map(translate, include)),
            tuple(map(translate, excluded)),
            tuple(map(translate, filter(None, below))),
        )

    def takes(self, path: str) -> bool:
        """Whether the file at `path` is meant."""
        return any(p.fullmatch(path) for p in self._include) and not any(
            p.fullmatch(path) for p in self._exclude
        )

    def enters(self, folder: str) -> bool:
        """Whether anything below `folder` can be meant: if everything there is excluded, it is not even listed."""
        return not any(pattern.fullmatch(folder) for pattern in self._prune)
