"""The circuit breaker: its table row by row, then against a naive model under random calls."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from queue_trio.core.breaker import BUCKETS, Breaker, Permit, State, Transition
from queue_trio.errors import CircuitOpen

END = ("success", "failure", "cancelled")


class Lowest:
    """Draws the bottom of every range, so that waits are exact."""

    def uniform(self, a: float, b: float, /) -> float:
        return a


def fail(breaker: Breaker, now: float, times: int) -> None:
    for permit in [breaker.acquire(now) for _ in range(times)]:
        permit.failure(now)


def refusal(breaker: Breaker, now: float) -> float:
    with pytest.raises(CircuitOpen) as caught:
        breaker.acquire(now)
    return caught.value.retry_after


def opened(**options: Any) -> Breaker:
    """A breaker that opened at 0 s, to try again at 1 s."""
    breaker = Breaker(Lowest(), min_samples=4, open_wait=1, **options)
    fail(breaker, 0, 4)
    assert breaker.state(0) is State.OPEN
    return breaker


# --- closed --------------------------------------------------------------------------------------------------------


def test_fewer_than_min_samples_never_open() -> None:
    breaker = Breaker(Lowest(), min_samples=4)
    fail(breaker, 0, 3)
    assert breaker.state(0) is State.CLOSED
    assert breaker.opened_at is None


def test_it_opens_at_the_ratio_and_not_below() -> None:
    breaker = Breaker(Lowest(), min_samples=2, failure_ratio=0.55)
    for _ in range(45):
        breaker.acquire(0).success(0)
    fail(breaker, 0, 54)
    assert breaker.state(0) is State.CLOSED
    fail(breaker, 0, 1)
    assert breaker.state(0) is State.OPEN


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(Lowest(), window=10, min_samples=4)
    fail(breaker, 0.5, 3)
    fail(breaker, 10, 3)
    assert breaker.state(10) is State.CLOSED
    fail(breaker, 19.9, 1)
    assert breaker.state(19.9) is State.OPEN


def test_the_window_moves_on_bucket_by_bucket() -> None:
    breaker = Breaker(Lowest(), window=10, min_samples=4)
    fail(breaker, 0.5, 1)
    fail(breaker, 1.5, 2)
    fail(breaker, 10.9, 1)  # the first second has just fallen out, the next has not
    assert breaker.state(10.9) is State.CLOSED
    fail(breaker, 10.9, 1)
    assert breaker.state(10.9) is State.OPEN


def test_a_long_window_keeps_few_buckets() -> None:
    breaker = Breaker(Lowest(), window=10)
    for second in range(10_000):
        breaker.acquire(second).success(second)
    assert breaker._closed is not None
    assert len(breaker._closed._buckets) == BUCKETS


def test_cancelled_calls_count_as_neither() -> None:
    breaker = Breaker(Lowest(), min_samples=4)
    fail(breaker, 0, 3)
    for _ in range(100):
        breaker.acquire(0).cancelled(0)
    assert breaker.state(0) is State.CLOSED
    fail(breaker, 0, 1)
    assert breaker.state(0) is State.OPEN


# --- open ----------------------------------------------------------------------------------------------------------


def test_open_refuses_until_the_wait_is_over() -> None:
    breaker = opened()
    assert refusal(breaker, 0.25) == 0.75
    assert refusal(breaker, 0.75) == 0.25
    assert breaker.state(0.75) is State.OPEN
    assert breaker.state(1) is State.HALF_OPEN
    breaker.acquire(1)


def test_jitter_only_lengthens_the_wait() -> None:
    waits = []
    for seed in range(200):
        breaker = Breaker(Random(seed), min_samples=1, open_wait=2, open_jitter=0.5)
        fail(breaker, 0, 1)
        waits.append(refusal(breaker, 0))
    assert 2 <= min(waits) < 2.1
    assert 2.9 < max(waits) <= 3


# --- half open -----------------------------------------------------------------------------------------------------


def test_only_so_many_probes_are_out_at_once() -> None:
    breaker = opened(probes=2)
    breaker.acquire(1)
    breaker.acquire(1)
    assert refusal(breaker, 1) == 1


def test_one_success_closes_and_empties_the_window() -> None:
    breaker = opened()
    breaker.acquire(1).success(1.5)
    assert breaker.state(1.5) is State.CLOSED
    assert breaker.opened_at is None
    fail(breaker, 1.5, 3)
    assert breaker.state(1.5) is State.CLOSED


def test_a_failed_probe_opens_again_from_then() -> None:
    breaker = opened()
    breaker.acquire(1).failure(1.5)
    assert refusal(breaker, 2) == 0.5
    assert breaker.opened_at == 0
    breaker.acquire(2.5)


def test_a_cancelled_probe_gives_its_permit_back_once() -> None:
    breaker = opened(probes=2)
    first, _ = breaker.acquire(1), breaker.acquire(1)
    first.cancelled(1)
    first.cancelled(1)
    assert breaker.state(1) is State.HALF_OPEN
    breaker.acquire(1)
    refusal(breaker, 1)


@pytest.mark.parametrize("end", END)
def test_calls_begun_before_it_opened_do_not_move_it(end: str) -> None:
    breaker = Breaker(Lowest(), min_samples=4, open_wait=1)
    late = [breaker.acquire(0) for _ in range(20)]
    fail(breaker, 0, 4)

    getattr(late.pop(), end)(0.5)
    assert refusal(breaker, 0.5) == 0.5

    probe = breaker.acquire(1)
    getattr(late.pop(), end)(1)
    assert breaker.state(1) is State.HALF_OPEN
    refusal(breaker, 1)

    probe.success(1)
    for permit in late:
        getattr(permit, end)(1)
    assert breaker.state(1) is State.CLOSED


@pytest.mark.parametrize("end", END)
def test_a_probe_of_an_earlier_half_open_does_not_move_it(end: str) -> None:
    breaker = opened(probes=2)
    first, late = breaker.acquire(1), breaker.acquire(1)
    first.failure(1)
    breaker.acquire(2), breaker.acquire(2)
    getattr(late, end)(2)
    assert breaker.state(2) is State.HALF_OPEN
    refusal(breaker, 2)


# --- what the caller sees ------------------------------------------------------------------------------------------


def test_every_change_is_told_with_its_reason() -> None:
    changes: list[Transition] = []
    breaker = opened(on_change=changes.append)
    breaker.acquire(1).failure(1)
    breaker.acquire(2).success(2)
    assert changes == [
        Transition(State.CLOSED, State.OPEN, 0, "4 of 4 calls failed within 10 s"),
        Transition(State.OPEN, State.HALF_OPEN, 1, "the wait is over"),
        Transition(State.HALF_OPEN, State.OPEN, 1, "a probe failed"),
        Transition(State.OPEN, State.HALF_OPEN, 2, "the wait is over"),
        Transition(State.HALF_OPEN, State.CLOSED, 2, "a probe succeeded"),
    ]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("window", [0, -1, float("nan"), float("inf")]),
        ("min_samples", [0, -1]),
        ("failure_ratio", [0, 1.01, float("nan")]),
        ("open_wait", [0, -1, float("nan"), float("inf")]),
        ("open_jitter", [-0.1, float("nan"), float("inf")]),
        ("probes", [0, -1]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(name: str, values: list[float]) -> None:
    for value in values:
        options: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=rf"^breaker {name} is [^\n]*: it must be [^\n]*$"):
            Breaker(Lowest(), **options)


# --- against a model -----------------------------------------------------------------------------------------------


class Call:
    """A permit, and the generation in which the model gave it out."""

    def __init__(self, permit: Permit, generation: int) -> None:
        self.permit = permit
        self.generation = generation


class BreakerModel(RuleBasedStateMachine):
    """The same breaker written naively: a number for each generation, a list of all results, no caching."""

    calls = Bundle("calls")

    @initialize(
        min_samples=st.integers(1, 6),
        failure_ratio=st.sampled_from([0.25, 0.5, 1.0]),
        probes=st.integers(1, 3),
    )
    def start(self, min_samples: int, failure_ratio: float, probes: int) -> None:
        self.min_samples, self.failure_ratio, self.probes = min_samples, failure_ratio, probes
        self.changes: list[Transition] = []
        self.breaker = Breaker(
            Lowest(),
            window=BUCKETS,  # buckets of one second
            min_samples=min_samples,
            failure_ratio=failure_ratio,
            open_wait=4,
            probes=probes,
            on_change=self.changes.append,
        )
        self.now = 0.0
        self.generation = 0
        self.state = State.CLOSED
        self.results: list[tuple[int, bool]] = []  # (second, failed) of the present closed period
        self.out = 0  # probes of the present generation
        self.probe_at = 0.0
        self.changed = 0

    def change(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self.changed += 1
        self.results, self.out = [], 0
        if state is State.OPEN:
            self.probe_at = self.now + 4

    @rule(quarters=st.integers(1, 60))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(target=calls)
    def acquire(self) -> Any:
        if self.state is State.OPEN and self.now >= self.probe_at:
            self.change(State.HALF_OPEN)
        if self.state is State.OPEN:
            assert refusal(self.breaker, self.now) == self.probe_at - self.now
            return Call(_Nothing(), -1)
        if self.state is State.HALF_OPEN:
            if self.out == self.probes:
                assert refusal(self.breaker, self.now) == 4
                return Call(_Nothing(), -1)
            self.out += 1
        return Call(self.breaker.acquire(self.now), self.generation)

    @rule(call=consumes(calls), end=st.sampled_from(END))
    def report(self, call: Call, end: str) -> None:
        getattr(call.permit, end)(self.now)
        if call.generation != self.generation:
            return
        if self.state is State.HALF_OPEN:
            self.out -= 1
            if end != "cancelled":
                self.change(State.CLOSED if end == "success" else State.OPEN)
        elif end != "cancelled":
            self.results.append((int(self.now), end == "failure"))
            recent = [failed for second, failed in self.results if second > int(self.now) - BUCKETS]
            enough = len(recent) >= self.min_samples
            if end == "failure" and enough and sum(recent) >= self.failure_ratio * len(recent):
                self.change(State.OPEN)

    @rule(times=st.integers(1, 8))
    def fail_many(self, times: int) -> None:
        """Reach OPEN more often than single calls would."""
        if self.state is State.CLOSED:
            for _ in range(times):
                if self.state is State.CLOSED:
                    self.report(self.acquire(), "failure")

    @rule()
    def look(self) -> None:
        if self.state is State.OPEN and self.now >= self.probe_at:
            self.change(State.HALF_OPEN)
        assert self.breaker.state(self.now) is self.state

    @invariant()
    def agrees(self) -> None:
        assert self.breaker._state is self.state
        assert len(self.breaker._probing) == self.out <= self.probes
        assert (self.breaker.opened_at is None) == (self.state is State.CLOSED)
        assert len(self.changes) == self.changed
        assert all(before.new is after.old for before, after in pairwise(self.changes))


class _Nothing:
    """Stands for a refused call, which reports nothing."""

    def success(self, now: float) -> None: ...
    def failure(self, now: float) -> None: ...
    def cancelled(self, now: float) -> None: ...


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
