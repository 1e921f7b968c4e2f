"""An outage is an event and no error: on a real server that goes away, freezes, or loses its connections."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio import App
from queue_trio.context import JobContext
from queue_trio.core.job import State
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from tests.runtime.faults import FAST, faulty_relay, recovery_bound_s
from tests.runtime.rig import LANE, assert_audit, at_rest, make_app, working
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from queue_trio.embedded import EmbeddedRedis
    from queue_trio.runtime.worker import Worker

LEASE_S = 1.0


@dataclass
class Traffic:
    """A worker, a client that enqueues all the time, and the ledger of both."""

    app: App
    worker: Worker
    store: RedisStore
    enqueued: list[str] = field(default_factory=list)
    ran: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    last_ran: float = 0.0
    last_enqueued: float = 0.0
    stop: bool = False

    async def flows(self, since: float) -> None:
        """Wait until a job was enqueued, and one run, that began after `since`."""
        await eventually(lambda: self.last_enqueued > since and self.last_ran > since, 30, what="traffic")


@asynccontextmanager
async def traffic(url: str, direct_url: str, seconds: float = 0.01, **worker: Any) -> AsyncIterator[Traffic]:
    """Runs it inside the block; at the end everything that was enqueued must have run, no try used, audit clean."""
    settings = {"lease": LEASE_S, "sweep_interval": 0.3, "concurrency": 4, "max_retries": 0} | worker
    app = make_app(FAST | {"url": url}, **settings)
    direct = Client.from_settings(make_app({"url": direct_url}).settings.redis, name="judge")
    found: Traffic

    @app.task
    async def work(context: JobContext, pause: float) -> None:
        await trio.sleep(pause)
        found.ran[context.id] += 1
        found.attempts[context.attempt] += 1
        found.last_ran = trio.current_time()

    async def produce() -> None:
        async with app.client() as client:
            while not found.stop:
                job = work.job(seconds)
                await client.enqueue(job)
                found.enqueued.append(job.id)
                found.last_enqueued = trio.current_time()
                await trio.sleep(0.005)

    async with trio.open_nursery() as nursery, working(app, seed=7) as running:
        store = RedisStore(direct)
        found = Traffic(app, running, store)
        nursery.start_soon(produce)
        await found.flows(0)
        yield found
        await found.flows(trio.current_time())
        found.stop = True
        await eventually(lambda: len(nursery.child_tasks) == 0)
        await at_rest(store, len(found.enqueued), seconds_max=20)
        await assert_audit(store)
        stats = await store.stats(LANE)
        await direct.aclose()
    assert set(found.ran) == set(found.enqueued), "lost or invented"
    assert (stats.dead, running.counts.retried, running.counts.dead) == (0, 0, 0)
    assert set(found.attempts) == {1}, "an outage used a try"


def is_down(worker: Worker) -> bool:
    return worker.redis is not None and worker.redis.down_since is not None


async def measure(traffic: Traffic, end: Callable[[], Awaitable[None] | None]) -> float:
    """End the outage, and give the seconds until jobs are enqueued and run again."""
    ending = end()
    if ending is not None:
        await ending
    began = trio.current_time()
    await traffic.flows(began)
    return trio.current_time() - began


@pytest.mark.parametrize("outage_s", [0.3, 2.5 * LEASE_S], ids=["short", "longer than the lease"])
async def test_redis_killed_and_restarted_from_its_file(
    private_redis: EmbeddedRedis, outage_s: float
) -> None:
    url = private_redis.url
    async with traffic(url, url) as flow:
        await private_redis.kill()
        await trio.sleep(outage_s)  # the outage itself
        took = await measure(flow, private_redis.restart)
        assert took < recovery_bound_s(flow.app.settings.redis)


@pytest.mark.parametrize("outage_s", [0.3, 2.5 * LEASE_S], ids=["short", "longer than the lease"])
async def test_connections_refused(private_redis: EmbeddedRedis, outage_s: float) -> None:
    async with (
        faulty_relay(private_redis) as relay,
        traffic(relay.url, private_redis.url) as flow,
    ):
        relay.refuse(True)
        before = relay.accepted
        await trio.sleep(outage_s)
        # No stampede: the breaker lets one probe through per wait, in each of two clients.
        assert relay.accepted - before <= 2 * (outage_s / 0.1 + 1) + 30
        took = await measure(flow, lambda: relay.refuse(False))
        assert took < recovery_bound_s(flow.app.settings.redis)


async def test_a_ten_second_outage(private_redis: EmbeddedRedis) -> None:
    async with (
        faulty_relay(private_redis) as relay,
        traffic(relay.url, private_redis.url, lease=3.0) as flow,
    ):
        relay.refuse(True)
        await trio.sleep(10)
        took = await measure(flow, lambda: relay.refuse(False))
        assert took < recovery_bound_s(flow.app.settings.redis)


async def test_redis_frozen(private_redis: EmbeddedRedis) -> None:
    url = private_redis.url
    async with traffic(url, url) as flow:
        frozen_at = trio.current_time()
        await private_redis.freeze()
        await eventually(lambda: is_down(flow.worker), 5)
        # Noticed within two read timeouts, and a little for a busy machine.
        assert trio.current_time() - frozen_at < 2 * 0.3 + 0.3
        await trio.sleep(1.5 * LEASE_S)
        took = await measure(flow, private_redis.thaw)
        assert took < recovery_bound_s(flow.app.settings.redis) + 0.3


async def test_a_black_hole_in_the_network(private_redis: EmbeddedRedis) -> None:
    """What was swallowed is delivered later, when nobody waits for it any more: it must change nothing."""
    async with (
        faulty_relay(private_redis) as relay,
        traffic(relay.url, private_redis.url) as flow,
    ):
        for _ in range(3):
            relay.swallow(True)
            began = trio.current_time()
            await eventually(lambda: is_down(flow.worker), 5)
            assert trio.current_time() - began < 2 * 0.3 + 0.3
            took = await measure(flow, lambda: relay.swallow(False))
            assert took < recovery_bound_s(flow.app.settings.redis) + 0.3


@pytest.mark.parametrize("seed", range(3))
async def test_connections_cut_in_mid_command(private_redis: EmbeddedRedis, seed: int) -> None:
    rng = random.Random(seed)
    cuts = 0

    def sometimes(data: bytes) -> bool:
        nonlocal cuts
        cut = rng.random() < 0.02
        cuts += cut
        return cut

    async with (
        faulty_relay(private_redis) as relay,
        traffic(relay.url, private_redis.url, 0.001) as flow,
    ):
        relay.on_bytes = sometimes
        await eventually(lambda: cuts >= 30 and len(flow.enqueued) >= 100, 30)
        relay.on_bytes = lambda data: False


async def test_a_job_that_runs_through_an_outage_is_completed_once(private_redis: EmbeddedRedis) -> None:
    """Longer than the lease: live workers keep their jobs, and no sweep takes them before they can renew."""
    async with faulty_relay(private_redis) as relay:
        app = make_app(FAST | {"url": relay.url}, lease=LEASE_S, sweep_interval=0.3, concurrency=20)
        begun, go, ended = [], trio.Event(), []

        @app.task
        async def long() -> None:
            begun.append(1)
            await go.wait()
            ended.append(1)

        direct = Client.from_settings(make_app({"url": private_redis.url}).settings.redis, name="judge")
        store = RedisStore(direct)
        async with working(app) as one, working(app, seed=1) as two:
            async with app.client() as client:
                await client.enqueue_many([long.job() for _ in range(30)])
            await eventually(lambda: len(begun) == 30)
            relay.refuse(True)
            await trio.sleep(3 * LEASE_S)
            assert (await store.stats(LANE)).leased == 30
            relay.refuse(False)
            await trio.sleep(1.5 * LEASE_S)  # time for the sweeps that would take them
            go.set()
            await at_rest(store, 30, seconds_max=20)
        assert (len(begun), len(ended)) == (30, 30)
        for worker in (one, two):
            assert (worker.counts.lost, worker.counts.stale, worker.counts.reclaimed) == (0, 0, 0)
        await assert_audit(store)
        await direct.aclose()


async def test_outcomes_wait_for_the_end_of_the_outage(private_redis: EmbeddedRedis) -> None:
    async with faulty_relay(private_redis) as relay:
        app = make_app(FAST | {"url": relay.url}, lease=LEASE_S, sweep_interval=0.3, concurrency=10)
        go = trio.Event()

        @app.task
        async def work() -> None:
            await go.wait()

        direct = Client.from_settings(make_app({"url": private_redis.url}).settings.redis, name="judge")
        store = RedisStore(direct)
        async with working(app) as worker:
            async with app.client() as client:
                await client.enqueue_many([work.job() for _ in range(10)])
            await eventually(lambda: worker._executor.in_flight == 10)
            relay.refuse(True)
            go.set()
            await eventually(lambda: worker._settler.backlog == 10)
            await trio.sleep(2 * LEASE_S)
            assert (await store.stats(LANE)).leased == 10
            relay.refuse(False)
            await at_rest(store, 10, seconds_max=10)
            await eventually(lambda: worker.counts.completed == 10)
            assert worker.counts.stale == 0
        await direct.aclose()


async def test_a_failing_connection_in_a_group_does_not_end_the_worker(private_redis: EmbeddedRedis) -> None:
    """A handler's own nursery wraps its connection error in a group; so does ours, and neither ends the worker."""
    async with faulty_relay(private_redis) as relay:
        app = make_app(FAST | {"url": relay.url}, lease=LEASE_S, sweep_interval=0.3)

        @app.task(max_retries=0)
        async def fail() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.open_tcp_stream, "127.0.0.1", 1)

        async with working(app) as worker:
            relay.refuse(True)
            await trio.sleep(0.2)
            relay.refuse(False)
            async with app.client() as client:
                await client.enqueue(fail.job())
            await eventually(lambda: worker.counts.dead == 1)
            assert worker._store is not None
            (dead,) = await worker._store.peek(LANE, State.DEAD, count=9)
            assert '"ExceptionGroup"' in dead.errors[0]


async def test_a_worker_in_an_outage_does_not_spin(private_redis: EmbeddedRedis) -> None:
    async with faulty_relay(private_redis) as relay:
        for strategy in ("strict", "looped"):
            app = make_app(
                FAST | {"url": relay.url}, lease=LEASE_S, sweep_interval=0.3, dequeue_strategy=strategy
            )
            async with working(app):
                relay.refuse(True)
                await trio.sleep(0.5)
                steps = Steps()
                trio.lowlevel.add_instrument(steps)
                await trio.sleep(1)
                trio.lowlevel.remove_instrument(steps)
                relay.refuse(False)
            assert steps.count < 1000


class Steps(trio.abc.Instrument):
    count = 0

    def before_task_step(self, task: Any) -> None:
        self.count += 1


async def test_an_idle_worker_outlives_a_failover(private_redis: EmbeddedRedis) -> None:
    """A primary that becomes a replica throws out whoever waits on it, with an error of its own (UNBLOCKED)."""
    app, ran = make_app(FAST | {"url": private_redis.url}, lease=LEASE_S, sweep_interval=0.3), trio.Event()
    operator = Client.from_settings(app.settings.redis, name="operator")

    @app.task
    async def work() -> None:
        ran.set()

    async with working(app) as worker, app.client() as client:
        await eventually(lambda: worker.fetcher.activity == "waiting for jobs")
        await operator.command("REPLICAOF", "127.0.0.1", "1")
        await eventually(lambda: is_down(worker))
        await operator.command("REPLICAOF", "NO", "ONE")
        await client.enqueue(work.job())
        with trio.fail_after(10):
            await ran.wait()
        await eventually(lambda: worker.counts.completed == 1)
        assert (worker.counts.retried, worker.counts.dead) == (0, 0)
    await operator.aclose()
