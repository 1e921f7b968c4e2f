"""Whether to look for the next reply before sleeping until it is there: learned from the replies before it.

One for each connection. It knows no stream and no clock: times come from the caller, in seconds. Why looking pays, and
when it does not: docs/decisions/017.
"""

from __future__ import annotations

import math
from typing import Final

TURNS: Final = 16
"""In so many turns of the event loop a reply is looked for. If nobody else runs, they take about 100 µs."""
BUSY_TURNS: Final = 2
"""The same if others are known to have work to do: within so many turns all of them have had theirs."""
NEAR_S: Final = 0.0004
"""A server whose reply took less, sleeping and waking included, is nearby."""
AWAKE_S: Final = 0.0004
"""So long after its last reply a server is still awake. Woken up, it takes longer to answer than looking lasts."""
SKIPPED_MAX: Final = 63
"""However often looking was in vain, one reply in so many and one is looked for: servers and networks change."""


class Lookout:
    """What the replies of one connection have taught."""

    __slots__ = ("_answered_at", "_near", "_next_skip", "_skip")

    def __init__(self) -> None:
        self._answered_at = -math.inf
        self._near = False
        self._skip = 0
        """Of so many replies that promise to be found none is looked for."""
        self._next_skip = 0
        """That, after another look in vain: 0, 1, 3, 7 and so on."""

    def promising(self, now: float) -> bool:
        """Whether to look for the reply to what is sent `now`. Ask once for each."""
        if not self._near or now - self._answered_at >= AWAKE_S:
            return False
        if self._skip:
            self._skip -= 1
            return False
        return True

    def answered(self, took_s: float, now: float, *, looked: bool, found: bool) -> None:
        """A reply came after `took_s`. `looked`: it had been looked for; `found`: and came while it was."""
        self._answered_at = now
        if found:
            self._next_skip = 0
            return
        self._near = took_s < NEAR_S
        if looked:
            self._skip = self._next_skip
            self._next_skip = min(SKIPPED_MAX, 2 * self._next_skip + 1)
