"""So many jobs per second and no more. Knows no clock: times are passed in."""

from __future__ import annotations

from typing import Final

SLICES_PER_S: Final = 10
"""Batches per second, so that a low rate is smooth and a high one needs few calls."""


class Pace:
    """`rate`: jobs per second, 0 for no limit. `batch_max`: the most that may go at once."""

    def __init__(self, rate: float, *, batch_max: int) -> None:
        self._rate = rate
        self._next_s = float("-inf")
        self.batch = max(1, min(batch_max, int(rate / SLICES_PER_S))) if rate else batch_max
        """Jobs that may go together."""

    def take(self, number: int, now_s: float) -> float:
        """Seconds to wait, from `now_s`, before `number` jobs go. What was not used in time is lost: never a rush."""
        if not self._rate:
            return 0.0
        start_s = max(self._next_s, now_s)
        self._next_s = start_s + number / self._rate
        return start_s - now_s
