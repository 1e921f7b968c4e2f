"""Dequeue strategies: who leads, how often, and how long anyone waits for it."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.core.dequeue import (
    DEFAULT_WEIGHTS,
    PRIORITIES,
    LaneOrder,
    Looped,
    Priority,
    SmoothWeightedRoundRobin,
    Strict,
    Weighted,
    strategy_from_name,
)

CRITICAL, HIGH, NORMAL, LOW = PRIORITIES

weights_of_items = st.lists(st.integers(1, 30), min_size=1, max_size=6).map(
    lambda weights: dict(enumerate(weights))
)
weights_of_priorities = st.fixed_dictionaries({priority: st.integers(1, 30) for priority in PRIORITIES})


def test_priorities_are_ranked_and_named() -> None:
    assert [priority.rank for priority in PRIORITIES] == [0, 1, 2, 3]
    assert [f"{priority}" for priority in PRIORITIES] == ["critical", "high", "normal", "low"]
    assert Priority("high") is HIGH


# --- turns by weight -----------------------------------------------------------------------------------------------


def test_turns_are_those_of_nginx() -> None:
    turns = SmoothWeightedRoundRobin({"a": 5, "b": 1, "c": 1})
    assert "".join(turns.leader() for _ in range(14)) == "aabacaa" * 2


@given(weights_of_items, st.integers(0, 400))
def test_in_any_window_each_leads_exactly_by_its_weight(weights: dict[int, int], offset: int) -> None:
    turns = SmoothWeightedRoundRobin(weights)
    for _ in range(offset):
        turns.leader()
    assert Counter(turns.leader() for _ in range(sum(weights.values()))) == weights


@given(weights_of_items)
def test_turns_repeat_after_one_round(weights: dict[int, int]) -> None:
    turns, total = SmoothWeightedRoundRobin(weights), sum(weights.values())
    first, second = ([turns.leader() for _ in range(total)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("weight", [0, -1])
def test_a_bad_weight_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match=r"^weight of a is .*: it must be a whole number, 1 or more$"):
        SmoothWeightedRoundRobin({"a": weight})


def test_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SmoothWeightedRoundRobin[str]({})


# --- strategies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strict(), Looped()])
def test_strict_and_looped_always_look_at_the_most_urgent_first(strategy: Strict | Looped) -> None:
    assert strategy.order() == strategy.order() == (CRITICAL, HIGH, NORMAL, LOW)


@given(weights_of_priorities)
def test_weighted_puts_the_rest_in_strict_order(weights: dict[Priority, int]) -> None:
    strategy = Weighted(weights)
    for _ in range(sum(weights.values())):
        leader, *rest = strategy.order()
        assert rest == [priority for priority in PRIORITIES if priority is not leader]


@given(weights_of_priorities, st.integers(0, 200), st.data())
def test_weighted_keeps_its_starvation_bound(
    weights: dict[Priority, int], offset: int, data: st.DataObject
) -> None:
    """However the mapping is ordered, and whenever a job arrives."""
    strategy = Weighted({priority: weights[priority] for priority in data.draw(st.permutations(PRIORITIES))})
    total = sum(weights.values())
    leaders = [strategy.order()[0] for _ in range(offset + total)][offset:]
    assert Counter(leaders) == weights
    for priority in PRIORITIES:
        assert leaders.index(priority) <= total - weights[priority]


def test_the_default_weights() -> None:
    strategy = Weighted()
    leaders = Counter(strategy.order()[0] for _ in range(15))
    assert leaders == DEFAULT_WEIGHTS == {CRITICAL: 8, HIGH: 4, NORMAL: 2, LOW: 1}


def test_weights_must_name_every_priority() -> None:
    with pytest.raises(
        ValueError, match=r"^weights name critical, low: they must name critical, high, normal, low$"
    ):
        Weighted({CRITICAL: 1, LOW: 1})


def test_looped_tells_its_granularity() -> None:
    assert Looped(wait=0.5).granularity == 1.5


@pytest.mark.parametrize("wait", [0, 0.0009, -1, float("nan"), float("inf")])
def test_looped_refuses_a_wait_that_redis_would_take_for_forever(wait: float) -> None:
    with pytest.raises(ValueError, match=r"^wait is .*: it must be a number of seconds, 0\.001 or more$"):
        Looped(wait)


def test_strategies_by_name() -> None:
    equal = dict.fromkeys(PRIORITIES, 1)
    assert strategy_from_name("strict", weights=equal, wait=9) == Strict()
    assert strategy_from_name("looped", weights=equal, wait=9) == Looped(9)
    weighted = strategy_from_name("weighted", weights=equal)
    assert [weighted.order()[0] for _ in range(8)] == [*PRIORITIES, *PRIORITIES]
    assert isinstance(strategy_from_name("weighted"), Weighted)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown dequeue strategy 'fair': choose strict, weighted or looped$"
    ):
        strategy_from_name("fair")


# --- queues --------------------------------------------------------------------------------------------------------


def orders(queues: LaneOrder, count: int) -> list[str]:
    return [" ".join(order) for order in islice(iter(queues.order, ()), count)]


def test_queues_as_listed() -> None:
    assert orders(LaneOrder.parse("emails, default"), 2) == ["emails default"] * 2
    assert orders(LaneOrder(["default"]), 1) == ["default"]


@pytest.mark.parametrize(
    "queues", [LaneOrder.parse("emails:3, default:1"), LaneOrder({"emails": 3, "default": 1})]
)
def test_queues_by_weight(queues: LaneOrder) -> None:
    emails, default = "emails default", "default emails"
    assert orders(queues, 4) == [emails, emails, default, emails]


@pytest.mark.parametrize(
    "text", ["", "a,", "a, a", "a:1, b", "a:1, a:2", "a:x", "a:-1", ":1", "a:1.5", "a:1:2"]
)
def test_unclear_queues_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^queues are [^\n]+$"):
        LaneOrder.parse(text)


def test_a_queue_of_weight_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="weight of a is 0"):
        LaneOrder.parse("a:0, b:1")
