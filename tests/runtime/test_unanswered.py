"""A worker and its calls that happen once, on a real server: no reply, a lease lost, and what is left at the end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from queue_trio.core.job import State
from queue_trio.redis import scripts
from queue_trio.redis.keys import LaneKeys
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.worker import Worker
from tests.runtime.rig import LANE, assert_audit, at_rest, make_app, working
from tests.store.relay import open_relay
from tests.store.worlds import HOUR_MS, redis_client
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support import SharedRedis


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[RedisStore]:
    client = redis_client(url)
    try:
        yield RedisStore(client)
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()


async def test_a_drained_worker_leaves_no_session(redis_url: str) -> None:
    app = make_app({"url": redis_url})

    @app.task(keep_result=0.01)
    async def child() -> None: ...

    @app.task
    async def parent() -> None:
        await child.enqueue()

    async with store_at(redis_url) as judge:
        async with working(app):
            async with app.client() as client:
                await client.enqueue(parent.job())
            await at_rest(judge, 2)
            assert len(await judge.client.ask("KEYS", "*:session:*")) == 3  # enqueue, claim, settle
        assert await judge.client.ask("KEYS", "*:session:*") == []

        async def expired() -> bool:
            return not await judge.client.ask("KEYS", "*:result:*")

        await eventually(expired)
        await assert_audit(judge)


async def test_a_lost_lease_that_comes_back_to_its_worker_is_no_crash(redis_url: str) -> None:
    app = make_app({"url": redis_url}, lease=60.0, concurrency=4)
    go = trio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with store_at(redis_url) as judge:
        async with working(app) as worker:
            queued = await work.enqueue()
            await eventually(lambda: worker.counts.claimed == 1)
            await judge.client.ask("ZADD", LaneKeys(LANE)["lease"], "XX", 0, str(queued))
            swept = await judge.sweep(LANE, lease_ms=HOUR_MS, max_crashes=3)
            if not swept.reclaimed:  # the worker's own sweep came first
                await eventually(lambda: worker.counts.reclaimed == 1)
            await eventually(lambda: worker.counts.stale == 1)
            (job,) = await judge.peek(LANE, State.LEASED, count=9)
            assert (job.crashes, job.tries) == (0, 0)
            go.set()
            await at_rest(judge, 1)
        assert (worker.counts.claimed, worker.counts.lost, worker.counts.completed) == (2, 1, 1)
        await assert_audit(judge)


async def test_what_a_worker_settled_when_it_was_cancelled_counts_as_completed(
    redis_url: str, redis_server: SharedRedis
) -> None:
    app = make_app()

    @app.task
    async def work() -> None: ...

    async with (
        store_at(redis_url) as judge,
        open_relay(redis_server.unix_socket) as relay,
        store_at(relay.url) as store,
    ):
        for name in scripts.NAMES:
            await judge.client.ask("SCRIPT", "LOAD", scripts.load(name).text)
        worker = Worker(app, store=store)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            relay.arm(scripts.load("settle").sha)
            relay.gate = trio.Event()
            await work.enqueue()
            await eventually(lambda: relay.reply_sizes)  # the server has settled it, and we have not heard
            nursery.cancel_scope.cancel()
            relay.gate.set()
        assert relay.seen == 2
        assert (worker.counts.completed, worker.counts.stale) == (1, 0)
        await at_rest(judge, 1)
        await assert_audit(judge)
        assert (await judge.stats(LANE)).workers == 0
