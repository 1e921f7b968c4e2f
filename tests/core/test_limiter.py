"""The arithmetic of rate limits: no window above its limit, no span above its rate, whatever is asked and when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.core.limiter import LINE_US_MAX, Account, RateLimit, decide
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.limiter import Decision

START_US = 1_790_000_000_000_000
STAY_US = 2**52


class Ask(NamedTuple):
    """After `later_us` more, and with the clock set back by `back_us`, ask for a share of what may be had at once."""

    later_us: int
    share: float
    reserve_us: int
    stay_us: int = 0
    back_us: int = 0


@dataclass(frozen=True)
class Granted:
    slot_us: int
    count: int


limits = st.one_of(
    st.builds(
        RateLimit,
        st.just("w"),
        st.integers(1, 50),
        st.sampled_from([0.01, 0.3, 1, 7, 60]),
    ),
    st.builds(
        RateLimit,
        st.just("s"),
        st.integers(1, 50),
        st.sampled_from([0.01, 0.3, 1, 7, 60]),
        st.just("smooth"),
        st.integers(1, 10),
    ),
)
asks = st.lists(
    st.builds(
        Ask,
        st.one_of(st.integers(0, 50_000), st.integers(0, 20_000_000)),
        st.floats(0, 1),
        st.one_of(st.just(0), st.integers(0, 3_000_000), st.integers(0, 100_000_000)),
        st.integers(0, 100_000_000),
    ),
    max_size=60,
)
backward_asks = st.lists(
    st.builds(
        Ask,
        st.integers(0, 2_000_000),
        st.floats(0, 1),
        st.integers(0, 3_000_000),
        st.integers(0, 100_000_000),
        st.one_of(st.just(0), st.integers(0, 10_000_000)),
    ),
    max_size=60,
)


def run(limit: RateLimit, schedule: Sequence[Ask]) -> tuple[list[Granted], list[tuple[int, Decision]]]:
    """What was granted, and every decision with the true time it was made at."""
    account, true_us, clock_us = Account(), START_US, START_US
    granted, decisions = [], []
    for ask in schedule:
        true_us += ask.later_us
        clock_us += ask.later_us - ask.back_us
        count = max(1, round(ask.share * limit.at_once))
        decision, account = decide(
            limit, account, clock_us, count=count, reserve_us=ask.reserve_us, stay_us=ask.stay_us
        )
        decisions.append((true_us, decision))
        if decision.granted:
            assert decision.wait_us <= ask.reserve_us
            granted.append(Granted(decision.now_us + decision.wait_us, count))
    return granted, decisions


def assert_kept(limit: RateLimit, granted: Sequence[Granted]) -> None:
    """No window, or no span of any length, has more permits than the limit says."""
    if limit.mode == "window":
        taken: dict[int, int] = {}
        for permit in granted:
            window = permit.slot_us // limit.per_us
            taken[window] = taken.get(window, 0) + permit.count
        assert max(taken.values(), default=0) <= limit.limit
        return
    for first in range(len(granted)):
        count = 0
        for permit in granted[first:]:
            count += permit.count
            # A slot is rounded up to a whole microsecond, hence the one.
            span_us = permit.slot_us - granted[first].slot_us + 1
            assert count <= limit.at_once + Fraction(span_us * limit.limit, limit.per_us)


@given(limits, asks)
def test_no_schedule_of_calls_gets_more_than_the_limit(limit: RateLimit, schedule: list[Ask]) -> None:
    granted, _ = run(limit, schedule)
    assert_kept(limit, granted)
    assert [permit.slot_us for permit in granted] == sorted(permit.slot_us for permit in granted)


@given(limits, backward_asks)
def test_a_clock_that_is_set_back_gives_nothing_away_and_holds_nobody_up(
    limit: RateLimit, schedule: list[Ask]
) -> None:
    granted, decisions = run(limit, schedule)
    assert_kept(limit, granted)
    for (true, decision), (later, next_decision) in pairwise(decisions):
        # Time goes on, and not faster than it does: windows are no shorter than they should be.
        assert 0 <= next_decision.now_us - decision.now_us <= later - true


@given(limits, asks)
def test_who_waits_for_its_slot_is_not_refused_again(limit: RateLimit, schedule: list[Ask]) -> None:
    """Asking again when the wait that was told is over, with nobody in between, is granted at once."""
    account, clock_us = Account(), START_US
    for ask in schedule:
        clock_us += ask.later_us
        count = max(1, round(ask.share * limit.at_once))
        decision, account = decide(limit, account, clock_us, count=count, reserve_us=0, stay_us=STAY_US)
        if not decision.granted:
            clock_us += decision.wait_us
            decision, account = decide(limit, account, clock_us, count=count, reserve_us=0, stay_us=STAY_US)
        assert decision.granted
        assert decision.wait_us == 0


@given(limits, st.integers(2, 400))
def test_under_constant_demand_nothing_of_the_limit_is_lost(limit: RateLimit, calls: int) -> None:
    account, slots = Account(), []
    for _ in range(calls):
        decision, account = decide(limit, account, START_US, count=1, reserve_us=10**12, stay_us=0)
        slots.append(decision.now_us + decision.wait_us)
    if limit.mode == "window":
        first = START_US // limit.per_us
        assert [slot // limit.per_us - first for slot in slots] == [n // limit.limit for n in range(calls)]
    else:
        apart = Fraction(limit.per_us, limit.limit)
        for n, slot in enumerate(slots):
            exact = START_US + max(0, n + 1 - limit.at_once) * apart
            assert exact <= slot < exact + 1


@given(limits, st.integers(1, 300))
def test_places_in_line_are_the_limits_own_distance_apart(limit: RateLimit, refused: int) -> None:
    account = Account()
    decision, account = decide(limit, account, START_US, count=limit.at_once, reserve_us=0, stay_us=STAY_US)
    assert decision.granted
    places = []
    for _ in range(refused):
        decision, account = decide(limit, account, START_US, count=1, reserve_us=0, stay_us=STAY_US)
        if not decision.granted:
            assert decision.line_us >= decision.wait_us
            places.append(decision.line_us)
    steps = [later - before for before, later in pairwise(places)]
    if limit.mode == "window":
        # So many go to the start of each window, and not one more.
        assert all(place == decision.wait_us or (START_US + place) % limit.per_us == 0 for place in places)
        crowds = Counter(place for place in places if place - decision.wait_us < LINE_US_MAX - limit.per_us)
        assert max(crowds.values(), default=0) <= limit.limit
    else:
        assert all(step in (limit.gap_us, 0) for step in steps)
        assert steps == sorted(steps, reverse=True)
    assert all(place - decision.wait_us <= LINE_US_MAX + limit.gap_us for place in places)
    # Who has a place already, or would not stay for so long, makes the line no longer.
    for stay_us in (0, places[-1] - 1 if places else 0):
        before = account
        decision, account = decide(limit, account, START_US, count=1, reserve_us=0, stay_us=stay_us)
        assert account.line_us == before.line_us or decision.granted


def test_a_limit_that_is_changed_keeps_to_the_numbers_of_each_call() -> None:
    """Two programs that disagree: the account is one, and each call is judged by what it brings."""
    few, many = RateLimit("m", 2, 1), RateLimit("m", 5, 1)
    account, now = Account(), START_US + 1
    answers = []
    for limit in (many, many, few, many, many, many, many):
        decision, account = decide(limit, account, now, count=1, reserve_us=0, stay_us=STAY_US)
        answers.append(decision.granted)
    assert answers == [True, True, False, True, True, True, False]
    minute = RateLimit("m", 5, 60)
    decision, account = decide(minute, account, now, count=1, reserve_us=0, stay_us=STAY_US)
    assert (decision.granted, (decision.now_us + decision.wait_us) % 60_000_000) == (False, 0)
    fine, coarse = RateLimit("s", 7, 1, "smooth"), RateLimit("s", 3, 1, "smooth")
    account = Account()
    for limit in (fine, fine, coarse, fine, coarse):
        decision, account = decide(limit, account, now, count=1, reserve_us=10**7, stay_us=0)
        assert decision.granted


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"name": ""}, "use 1 to 64 letters"),
        ({"name": "a{b}"}, "use 1 to 64 letters"),
        ({"name": 3}, "use 1 to 64 letters"),
        ({"limit": 0}, "limit=0: give a whole number, from 1"),
        ({"limit": 1.5}, "limit=1.5: give a whole number"),
        ({"limit": True}, "limit=True: give a whole number"),
        ({"per": 0}, "per=0: give seconds, from 0.01"),
        ({"per": float("nan")}, "per=nan: give seconds"),
        ({"per": "60"}, "per='60': give seconds"),
        ({"mode": "fixed"}, "mode='fixed': choose one of window, smooth"),
        ({"when_down": "closed"}, "when_down='closed': choose one of wait, open, fail"),
        ({"burst": 5}, "burst=5: it is for mode='smooth'"),
        ({"jitter": -1}, "jitter=-1: give seconds, from 0 to half of per"),
        ({"jitter": 31}, "jitter=31: give seconds, from 0 to half of per (30)"),
        ({"mode": "smooth", "burst": 0}, "burst=0: give a whole number, from 1"),
        ({"mode": "smooth", "jitter": 0.1}, "jitter=0.1: it is for mode='window'"),
        ({"mode": "smooth", "limit": 999_983, "per": 86400, "burst": 999_983}, "too fine a fraction"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_in_one_line(given_: dict[str, Any], words: str) -> None:
    numbers: dict[str, Any] = {"name": "mail", "limit": 100, "per": 60, **given_}
    with pytest.raises(UsageError) as caught:
        RateLimit(**numbers)
    assert words in str(caught.value)
    assert str(caught.value).startswith("rate limit ")
    assert "\n" not in str(caught.value)


def test_no_call_may_ask_for_more_than_can_be_had_at_once() -> None:
    RateLimit("w", 3, 1).check_count(3)
    RateLimit("s", 3, 1, "smooth", 2).check_count(2)
    for limit, count in (
        (RateLimit("w", 3, 1), 4),
        (RateLimit("s", 3, 1, "smooth", 2), 3),
        (RateLimit("w", 3, 1), 0),
    ):
        with pytest.raises(
            UsageError, match=f"count={count}: give a whole number, from 1 to its (limit|burst)"
        ):
            limit.check_count(count)


def test_a_million_a_day_is_counted_exactly() -> None:
    limit = RateLimit("api", 1_000_000, 86400, "smooth", 1000)
    assert limit.spacing == (86400, 1)
    assert limit.arguments(2, 7, 8) == (86400, 1, 1000, 2, 7, 8, 86400)
    assert RateLimit("api", 7, 1).arguments(1, 0, 0) == (7, 1_000_000, 1, 0, 0, 142_858)


def test_jitter_is_a_small_share_of_a_window_unless_it_is_given() -> None:
    assert RateLimit("w", 1, 1).jitter_s == pytest.approx(0.05)
    assert RateLimit("w", 1, 60).jitter_s == pytest.approx(0.1)
    assert RateLimit("w", 1, 60, jitter=0).jitter_s == 0
    assert RateLimit("s", 1, 60, "smooth").jitter_s == 0
