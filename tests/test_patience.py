"""How long an enqueue waits: through an outage or not at all, and for room in a full queue. The same in all clients.

Real servers are killed and frozen. What a caller is told is checked against what is in Redis afterwards.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio

from queue_trio.client import QueueClient
from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import Enqueued, Lane, Outcome
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import CircuitOpen, DeadlineExceeded, OutcomeUnknown, QueueFull, UsageError
from queue_trio.intake import Intake
from queue_trio.redis.foreign import run_blocking
from queue_trio.redis.keys import LaneKeys
from queue_trio.redis.store import RedisStore
from queue_trio.submission import Terms, portions
from tests.relay import open_relay
from tests.runtime.faults import faulty_relay
from tests.runtime.rig import memory_store
from tests.support import eventually
from tests.test_clients import KINDS, LANE, Awaitably, ids_in, make_app, pause, use

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from queue_trio import App
    from queue_trio.app import Job
    from queue_trio.core.job import NewJob
    from queue_trio.embedded import EmbeddedRedis

pytestmark = pytest.mark.leaves_keys("only clients here: nobody runs what they enqueue")

AT_ONCE_S = 0.25
"""Half of a connect or read timeout here: whoever took longer has waited for one."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def both(kind: str, client: Any, *calls: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """Make calls at once with one client, and give what each returned or raised."""
    found: list[Any] = [None] * len(calls)

    async def one(at: int) -> None:
        try:
            found[at] = await calls[at](client)
        except Exception as error:  # noqa: BLE001  # judged by the test
            found[at] = error

    if kind == "trio":
        async with trio.open_nursery() as nursery:
            for at in range(len(calls)):
                nursery.start_soon(one, at)
                await trio.testing.wait_all_tasks_blocked()
    elif kind == "asyncio":
        await asyncio.gather(*(one(at) for at in range(len(calls))))
    else:
        assert isinstance(client, Awaitably)
        threads = [threading.Thread(target=_drive, args=(one, at)) for at in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def _drive(one: Callable[[int], Any], at: int) -> None:
    with pytest.raises(StopIteration):
        one(at).send(None)


async def until_through(kind: str, client: Any, app: App) -> Any:
    """Enqueue, never waiting, until it works."""
    ended = time.monotonic() + 10
    job = app.tasks["note"].job("after")
    while True:
        try:
            return await client.enqueue(job, on_outage="fail")
        except (CircuitOpen, OutcomeUnknown):
            assert time.monotonic() < ended, "it never noticed that Redis is back"
        await pause(kind, 0.02)


# --- outages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False], ids=["connected before", "never connected"])
async def test_without_a_server_it_fails_at_once_and_recovers(
    kind: str, connected: bool, private_redis: EmbeddedRedis
) -> None:
    app = make_app(private_redis.url)
    note = app.tasks["note"]
    ready, dead, back = threading.Event(), threading.Event(), threading.Event()

    async def body(client: Any) -> None:
        if connected:
            await client.enqueue(note.job())
        ready.set()
        while not dead.is_set():
            await pause(kind, 0.01)
        longest, said = 0.0, set()
        while not back.is_set():
            began = time.monotonic()
            try:
                await client.enqueue(note.job(), on_outage="fail")
            except (CircuitOpen, OutcomeUnknown) as error:
                said.add("out of reach for" in str(error))
            longest = max(longest, time.monotonic() - began)
            await pause(kind, 0.005)
        assert longest < AT_ONCE_S
        assert said == {True}
        await until_through(kind, client, app)

    async def outage() -> None:
        await eventually(ready.is_set)
        await private_redis.kill()
        dead.set()
        await trio.sleep(1)  # the outage itself
        await private_redis.restart()
        back.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outage)
        await use(kind, app, body)
    assert await ids_in(app)


async def test_frozen_only_the_one_that_looks_waits_for_a_timeout(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    app = make_app(private_redis.url)
    note = app.tasks["note"]
    ready, frozen, thawed = threading.Event(), threading.Event(), threading.Event()
    slow: list[float] = []

    async def body(client: Any) -> None:
        await client.enqueue(note.job())
        ready.set()
        while not frozen.is_set():
            await pause(kind, 0.01)
        with pytest.raises(OutcomeUnknown, match="may or may not be queued"):
            await client.enqueue(
                note.job(), on_outage="fail"
            )  # it was sent: nobody may say that it is not queued
        began = time.monotonic()
        with pytest.raises(CircuitOpen, match="no reply") as caught:
            await client.enqueue(note.job(), on_outage="fail")
        assert time.monotonic() - began < AT_ONCE_S
        assert 0 < caught.value.retry_after <= 0.75
        calls = 0
        while not thawed.is_set():
            began = time.monotonic()
            with suppress(CircuitOpen, OutcomeUnknown):
                await client.enqueue(note.job(), on_outage="fail")
                break  # the one that looked was under way when the server came back
            took = time.monotonic() - began
            calls += 1
            if took > AT_ONCE_S:
                slow.append(took)
            await pause(kind, 0.01)
        assert calls > 20
        await until_through(kind, client, app)

    async def freeze() -> None:
        await eventually(ready.is_set)
        await private_redis.freeze()
        frozen.set()
        await trio.sleep(2.5)  # the outage itself
        private_redis.thaw()
        thawed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await use(kind, app, body)
    assert len(slow) <= 4  # each took half a second, and between two of them there is the breaker's wait


async def test_less_patience_than_a_read_timeout_is_enough_to_learn_of_an_outage(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    """Nobody here stays until a read timeout says that the server hangs, and yet only the first one waits."""
    app = make_app(private_redis.url, read_timeout=20)
    note = app.tasks["note"]
    lenient = app.rate_limit("lenient", 5, per=60, when_down="open")
    ready, frozen = threading.Event(), threading.Event()

    async def body(client: Any) -> None:
        await client.enqueue(note.job())
        ready.set()
        while not frozen.is_set():
            await pause(kind, 0.01)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await client.enqueue(note.job(), on_outage="fail", timeout=0.4)
        assert 0.4 <= time.monotonic() - began < 10
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(CircuitOpen, match="no answer for"):
                await client.enqueue(note.job(), on_outage="fail", timeout=0.4)
            assert not (await client.acquire(lenient, wait=0)).counted
            assert time.monotonic() - began < AT_ONCE_S
        await pause(kind, 0.8)
        assert not (await client.acquire(lenient, wait=0)).counted  # this one looks
        began = time.monotonic()
        assert not (await client.acquire(lenient, wait=0)).counted
        assert time.monotonic() - began < AT_ONCE_S
        private_redis.thaw()
        await until_through(kind, client, app)

    async def freeze() -> None:
        await eventually(ready.is_set)
        await private_redis.freeze()
        frozen.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await use(kind, app, body)


@pytest.mark.parametrize("kind", ["trio", "asyncio"])
async def test_who_is_refused_in_a_loop_lets_others_run(kind: str, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    app = make_app(private_redis.url)
    lenient = app.rate_limit("lenient", 5, per=60, when_down="open")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await pause(kind, 0)
            turns += 1

    async def body(client: Any) -> None:
        with pytest.raises(CircuitOpen):
            await client.enqueue(app.tasks["note"].job(), on_outage="fail")
        before = turns
        for _ in range(20):
            with pytest.raises(CircuitOpen):
                await client.enqueue(app.tasks["note"].job(), on_outage="fail")
        for _ in range(20):
            assert not (await client.acquire(lenient)).counted
        assert turns - before >= 30  # Trio takes whose turn it is by lot

    async def in_trio(client: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await body(client)
            nursery.cancel_scope.cancel()

    async def in_asyncio(client: Any) -> None:
        task = asyncio.create_task(other())
        await body(client)
        task.cancel()

    await use(kind, app, in_trio if kind == "trio" else in_asyncio)


async def test_those_who_come_together_give_up_together(kind: str, private_redis: EmbeddedRedis) -> None:
    """One finds out that the server hangs, in one read timeout. The others do not take one each, in turn."""
    app = make_app(private_redis.url, read_timeout=1.0)
    ready, frozen = threading.Event(), threading.Event()

    async def impatient(client: Any) -> Any:
        return await client.enqueue(app.tasks["note"].job(), on_outage="fail")

    async def body(client: Any) -> float:
        await client.enqueue(app.tasks["note"].job(), on_outage="fail")
        ready.set()
        while not frozen.is_set():
            await pause(kind, 0.01)
        began = time.monotonic()
        told = await both(kind, client, *[impatient] * 8)
        assert {type(error) for error in told} <= {CircuitOpen, OutcomeUnknown}
        return time.monotonic() - began

    async def freeze() -> None:
        await eventually(ready.is_set)
        await private_redis.freeze()
        frozen.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        assert await use(kind, app, body) < 2 * 1.0
    private_redis.thaw()


async def test_patient_ones_wait_on_while_impatient_ones_are_told(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    app = make_app(private_redis.url)
    note = app.tasks["note"]
    jobs = [note.job(str(at)) for at in range(6)]
    took: list[float] = []
    told = threading.Event()

    async def patient(client: Any) -> Any:
        return await client.enqueue(jobs[0])

    def impatient(at: int) -> Callable[[Any], Awaitable[Any]]:
        async def call(client: Any) -> Any:
            began = time.monotonic()
            try:
                return await client.enqueue(jobs[at], on_outage="fail")
            finally:
                took.append(time.monotonic() - began)
                if len(took) == 5:
                    told.set()

        return call

    await private_redis.kill()

    async def restart() -> None:
        await eventually(told.is_set)
        await private_redis.restart()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        found = await use(
            kind, app, lambda client: both(kind, client, patient, *(impatient(at) for at in range(1, 6)))
        )
    assert found[0].created
    assert [type(error) for error in found[1:]] == [CircuitOpen] * 5
    assert max(took) < AT_ONCE_S
    assert await ids_in(app) == [jobs[0].id]


async def test_what_may_have_been_queued_is_never_called_not_queued(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    """Requests and replies are cut at random, under patient and impatient callers at once."""
    rng = random.Random(3)
    cuts = 0

    def sometimes(data: bytes) -> bool:
        nonlocal cuts
        cut = rng.random() < 0.03
        cuts += cut
        return cut

    outcome: dict[str, Any] = {}
    async with faulty_relay(private_redis) as relay:
        app = make_app(relay.url)

        def caller(at: int) -> Callable[[Any], Awaitable[Any]]:
            async def call(client: Any) -> None:
                for n in range(60):
                    job = app.tasks["note"].job(f"{at} {n}")
                    try:
                        outcome[job.id] = await client.enqueue(job, on_outage="fail" if at % 2 else "wait")
                    except (CircuitOpen, OutcomeUnknown) as error:
                        outcome[job.id] = error
                        await pause(kind, 0.01)

            return call

        relay.on_bytes = sometimes
        raised = await use(kind, app, lambda client: both(kind, client, *map(caller, range(6))))
    assert raised == [None] * 6
    assert cuts > 3
    there = set(await ids_in(make_app(private_redis.url)))
    refused = {job_id for job_id, end in outcome.items() if isinstance(end, CircuitOpen)}
    queued = {job_id for job_id, end in outcome.items() if not isinstance(end, Exception)}
    assert len(outcome) == 360
    assert refused & there == set()
    assert queued <= there
    assert len(queued) >= 180  # every patient one got through


async def test_the_setting_says_it_for_every_call(kind: str, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    app = make_app(private_redis.url, on_outage="fail")
    job = app.tasks["note"].job()

    async def body(client: Any) -> None:
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                await client.enqueue(job)
            with pytest.raises(CircuitOpen):
                await client.enqueue_many([job, app.tasks["other"].job()])
        with pytest.raises(DeadlineExceeded):
            await client.enqueue(job, on_outage="wait", timeout=0.2)

    await use(kind, app, body)


async def test_a_timeout_of_ones_own(kind: str, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    app = make_app(private_redis.url)

    async def body(client: Any) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.enqueue(app.tasks["note"].job(), timeout=0.3)
        with pytest.raises(DeadlineExceeded):
            await client.enqueue_many([app.tasks["note"].job()], timeout=0.3)
        assert time.monotonic() - began < 3
        for wrong in ({"timeout": -1}, {"on_outage": "never"}, {"on_full": "fail"}):
            with pytest.raises(UsageError, match=r"0 or more|choose one of"):
                await client.enqueue(app.tasks["note"].job(), **wrong)

    await use(kind, app, body)


async def test_who_leaves_a_call_before_it_was_sent_is_not_queued_with_it(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    """The first one leaves, and so the second sends for all who wait; then the others leave, too."""
    app = make_app(private_redis.url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(5)]
    patience = (0.3, 20, 0.8, 0.8, 0.8)
    left = 0
    ready, dead, told = threading.Event(), threading.Event(), threading.Event()

    def caller(at: int) -> Callable[[Any], Awaitable[Any]]:
        async def call(client: Any) -> Any:
            nonlocal left
            try:
                return await client.enqueue(jobs[at], timeout=patience[at])
            finally:
                left += 1
                if left == 4:
                    told.set()

        return call

    async def body(client: Any) -> list[Any]:
        warm = await client.enqueue(app.tasks["note"].job())
        ready.set()
        while not dead.is_set():
            await pause(kind, 0.01)
        return [warm, *await both(kind, client, *map(caller, range(5)))]

    async def outage() -> None:
        await eventually(ready.is_set)
        await private_redis.kill()
        dead.set()
        await eventually(told.is_set)
        await private_redis.restart()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outage)
        warm, *found = await use(kind, app, body)
    assert found.pop(1).created
    assert type(found.pop(0)) in (
        DeadlineExceeded,
        OutcomeUnknown,
    )  # sent, perhaps, before the crash was noticed
    assert [type(error) for error in found] == [DeadlineExceeded] * 3
    assert set(await ids_in(app)) - {warm} == {jobs[1].id}  # the crash may have lost the first


async def test_no_time_at_all_queues_nothing_and_says_so(kind: str, redis_url: str) -> None:
    app = make_app(redis_url)
    late = app.tasks["note"].job()

    async def body(client: Any) -> None:
        await client.enqueue(app.tasks["note"].job())
        with pytest.raises(DeadlineExceeded, match="nothing was queued") as caught:
            await client.enqueue(late, timeout=0)
        assert "e-" not in str(caught.value)  # no -7.6e-06 s

    await use(kind, app, body)
    assert late.id not in await ids_in(app)


async def test_refused_after_an_attempt_without_a_reply_is_not_called_not_queued(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    """The first attempt is held up on its way: it may arrive when the caller has had its answer."""
    job_ids: list[str] = []
    with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
        async with faulty_relay(private_redis) as relay:
            app = make_app(relay.url)
            ready, full = threading.Event(), threading.Event()

            async def body(client: Any) -> None:
                await client.enqueue(app.tasks["note"].job())
                ready.set()
                while not full.is_set():
                    await pause(kind, 0.01)
                job = app.tasks["note"].job()
                with pytest.raises(OutcomeUnknown, match="had no reply, and then"):
                    await client.enqueue(job)
                job_ids.append(job.id)

            async def hold_up() -> None:
                await eventually(ready.is_set)
                relay.forget()
                plain.config_set("maxmemory", "1")
                full.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold_up)
                await use(kind, app, body)
        plain.config_set("maxmemory", "0")
    assert len(job_ids) == 1


async def test_the_second_queue_out_of_reach_is_no_word_on_the_first(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    """One list for two queues, and Redis goes away between them: what is queued must not be called not queued."""
    assert private_redis.port is not None
    async with open_relay(private_redis.port) as relay:
        app = make_app(relay.url)
        note, other = app.tasks["note"], app.tasks["other"]

        async def body(client: Any) -> None:
            await client.enqueue_many([note.job("warm"), other.job("warm")])
            # The first call passes; the reply to the second is lost.
            relay.lose_replies(1, to=b"second")
            with pytest.raises(OutcomeUnknown):
                await client.enqueue_many([note.job("first"), other.job("second")], on_outage="fail")

        await use(kind, app, body)
    direct = make_app(private_redis.url)
    assert len(await ids_in(direct)) == 2
    assert len(await ids_in(direct, Lane("other"))) == 2


# --- full queues ---------------------------------------------------------------------------------------------------


async def _drain(url: str, lane: Lane, order: list[str], until: Callable[[], bool], *, want: int = 2) -> None:
    """A consumer that takes a few jobs at a time, and notes their ids."""
    async with make_app(url).client() as client:
        assert isinstance(client.store, RedisStore)
        while not until():
            claim = await client.store.claim(lane, worker="w", want=want, lease_ms=60_000, order=PRIORITIES)
            order += [job.id for job in claim.jobs]
            if claim.jobs:
                await client.store.settle(lane, [Outcome(job.id, job.token) for job in claim.jobs])
            await trio.sleep(0.005)


async def test_full_it_waits_for_room_and_keeps_the_order(kind: str, redis_url: str) -> None:
    app = make_app(redis_url, max_length=5)
    note, other = app.tasks["note"], app.tasks["other"]
    jobs = [note.job(str(at)) if at % 4 else other.job(str(at)) for at in range(80)]
    jobs.insert(40, jobs[3])
    order: list[str] = []
    others: list[str] = []
    done = threading.Event()

    async def body(client: Any) -> None:
        ids = await client.enqueue_many(jobs, on_full="wait")
        assert ids == [job.id for job in jobs]
        assert (await client.enqueue(note.job("one"), on_full="wait")).created
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain, redis_url, LANE, order, lambda: done.is_set() and len(order) >= 61)
        nursery.start_soon(_drain, redis_url, Lane("other"), others, lambda: len(others) == 20)
        await use(kind, app, body)
    wanted = [job.id for job in jobs if job.task.queue == "default"]
    del wanted[wanted.index(jobs[3].id, 4)]
    assert [job_id for job_id in order if job_id in set(wanted)][: len(wanted)] == wanted
    assert others == [job.id for job in jobs if job.task.queue == "other"]


async def test_full_a_generator_waits_with_it_and_the_order_is_kept(kind: str, redis_url: str) -> None:
    app = make_app(redis_url, max_length=100)
    made: list[str] = []
    order: list[str] = []
    ahead = 0
    done = threading.Event()

    def jobs() -> Iterator[Job]:
        nonlocal ahead
        for at in range(3 * MAX_BATCH):
            job = app.tasks["note"].job(str(at))
            made.append(job.id)
            ahead = max(ahead, len(made) - len(order))
            yield job

    async def body(client: Any) -> None:
        assert await client.enqueue_many(jobs(), on_full="wait") == made
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(_drain, want=50), redis_url, LANE, order, done.is_set)
        await use(kind, app, body)
        with trio.fail_after(10):
            while len(order) < len(made):
                await _drain(redis_url, LANE, order, lambda: len(order) == len(made))
    assert order == made
    # A portion, the one that is waiting to be sent, and what is in the queue or on its way out of it.
    assert ahead <= 2 * MAX_BATCH + 100 + 50


async def test_full_until_the_end_it_says_what_got_in(kind: str, redis_url: str) -> None:
    app = make_app(redis_url, max_length=2, on_full="wait")
    note, other = app.tasks["note"], app.tasks["other"]
    jobs = [note.job(str(at)) for at in range(4)] + [other.job()]

    async def body(client: Any) -> None:
        began = time.monotonic()
        with pytest.raises(QueueFull, match="2 of 5 jobs refused") as caught:
            await client.enqueue_many(jobs, timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 3
        assert caught.value.accepted == (jobs[0].id, jobs[1].id, jobs[4].id)
        with pytest.raises(QueueFull):
            await client.enqueue(note.job(), timeout=0.3)
        began = time.monotonic()
        with pytest.raises(QueueFull):
            await client.enqueue(note.job(), on_full="refuse")
        assert time.monotonic() - began < AT_ONCE_S

    await use(kind, app, body)


def test_no_look_for_room_is_cut_off_before_its_answer() -> None:
    """Its outcome would be unknown, and the queue is known to be full."""
    app = make_app("redis://never.asked")
    jobs = [app.tasks["note"].job()]
    for seed in range(50):
        port = FullQueue()
        intake = Intake(
            port,
            portions(jobs, now_ms=lambda: 0, max_payload=1_000),
            Terms(1.0, fail_fast=False, wait_for_room=True),
            max_length=1,
            rng=random.Random(seed),
        )
        with pytest.raises(QueueFull):
            run_blocking(intake.run())
        assert len(port.left) > 3
        assert min(port.left) >= 0.05
        assert port.now() >= 1.0


class FullQueue:
    """An `intake.Port` on a queue without room, with a clock of its own. `left`: the time left at each look."""

    def __init__(self) -> None:
        self.time = 0.0
        self.left: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    async def put(
        self, lane: Lane, jobs: Sequence[NewJob], deadline: float, *, fail_fast: bool, meanwhile: object
    ) -> list[Enqueued]:
        self.left.append(deadline - self.time)
        return [Enqueued.REFUSED] * len(jobs)


async def test_in_a_crowd_that_waits_for_room_nobody_starves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = make_app("redis://never.asked", max_length=10, on_full="wait")
    store = memory_store()
    got = [0] * 30

    async def consume() -> None:
        while True:
            claim = await store.claim(LANE, worker="w", want=1, lease_ms=60_000, order=PRIORITIES)
            await store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])
            await trio.sleep(0.01)

    async def produce(at: int) -> None:
        while True:
            await client.enqueue(app.tasks["note"].job())
            got[at] += 1

    async with QueueClient(app, store=store) as client, trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for at in range(len(got)):
            nursery.start_soon(produce, at)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert sum(got) > 0.95 * 60 / 0.01
    assert max(got) < 2 * min(got)


async def test_looking_for_room_is_cheap(redis_url: str) -> None:
    """While a queue is full one job is sent at a time, not the whole list."""
    app = make_app(redis_url, max_length=1)
    note = app.tasks["note"]
    with redis.Redis.from_url(redis_url) as server:
        async with app.client() as client:
            await client.enqueue(note.job())
            before = _input_bytes(server)
            with pytest.raises(QueueFull):
                await client.enqueue_many(
                    [note.job("x" * 10_000) for _ in range(50)], on_full="wait", timeout=1
                )
        assert server.llen(LaneKeys(LANE)["ready:normal"]) == 1
        assert _input_bytes(server) - before < 50 * 10_000 + 40 * 11_000


def _input_bytes(server: redis.Redis) -> int:
    stats = server.info("stats")
    assert isinstance(stats, dict)
    return int(stats["total_net_input_bytes"])


async def test_an_outage_while_waiting_for_room(kind: str, private_redis: EmbeddedRedis) -> None:
    app = make_app(private_redis.url, max_length=1)
    note = app.tasks["note"]
    ready = threading.Event()

    async def body(client: Any) -> None:
        await client.enqueue(note.job())
        ready.set()
        with pytest.raises((CircuitOpen, OutcomeUnknown)):
            await client.enqueue(note.job(), on_full="wait", on_outage="fail")

    async def kill() -> None:
        await eventually(ready.is_set)
        await private_redis.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        await use(kind, app, body)
