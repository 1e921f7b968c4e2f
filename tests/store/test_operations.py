"""What operators and gauges ask of every store: Operations in memory and on Redis do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import Enqueued, NewJob, State
from queue_trio.core.operations import HEAD_BYTES_MAX, Head, Lengths
from queue_trio.core.store import MAX_BATCH, PeekedJob, Renewed
from queue_trio.errors import UsageError
from tests.store.worlds import HOUR_MS, World, dead, done, ids, job, record, release, retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.dequeue import Priority

CRITICAL, HIGH, NORMAL, LOW = PRIORITIES
CANCELLED, DEAD, LEASED, READY, SCHEDULED = (
    State.CANCELLED,
    State.DEAD,
    State.LEASED,
    State.READY,
    State.SCHEDULED,
)


async def find(world: World, id_: str) -> PeekedJob:
    found = await world.operations.find(world.lane, id_)
    assert found is not None
    return found


async def move_to_inbox(world: World, id_: str, *, worker: str = "puller") -> None:
    await world.store.register(world.lane, worker=worker, info="{}")
    await world.enqueue(job(id_, CRITICAL))
    assert await world.store.pull(world.lane, worker=worker, priority=CRITICAL, timeout_s=5)


# --- lengths -------------------------------------------------------------------------------------------------------


async def test_lengths_are_the_counts_and_the_heads_of_what_is_ready(world: World) -> None:
    store, lane = world.store, world.lane
    await world.enqueue("a", "b", job("c", LOW), job("s", delay_ms=HOUR_MS), job("x", HIGH))
    await world.kill(job("d", CRITICAL))
    (x,) = (await world.claim(1)).jobs
    await store.register(lane, worker="w", info="{}")
    await store.pause(lane, True)
    before_ms = await world.time.read_ms()
    found = await world.operations.lengths(lane)
    assert before_ms <= found.now_ms <= await world.time.read_ms()
    assert found == Lengths(
        now_ms=found.now_ms,
        ready={CRITICAL: 0, HIGH: 0, NORMAL: 2, LOW: 1},
        scheduled=1,
        leased=1,
        dead=1,
        enqueued=6,
        completed=0,
        cancelled=0,
        purged=0,
        workers=1,
        paused=True,
        heads=(Head("a", NORMAL, record("t-a")), Head("c", LOW, record("t-c", LOW))),
    )
    await world.settle(done(x))
    await world.operations.purge(lane, ["d"])
    await world.operations.cancel(lane, "a")
    await store.pause(lane, False)
    found = await world.operations.lengths(lane)
    assert (found.completed, found.purged, found.cancelled, found.paused) == (1, 1, 1, False)
    assert [head.id for head in found.heads] == ["b", "c"]


async def test_the_lengths_of_a_lane_nobody_knows_are_zero(world: World) -> None:
    found = await world.operations.lengths(world.lane)
    assert found == Lengths(
        now_ms=found.now_ms,
        ready=dict.fromkeys(PRIORITIES, 0),
        scheduled=0,
        leased=0,
        dead=0,
        enqueued=0,
        completed=0,
        cancelled=0,
        purged=0,
        workers=0,
        paused=False,
    )


async def test_a_retried_head_brings_its_last_failure_and_a_large_one_no_record(world: World) -> None:
    await world.enqueue("a", NewJob("fits", b"x" * HEAD_BYTES_MAX, HIGH))
    for detail in (b'{"type":"First"}', b'{"type":"Second"}'):
        (claimed,) = (await world.claim(1, order=(NORMAL,))).jobs
        await world.settle(retry(claimed, detail=detail))
        await world.pass_ms(1)
        await world.sweep()
    await world.enqueue(NewJob("large", b"x" * (HEAD_BYTES_MAX + 1), LOW))
    heads = {head.id: head for head in (await world.operations.lengths(world.lane)).heads}
    assert heads["fits"].raw == b"x" * HEAD_BYTES_MAX
    assert (heads["large"].raw, heads["large"].failure) == (None, None)
    at_ms, _, failure = (heads["a"].failure or "").partition(" ")
    assert failure == '{"type":"Second"}'
    assert int(at_ms) > 1_600_000_000_000


async def test_a_released_head_has_no_failure(world: World) -> None:
    await world.enqueue("a")
    (claimed,) = (await world.claim()).jobs
    await world.settle(release(claimed))
    assert (await world.operations.lengths(world.lane)).heads == (Head("a", NORMAL, record("t-a")),)


async def test_lengths_leave_out_what_is_in_an_inbox(world: World) -> None:
    await move_to_inbox(world, "a")
    assert (await world.operations.lengths(world.lane)).ready[CRITICAL] == 0
    assert (await world.store.stats(world.lane)).ready[CRITICAL] == 1
    await world.store.deregister(world.lane, worker="puller")


# --- find ----------------------------------------------------------------------------------------------------------


async def test_a_job_is_found_wherever_it_is_and_shown_as_peek_shows_it(world: World) -> None:
    await world.enqueue(job("l", CRITICAL), job("r", LOW), "t")
    await world.enqueue(*(job(f"s{priority.rank}", priority, delay_ms=HOUR_MS) for priority in PRIORITIES))
    await world.kill(job("d", CRITICAL))
    (tried,) = (await world.claim(1, order=(NORMAL,))).jobs
    await world.settle(retry(tried, HOUR_MS))
    leased = await world.claim(1)
    for state in (READY, SCHEDULED, LEASED):
        for peeked in await world.store.peek(world.lane, state, count=99):
            assert await find(world, peeked.id) == peeked
    assert (await find(world, "t")).tries == 1
    assert len((await find(world, "t")).errors) == 1
    assert (await find(world, leased.jobs[0].id)).owner == leased.jobs[0].token
    died = await find(world, "d")
    assert (died.state, died.priority, died.raw, len(died.errors)) == (
        DEAD,
        CRITICAL,
        record("t-d", CRITICAL),
        1,
    )
    assert died.at_ms is not None
    assert await world.operations.find(world.lane, "nobody") is None


async def test_a_job_in_an_inbox_is_ready(world: World) -> None:
    await move_to_inbox(world, "a")
    found = await find(world, "a")
    assert (found.state, found.priority, found.raw) == (READY, CRITICAL, record("t-a", CRITICAL))
    await world.store.deregister(world.lane, worker="puller")


async def test_a_job_that_cannot_be_decoded_is_found_without_its_priority(world: World) -> None:
    await world.enqueue(NewJob("a", b"\xff", HIGH))
    found = await find(world, "a")
    assert (found.state, found.priority, found.raw) == (READY, None, b"\xff")


async def test_a_job_that_has_ended_is_found_no_more(world: World) -> None:
    await world.enqueue("a")
    await world.settle(done((await world.claim()).jobs[0]))
    assert await world.operations.find(world.lane, "a") is None


# --- cancel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("delay_ms", [0, HOUR_MS], ids=["ready", "scheduled"])
async def test_a_cancelled_job_is_gone_and_counted(world: World, priority: Priority, delay_ms: int) -> None:
    await world.enqueue("before", job("a", priority, delay_ms=delay_ms), "after")
    assert await world.operations.cancel(world.lane, "a") is CANCELLED
    assert await world.counts() == {"ready normal": 2, "enqueued": 3, "cancelled": 1}
    assert await world.operations.cancel(world.lane, "a") is None
    assert ids(await world.claim()) == ["before", "after"]
    assert await world.enqueue("a") == [Enqueued.CREATED]


async def test_a_cancelled_job_leaves_no_history_to_the_next_of_its_name(world: World) -> None:
    await world.enqueue("a")
    await world.settle(retry((await world.claim()).jobs[0]))
    (crashed,) = await world.lose()
    await world.sweep()
    assert (crashed.tries, (await find(world, "a")).crashes) == (1, 1)
    assert await world.operations.cancel(world.lane, "a") is CANCELLED
    await world.enqueue("a")
    found = await find(world, "a")
    assert (found.tries, found.crashes, found.errors) == (0, 0, ())


async def test_a_cancelled_id_enqueued_as_unique_stays_taken(world: World) -> None:
    await world.enqueue(job("a", unique_ms=HOUR_MS))
    assert await world.operations.cancel(world.lane, "a") is CANCELLED
    assert await world.enqueue("a") == [Enqueued.DUPLICATE]


async def test_what_runs_is_dead_or_is_nothing_is_not_cancelled(world: World) -> None:
    await world.kill("d")
    await world.enqueue("l")
    await world.claim()
    await move_to_inbox(world, "i")
    before = await world.counts()
    for id_, state in (("l", LEASED), ("d", DEAD), ("i", READY), ("nobody", None)):
        assert await world.operations.cancel(world.lane, id_) is state
    assert await world.counts() == before
    await world.store.deregister(world.lane, worker="puller")


# --- the dead ------------------------------------------------------------------------------------------------------


async def browse(world: World, count: int, *, purging: bool = False) -> list[list[str]]:
    """The pages, until one is empty."""
    pages: list[list[str]] = []
    after = None
    while page := await world.operations.browse_dead(world.lane, after=after, count=count):
        pages.append([one.id for one in page])
        assert page[-1].at_ms is not None
        after = (page[-1].at_ms, page[-1].id)
        if purging:
            await world.operations.purge(world.lane, pages[-1])
    return pages


@pytest.mark.parametrize("purging", [False, True], ids=["and stay", "and are purged meanwhile"])
@pytest.mark.parametrize("count", [1, 7, 30, 31, 100])
async def test_pages_of_dead_jobs_neither_skip_nor_repeat_any(
    world: World, count: int, purging: bool
) -> None:
    """Three batches, each of which died in one millisecond."""
    died: list[str] = []
    for batch in ("b", "a", "c"):
        names = [f"{batch}{number:02}" for number in range(10)]
        await world.kill(*names)
        died += names
        await world.pass_ms(2)
    pages = await browse(world, count, purging=purging)
    assert [id_ for page in pages for id_ in page] == died
    assert all(len(page) == count for page in pages[:-1])


async def test_a_page_of_the_dead_shows_everything_known_of_them(world: World) -> None:
    await world.enqueue(job("a", HIGH))
    await world.settle(retry((await world.claim()).jobs[0]))
    await world.pass_ms(1)
    await world.lose()
    await world.sweep()
    await world.settle(dead((await world.claim()).jobs[0]))
    (found,) = await world.operations.browse_dead(world.lane, count=9)
    assert found == await find(world, "a")
    assert (found.priority, found.tries, found.crashes, len(found.errors)) == (HIGH, 1, 1, 2)


async def test_a_page_of_none_is_empty(world: World) -> None:
    assert await world.operations.browse_dead(world.lane, count=5) == []
    await world.kill("a")
    assert await world.operations.browse_dead(world.lane, count=0) == []
    assert await world.operations.browse_dead(world.lane, after=(2**52, "z"), count=5) == []
    assert len(await world.operations.browse_dead(world.lane, after=(0, ""), count=5)) == 1


async def test_purged_jobs_are_gone_and_what_is_not_dead_is_left_alone(world: World) -> None:
    await world.kill("a", "b", "c")
    await world.enqueue("r")
    assert await world.operations.purge(world.lane, ["a", "r", "nobody", "c", "a"]) == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert await world.counts() == {"ready normal": 1, "dead": 1, "enqueued": 4, "purged": 2}
    assert await world.operations.purge(world.lane, ["a", "c"]) == [False, False]
    assert await world.operations.purge(world.lane, []) == []
    assert await world.enqueue("a") == [Enqueued.CREATED]
    assert (await find(world, "a")).errors == ()


@pytest.mark.parametrize("change", ["purge", "replay"])
async def test_a_job_that_died_again_is_not_the_one_that_was_meant(world: World, change: str) -> None:
    """Two operators: while one looks at a dead job, the other replays it, it completes, and its id is used again."""
    await world.kill("a", "b")
    seen = await world.operations.browse_dead(world.lane, count=9)
    assert await world.operations.replay(world.lane, ["a"]) == [True]
    await world.settle(done((await world.claim()).jobs[0]))
    await world.pass_ms(2)
    await world.kill("a")
    act = getattr(world.operations, change)
    ids, died_ms = [one.id for one in seen], [one.at_ms for one in seen]
    assert await act(world.lane, ids, died_ms=died_ms) == [one.id == "b" for one in seen]
    assert (await find(world, "a")).state is DEAD
    (again,) = await world.operations.browse_dead(world.lane, count=9)
    assert await act(world.lane, ["a"], died_ms=[again.at_ms]) == [True]


async def test_a_record_nested_too_deeply_is_found_and_replayed_as_normal(world: World) -> None:
    deep = b'{"v":1,"task":"t","args":' + b"[" * 5000 + b"]" * 5000 + b"}"
    await world.kill(NewJob("a", deep, CRITICAL))
    (found,) = await world.operations.browse_dead(world.lane, count=9)
    assert (found.priority, found.raw) == (None, deep)
    assert await world.operations.replay(world.lane, ["a"], died_ms=[found.at_ms]) == [True]


async def test_replayed_jobs_go_to_the_end_of_their_list_with_new_budgets(world: World) -> None:
    await world.enqueue(job("h", HIGH), "n")
    for claimed in (await world.claim()).jobs:
        await world.settle(retry(claimed))
    await world.pass_ms(1)
    await world.lose()
    await world.sweep()
    await world.settle(*map(dead, (await world.claim()).jobs))
    await world.enqueue("waiting", job("urgent", HIGH))
    assert await world.operations.replay(world.lane, ["n", "waiting", "h", "nobody", "n"]) == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert await world.counts() == {"ready high": 2, "ready normal": 2, "enqueued": 4}
    claim = await world.claim()
    assert [(one.id, one.tries, one.crashes) for one in claim.jobs] == [
        ("urgent", 0, 0),
        ("h", 0, 0),
        ("waiting", 0, 0),
        ("n", 0, 0),
    ]
    assert len((await find(world, "h")).errors) == 2
    assert await world.operations.replay(world.lane, []) == []


async def test_a_replayed_job_that_cannot_be_decoded_is_normal(world: World) -> None:
    await world.kill(NewJob("a", b"\xff", CRITICAL))
    assert await world.operations.replay(world.lane, ["a"]) == [True]
    (found,) = await world.store.peek(world.lane, READY, count=9)
    assert found.priority is NORMAL


async def test_a_replayed_job_wakes_a_fetcher(world: World) -> None:
    await world.kill("a")
    with trio.fail_after(10):
        await world.store.wait([world.lane], timeout_s=60)  # takes the token that is there
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.store.wait([world.lane], timeout_s=60))
            await world.until_someone_waits()
            assert await world.operations.replay(world.lane, ["a"]) == [True]


async def test_a_replayed_job_can_die_and_be_replayed_again(world: World) -> None:
    await world.kill("a")
    for _ in range(3):
        assert await world.operations.replay(world.lane, ["a"]) == [True]
        await world.settle(dead((await world.claim()).jobs[0]))
    assert await world.counts() == {"dead": 1, "enqueued": 1}
    assert len((await find(world, "a")).errors) == 4


async def test_a_batch_too_large_for_one_step_is_refused(world: World) -> None:
    names = [f"{number}" for number in range(MAX_BATCH + 1)]
    for call in (world.operations.purge, world.operations.replay):
        assert await call(world.lane, names[:-1]) == [False] * MAX_BATCH
        with pytest.raises(UsageError, match=f"{MAX_BATCH + 1} ids in one call: give at most {MAX_BATCH}"):
            await call(world.lane, names)


# --- workers -------------------------------------------------------------------------------------------------------


async def test_workers_are_shown_with_what_they_hold_the_one_heard_of_last_first(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="v", info='{"host":"one"}')
    await store.renew(lane, worker="v", lease_ms=HOUR_MS, held=[])
    await world.pass_ms(5)
    await store.register(lane, worker="w", info="{}")
    await world.enqueue(*"abcde")
    await world.claim(3, worker="v")
    await world.claim(1, worker="stranger:7")
    assert await world.operations.request_drain(lane, "v")
    w, v = await world.operations.workers(lane)
    assert (v.id, v.lease_ms, v.leased, v.draining, v.info) == ("v", HOUR_MS, 3, True, '{"host":"one"}')
    assert (w.id, w.lease_ms, w.leased, w.draining, w.info) == ("w", 0, 0, False, "{}")
    assert v.silent_ms >= w.silent_ms + 5
    assert w.silent_ms >= 0
    for worker in "vw":
        await store.deregister(lane, worker=worker)
    assert await world.operations.workers(lane) == []


async def test_a_worker_that_was_buried_and_lives_is_shown_without_its_info(world: World) -> None:
    await world.store.renew(world.lane, worker="w", lease_ms=100, held=[])
    (found,) = await world.operations.workers(world.lane)
    assert (found.id, found.lease_ms, found.info) == ("w", 100, "")
    await world.store.deregister(world.lane, worker="w")


async def told(world: World, worker: str) -> tuple[bool, bool, bool]:
    """Whether claim, adopt and renew tell it to drain."""
    store, lane = world.store, world.lane
    return (
        (await world.claim(0, worker=worker)).drain,
        (await store.adopt(lane, worker=worker, want=0, lease_ms=HOUR_MS)).drain,
        (await store.renew(lane, worker=worker, lease_ms=HOUR_MS, held=[])).drain,
    )


async def test_a_worker_asked_to_drain_is_told_by_every_call_and_no_other_is(world: World) -> None:
    store, lane = world.store, world.lane
    for worker in "vw":
        await store.register(lane, worker=worker, info="{}")
    assert await told(world, "v") == (False, False, False)
    assert await world.operations.request_drain(lane, "v")
    assert await world.operations.request_drain(lane, "v")
    assert await told(world, "v") == (True, True, True)
    assert await told(world, "w") == (False, False, False)
    await store.pause(lane, True)
    assert await told(world, "v") == (True, True, True)
    for worker in "vw":
        await store.deregister(lane, worker=worker)


async def test_a_claim_and_a_renewal_that_have_jobs_tell_it_too(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="w", info="{}")
    await world.operations.request_drain(lane, "w")
    await world.enqueue("a")
    claim = await world.claim()
    assert (ids(claim), claim.drain) == (["a"], True)
    held = [("gone", "w:9"), ("a", claim.jobs[0].token)]
    assert await store.renew(lane, worker="w", lease_ms=HOUR_MS, held=held) == Renewed(("gone",), True)
    await store.deregister(lane, worker="w")


async def test_a_request_to_drain_is_forgotten_when_the_worker_leaves_or_registers_anew(world: World) -> None:
    store, lane = world.store, world.lane
    assert not await world.operations.request_drain(lane, "w")
    await store.register(lane, worker="w", info="{}")
    await world.operations.request_drain(lane, "w")
    await store.register(lane, worker="w", info="{}")
    assert await told(world, "w") == (False, False, False)
    await world.operations.request_drain(lane, "w")
    await store.deregister(lane, worker="w")
    assert await told(world, "w") == (False, False, False)
    await store.deregister(lane, worker="w")


async def test_a_worker_that_was_frozen_and_buried_is_still_told_to_drain(world: World) -> None:
    store, lane = world.store, world.lane
    await store.register(lane, worker="w", info="{}")
    assert await world.operations.request_drain(lane, "w")
    await world.sweep(lease_ms=100)
    buried: tuple[str, ...] = ()
    with trio.fail_after(10):
        while not buried:
            await world.pass_ms(20)
            buried = (await world.sweep(lease_ms=100)).buried_workers
    assert await world.operations.workers(lane) == []
    assert await told(world, "w") == (True, True, True)
    await store.deregister(lane, worker="w")
    assert await told(world, "w") == (False, False, False)
    await store.deregister(lane, worker="w")


# --- the audit trail -----------------------------------------------------------------------------------------------


async def test_the_trail_gives_the_newest_entries_the_newest_last(world: World) -> None:
    assert await world.operations.trail(count=9) == []
    entries: Sequence[bytes] = [f'{{"act":{number}}}'.encode() for number in range(5)]
    for entry in entries:
        await world.operations.note(entry)
    assert await world.operations.trail(count=9) == entries
    assert await world.operations.trail(count=2) == entries[-2:]
    assert await world.operations.trail(count=0) == []
    await world.operations.note(entries[0])
    assert await world.operations.trail(count=2) == [entries[-1], entries[0]]
