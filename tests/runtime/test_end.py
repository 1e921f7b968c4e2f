"""Clean ends and unclean ones, on a real server: SIGTERM, Redis down, kill -9, and what is left afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio.context import JobContext
from queue_trio.core.job import State
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.worker import Worker
from tests.runtime import jobs
from tests.runtime.faults import FAST
from tests.runtime.rig import LANE, assert_audit, at_rest, make_app, working
from tests.support import Footprint, eventually, settled_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
INTERPRETER_ENDS_S = 1.0
"""What a process takes to end after its worker has, on a busy machine; coverage is written then, too."""


@asynccontextmanager
async def judge(url: str) -> AsyncIterator[RedisStore]:
    client = Client.from_settings(RedisSettings(url=url), name="judge")  # type: ignore[arg-type]
    try:
        yield RedisStore(client)
    finally:
        await client.aclose()


def tasks() -> set[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found, todo = set(), [root]
    while todo:
        task = todo.pop()
        found.add(task)
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drain", "cancel", "from outside"])
async def test_nothing_outlives_the_runtime(
    redis_url: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task, thread, socket, process, lease, or entry in the registry; while handlers of every kind run."""
    settings = Settings(
        redis=RedisSettings(url=redis_url),  # type: ignore[arg-type]
        worker=WorkerSettings(concurrency=20, shutdown_grace=1.0),
    )
    monkeypatch.setattr(jobs.app, "_settings", settings)
    async with judge(redis_url) as store:
        await store.stats(LANE)
        footprint = Footprint.now()
        before = tasks()
        async with trio.open_nursery() as nursery:
            worker = Worker(jobs.app)
            await nursery.start(worker.run)
            client = jobs.app.open_client
            await client.enqueue_many([jobs.square.job(n) for n in range(3)])
            await client.enqueue(jobs.sleep.job(60))
            await eventually(lambda: worker.counts.completed == 3 and worker._executor.in_flight == 1, 20)
            if how == "drain":
                worker.drain()
            elif how == "cancel":
                worker.cancel()
            else:
                nursery.cancel_scope.cancel()
        left = {task.name for task in tasks() - before}
        assert left <= {"anyio._backends._trio._shutdown_process_pool"}
        assert settled_leaks(footprint) == []
        stats = await store.stats(LANE)
        assert (stats.leased, stats.workers, stats.ready_total) == (0, 0, 1)
        await assert_audit(store)
        (job,) = await store.peek(LANE, State.READY, count=9)
        assert (job.tries, job.crashes) == (0, 0)
        # Leave the database as it was found.
        await store.client.ask("FLUSHALL")


async def test_released_jobs_are_at_the_front_in_order(redis_url: str) -> None:
    app = make_app({"url": redis_url}, concurrency=20, shutdown_grace=0.0)

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    async with judge(redis_url) as store:
        async with app.client() as client:
            queued = await client.enqueue_many([work.job() for _ in range(30)])
        async with working(app) as worker:
            await eventually(lambda: worker._executor.in_flight == 20)
        assert [job.id for job in await store.peek(LANE, State.READY, count=99)] == queued
        await store.client.ask("FLUSHALL")


@pytest.mark.parametrize("handler", ["running", "none"])
async def test_with_redis_down_it_ends_within_the_grace(private_redis: EmbeddedRedis, handler: str) -> None:
    app = make_app({"url": private_redis.url}, shutdown_grace=2.0)

    @app.task
    async def work() -> None:
        await trio.sleep_forever()

    async with working(app) as worker:
        if handler == "running":
            await work.enqueue()
            await eventually(lambda: worker._executor.in_flight == 1)
        await private_redis.kill()
        redis = worker.redis
        assert redis is not None
        await eventually(lambda: redis.down_since is not None)
        began = trio.current_time()
    assert trio.current_time() - began <= 2.0
    await private_redis.restart()
    async with judge(private_redis.url) as store:
        assert (await store.stats(LANE)).leased == (handler == "running")
        await assert_audit(store)


async def test_frozen_redis_does_not_keep_it_either(private_redis: EmbeddedRedis) -> None:
    app = make_app({"url": private_redis.url}, shutdown_grace=1.0)
    async with working(app):
        await private_redis.freeze()
        await trio.sleep(0.1)
        began = trio.current_time()
    assert trio.current_time() - began <= 1.0
    private_redis.thaw()


async def test_drained_while_it_waits_for_redis_it_ends_at_once() -> None:
    app = make_app({"url": "redis://127.0.0.1:1/0"})
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, worker.run)
        redis = worker.redis
        assert redis is not None
        await eventually(lambda: redis.down_since is not None)
        began = trio.current_time()
        worker.drain()
    assert trio.current_time() - began < 0.5


@pytest.mark.parametrize("strategy", ["strict", "looped"])
async def test_fifty_starts_and_ends_at_random_moments(redis_url: str, strategy: str) -> None:
    rng = random.Random(2024)
    ran: Counter[str] = Counter()
    app = make_app(
        {"url": redis_url},
        concurrency=5,
        shutdown_grace=0.5,
        dequeue_strategy=strategy,
        looped_wait=0.02,
        max_retries=0,
        max_crashes=0,
    )

    @app.task(priority="critical")  # looped waits at every priority above the one it finds a job at
    async def work(context: JobContext, seconds: float) -> None:
        await trio.sleep(seconds)
        assert context.attempt == 1
        ran[context.id] += 1

    async with judge(redis_url) as store, app.client() as client:
        queued: list[str] = []

        async def produce() -> None:
            while True:
                queued.extend(await client.enqueue_many([work.job(rng.expovariate(100)) for _ in range(5)]))
                await trio.sleep(0.01)

        async with trio.open_nursery() as producer:
            producer.start_soon(produce)
            for _ in range(25):
                async with trio.open_nursery() as nursery:
                    for _ in range(2):
                        worker = Worker(app, rng=rng)
                        nursery.start_soon(worker.run)
                        await trio.sleep(rng.uniform(0, 0.06))
                        rng.choice([worker.drain, worker.drain, worker.cancel])()
                    if rng.random() < 0.3:
                        nursery.cancel_scope.cancel()
                stats = await store.stats(LANE)
                assert stats.leased == 0, "a lease outlived its worker"
            producer.cancel_scope.cancel()
        async with working(app):
            stats = await store.stats(LANE)
            await at_rest(store, stats.enqueued, seconds_max=20)
        await assert_audit(store)
        stats = await store.stats(LANE)
        assert stats.dead == 0
        # An enqueue that was cancelled at the end may have been queued all the same.
        assert set(queued) <= set(ran)
        assert stats.enqueued == len(ran) <= len(queued) + 5
        # A worker whose blocking move was cut off stays in the registry until a sweep takes it out.
        assert stats.workers == 0 or strategy == "looped"
        await store.client.ask("FLUSHALL")


# --- in processes of their own ---------------------------------------------------------------------------------------


class Workers:
    """Starts worker processes and reads their ledger."""

    def __init__(self, url: str, folder: Path, **worker: Any) -> None:
        settings = {"redis": FAST | {"url": url}, "worker": worker}
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.env = os.environ | {
            "TEST_SETTINGS": json.dumps(settings),
            "TEST_LEDGER": str(self.ledger),
            "PYTHONPATH": str(ROOT),
        }
        self.processes: list[trio.Process] = []

    async def start(self) -> trio.Process:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "tests.runtime.worker_main"],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        assert process.stderr is not None
        text = b""
        while b"READY" not in text:
            data = await process.stderr.receive_some()
            assert data, text.decode()
            text += data
        return process

    def events(self) -> list[tuple[str, str, int, int]]:
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [(event, job_id, int(attempt), int(pid)) for event, job_id, attempt, pid in lines]

    def count(self, event: str) -> int:
        return sum(entry[0] == event for entry in self.events())


def more_than(fleet: Workers, seen: int) -> bool:
    return fleet.count("ran") > seen


@asynccontextmanager
async def workers(url: str, folder: Path, **worker: Any) -> AsyncIterator[Workers]:
    found = Workers(url, folder, **worker)
    try:
        yield found
    finally:
        with trio.CancelScope(shield=True):
            for process in found.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
                assert process.stderr is not None
                await process.stderr.aclose()


@asynccontextmanager
async def enqueuing(url: str) -> AsyncIterator[Any]:
    app = jobs.app
    before, app._settings = app._settings, Settings(redis=RedisSettings(url=url))  # type: ignore[arg-type]
    try:
        async with app.client() as client:
            yield client
    finally:
        app._settings = before


async def test_sigterm_drains_and_exits_with_0(redis_url: str, tmp_path: Path) -> None:
    async with (
        judge(redis_url) as store,
        workers(redis_url, tmp_path, concurrency=3, shutdown_grace=1.5) as fleet,
        enqueuing(redis_url) as client,
    ):
        process = await fleet.start()
        short = await client.enqueue(jobs.steps.job(0.3))
        long = await client.enqueue_many([jobs.steps.job(60) for _ in range(4)])
        await eventually(lambda: fleet.count("began") == 3)
        began = trio.current_time()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert trio.current_time() - began < 1.5 + INTERPRETER_ENDS_S
        assert [entry[1] for entry in fleet.events() if entry[0] == "ended"] == [short]
        assert [job.id for job in await store.peek(LANE, State.READY, count=9)] == long
        stats = await store.stats(LANE)
        assert (stats.leased, stats.workers) == (0, 0)
        await store.client.ask("FLUSHALL")


async def test_a_second_signal_cancels(redis_url: str, tmp_path: Path) -> None:
    async with (
        judge(redis_url) as store,
        workers(redis_url, tmp_path, shutdown_grace=60) as fleet,
        enqueuing(redis_url) as client,
    ):
        process = await fleet.start()
        await client.enqueue(jobs.steps.job(60))
        await eventually(lambda: fleet.count("began") == 1)
        began = trio.current_time()
        process.send_signal(signal.SIGINT)
        await trio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert trio.current_time() - began < 2
        assert (await store.stats(LANE)).ready_total == 1
        await store.client.ask("FLUSHALL")


async def test_sigterm_with_redis_down(private_redis: EmbeddedRedis, tmp_path: Path) -> None:
    async with (
        workers(private_redis.url, tmp_path, shutdown_grace=1.5) as fleet,
        enqueuing(private_redis.url) as client,
    ):
        process = await fleet.start()
        await client.enqueue(jobs.steps.job(60))
        await eventually(lambda: fleet.count("began") == 1)
        await private_redis.kill()
        began = trio.current_time()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert trio.current_time() - began < 1.5 + INTERPRETER_ENDS_S


async def test_killed_with_jobs_in_every_phase(redis_url: str, tmp_path: Path) -> None:
    """Claimed, running, settling: a stream of short jobs is always in all three when SIGKILL comes."""
    rng = random.Random(7)
    lease = {"lease": 0.6, "sweep_interval": 0.15, "max_crashes": 20, "concurrency": 16}
    async with (
        judge(redis_url) as store,
        workers(redis_url, tmp_path, **lease) as fleet,
        enqueuing(redis_url) as client,
    ):
        queued: list[str] = []
        await fleet.start()
        for kill in range(4):
            victim = await fleet.start()
            # Not before: however long a worker takes to start, there is work left when SIGKILL comes.
            already = fleet.count("ran")
            queued += await client.enqueue_many([jobs.brief.job() for _ in range(750)])
            await eventually(partial(more_than, fleet, already), 20)
            await trio.sleep(rng.uniform(0, 0.05))  # any moment will do
            fleet.processes[kill].kill()
            assert victim.returncode is None
        await at_rest(store, len(queued), seconds_max=60)
        events = fleet.events()
        stats = await store.stats(LANE)
        assert stats.dead == 0
        assert {entry[1] for entry in events} == set(queued)
        assert {entry[2] for entry in events} == {1}, "a crash used a try"
        await assert_audit(store)
        fleet.processes[-1].send_signal(signal.SIGTERM)
        await fleet.processes[-1].wait()
        await store.client.ask("FLUSHALL")


async def test_a_job_whose_worker_was_killed_runs_again_and_the_crash_is_charged(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        judge(redis_url) as store,
        workers(redis_url, tmp_path, lease=0.6, sweep_interval=0.15) as fleet,
        enqueuing(redis_url) as client,
    ):
        process = await fleet.start()
        flag = tmp_path / "flag"
        await client.enqueue(jobs.slow_once.job(str(flag)))
        await eventually(lambda: fleet.count("began") == 1 and flag.exists())
        process.kill()
        await process.wait()
        flag.unlink()
        process = await fleet.start()
        await eventually(lambda: fleet.count("began") == 2, 20)
        (job,) = await store.peek(LANE, State.LEASED, count=9)
        assert (job.tries, job.crashes) == (0, 1)
        assert {entry[2] for entry in fleet.events()} == {1}
        process.kill()  # or it would renew its lease after the keys are gone
        await process.wait()
        await store.client.ask("FLUSHALL")


async def test_a_job_that_keeps_killing_its_worker_is_poison(redis_url: str, tmp_path: Path) -> None:
    async with (
        judge(redis_url) as store,
        workers(redis_url, tmp_path, lease=0.5, sweep_interval=0.1, max_crashes=2) as fleet,
        enqueuing(redis_url) as client,
    ):
        await client.enqueue(jobs.crash.job())
        for crashes in range(1, 4):
            process = await fleet.start()
            assert await process.wait() == -signal.SIGABRT
            assert fleet.count("crashed") == crashes
        process = await fleet.start()
        await at_rest(store, 1, seconds_max=20)
        (dead,) = await store.peek(LANE, State.DEAD, count=9)
        assert (dead.tries, dead.crashes) == (0, 3)
        assert '"Poison"' in dead.errors[-1]
        assert fleet.count("crashed") == 3
        process.kill()
        await process.wait()
        await store.client.ask("FLUSHALL")
