"""Tasks with a rate limit, on a whole worker: at the limit's rate, without blocking other tasks or burning retries."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio.core.job import Lane
from queue_trio.core.store import LaneStats
from tests.runtime.rig import assert_audit, at_rest, make_app, memory_store, working
from tests.support import eventually

if TYPE_CHECKING:
    from queue_trio.core.limiter import Decision
    from queue_trio.embedded import EmbeddedRedis


async def test_jobs_start_at_the_limit_and_others_are_not_held_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, store = make_app(concurrency=4), memory_store()
    mail = app.rate_limit("mail", 5, per=10)
    sent: list[float] = []
    other: list[float] = []

    @app.task(rate_limit=mail, timeout=1, max_retries=0)
    async def send() -> None:
        sent.append(trio.current_time())
        await trio.sleep(0.9)

    @app.task
    async def quick() -> None:
        other.append(trio.current_time())

    async with working(app, store) as worker:
        client = worker._client
        await client.enqueue_many([send.job() for _ in range(30)])
        await client.enqueue_many([quick.job() for _ in range(10)])
        await at_rest(store, 40)
    assert len(sent) == 30
    # The mock clock starts at zero, and so does a window.
    assert max(Counter(int(at // 10) for at in sent).values()) <= 5
    assert 50 <= max(sent) < 75
    # Thirty jobs that may not run yet leave the four slots to those that may.
    assert max(other) < 5
    waits = worker.pacer.waits["mail"]
    assert waits.given_back >= 20
    assert worker.counts.retried == worker.counts.dead == 0
    await assert_audit(store)


async def test_a_wait_in_the_slot_is_no_part_of_the_timeout(autojump_clock: trio.testing.MockClock) -> None:
    app, store = make_app(concurrency=4), memory_store()
    tick = app.rate_limit("tick", 1, per=0.8, mode="smooth")
    ran: list[float] = []

    @app.task(rate_limit=tick, timeout=0.3, max_retries=0)
    async def job() -> None:
        await trio.sleep(0.2)
        ran.append(trio.current_time())

    async with working(app, store) as worker:
        await worker._client.enqueue_many([job.job(), job.job()])
        await at_rest(store, 2)
    assert len(ran) == 2
    assert ran[1] - ran[0] == pytest.approx(0.8, abs=0.01)
    assert worker.pacer.waits["tick"].waits == 1
    assert worker.counts.dead == 0


async def test_a_handler_reserves_nothing_for_a_time_after_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, store = make_app(concurrency=4), memory_store()
    tick = app.rate_limit("tick", 1, per=0.9, mode="smooth")
    asked: list[float] = []
    take = store.limiter.take

    async def noted(*args: Any, **options: Any) -> Decision:
        asked.append(options["stay_us"] / 1e6)
        return await take(*args, **options)

    store.limiter.take = noted  # type: ignore[method-assign]

    @app.task(timeout=0.5, max_retries=0)
    async def job() -> None:
        await app.open_client.acquire(tick)

    async with working(app, store) as worker:
        await worker._client.enqueue_many([job.job(), job.job()])
        await at_rest(store, 2)
    assert max(asked) <= 0.5
    assert (worker.counts.completed, worker.counts.dead) == (1, 1)


async def test_a_worker_that_ends_gives_back_what_waits_for_a_permit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, store = make_app(concurrency=4, shutdown_grace=0), memory_store()
    slow = app.rate_limit("slow", 1, per=1, mode="smooth")

    @app.task(rate_limit=slow)
    async def job() -> None: ...

    async with working(app, store) as worker:
        await worker._client.enqueue_many([job.job(), job.job()])
        await eventually(lambda: worker.pacer.waits["slow"].waits == 1)
        worker.cancel()
    stats = await store.stats(Lane())
    assert (stats.completed, stats.ready_total, stats.leased) == (1, 1, 0)
    await assert_audit(store)


@pytest.mark.leaves_keys("the account of a limit expires by itself")
async def test_an_outage_burns_no_retry_and_the_limit_is_kept_after_it(private_redis: EmbeddedRedis) -> None:
    app = make_app(
        {"url": private_redis.url, "read_timeout": 0.5, "backoff_cap": 0.1, "breaker_open_wait": 0.1},
        concurrency=8,
        lease=5,
        poll_interval=0.05,
    )
    limit = app.rate_limit("out", 10, per=0.5)
    ran: list[float] = []

    @app.task(rate_limit=limit, max_retries=0)
    async def job() -> None:
        ran.append(trio.current_time())

    async with working(app) as worker, app.client() as client:
        await client.enqueue_many([job.job() for _ in range(40)])
        await eventually(lambda: len(ran) >= 5)
        await private_redis.kill()
        await private_redis.restart()

        async def done() -> bool:
            stats: LaneStats = await client.store.stats(Lane())
            return stats.completed == 40 and stats.records == 0

        await eventually(done, 30)
        assert worker.counts.dead == worker.counts.retried == 0
    assert len(ran) >= 40
