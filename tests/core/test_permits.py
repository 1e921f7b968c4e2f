"""Waiting for a permit, without a server and without a clock: what a caller does with the answers it gets."""

from __future__ import annotations

import random

from queue_trio.core.limiter import Decision, RateLimit
from queue_trio.core.permits import DRIFT, acquire
from queue_trio.redis.foreign import run_blocking

LIMIT = RateLimit("x", 5, 0.1, jitter=0)


class Machine:
    """A `Timer` on a machine that is suspended for so long during each of its next sleeps."""

    def __init__(self, *suspended_s: float) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        self._suspended = list(suspended_s)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds + (self._suspended.pop(0) if self._suspended else 0.0)


class Generous:
    """A `Limiter` that always has a slot half a second ahead."""

    asked = 0

    async def take(
        self, limit: RateLimit, *, count: int, reserve_us: int, stay_us: int, timeout_s: float
    ) -> Decision:
        self.asked += 1
        return Decision(True, 500_000, self.asked * 1_000_000, 500_000)


def wait_on(machine: Machine) -> tuple[int, int]:
    """How often the limiter was asked, and for when the permit is."""
    limiter = Generous()
    found = run_blocking(
        acquire(limiter, LIMIT, count=1, patience_s=None, outage_s=1, timer=machine, rng=random.Random(1))
    )
    return limiter.asked, found.at_us


def test_a_permit_that_was_slept_through_is_not_used() -> None:
    assert wait_on(Machine()) == (1, 1_500_000)
    assert wait_on(Machine(0.9)) == (1, 1_500_000)
    assert wait_on(Machine(1.5, 60.0)) == (3, 3_500_000)


def test_nobody_wakes_before_its_slot_though_clocks_run_apart() -> None:
    machine = Machine()
    wait_on(machine)
    assert machine.slept == [0.5 * (1 + DRIFT)]
    assert DRIFT >= 5e-4
