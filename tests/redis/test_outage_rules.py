"""The rules of an outage, without one: who may ask, who is refused, and what is worth a line."""

from __future__ import annotations

import random

import pytest

from queue_trio.errors import CircuitOpen, NotSent, ServerRefused
from queue_trio.redis.outage import JITTER, REFUSED_S, REMIND_S, SILENCE_S, News, Outage

WAIT_S = 2.0
GONE = NotSent("connection refused")


def make_outage() -> Outage:
    return Outage(random.Random(3), wait_s=WAIT_S)


def refused(outage: Outage, now: float) -> bool:
    try:
        outage.enter(now)
    except CircuitOpen:
        return True
    outage.leave()
    return False


def test_after_a_failure_nobody_impatient_may_try_until_the_wait_is_over() -> None:
    outage = make_outage()
    assert not refused(outage, 10)
    assert outage.failing(GONE, 10) is News.BEGUN
    assert refused(outage, 10 + WAIT_S * 0.99)
    assert not refused(outage, 10 + WAIT_S * (1 + JITTER))
    with pytest.raises(CircuitOpen, match=r"out of reach for 1\.0 s: connection refused") as caught:
        outage.enter(11)
    assert WAIT_S - 1 <= caught.value.retry_after <= WAIT_S * (1 + JITTER) - 1
    assert outage.over(11, failed_before=False)
    assert not refused(outage, 11)
    assert not outage.over(11, failed_before=True)  # there is none any more


def test_while_writes_are_refused_a_read_that_succeeds_proves_nothing() -> None:
    outage = make_outage()
    outage.failing(ServerRefused("OOM", "OOM memory is full"), 10)
    assert not outage.over(10.1, failed_before=False)
    assert outage.since == 10
    assert outage.over(10.2, failed_before=True)  # it was refused itself, and is no more
    outage.failing(ServerRefused("OOM", "OOM memory is full"), 20)
    assert outage.over(20 + REFUSED_S, failed_before=False)  # whoever was refused has given up
    outage.failing(GONE, 30)
    assert outage.over(30.1, failed_before=False)


def test_one_at_a_time_looks_and_none_while_patient_ones_do() -> None:
    outage = make_outage()
    outage.failing(GONE, 0)
    outage.enter(10)
    assert refused(outage, 10)
    outage.leave()
    assert not refused(outage, 10)
    outage.join()
    assert refused(outage, 10)
    outage.leave()
    assert not refused(outage, 10)


def test_the_breaker_says_when_and_what_opened_it_stays_the_reason() -> None:
    outage = make_outage()
    outage.failing(GONE, 0)
    outage.failing(CircuitOpen("the circuit breaker is open", 0.5), 10)
    assert outage.reason == "connection refused"
    assert refused(outage, 10.4)
    assert not refused(outage, 10.5)


def test_a_reminder_a_minute() -> None:
    outage = make_outage()
    told = [outage.failing(GONE, at) for at in range(0, 181, 10)]
    assert told[0] is News.BEGUN
    assert [at * 10 for at, news in enumerate(told) if news is News.STILL] == [
        REMIND_S,
        2 * REMIND_S,
        3 * REMIND_S,
    ]


def test_a_call_cut_short_says_something_only_after_a_silence() -> None:
    outage = make_outage()
    assert outage.cut_short(SILENCE_S * 0.9, 10) is None
    assert outage.since is None
    assert outage.cut_short(SILENCE_S, 10) is News.BEGUN
    assert refused(outage, 10.1)
    assert "no answer for 0.25 s" in outage.reason
