"""Ends handlers whose time is up: one task for all of them, asleep until the earliest deadline there is.

A deadline costs a job one comparison. Whoever has ended meanwhile is seen to have ended when its deadline comes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from queue_trio.runtime.running import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from queue_trio.runtime.running import Running


class Timekeeper:
    """`jobs`: those that may be running."""

    def __init__(self, jobs: Callable[[], Iterable[Running]]) -> None:
        self._jobs = jobs
        self._sleep = trio.CancelScope()
        self.looks_at = math.inf
        """Trio's time of its next look. Tell `expect` of a deadline before that."""

    def expect(self, deadline: float) -> None:
        """Look at `deadline` already."""
        self.looks_at = self._sleep.deadline = deadline

    async def run(self) -> None:
        """Keep time for ever."""
        while True:
            with trio.CancelScope(deadline=self.looks_at) as self._sleep:
                await trio.sleep_forever()
            self._look()

    def _look(self) -> None:
        now = trio.current_time()
        self.looks_at = math.inf
        for running in self._jobs():
            if running.deadline <= now:
                running.end(Ending.TIMEOUT)
            elif not running.finished:
                self.looks_at = min(self.looks_at, running.deadline)
