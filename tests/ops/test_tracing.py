"""Traces and log lines of real workers: across processes, from all three clients, and whatever the collector does."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from pydantic import SecretStr

from queue_trio import App, Settings
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings, TracingSettings
from tests.cli.conftest import command, environment
from tests.ops.collector import Collector, collecting
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from queue_trio.app import Job
    from queue_trio.embedded import EmbeddedRedis

TASKS = """\
import logging

import structlog
import trio

from queue_trio import App, JobContext

app = App("shop")
log = structlog.get_logger()
plain = logging.getLogger("shop")


@app.task(name="speak")
async def speak(context: JobContext) -> None:
    log.info("by structlog")
    plain.warning("by logging")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
    await trio.to_thread.run_sync(log.info, "in a thread it started")
    await context.client.enqueue(follow.job())


async def child() -> None:
    log.info("in a task it started")


@app.task(name="follow")
def follow() -> None:
    log.info("in its thread")
    plain.error("by logging, in its thread")


@app.task(name="fail", max_retries=0)
async def fail() -> None:
    raise LookupError("no redis://me:hunter2@host")


@app.task(name="nothing")
async def nothing() -> None: ...


@app.task(name="stay")
async def stay() -> None:
    log.info("here to stay")
    await trio.sleep_forever()
"""

app = App("shop")


@app.task(name="speak")
async def speak() -> None: ...


@app.task(name="fail", max_retries=0)
async def fail() -> None: ...


@app.task(name="nothing")
async def nothing() -> None: ...


@app.task(name="stay")
async def stay() -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


class Process:
    """A worker process, and what it wrote."""

    def __init__(self, process: trio.Process, file: Path) -> None:
        self.process = process
        self._file = file

    @property
    def text(self) -> str:
        return self._file.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.endswith("}")]

    async def said(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until it has logged `event` so often; the last of them."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event]

        await eventually(lambda: len(found()) >= count, what=f"{count} × {event!r} in the log")
        return found()[-1]

    async def end(self) -> float:
        """SIGTERM, and how many seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(20):
            assert await self.process.wait() == 0, self.text
        return time.monotonic() - began


@asynccontextmanager
async def worker(folder: Path, url: str, **settings: str) -> AsyncIterator[Process]:
    """A worker that has started, with settings such as `TRACING__ENABLED="true"`."""
    (folder / "shop_tasks.py").write_text(TASKS)
    file = folder / "worker.log"
    given = {f"QUEUE_TRIO_{name}": value for name, value in settings.items()}
    with file.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            command("worker", "shop_tasks:app"),
            cwd=folder,
            env=environment(QUEUE_TRIO_REDIS__URL=url, **given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        running = Process(process, file)
        await running.said("worker.started")
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def traced(url: str, **more: str) -> dict[str, str]:
    return {"TRACING__ENABLED": "true", "TRACING__ENDPOINT": url, **more}


@contextmanager
def tracing_here(redis_url: str, collector_url: str, **settings: Any) -> Iterator[None]:
    """The app of this process, which enqueues, traces too."""
    tracing = TracingSettings.model_validate({"enabled": True, "endpoint": collector_url} | settings)
    app.configure(Settings(redis=RedisSettings(url=SecretStr(redis_url)), tracing=tracing))
    yield
    assert app.spans is not None
    assert app.spans.flush(10)
    app.configure(Settings(redis=RedisSettings(url=SecretStr(redis_url))))


async def enqueue_with(client: str, *jobs: Job) -> None:
    """Enqueue, one by one, with a client of that name."""

    def with_threads() -> None:
        with app.sync_client() as sync:
            for job in jobs:
                sync.enqueue(job)

    async def with_asyncio() -> None:
        async with app.asyncio_client() as other:
            for job in jobs:
                await other.enqueue(job)

    if client == "trio":
        async with app.client() as ours:
            for job in jobs:
                await ours.enqueue(job)
    elif client == "sync":
        await trio.to_thread.run_sync(with_threads)
    else:
        await trio.to_thread.run_sync(asyncio.run, with_asyncio())


@pytest.mark.parametrize("client", ["trio", "sync", "asyncio"])
async def test_a_trace_leads_through_processes_and_log_lines(
    client: str, tmp_path: Path, redis_url: str, collector: Collector
) -> None:
    job = speak.job()
    async with worker(tmp_path, redis_url, **traced(collector.url)) as process:
        with tracing_here(redis_url, collector.url):
            await enqueue_with(client, job)
        await process.said("by logging, in its thread")
        await process.end()

    (sent,) = [span for span in collector.named("enqueue") if not span.parent]
    runs = {span.attributes["queue_trio.task"]: span for span in collector.named("run")}
    assert runs["speak"].parent == sent.id
    assert runs["speak"].trace == sent.trace
    assert runs["speak"].attributes["messaging.message.id"] == job.id
    lines = {line["event"]: line for line in process.lines}
    assert runs["speak"].attributes["messaging.client.id"] == lines["worker.started"]["worker"], (
        "another process"
    )
    # What the handler enqueued is in the same trace, below its run.
    (onward,) = [span for span in collector.named("enqueue") if span.parent]
    assert onward.parent == runs["speak"].id
    assert runs["follow"].parent == onward.id
    assert "handler.started" in [name for name, _ in runs["follow"].events]
    # An idle worker's claims and settles are about one job each, and so in its trace.
    assert {span.trace for span in collector.spans} == {sent.trace}
    assert {span.parent for span in collector.named("settle")} == {runs["speak"].id, runs["follow"].id}
    assert {span.parent for span in collector.named("claim")} == {sent.id, onward.id}

    for event in ("by structlog", "by logging", "in a task it started", "in a thread it started"):
        about = {"job": job.id, "task": "speak", "queue": "default", "attempt": 1}
        about |= {"trace_id": sent.trace, "span_id": runs["speak"].id}
        assert about.items() <= lines[event].items()
    for event in ("in its thread", "by logging, in its thread"):
        about = {"task": "follow", "queue": "default", "attempt": 1}
        about |= {"trace_id": sent.trace, "span_id": runs["follow"].id}
        assert about.items() <= lines[event].items()
    assert "job" not in lines["worker.stopped"]


async def test_a_failure_is_on_its_span_and_in_the_log_of_its_trace(
    tmp_path: Path, private_redis: EmbeddedRedis, collector: Collector
) -> None:
    async with worker(tmp_path, private_redis.url, **traced(collector.url)) as process:
        with tracing_here(private_redis.url, collector.url):
            await enqueue_with("trio", fail.job())
        dead = await process.said("job.dead")
        await process.end()
    (run,) = collector.named("run")
    assert (run.status, run.message) == ("ERROR", "no redis://me:***@host")
    assert run.attributes["error.type"] == "LookupError"
    assert run.attributes["queue_trio.outcome"] == "dead"
    assert (dead["trace_id"], dead["span_id"]) == (run.trace, run.id)
    assert not any(b"hunter2" in body for body in collector.bodies)
    assert "hunter2" not in process.text


async def test_without_tracing_lines_say_which_job_and_nobody_exports(
    tmp_path: Path, redis_url: str, collector: Collector
) -> None:
    async with worker(tmp_path, redis_url, TRACING__ENDPOINT=collector.url) as process:
        app.configure(Settings(redis=RedisSettings(url=SecretStr(redis_url))))
        job = speak.job()
        await enqueue_with("trio", job)
        line = await process.said("in a thread it started")
        await process.said("by logging, in its thread")
        await process.end()
    assert {"job": job.id, "task": "speak", "queue": "default", "attempt": 1}.items() <= line.items()
    assert "trace_id" not in line
    assert collector.requests == 0


async def test_the_client_decides_what_is_sampled_and_the_log_has_the_trace_all_the_same(
    tmp_path: Path, redis_url: str, collector: Collector
) -> None:
    async with worker(tmp_path, redis_url, **traced(collector.url)) as process:
        with tracing_here(redis_url, collector.url, sample_ratio=0):
            await enqueue_with("trio", speak.job())
        first = await process.said("by structlog")
        last = await process.said("in its thread")
        await process.end()
    assert first["trace_id"] == last["trace_id"], "the jobs that a handler enqueues follow"
    assert collector.requests == 0


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1/traces"


@pytest.mark.parametrize("mood", ["hang", "500", "refused"])
async def test_no_collector_costs_a_job_or_delays_the_end(mood: str, tmp_path: Path, redis_url: str) -> None:
    """The limit is `tracing.shutdown_timeout`; without a collector the worker ends at once, with one, not later."""
    jobs = 300
    with collecting(mood if mood != "refused" else "ok", delay_s=3.0) as bad:
        url = nobody() if mood == "refused" else bad.url
        settings = traced(
            url, TRACING__SHUTDOWN_TIMEOUT="0.5", TRACING__TIMEOUT="60", TRACING__QUEUE_SIZE="50"
        )
        app.configure(Settings(redis=RedisSettings(url=SecretStr(redis_url))))
        async with worker(tmp_path, redis_url, **settings) as process, app.client() as client:
            await client.enqueue_many([nothing.job() for _ in range(jobs)])

            async def all_done() -> bool:
                stats = await client.store.stats(Lane())
                return stats.completed == jobs and stats.records == 0

            await eventually(all_done, what=f"{jobs} jobs completed")
            seconds = await process.end()
        assert seconds < 0.5 + 2.0, "what a worker takes anyway, on a busy machine, and the limit"
        dropped = [line for line in process.lines if line["event"] == "tracing.spans_dropped"]
        assert 1 <= len(dropped) <= 2, "at once, and at the end"
        assert not [line for line in process.lines if "opentelemetry" in str(line.get("logger"))]


async def test_a_drain_that_cancels_ends_in_time_with_a_hanging_collector_too(
    tmp_path: Path, private_redis: EmbeddedRedis
) -> None:
    url = private_redis.url
    with collecting("hang") as bad:
        app.configure(Settings(redis=RedisSettings(url=SecretStr(url))))
        settings = traced(bad.url, TRACING__SHUTDOWN_TIMEOUT="0.5", WORKER__SHUTDOWN_GRACE="1")
        async with worker(tmp_path, url, **settings) as process, app.client() as client:
            await client.enqueue(stay.job())
            await process.said("here to stay")
            seconds = await process.end()
            stats = await client.store.stats(Lane())
    assert 0.5 < seconds < 1.0 + 0.5 + 2.0
    assert sum(stats.ready.values()) == 1, "it was given back"


async def test_a_flood_of_failures_is_a_few_lines_and_a_count(
    tmp_path: Path, private_redis: EmbeddedRedis
) -> None:
    app.configure(Settings(redis=RedisSettings(url=SecretStr(private_redis.url))))
    async with worker(tmp_path, private_redis.url, LOG__REPEAT_LIMIT="10") as process:
        async with app.client() as client:
            await client.enqueue_many([fail.job() for _ in range(200)])

            async def all_dead() -> bool:
                return (await client.store.stats(Lane())).dead == 200

            await eventually(all_dead)
        await process.end()
    written = [line for line in process.lines if line["event"] == "job.dead"]
    counted = [line for line in process.lines if line["event"] == "log.suppressed"]
    assert len(written) == 10
    assert [(line["kind"], line["task"], line["count"]) for line in counted] == [("job.dead", "fail", 190)]


def test_without_tracing_nothing_is_imported_for_it() -> None:
    """Redis-py imports OpenTelemetry's metrics if it finds them, whatever we do."""
    program = """
import sys, trio
from queue_trio import App, Settings
from queue_trio.memory.store import MemoryStore
from queue_trio.runtime.worker import Worker
app = App("plain", settings=Settings())
async def main():
    async with trio.open_nursery() as nursery:
        worker = Worker(app, store=MemoryStore(lambda: 0))
        await nursery.start(worker.run)
        worker.drain()
with app.sync_client(): pass
trio.run(main)
assert app.spans is None
ours = ("queue_trio.tracing", "opentelemetry.exporter", "opentelemetry.sdk.trace", "requests")
print([name for name in sys.modules if name.startswith(ours)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"


async def test_an_unusable_extra_is_one_line(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not for you')")
    done = await trio.run_process(
        command("worker", "shop_tasks:app"),
        cwd=tmp_path,
        env=environment(QUEUE_TRIO_REDIS__URL=redis_url, QUEUE_TRIO_TRACING__ENABLED="true")
        | {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"},
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.decode() == (
        "queue-trio: error: tracing.enabled: OpenTelemetry is not installed (not for you); "
        "pip install 'queue-trio[tracing]', or set tracing.enabled to false\n"
    )
