"""Loads the Lua scripts and knows which keys each one takes. It knows nothing of connections.

The header of each file is its contract and is read as such: the line `-- KEYS  a, b, c...` names the keys in order, so
that the caller gives names and the positions cannot drift apart. `--#include a b` pulls in `lua/lib/a.lua` and so on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from queue_trio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from queue_trio.redis.keys import LaneKeys

NAMES: Final = (
    "enqueue",
    "claim",
    "members",
    "pull",
    "adopt",
    "settle",
    "register",
    "renew",
    "sweep",
    "bury",
    "stats",
    "locate",
    "repair",
    "balance",
    "pause",
    "lengths",
    "find",
    "cancel",
    "browse",
    "purge",
    "replay",
    "workers",
    "drain",
    "note",
    "limit_window",
    "limit_gcra",
)

_KEYS = re.compile(r"^-- KEYS +(.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^--#include (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One transition: its text as Redis gets it, the SHA-1 Redis knows it by, and its keys' names in order.

    `variadic`: the caller appends keys of its own after the named ones.
    """

    name: str
    text: str
    sha: str
    key_names: tuple[str, ...]
    variadic: bool

    def keys(self, lane: LaneKeys, own: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """The key names for one lane. `own` gives those that belong to the caller, such as its session."""
        own = own or {}
        return tuple(own[name] if name in own else lane[name] for name in self.key_names)


@cache
def load(name: str) -> Script:
    """The script in `lua/<name>.lua`."""
    folder = files("queue_trio.redis") / "lua"
    source = (folder / f"{name}.lua").read_text("utf-8")
    header = _KEYS.search(source)
    if header is None:
        raise InternalError(f"lua/{name}.lua has no KEYS line in its header")
    names = [part.strip() for part in header[1].split(",")]
    variadic = names[-1].endswith("...")
    if variadic:
        names.pop()

    def library(match: re.Match[str]) -> str:
        return "".join((folder / "lib" / f"{part}.lua").read_text("utf-8") for part in match[1].split())

    text = _INCLUDE.sub(library, source)
    # A script is sent whole only once per server start, but it is hashed by its bytes: comments may stay.
    return Script(
        name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), tuple(names), variadic
    )
