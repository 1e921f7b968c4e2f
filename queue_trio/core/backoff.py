"""How long to wait before the next try: capped exponential backoff with full jitter.

It knows neither what is tried, nor how often to try, nor the time: the caller counts its attempts, sleeps, and keeps
its own deadline. Reconnects use the defaults; job retries use a longer one, such as `Backoff(base=1, cap=600)`.

Full jitter draws the whole wait at random, so that clients which failed together do not come back together: see
Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Rng(Protocol):
    """The part of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """`delay` is uniform in [0, min(cap, base * factor**attempt)].

    `base` and `cap` are seconds, 0 < base <= cap; `factor` is 1 or more. Raises ValueError otherwise.
    """

    base: float = 0.05
    cap: float = 2.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.base < math.inf:
            raise ValueError(f"backoff base is {self.base!r}: it must be a number of seconds above 0")
        if not self.base <= self.cap < math.inf:
            raise ValueError(
                f"backoff cap is {self.cap!r}: it must be a number of seconds, no less than base ({self.base!r})"
            )
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"backoff factor is {self.factor!r}: it must be a number, 1 or more")

    def ceiling(self, attempt: int) -> float:
        """The longest wait, in seconds, after the failure of `attempt`. Attempts count from 0."""
        if attempt < 0:
            raise ValueError(f"attempt is {attempt!r}: attempts count from 0")
        try:
            return min(self.cap, self.base * self.factor**attempt)
        except OverflowError:  # too large for a float is larger than any cap
            return self.cap

    def delay(self, attempt: int, rng: Rng) -> float:
        """Seconds to wait after the failure of `attempt`, drawn from `rng`. Attempts count from 0."""
        return rng.uniform(0.0, self.ceiling(attempt))
