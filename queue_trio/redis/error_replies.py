"""What an error reply of the server means, and under which few names errors are counted. No I/O."""

from __future__ import annotations

import re
from typing import Final

from queue_trio.errors import (
    InfrastructureError,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
)

_CLASS_OF_CODE: dict[str, type[ServerError]] = {
    **dict.fromkeys(
        (
            "LOADING",
            "BUSY",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "TRYAGAIN",
            "READONLY",
            "UNBLOCKED",  # a primary that becomes a replica throws out whoever waits on it
            "UNKILLABLE",
        ),
        ServerNotReady,
    ),
    **dict.fromkeys(("OOM", "MISCONF", "NOREPLICAS"), ServerRefused),
    **dict.fromkeys(("NOAUTH", "WRONGPASS", "NOPERM", "DENIED"), ServerUnusable),
}
# Redis 7 and Valkey put the code of a command that failed in a script first. Redis 6.2 puts it last, after
# `ERR Error running script (call to f_<sha>): @user_script:3: @user_script: 3: -`, or after the second half of that
# where the script returned what `redis.pcall` gave it.
_CODE = re.compile(
    r"(?:(?:ERR Error running script \(call to \w+\): )?(?:@user_script: ?\d+: )+(?=-?[A-Z]{2}[A-Z0-9_]* ))?-?(\S+)"
)
_DENIED_IN_SCRIPT = re.compile(r".{0,120}(?:ACL failure in script|The user executing the script can't )")

_COUNTED_CODES: Final = frozenset((*_CLASS_OF_CODE, "ERR", "WRONGTYPE", "MOVED", "ASK", "CROSSSLOT"))


def error_from_reply(text: str) -> ServerError:
    """The error of ours for an error reply's text. Its `code` is the first word, or that of the command that failed
    inside a script; codes not known to be a state of the server make a plain `ServerError`.
    """
    found = _CODE.match(text)
    code = found[1] if found else "ERR"
    if code == "ERR" or code.startswith("@"):
        # Reached its limit of clients; or an operator ended the script, which Redis allows only before its first write.
        if text.startswith("ERR max number of clients") or "Script killed by user" in text:
            return ServerNotReady("ERR", text)
        code = "NOPERM" if _DENIED_IN_SCRIPT.match(text) else "ERR"
    return _CLASS_OF_CODE.get(code, ServerError)(code, text)


def error_kind(error: InfrastructureError) -> str:
    """What to count `error` under: its class, or the server's code if that is one of a few; else `other`.

    Bounded, because it becomes a metric's label and the server chooses its codes.
    """
    if not isinstance(error, ServerError):
        return type(error).__name__
    return error.code if error.code in _COUNTED_CODES else "other"
