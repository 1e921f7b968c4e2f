"""What a client knows of the present outage: since when, why, what to say of it, and who may ask whether it is over.

For all three clients, and so without I/O, clock or lock: the caller passes `now`, and has the lock if it has threads.

A call that will not wait (`on_outage="fail"`) is refused while the outage is known. Somebody must notice its end all
the same: one such call at a time is let through once the breaker's wait is over, unless patient ones are trying anyway.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Final

from queue_trio.errors import CircuitOpen, Indeterminate, InfrastructureError, ServerRefused

if TYPE_CHECKING:
    from queue_trio.core.backoff import Rng

REMIND_S: Final = 60.0
"""Between two log lines of one outage."""

JITTER: Final = 0.5
"""As the breaker's: up to so much of its wait is added at random."""


SILENCE_S: Final = 0.25
"""Long for a server that is well. Who is in a hurry has often gone before a read timeout could tell."""


REFUSED_S: Final = 3.0
"""A server that refuses writes still answers reads. For so long after a refusal they prove nothing."""


class News(Enum):
    """What a failure is to people."""

    BEGUN = "begun"
    STILL = "still"


class Outage:
    """The present outage, if there is one. `wait_s`: how long after a failure nobody impatient may try."""

    __slots__ = (
        "_ask_at",
        "_asking",
        "_refused_at",
        "_rng",
        "_told_at",
        "_wait_s",
        "failures",
        "reason",
        "since",
    )

    def __init__(self, rng: Rng, *, wait_s: float) -> None:
        self._rng = rng
        self._wait_s = wait_s
        self._ask_at = 0.0
        self._asking = 0
        self._told_at = 0.0
        self._refused_at = -math.inf
        self.since: float | None = None
        """When it began, on the caller's clock. None: there is none."""
        self.reason = ""
        """The last failure, for people. Kept after the outage."""
        self.failures = 0
        """Failures ever. A caller that waits for another's call sees by it that this one failed."""

    def failing(self, error: InfrastructureError, now: float) -> News | None:
        """A try failed. Returns what is worth a line in the log: its beginning, and then one reminder a minute."""
        self.failures += 1
        self._refused_at = now if isinstance(error, ServerRefused) else -math.inf
        if isinstance(error, CircuitOpen):
            self.reason = self.reason or str(error)  # nothing was tried: what opened it is the reason
            self._ask_at = now + error.retry_after
        else:
            self.reason = str(error)
            self._ask_at = now + self._wait_s * (1 + self._rng.uniform(0.0, JITTER))
        if self.since is None:
            self.since = self._told_at = now
            return News.BEGUN
        if now - self._told_at >= REMIND_S:
            self._told_at = now
            return News.STILL
        return None

    def cut_short(self, after_s: float, now: float) -> News | None:
        """An impatient call was cancelled, or out of time, after so long without an answer. Returns as `failing`.

        If that told nothing, every caller whose patience is shorter than a read timeout would spend all of it, as long
        as the server hangs.
        """
        if after_s < SILENCE_S:
            return None
        return self.failing(Indeterminate(f"no answer for {after_s:.3g} s"), now)

    def over(self, now: float, *, failed_before: bool) -> bool:
        """A try succeeded, of a call that has `failed_before` or not. Returns whether that is the end of the outage."""
        if self.since is None or (not failed_before and now - self._refused_at < REFUSED_S):
            return False
        self.since = None
        return True

    def join(self) -> None:
        """A patient call goes on trying until it calls `leave`: no other needs to."""
        self._asking += 1

    def enter(self, now: float) -> None:
        """An impatient call begins; call `leave` at its end. Raises CircuitOpen if it may not."""
        if self.since is not None and (self._asking or now < self._ask_at):
            raise self.error(now)
        self._asking += 1

    def leave(self) -> None:
        """The end of what `join` or `enter` began."""
        self._asking -= 1

    def for_s(self, now: float) -> float:
        """How long it has lasted."""
        return 0.0 if self.since is None else now - self.since

    def error(self, now: float) -> CircuitOpen:
        """What an impatient caller is told."""
        retry_after = max(0.0, self._ask_at - now)
        return CircuitOpen(
            f"Redis has been out of reach for {self.for_s(now):.1f} s: {self.reason}", retry_after
        )
