"""docs/priority.md, sentence by sentence. `proves("S1")` ties a test to the sentence it proves."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from pydantic import SecretStr

from chaos.judging.aof_judge import judge_file
from queue_trio import App
from queue_trio.core.dequeue import DEFAULT_WEIGHTS, PRIORITIES, LaneOrder, Priority, Weighted
from queue_trio.core.job import RECORD_VERSION, Lane, NewJob, Outcome, Record, State, Verdict, encode_record
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.redis.client import Client
from queue_trio.redis.keys import LaneKeys
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.worker import Worker
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from queue_trio.embedded import EmbeddedRedis

LANE = Lane()
LEASE_MS = 60_000
STRICT = PRIORITIES
SENTENCE = re.compile(r"\*\*\[([A-Z]\d)\]\*\*")
proved: set[str] = set()


def proves(*numbers: str) -> Callable[[Any], Any]:
    proved.update(numbers)
    return lambda test: test


def test_every_sentence_has_a_test_and_every_test_a_sentence() -> None:
    text = (Path(__file__).parents[1] / "docs" / "priority.md").read_text("utf-8")
    assert set(SENTENCE.findall(text)) == proved


# --- a store with jobs in it -----------------------------------------------------------------------------------------


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    client = Client.from_settings(RedisSettings(url=SecretStr(redis_url)), name="test")
    yield RedisStore(client)
    await client.aclose()


def a_job(job_id: str, priority: Priority, *, delay_ms: int = 0) -> NewJob:
    record = encode_record(Record(v=RECORD_VERSION, task="t", priority=priority))
    return NewJob(job_id, record, priority, delay_ms=delay_ms)


async def put(store: RedisStore, *ids: str, priority: Priority = Priority.NORMAL, lane: Lane = LANE) -> None:
    await store.enqueue(lane, [a_job(job_id, priority) for job_id in ids])


async def take(
    store: RedisStore, want: int, order: Sequence[Priority] = STRICT, *, lease_ms: int = LEASE_MS
) -> list[str]:
    """Claim and complete; the ids in order."""
    claim = await store.claim(LANE, worker="w", want=want, lease_ms=lease_ms, order=order)
    await store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])
    return [job.id for job in claim.jobs]


def an_app(url: str, **worker: Any) -> App:
    return App(
        "test",
        settings=Settings(
            redis=RedisSettings(url=SecretStr(url)), worker=WorkerSettings.model_validate(worker)
        ),
    )


# --- in every strategy -----------------------------------------------------------------------------------------------


@proves("A1")
async def test_within_a_priority_first_ready_is_first_claimed(store: RedisStore) -> None:
    ids = [f"job-{number}" for number in range(50)]
    for job_id in ids:
        await put(store, job_id)
    assert await take(store, 20) + await take(store, 100) == ids


@proves("A2")
async def test_a_returned_job_goes_to_the_front(store: RedisStore) -> None:
    await put(store, "first", "second", "third")
    claim = await store.claim(LANE, worker="w", want=2, lease_ms=LEASE_MS, order=STRICT)
    await store.settle(LANE, [Outcome(job.id, job.token, Verdict.RELEASE) for job in claim.jobs])
    assert await take(store, 3) == ["first", "second", "third"]


@proves("A2")
async def test_a_job_taken_back_from_a_lost_worker_goes_to_the_front(store: RedisStore) -> None:
    await put(store, "first", "second", "third")
    await store.claim(LANE, worker="lost", want=2, lease_ms=1, order=STRICT)

    async def reclaimed() -> bool:
        return bool((await store.sweep(LANE, lease_ms=LEASE_MS, max_crashes=5)).reclaimed)

    await eventually(reclaimed)
    assert await take(store, 3) == ["first", "second", "third"]


@proves("A3")
async def test_no_job_is_fetched_ahead_of_a_free_slot(redis_url: str) -> None:
    app = an_app(redis_url, concurrency=1)
    order: list[str] = []
    running, go_on = trio.Event(), trio.Event()

    @app.task
    async def job(name: str) -> None:
        order.append(name)
        if name == "low-1":
            running.set()
            await go_on.wait()
        if len(order) == 4:
            worker.drain()

    worker = Worker(app)
    async with app.client() as client, trio.open_nursery() as nursery:
        await client.enqueue_many(
            [job.job(name).options(priority="low") for name in ("low-1", "low-2", "low-3")]
        )
        nursery.start_soon(worker.run)
        await running.wait()
        await client.enqueue(job.job("critical").options(priority="critical"))
        go_on.set()
    assert order == ["low-1", "critical", "low-2", "low-3"]


@proves("A4", "A5")
async def test_queues_come_before_priorities(redis_url: str) -> None:
    app = an_app(redis_url, concurrency=1, queues="emails,default")
    order: list[str] = []

    @app.task(queue="emails")
    async def email(name: str) -> None:
        note(name)

    @app.task
    async def other(name: str) -> None:
        note(name)

    def note(name: str) -> None:
        order.append(name)
        if len(order) == 4:
            worker.drain()

    async with app.client() as client:
        await client.enqueue_many([other.job("critical").options(priority="critical"), other.job("normal")])
        await client.enqueue_many([email.job("low-email").options(priority="low"), email.job("email")])
    worker = Worker(app)
    await worker.run()
    assert order == ["email", "low-email", "critical", "normal"]


@proves("A6")
def test_queues_by_weight_take_turns() -> None:
    order = LaneOrder.parse("emails:3,default:1")
    leaders = [order.order()[0] for _ in range(40)]
    for at in range(36):
        assert Counter(leaders[at : at + 4]) == {"emails": 3, "default": 1}


@proves("A6")
async def test_a_queue_by_weight_is_served_while_the_other_never_empties(redis_url: str) -> None:
    app = an_app(redis_url, concurrency=1, queues="emails:3,default:1")
    order: list[str] = []

    @app.task(queue="emails")
    async def email() -> None:
        order.append("email")

    @app.task
    async def other() -> None:
        order.append("other")
        if order.count("other") == 10:
            worker.cancel()

    async with app.client() as client:
        await client.enqueue_many([email.job() for _ in range(100)] + [other.job() for _ in range(10)])
    worker = Worker(app)
    await worker.run()
    assert order.count("other") == 10
    assert 27 <= order.count("email") <= 33
    async with app.client() as client:
        claim = await client.store.claim(
            Lane("emails"), worker="w", want=100, lease_ms=LEASE_MS, order=STRICT
        )
        await client.store.settle(Lane("emails"), [Outcome(job.id, job.token) for job in claim.jobs])


# --- strict ----------------------------------------------------------------------------------------------------------


@proves("S1")
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_strict_never_claims_while_something_more_urgent_is_ready(
    private_redis: EmbeddedRedis, seed: int
) -> None:
    """Many clients and workers at once; the server's append-only file says what was ready at each claim."""
    rng = random.Random(seed)
    settings = RedisSettings(url=SecretStr(private_redis.url))
    total = 600
    left = total

    async def produce(part: int) -> None:
        client = Client.from_settings(settings, name=f"producer-{part}")
        store = RedisStore(client)
        for at in range(0, total // 4, 5):
            ids = [f"{part}-{at + offset}" for offset in range(5)]
            delays = [rng.choice((0, 0, 0, 1, 20)) for _ in ids]
            jobs = [
                a_job(job_id, rng.choice(PRIORITIES), delay_ms=delay)
                for job_id, delay in zip(ids, delays, strict=True)
            ]
            await store.enqueue(LANE, jobs)
        await client.aclose()

    async def consume(part: int) -> None:
        nonlocal left
        client = Client.from_settings(settings, name=f"worker-{part}")
        store = RedisStore(client)
        verdicts = (Verdict.DONE, Verdict.DONE, Verdict.RELEASE, Verdict.RETRY)
        while left > 0:
            want = rng.randint(1, 7)
            claim = await store.claim(LANE, worker=f"w{part}", want=want, lease_ms=LEASE_MS, order=STRICT)
            outcomes = [Outcome(job.id, job.token, rng.choice(verdicts), detail=b"{}") for job in claim.jobs]
            if outcomes:
                await store.settle(LANE, outcomes)
            left -= sum(outcome.verdict is Verdict.DONE for outcome in outcomes)
        await client.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for part in range(4):
                nursery.start_soon(produce, part)
                nursery.start_soon(consume, part)

    found = judge_file(private_redis.folder, LaneKeys(LANE))
    assert (found.inversions, found.misplaced, found.places) == ((), (), {})
    assert found.leases > total


@proves("S2")
async def test_a_due_job_counts_as_ready_in_the_claim_that_finds_it(store: RedisStore) -> None:
    await put(store, "low", priority=Priority.LOW)
    await store.enqueue(LANE, [a_job("late", Priority.CRITICAL, delay_ms=1)])

    async def due() -> bool:
        now_s, now_us = await store.client.ask("TIME")
        (peeked,) = await store.peek(LANE, State.SCHEDULED, count=1)
        assert peeked.at_ms is not None
        return int(now_s) * 1000 + int(now_us) // 1000 >= peeked.at_ms

    await eventually(due)
    assert await take(store, 1) == ["late"]
    assert await take(store, 1) == ["low"]


@proves("S3")
async def test_strict_starves_the_less_urgent(store: RedisStore) -> None:
    await put(store, "low", priority=Priority.LOW)
    for number in range(50):
        await put(store, f"high-{number}", f"high-{number}-b", priority=Priority.HIGH)
        assert await take(store, 2) == [f"high-{number}", f"high-{number}-b"]
    assert await take(store, 2) == ["low"]


# --- weighted --------------------------------------------------------------------------------------------------------


@proves("W1")
def test_in_any_w_claims_each_priority_leads_as_often_as_its_weight() -> None:
    weighted = Weighted()
    total = sum(DEFAULT_WEIGHTS.values())
    leaders = [weighted.order()[0] for _ in range(5 * total)]
    for at in range(4 * total):
        assert Counter(leaders[at : at + total]) == DEFAULT_WEIGHTS


@proves("W2")
@pytest.mark.parametrize("priority", PRIORITIES[1:])
async def test_weighted_claims_any_priority_within_w_claims(store: RedisStore, priority: Priority) -> None:
    weighted = Weighted()
    await put(store, "patient", priority=priority)
    number = 0
    for _ in range(sum(DEFAULT_WEIGHTS.values())):
        await put(store, *(f"urgent-{number + offset}" for offset in range(4)), priority=Priority.CRITICAL)
        number += 4
        if "patient" in await take(store, 4, weighted.order()):
            break
    else:
        pytest.fail("not claimed within W claims")
    while await take(store, 500):
        pass


@proves("W3")
async def test_weighted_fills_the_slots_that_the_leader_leaves_free(store: RedisStore) -> None:
    weighted = Weighted()
    for turn in range(sum(DEFAULT_WEIGHTS.values())):
        await put(store, f"high-{turn}", priority=Priority.HIGH)
        await put(store, f"low-{turn}", priority=Priority.LOW)
        assert set(await take(store, 2, weighted.order())) == {f"high-{turn}", f"low-{turn}"}


@proves("W4")
async def test_weighted_lets_a_less_urgent_leader_go_first(store: RedisStore) -> None:
    weighted = Weighted()
    order = next(order for order in iter(weighted.order, None) if order[0] is Priority.LOW)
    await put(store, "critical", priority=Priority.CRITICAL)
    await put(store, "low", priority=Priority.LOW)
    assert await take(store, 1, order) == ["low"]
    assert await take(store, 1) == ["critical"]


# --- looped ----------------------------------------------------------------------------------------------------------


@proves("L1")
async def test_looped_notices_the_top_priority_within_its_granularity(redis_url: str) -> None:
    wait_s = 0.1
    app = an_app(redis_url, dequeue_strategy="looped", looped_wait=wait_s)
    noticed = trio.Event()
    rng = random.Random(7)

    @app.task(priority="critical")
    async def urgent() -> None:
        noticed.set()

    worker = Worker(app)
    latencies: list[float] = []
    async with app.client() as client, trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        for _ in range(10):
            # A random point of the loop, so that the job comes while another priority is waited for.
            await trio.sleep(rng.uniform(0, 4 * wait_s))
            began = trio.current_time()
            noticed = trio.Event()
            await client.enqueue(urgent.job())
            await noticed.wait()
            latencies.append(trio.current_time() - began)
        worker.drain()
    slack_s = 0.5  # round trips on a busy machine; without it the bound itself
    assert max(latencies) <= 3 * wait_s + slack_s
    assert max(latencies) > 0.02, "a loop that never waits elsewhere would not need this sentence"


@proves("L2")
async def test_looped_moves_one_job_at_a_time(store: RedisStore) -> None:
    await put(store, "one", "two", "three")
    assert await store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=1)
    claim = await store.adopt(LANE, worker="w", want=10, lease_ms=LEASE_MS)
    assert [job.id for job in claim.jobs] == ["one"]
    await store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])
    assert await take(store, 10) == ["two", "three"]


@proves("L3")
async def test_looped_sees_a_delayed_job_only_after_a_sweep(store: RedisStore) -> None:
    await store.enqueue(LANE, [a_job("late", Priority.NORMAL, delay_ms=1)])
    with trio.move_on_after(0.1):
        while True:
            assert not await store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=0.02)
    await store.sweep(LANE, lease_ms=LEASE_MS, max_crashes=3)
    assert await store.pull(LANE, worker="w", priority=Priority.NORMAL, timeout_s=1)
    claim = await store.adopt(LANE, worker="w", want=1, lease_ms=LEASE_MS)
    await store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])


@proves("L4")
async def test_the_inbox_of_a_lost_worker_returns_to_the_front(store: RedisStore) -> None:
    lease_ms = 100
    await put(store, "first", "second")
    await store.register(LANE, worker="lost", info="{}")
    assert await store.pull(LANE, worker="lost", priority=Priority.NORMAL, timeout_s=1)

    async def buried() -> bool:
        swept = await store.sweep(LANE, lease_ms=lease_ms, max_crashes=3)
        return "lost" in swept.buried_workers

    began = trio.current_time()
    await eventually(buried)
    assert trio.current_time() - began >= 3 * lease_ms / 1000 - 0.05
    assert await take(store, 2) == ["first", "second"]
