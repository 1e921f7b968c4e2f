"""What a request to a rate limit's script looks like, and its reply. The same for every kind of client.

A request whose reply was lost is sent again, and may so take a second permit, which nobody uses. It never takes one too
many: every permit was counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from queue_trio.core.limiter import Decision
from queue_trio.errors import DeadlineExceeded, ServerNotReady, ServerRefused, TransportError
from queue_trio.redis import scripts
from queue_trio.redis.keys import limit_key

if TYPE_CHECKING:
    from queue_trio.core.limiter import RateLimit
    from queue_trio.redis.scripts import Script

AWAY: Final = (TransportError, ServerNotReady, ServerRefused, DeadlineExceeded)
"""What it means that Redis cannot be asked, and `RateLimit.when_down` decides."""

LET_THROUGH: Final = Decision(True, 0, 0, 0, counted=False)


def script_of(limit: RateLimit) -> Script:
    """The script that decides on permits of this limit."""
    return scripts.load("limit_window") if limit.mode == "window" else scripts.load("limit_gcra")


def keys_of(limit: RateLimit, prefix: str) -> tuple[str, ...]:
    """The limit's account."""
    return (limit_key(limit.name, limit.mode, prefix),)


def decision(reply: Any) -> Decision:
    """What the script answered."""
    granted, wait_us, now_us, line_us = reply
    return Decision(bool(granted), wait_us, now_us, line_us)
