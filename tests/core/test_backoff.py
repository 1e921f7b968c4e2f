"""Backoff: full jitter below a capped, growing ceiling."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.core.backoff import Backoff

seconds = st.floats(min_value=1e-6, max_value=1e6)
factors = st.floats(min_value=1, max_value=1e300)
attempts = st.integers(min_value=0, max_value=10**300)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base, cap = sorted((draw(seconds), draw(seconds)))
    return Backoff(base, cap, draw(factors))


class Highest:
    """Draws the top of every range."""

    def uniform(self, a: float, b: float, /) -> float:
        assert a == 0
        return b


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base=1, cap=600)
    assert [backoff.delay(attempt, Highest()) for attempt in range(12)] == [
        *(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        *(600, 600),
    ]


@given(backoffs(), attempts, st.randoms(use_true_random=False))
def test_a_delay_stays_below_its_ceiling(backoff: Backoff, attempt: int, rng: Random) -> None:
    assert 0 <= backoff.delay(attempt, rng) <= backoff.ceiling(attempt) <= backoff.cap


@given(backoffs(), attempts, attempts)
def test_the_ceiling_never_falls(backoff: Backoff, one: int, other: int) -> None:
    early, late = sorted((one, other))
    assert backoff.base <= backoff.ceiling(early) <= backoff.ceiling(late)


@pytest.mark.parametrize("attempt", [1023, 1024, 1025, 10**9, 10**400])
def test_huge_attempts_wait_for_the_cap(attempt: int) -> None:
    assert Backoff().ceiling(attempt) == 2.0


def test_the_jitter_is_full() -> None:
    rng, backoff = Random(1), Backoff(base=1, cap=1)
    tenths = {int(backoff.delay(0, rng) * 10) for _ in range(1000)}
    assert tenths == set(range(10))


@pytest.mark.parametrize("name", ["base", "cap", "factor"])
@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_bad_setting_is_refused_in_one_line(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^backoff {name} is [^\n]*: it must be [^\n]*$"):
        Backoff(**{name: value})


def test_a_cap_below_the_base_is_refused() -> None:
    with pytest.raises(ValueError, match="no less than base"):
        Backoff(base=2, cap=1)


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Backoff(factor=0.5)


def test_attempts_count_from_zero() -> None:
    with pytest.raises(ValueError, match="attempts count from 0"):
        Backoff().ceiling(-1)
