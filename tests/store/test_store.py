"""What every Store does: each transition, and the rules of each. Run over memory and over Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.core.dequeue import PRIORITIES, Weighted
from queue_trio.core.job import Enqueued, Failure, Lane, NewJob, Outcome, State, Verdict, encode_failure
from queue_trio.core.store import MAX_BATCH, Renewed
from queue_trio.errors import InternalError
from tests.store.worlds import (
    HOUR_MS,
    OOPS,
    World,
    dead,
    done,
    ids,
    job,
    kept,
    record,
    release,
    retry,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from queue_trio.core.job import ClaimedJob
    from queue_trio.core.store import Swept

CREATED, DUPLICATE, REFUSED = Enqueued.CREATED, Enqueued.DUPLICATE, Enqueued.REFUSED
CRITICAL, HIGH, NORMAL, LOW = PRIORITIES


# --- enqueue -------------------------------------------------------------------------------------------------------


async def test_an_enqueued_job_is_claimed_with_its_record_and_completed(world: World) -> None:
    assert await world.enqueue("a") == [CREATED]
    assert await world.counts() == {"ready normal": 1, "enqueued": 1}
    claim = await world.claim()
    (claimed,) = claim.jobs
    assert (claimed.id, claimed.raw, claimed.tries, claimed.crashes) == ("a", record("t-a"), 0, 0)
    assert claimed.token.startswith("w:")
    assert await world.counts() == {"leased": 1, "enqueued": 1}
    assert await world.settle(done(claimed)) == [True]
    assert await world.counts() == {"enqueued": 1, "completed": 1}


async def test_an_id_is_taken_while_its_job_exists_in_whatever_state(world: World) -> None:
    assert await world.enqueue("a", "a") == [CREATED, DUPLICATE]
    assert await world.enqueue(job("a", HIGH)) == [DUPLICATE]
    (claimed,) = (await world.claim()).jobs
    assert await world.enqueue("a") == [DUPLICATE]
    await world.settle(retry(claimed, HOUR_MS))
    assert await world.enqueue("a") == [DUPLICATE]
    await world.enqueue("b")
    (other,) = (await world.claim()).jobs
    await world.settle(dead(other))
    assert await world.enqueue("b") == [DUPLICATE]
    await world.enqueue("c")
    await world.settle(done((await world.claim()).jobs[0]))
    assert await world.enqueue("c") == [CREATED]


async def test_a_unique_id_stays_taken_after_its_job_has_ended(world: World) -> None:
    assert await world.enqueue(job("a", unique_ms=HOUR_MS), job("b", unique_ms=1)) == [CREATED, CREATED]
    assert await world.enqueue("a") == [DUPLICATE]
    await world.settle(*map(done, (await world.claim()).jobs))
    await world.pass_ms(2)
    assert await world.enqueue("a", "b", "c") == [DUPLICATE, CREATED, CREATED]


async def test_a_unique_id_is_still_taken_when_its_time_is_over_but_its_job_is_not(world: World) -> None:
    await world.enqueue(job("a", unique_ms=1))
    await world.pass_ms(2)
    await world.sweep()
    assert await world.enqueue("a") == [DUPLICATE]


async def test_a_full_queue_refuses_new_jobs_but_knows_its_own(world: World) -> None:
    answers = await world.enqueue("a", job("b", delay_ms=HOUR_MS), "c", "a", max_length=2)
    assert answers == [CREATED, CREATED, REFUSED, DUPLICATE]
    assert await world.enqueue("d", "b", max_length=2) == [REFUSED, DUPLICATE]
    await world.claim(1)
    assert await world.enqueue("d", "e", max_length=2) == [CREATED, REFUSED]
    assert await world.enqueue("e", max_length=0) == [CREATED]
    assert await world.counts() == {"ready normal": 2, "scheduled": 1, "leased": 1, "enqueued": 4}


async def test_more_jobs_than_fit_one_call_are_all_enqueued_claimed_and_settled(world: World) -> None:
    count = 2 * MAX_BATCH + 7
    answers = await world.enqueue(*(f"{number:05}" for number in range(count)))
    assert answers == [CREATED] * count
    claimed = []
    while jobs := (await world.claim(2 * MAX_BATCH)).jobs:
        assert len(jobs) <= MAX_BATCH
        claimed += jobs
    assert [one.id for one in claimed] == [f"{number:05}" for number in range(count)]
    held = [(one.id, one.token) for one in claimed]
    held.insert(700, ("00003", "someone:1"))
    assert await world.store.renew(world.lane, worker="w", lease_ms=HOUR_MS, held=held) == Renewed(("00003",))
    outcomes = [release(one) if number % 2 else done(one) for number, one in enumerate(claimed)]
    outcomes.insert(600, Outcome("00001", "someone:1"))
    accepted = await world.settle(*outcomes)
    assert accepted.pop(600) is False
    assert accepted == [True] * count
    assert await world.counts() == {
        "ready normal": count // 2,
        "enqueued": count,
        "completed": count - count // 2,
    }
    await world.store.deregister(world.lane, worker="w")


async def test_nothing_at_all_is_nothing_to_do(world: World) -> None:
    assert await world.enqueue() == []
    assert await world.settle() == []
    assert ids(await world.claim(0)) == []
    await world.enqueue("a")
    assert ids(await world.claim(0)) == []
    assert await world.store.peek(world.lane, State.READY, count=0) == []


# --- claim ---------------------------------------------------------------------------------------------------------


async def test_higher_priorities_go_first_and_older_jobs_first_within_one(world: World) -> None:
    await world.enqueue(job("l1", LOW), job("n1"), job("c1", CRITICAL), job("h1", HIGH), job("n2"))
    await world.enqueue(job("c2", CRITICAL), job("l2", LOW), job("h2", HIGH))
    assert ids(await world.claim(3)) == ["c1", "c2", "h1"]
    await world.enqueue(job("c3", CRITICAL))
    assert ids(await world.claim(3)) == ["c3", "h2", "n1"]
    assert ids(await world.claim()) == ["n2", "l1", "l2"]


async def test_a_claim_settles_first_what_goes_along_with_it(world: World) -> None:
    await world.enqueue("a", "b", "c", "d")
    a, b, c = (await world.claim(3)).jobs
    foreign = Outcome(c.id, "w:99")
    claim = await world.claim(outcomes=[done(a), release(b), foreign])
    assert claim.accepted == [True, True, False]
    assert ids(claim) == ["b", "d"]  # what was given back is at the front, and ready for the same call
    assert await world.counts() == {"leased": 3, "enqueued": 4, "completed": 1}
    assert (await world.claim()).accepted is None


async def test_a_paused_queue_settles_what_a_claim_takes_along(world: World) -> None:
    await world.enqueue("a", "b")
    (a,) = (await world.claim(1)).jobs
    await world.store.pause(world.lane, True)
    claim = await world.claim(outcomes=[done(a)])
    assert (claim.accepted, claim.jobs, claim.paused) == ([True], [], True)


async def test_the_order_given_decides_which_priority_leads(world: World) -> None:
    await world.enqueue(job("n", NORMAL), job("c", CRITICAL), job("l", LOW), job("h", HIGH))
    assert ids(await world.claim(2, order=(LOW, CRITICAL, HIGH, NORMAL))) == ["l", "c"]
    assert ids(await world.claim(2, order=(NORMAL,))) == ["n"]
    assert ids(await world.claim(2, order=Weighted().order())) == ["h"]


async def test_a_promoted_job_keeps_its_priority(world: World) -> None:
    await world.enqueue(job("later", CRITICAL, delay_ms=1), job("now", LOW))
    await world.pass_ms(2)
    assert ids(await world.claim(1)) == ["later"]


async def test_every_claim_has_a_token_of_its_own_and_fences_grow(world: World) -> None:
    await world.enqueue("a", "b", "c")
    first, second = (await world.claim(2)).jobs, (await world.claim(2)).jobs
    assert {one.token for one in first}.isdisjoint(one.token for one in second)
    assert first[0].fence == first[1].fence < second[0].fence


async def test_an_empty_claim_says_when_the_next_job_is_due(world: World) -> None:
    assert (await world.claim()).next_due_ms is None
    await world.enqueue(job("a", delay_ms=HOUR_MS), job("b", delay_ms=2 * HOUR_MS), "c")
    claim = await world.claim(1)
    assert (ids(claim), claim.next_due_ms) == (["c"], None)
    claim = await world.claim(1)
    assert claim.next_due_ms is not None
    assert HOUR_MS - 60_000 < claim.next_due_ms <= HOUR_MS


async def test_due_jobs_are_promoted_by_a_claim_in_the_order_of_their_time(world: World) -> None:
    await world.enqueue(job("third", delay_ms=3), job("first", delay_ms=1), job("second", delay_ms=2))
    await world.enqueue("before")
    await world.pass_ms(4)
    assert ids(await world.claim()) == ["before", "first", "second", "third"]


async def test_due_jobs_are_promoted_by_a_sweep_up_to_its_limit(world: World) -> None:
    await world.enqueue(*(job(f"{number}", delay_ms=1 + number) for number in range(5)))
    await world.pass_ms(6)
    assert (await world.sweep(limit=3)).promoted == 3
    assert await world.counts() == {"ready normal": 3, "scheduled": 2, "enqueued": 5}
    assert (await world.sweep(limit=3)).promoted == 2
    assert ids(await world.claim()) == ["0", "1", "2", "3", "4"]


async def test_while_paused_nothing_is_claimed_and_leased_jobs_go_on(world: World) -> None:
    await world.enqueue("a", "b")
    (claimed,) = (await world.claim(1)).jobs
    await world.store.pause(world.lane, True)
    claim = await world.claim()
    assert (claim.jobs, claim.paused, claim.next_due_ms) == ([], True, None)
    assert (await world.store.stats(world.lane)).paused
    assert await world.settle(done(claimed)) == [True]
    assert await world.enqueue("c") == [CREATED]
    await world.store.pause(world.lane, False)
    claim = await world.claim()
    assert (ids(claim), claim.paused) == (["b", "c"], False)


# --- settle --------------------------------------------------------------------------------------------------------


async def test_a_retry_counts_a_try_and_waits_its_delay(world: World) -> None:
    await world.enqueue(job("a", HIGH))
    (claimed,) = (await world.claim()).jobs
    assert await world.settle(retry(claimed, HOUR_MS)) == [True]
    assert await world.counts() == {"scheduled": 1, "enqueued": 1}
    (peeked,) = await world.store.peek(world.lane, State.SCHEDULED, count=9)
    assert (peeked.tries, peeked.priority, peeked.owner) == (1, HIGH, None)
    assert [line.partition(" ")[2] for line in peeked.errors] == [OOPS.decode()]


async def test_a_retry_without_delay_is_claimed_again_with_its_tries_and_priority(world: World) -> None:
    await world.enqueue(job("a", LOW))
    for tries in range(3):
        (claimed,) = (await world.claim()).jobs
        assert claimed.tries == tries
        await world.settle(retry(claimed))
    await world.enqueue("b")
    assert ids(await world.claim()) == ["b", "a"]


async def test_released_jobs_go_to_the_front_of_their_queue_in_their_order(world: World) -> None:
    await world.enqueue(job("h1", HIGH), job("h2", HIGH), job("n1"), job("n2"), job("n3"))
    claimed = (await world.claim(4)).jobs
    await world.enqueue(job("h3", HIGH))
    assert await world.settle(*map(release, claimed)) == [True] * 4
    again = await world.claim()
    assert ids(again) == ["h1", "h2", "h3", "n1", "n2", "n3"]
    assert {one.tries for one in again.jobs} == {0}


async def test_a_delayed_release_costs_no_try(world: World) -> None:
    await world.enqueue("a")
    await world.settle(release((await world.claim()).jobs[0], delay_ms=1))
    assert await world.counts() == {"scheduled": 1, "enqueued": 1}
    await world.pass_ms(2)
    (claimed,) = (await world.claim()).jobs
    assert (claimed.tries, claimed.crashes) == (0, 0)


async def test_a_dead_job_stays_with_its_history(world: World) -> None:
    await world.enqueue("a")
    await world.settle(retry((await world.claim()).jobs[0]))
    last = encode_failure(Failure(type="Last", message="second\nline\u2028separated", attempt=2, worker="w"))
    await world.settle(dead((await world.claim()).jobs[0], last))
    assert await world.counts() == {"dead": 1, "enqueued": 1}
    (peeked,) = await world.store.peek(world.lane, State.DEAD, count=9)
    assert (peeked.id, peeked.tries, peeked.raw) == ("a", 1, record("t-a"))
    assert [line.partition(" ")[2] for line in peeked.errors] == [OOPS.decode(), last.decode()]
    assert all(int(line.partition(" ")[0]) <= (peeked.at_ms or 0) for line in peeked.errors)


async def test_only_the_last_ten_failures_are_remembered(world: World) -> None:
    await world.enqueue("a")
    failures = [encode_failure(Failure(type="E", message=str(number))) for number in range(13)]
    for failure in failures:
        await world.settle(retry((await world.claim()).jobs[0], detail=failure))
    (peeked,) = await world.store.peek(world.lane, State.SCHEDULED, count=9)
    assert [line.partition(" ")[2] for line in peeked.errors] == [one.decode() for one in failures[-10:]]
    assert peeked.tries == 13


async def test_a_completed_job_leaves_no_history_to_the_next_of_its_name(world: World) -> None:
    await world.enqueue("a")
    await world.settle(retry((await world.claim()).jobs[0]))
    await world.lose()
    await world.sweep()
    (claimed,) = (await world.claim()).jobs
    assert (claimed.tries, claimed.crashes) == (1, 1)
    await world.settle(done(claimed))
    await world.enqueue("a")
    (claimed,) = (await world.claim()).jobs
    assert (claimed.tries, claimed.crashes) == (0, 0)
    (peeked,) = await world.store.peek(world.lane, State.LEASED, count=9)
    assert peeked.errors == ()


async def test_a_result_is_kept_for_its_time(world: World) -> None:
    await world.enqueue("a", "b", "c")
    a, b, c = (await world.claim()).jobs
    assert await world.settle(kept(a, b"\x00 one"), done(b), kept(c, b"three", 1)) == [True] * 3
    await world.pass_ms(2)
    assert await world.store.result(world.lane, "a") == b"\x00 one"
    assert await world.store.result(world.lane, "b") is None
    assert await world.store.result(world.lane, "c") is None
    assert await world.counts() == {"enqueued": 3, "completed": 3}


async def test_one_call_settles_every_kind_of_outcome(world: World) -> None:
    await world.enqueue(*"abcdefg")
    a, b, c, d, e, f, g = (await world.claim()).jobs
    stale = Outcome("a", "w:0", Verdict.DONE, 0, b"wrong", HOUR_MS)
    ends = (retry(b, HOUR_MS), stale, done(c), dead(d), release(e), release(f, HOUR_MS))
    assert await world.settle(kept(a, b"1"), *ends, kept(g, b"2")) == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert await world.counts() == {
        "ready normal": 1,
        "scheduled": 2,
        "dead": 1,
        "enqueued": 7,
        "completed": 3,
    }
    assert [await world.store.result(world.lane, id_) for id_ in "ag"] == [b"1", b"2"]


# --- the fence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [done, retry, dead, release], ids=lambda outcome: outcome.__name__)
async def test_a_stale_token_is_refused_and_changes_nothing(world: World, outcome: type[Outcome]) -> None:
    await world.enqueue("a")
    (stale,) = await world.lose()
    await world.sweep()
    (current,) = (await world.claim()).jobs
    before = await world.counts()
    assert await world.settle(outcome(stale)) == [False]  # type: ignore[call-arg, arg-type]
    assert await world.counts() == before
    (peeked,) = await world.store.peek(world.lane, State.LEASED, count=9)
    assert (peeked.owner, peeked.errors) == (current.token, ())
    assert await world.settle(done(current)) == [True]
    assert await world.settle(done(current)) == [False]


async def test_an_outcome_counts_once_even_if_one_call_names_it_twice(world: World) -> None:
    await world.enqueue("a", "b")
    a, b = (await world.claim()).jobs
    assert sorted(await world.settle(done(a), done(a), release(b), retry(b))) == [False, False, True, True]
    stats = await world.store.stats(world.lane)
    assert (stats.imbalance, stats.completed, stats.leased) == (0, 1, 0)


async def test_a_ready_job_cannot_be_settled_with_the_token_of_its_lost_lease(world: World) -> None:
    await world.enqueue("a")
    (stale,) = await world.lose()
    await world.sweep()
    assert await world.settle(done(stale)) == [False]
    assert await world.counts() == {"ready normal": 1, "enqueued": 1}


async def test_an_expired_lease_that_nobody_took_back_is_still_its_holders(world: World) -> None:
    await world.enqueue("a")
    (late,) = await world.lose()
    assert await world.settle(done(late)) == [True]


# --- renew ---------------------------------------------------------------------------------------------------------


async def test_renewing_keeps_a_lease_and_names_the_lost_ones(world: World) -> None:
    await world.enqueue("a", "b")
    kept_one, lost_one = (await world.claim(lease_ms=1)).jobs
    await world.settle(done(lost_one))
    held = [(kept_one.id, kept_one.token), (lost_one.id, lost_one.token), ("never", "w:1")]
    assert await world.store.renew(world.lane, worker="w", lease_ms=HOUR_MS, held=held) == Renewed(
        ("b", "never")
    )
    await world.pass_ms(2)
    assert (await world.sweep()).reclaimed == ()
    assert await world.settle(done(kept_one)) == [True]
    await world.store.deregister(world.lane, worker="w")


async def test_renewing_nothing_is_a_heartbeat(world: World) -> None:
    await world.store.register(world.lane, worker="w", info="{}")
    await world.pass_ms(70)
    assert await world.store.renew(world.lane, worker="w", lease_ms=HOUR_MS, held=[]) == Renewed()
    assert (await world.sweep(lease_ms=20)).buried_workers == ()
    assert (await world.store.stats(world.lane)).workers == 1
    await world.store.deregister(world.lane, worker="w")
    assert (await world.store.stats(world.lane)).workers == 0


# --- sweep ---------------------------------------------------------------------------------------------------------


async def test_an_expired_lease_is_taken_back_to_the_front_and_charged(world: World) -> None:
    await world.enqueue(job("a", HIGH), job("b", HIGH), job("c", HIGH), "n")
    await world.lose(2)
    swept = await world.sweep()
    assert (sorted(swept.reclaimed), swept.poisoned, swept.hold_ms) == (["a", "b"], (), 0)
    assert (await world.sweep()).reclaimed == ()
    claim = await world.claim()
    assert [(one.id, one.crashes, one.tries) for one in claim.jobs] == [
        ("a", 1, 0),
        ("b", 1, 0),
        ("c", 0, 0),
        ("n", 0, 0),
    ]


async def test_leases_are_taken_back_up_to_the_limit_the_oldest_first(world: World) -> None:
    await world.enqueue(*"abcd")
    await world.lose(2, worker="v")
    await world.lose(2)
    swept = await world.sweep(limit=3)
    assert sorted(swept.reclaimed) == ["a", "b", "c"]
    assert (await world.sweep(limit=3)).reclaimed == ("d",)


async def test_a_job_that_crashed_too_often_is_poison(world: World) -> None:
    await world.enqueue("a", "b")
    for crashes in range(3):
        jobs = await world.lose()
        assert {one.id: one.crashes for one in jobs} == {"a": crashes, "b": crashes}
        swept = await world.sweep(max_crashes=2)
        moved = swept.poisoned if crashes == 2 else swept.reclaimed
        assert sorted(moved) == ["a", "b"]
    assert await world.counts() == {"dead": 2, "enqueued": 2}
    peeked = await world.store.peek(world.lane, State.DEAD, count=1)
    assert (peeked[0].crashes, peeked[0].tries) == (3, 0)
    assert "Poison" in peeked[0].errors[0]


@pytest.mark.parametrize("how", ["settle", "renew"])
async def test_a_worker_that_comes_back_takes_its_own_crash_charge_off_and_no_other(
    world: World, how: str
) -> None:
    await world.enqueue("a", "b")
    first = await world.lose(worker="one")
    await world.sweep()
    await world.lose(worker="two")
    await world.sweep()
    if how == "settle":
        assert await world.settle(done(first[0]), retry(first[1])) == [False, False]
        assert await world.settle(done(first[0])) == [False]
    else:
        held = [(one.id, one.token) for one in first]
        assert await world.store.renew(world.lane, worker="one", lease_ms=HOUR_MS, held=held) == Renewed(
            ("a", "b")
        )
        assert await world.store.renew(world.lane, worker="one", lease_ms=HOUR_MS, held=held) == Renewed(
            ("a", "b")
        )
    assert [one.crashes for one in (await world.claim()).jobs] == [1, 1]


async def test_after_an_outage_nothing_is_taken_back_for_one_lease(world: World) -> None:
    lease_ms = 300
    await world.enqueue("a", job("b", delay_ms=1))
    await world.store.register(world.lane, worker="w", info="{}")
    await world.claim(1, lease_ms=1)
    assert (await world.sweep(lease_ms=HOUR_MS)).reclaimed in {(), ("a",)}
    await world.settle(*map(done, (await world.claim()).jobs))
    await world.enqueue("c")
    await world.claim(1, lease_ms=1)
    await world.pass_ms(lease_ms)  # nobody sweeps: an outage
    before_ms = await world.time.read_ms()
    swept = await world.sweep(lease_ms=lease_ms)
    assert (swept.reclaimed, swept.poisoned, swept.buried_workers) == ((), (), ())
    assert 0.9 * lease_ms < swept.hold_ms <= lease_ms
    reclaimed: list[str] = []
    held_ms = swept.hold_ms
    while not reclaimed:
        await world.pass_ms(20)
        swept = await world.sweep(lease_ms=lease_ms)
        assert not (swept.hold_ms and swept.reclaimed)
        held_ms = max(held_ms, swept.hold_ms)
        reclaimed += swept.reclaimed
    assert "c" in reclaimed
    assert held_ms <= lease_ms
    assert await world.time.read_ms() - before_ms >= lease_ms


async def test_after_an_outage_the_longest_lease_and_the_time_to_reconnect_are_waited_for(
    world: World,
) -> None:
    store, lane = world.store, world.lane

    async def sweep(recovery_ms: int) -> int:
        await world.pass_ms(60)  # nobody sweeps for more than half a lease: an outage
        swept = await store.sweep(lane, lease_ms=100, max_crashes=3, recovery_ms=recovery_ms)
        return swept.hold_ms

    await store.sweep(lane, lease_ms=100, max_crashes=3)
    assert await sweep(recovery_ms=0) == 100
    assert await sweep(recovery_ms=2000) == 2000
    await store.renew(lane, worker="patient", lease_ms=HOUR_MS, held=[])
    assert await sweep(recovery_ms=2000) == HOUR_MS
    await store.deregister(lane, worker="patient")
    assert await sweep(recovery_ms=0) == 100


async def test_a_clock_that_went_back_holds_no_lease_for_longer_than_a_lease(world: World) -> None:
    lease_ms = 400
    await world.enqueue("a")
    await world.claim(lease_ms=lease_ms)
    await world.sweep(lease_ms=lease_ms)
    await world.pass_ms(lease_ms // 2 + 1)  # nobody sweeps: an outage, so that leases are being held
    assert (await world.sweep(lease_ms=lease_ms)).hold_ms == lease_ms
    await world.set_clock_back(HOUR_MS)
    (leased,) = await world.store.peek(world.lane, State.LEASED, count=9)
    assert (leased.at_ms or 0) > await world.time.read_ms() + HOUR_MS // 2
    swept = await world.sweep(lease_ms=lease_ms)
    assert 0 < swept.hold_ms <= lease_ms
    assert swept.reclaimed == ()
    (leased,) = await world.store.peek(world.lane, State.LEASED, count=9)
    assert (leased.at_ms or 0) <= await world.time.read_ms() + lease_ms
    began_ms = await world.time.read_ms()
    reclaimed: tuple[str, ...] = ()
    while not reclaimed and await world.time.read_ms() < began_ms + 20 * lease_ms:
        await world.pass_ms(20)
        swept = await world.sweep(lease_ms=lease_ms)
        assert swept.hold_ms <= lease_ms
        reclaimed = swept.reclaimed
    assert reclaimed == ("a",)


async def test_due_jobs_are_promoted_while_leases_are_held(world: World) -> None:
    await world.sweep(lease_ms=100)
    await world.enqueue(job("a", delay_ms=1))
    await world.pass_ms(60)
    swept = await world.sweep(lease_ms=100)
    assert (swept.promoted, swept.hold_ms > 0) == (1, True)


# --- inboxes and workers -------------------------------------------------------------------------------------------


async def test_pulled_jobs_wait_in_the_inbox_and_are_adopted_highest_first(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="w", info="{}")
    await world.enqueue(job("l", LOW), job("h", HIGH), "n1", "n2")
    for priority in (LOW, NORMAL, NORMAL, HIGH):
        assert await store.pull(lane, worker="w", priority=priority, timeout_s=5)
    assert not await store.pull(lane, worker="w", priority=CRITICAL, timeout_s=0.01)
    assert ids(await world.claim()) == []
    assert await world.counts() == {"ready low": 1, "ready high": 1, "ready normal": 2, "enqueued": 4}
    await world.check()
    claim = await store.adopt(lane, worker="w", want=3, lease_ms=HOUR_MS)
    assert ids(claim) == ["h", "n1", "n2"]
    assert (claim.jobs[0].raw, claim.next_due_ms, claim.paused) == (record("t-h", HIGH), None, False)
    assert await world.settle(*map(release, claim.jobs)) == [True] * 3
    assert ids(await store.adopt(lane, worker="w", want=3, lease_ms=HOUR_MS)) == ["l"]
    assert ids(await store.adopt(lane, worker="w", want=3, lease_ms=HOUR_MS)) == []
    assert ids(await world.claim()) == ["h", "n1", "n2"]


async def test_a_pull_waits_for_a_job(world: World) -> None:
    await world.store.register(world.lane, worker="w", info="{}")
    pulled: list[bool] = []

    async def pull() -> None:
        pulled.append(await world.store.pull(world.lane, worker="w", priority=LOW, timeout_s=30))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull)
        await world.enqueue(job("a", LOW))
    assert pulled == [True]


async def test_deregistering_gives_the_inbox_back_to_the_front_in_order(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="w", info="{}")
    await world.enqueue("a", "b", "c", job("l1", LOW), job("l2", LOW))
    for priority in (NORMAL, NORMAL, LOW):
        await store.pull(lane, worker="w", priority=priority, timeout_s=5)
    await store.deregister(lane, worker="w")
    await store.deregister(lane, worker="w")
    assert (await store.stats(lane)).workers == 0
    assert ids(await world.claim()) == ["a", "b", "c", "l1", "l2"]


async def test_a_silent_worker_is_buried_and_its_inbox_given_back(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="gone", info="{}")
    await world.enqueue("a", "b")
    await store.pull(lane, worker="gone", priority=NORMAL, timeout_s=5)
    assert (await world.sweep()).buried_workers == ()
    await world.pass_ms(310)
    await store.register(lane, worker="here", info="{}")
    buried: tuple[str, ...] = ()
    while not buried:  # the first of these sweeps sees a gap and holds
        await world.pass_ms(2)
        buried = (await world.sweep(lease_ms=100)).buried_workers
        await store.renew(lane, worker="here", lease_ms=100, held=[])
    assert buried == ("gone",)
    assert (await store.stats(lane)).workers == 1
    assert ids(await world.claim()) == ["a", "b"]


async def test_a_large_inbox_is_given_back_whole_and_in_order(world: World) -> None:
    names = [f"{number:04}" for number in range(MAX_BATCH + 3)]
    await world.store.register(world.lane, worker="w", info="{}")
    await world.enqueue(*names)
    for _ in names:
        assert await world.store.pull(world.lane, worker="w", priority=NORMAL, timeout_s=5)
    await world.store.deregister(world.lane, worker="w")
    assert ids(await world.claim()) + ids(await world.claim()) == names


async def test_adopting_tells_that_the_lane_is_paused(world: World) -> None:
    await world.store.pause(world.lane, True)
    assert (await world.store.adopt(world.lane, worker="w", want=1, lease_ms=HOUR_MS)).paused


async def test_waiting_ends_when_a_job_comes_and_when_the_time_is_over(world: World) -> None:
    await world.store.wait([world.lane], timeout_s=0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.store.wait([Lane("tests", 7), world.lane], timeout_s=60))
        await world.enqueue("a")
    await world.claim()
    await world.enqueue("b")
    await world.store.wait([world.lane], timeout_s=60)


async def _wakes(world: World, cause: Callable[[], Awaitable[object]]) -> None:
    """Fail unless `cause` wakes a fetcher that waits for long. A token must be there when this is called."""
    await world.store.wait([world.lane], timeout_s=60)  # takes the token
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.store.wait([world.lane], timeout_s=60))
            await world.until_someone_waits()
            await cause()


@pytest.mark.parametrize("delay_ms", [0, HOUR_MS], ids=["at once", "later"])
@pytest.mark.parametrize("outcome", [retry, release], ids=lambda outcome: outcome.__name__)
async def test_a_job_given_back_wakes_a_fetcher(
    world: World, outcome: Callable[[ClaimedJob, int], Outcome], delay_ms: int
) -> None:
    """Later, too: the fetcher may have gone to sleep for longer than that."""
    await world.enqueue("a")
    (claimed,) = (await world.claim()).jobs
    await _wakes(world, lambda: world.settle(outcome(claimed, delay_ms)))


async def test_a_job_that_a_sweep_promotes_wakes_a_fetcher(world: World) -> None:
    await world.enqueue(job("a", delay_ms=1))
    await world.pass_ms(2)
    await _wakes(world, world.sweep)
    assert (await world.counts())["ready normal"] == 1


async def test_a_job_that_a_sweep_promotes_while_leases_are_held_wakes_a_fetcher(world: World) -> None:
    await world.sweep(lease_ms=100)
    await world.enqueue(job("a", delay_ms=1))
    await world.pass_ms(60)
    swept: list[Swept] = []

    async def sweep() -> None:
        swept.append(await world.sweep(lease_ms=100))

    await _wakes(world, sweep)
    assert [(one.promoted, one.hold_ms > 0) for one in swept] == [(1, True)]


async def test_a_job_that_a_sweep_takes_back_wakes_a_fetcher(world: World) -> None:
    await world.enqueue("a")
    await world.lose()
    await _wakes(world, world.sweep)
    assert (await world.counts())["ready normal"] == 1


async def test_a_job_from_the_inbox_of_a_worker_that_goes_wakes_a_fetcher(world: World) -> None:
    await world.store.register(world.lane, worker="w", info="{}")
    await world.enqueue("a")
    await world.store.pull(world.lane, worker="w", priority=NORMAL, timeout_s=5)
    await _wakes(world, lambda: world.store.deregister(world.lane, worker="w"))


# --- reads ---------------------------------------------------------------------------------------------------------


async def test_every_lane_ever_used_is_listed(world: World) -> None:
    assert await world.store.lanes() == []
    await world.store.enqueue(Lane("mail", 1), [job("a")])
    await world.store.enqueue(Lane("mail", 0), [job("a")])
    await world.store.register(Lane("a-b", 2), worker="w", info="{}")
    assert await world.store.lanes() == [Lane("a-b", 2), Lane("mail", 0), Lane("mail", 1)]
    assert (await world.store.stats(Lane("mail", 1))).lane == "mail.1"


async def test_lanes_do_not_see_each_other(world: World) -> None:
    await world.enqueue("a")
    other = Lane("tests", 1)
    assert (await world.store.claim(other, worker="w", want=1, lease_ms=1, order=PRIORITIES)).jobs == []
    assert await world.store.enqueue(other, [job("a")]) == [CREATED]


async def test_peeking_shows_each_state_the_next_to_go_first(world: World) -> None:
    store, lane = world.store, world.lane
    await world.enqueue(job("d", LOW), job("l", CRITICAL), job("r1", HIGH), "r2", "r3")
    await world.enqueue(job("s2", delay_ms=2 * HOUR_MS), job("s1", LOW, delay_ms=HOUR_MS))
    leased = (await world.claim(1)).jobs
    doomed = (await world.claim(1, order=(LOW,))).jobs
    await world.settle(dead(doomed[0]))
    before = await world.counts()

    ready = await store.peek(lane, State.READY, count=2)
    assert [(one.id, one.priority, one.raw, one.at_ms) for one in ready] == [
        ("r1", HIGH, record("t-r1", HIGH), None),
        ("r2", NORMAL, record("t-r2"), None),
    ]
    scheduled = await store.peek(lane, State.SCHEDULED, count=9)
    assert [(one.id, one.priority) for one in scheduled] == [("s1", LOW), ("s2", NORMAL)]
    assert (scheduled[0].at_ms or 0) < (scheduled[1].at_ms or 0)
    (held,) = await store.peek(lane, State.LEASED, count=9)
    assert (held.id, held.owner, held.priority) == ("l", leased[0].token, CRITICAL)
    assert held.at_ms is not None
    (died,) = await store.peek(lane, State.DEAD, count=9)
    assert (died.id, died.owner, len(died.errors)) == ("d", None, 1)
    assert {one.state for one in (*ready, *scheduled)} == {State.READY, State.SCHEDULED}
    assert await world.counts() == before


@pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED, State.PURGED])
async def test_jobs_that_are_gone_cannot_be_peeked_at(world: World, state: State) -> None:
    with pytest.raises(InternalError, match="gone"):
        await world.store.peek(world.lane, state, count=1)


async def test_the_conservation_law_holds_after_every_step(world: World) -> None:
    await world.enqueue(*"abcdef", job("s", delay_ms=HOUR_MS))
    assert await world.counts() == {"ready normal": 6, "scheduled": 1, "enqueued": 7}
    a, b, c, d = (await world.claim(4)).jobs
    assert await world.counts() == {"ready normal": 2, "scheduled": 1, "leased": 4, "enqueued": 7}
    await world.settle(done(a), retry(b), dead(c), release(d))
    left = {"enqueued": 7, "completed": 1, "dead": 1}
    assert await world.counts() == {"ready normal": 3, "scheduled": 2, **left}
    await world.pass_ms(1)
    await world.sweep()
    assert await world.counts() == {"ready normal": 4, "scheduled": 1, **left}
    await world.lose()
    assert await world.counts() == {"leased": 4, "scheduled": 1, **left}
    await world.sweep()
    assert await world.counts() == {"ready normal": 4, "scheduled": 1, **left}


async def test_the_audit_of_a_sound_lane_finds_nothing(world: World) -> None:
    await world.enqueue(*"abcd", job("s", delay_ms=HOUR_MS))
    first, second = (await world.claim(2)).jobs
    await world.settle(dead(first), done(second))
    report = await world.store.audit(world.lane, repair=True)
    assert (report.ok, report.checked, report.live, report.stats.adjusted) == (True, 4, 4, 0)


async def test_records_are_kept_byte_by_byte(world: World) -> None:
    raw = bytes(range(256)) * 40
    await world.enqueue(NewJob("a", raw), NewJob("~!{}:|", b"0"))
    claim = await world.claim()
    assert [(one.id, one.raw) for one in claim.jobs] == [("a", raw), ("~!{}:|", b"0")]
