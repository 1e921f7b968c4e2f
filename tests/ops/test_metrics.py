"""What a scrape shows: of jobs as they really went, of queues as Redis says, and never more series than allowed."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from queue_trio.app import App
from queue_trio.core.dequeue import Priority
from queue_trio.core.job import Failure, Lane, NewJob, Record, encode_failure, encode_record
from queue_trio.core.operations import Head, Lengths
from queue_trio.errors import Retry
from queue_trio.ops.metrics import CATALOGUE
from queue_trio.ops.metrics_docs import DOCUMENT, document
from queue_trio.redis.client import Client
from queue_trio.runtime.counts import BOUNDS_S, Counts, Histogram
from queue_trio.runtime.metrics_updater import MetricsUpdater, oldest_ready_ages_s
from tests.ops.web import Web, serving, web_app
from tests.support import eventually
from tests.tools import tool

if TYPE_CHECKING:
    from trio.testing import MockClock

    from queue_trio.embedded import EmbeddedRedis

LANE = Lane()


async def test_a_server_that_will_not_tell_the_lengths_ends_no_worker(private_redis: EmbeddedRedis) -> None:
    app = web_app(private_redis.url, concurrency=1)
    gate = trio.Event()

    @app.task
    async def wait() -> None:
        await gate.wait()

    operator = Client.from_settings(app.settings.redis, name="operator")
    await operator.command("ACL", "SETUSER", "default", "-lindex")
    async with serving(app) as web, app.client():
        await wait.enqueue()
        await wait.enqueue()
        await eventually(lambda: web.worker.redis and web.worker.redis.errors["NOPERM"])
        await operator.command("ACL", "SETUSER", "default", "+@all")

        async def seen() -> bool:
            return (await web.samples()).get(
                'queue_jobs{priority="normal",queue="default",state="ready"}'
            ) == 1

        await eventually(seen)
        gate.set()
    await operator.aclose()


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_each_ending_is_counted_under_its_task(redis_url: str, tmp_path: Path) -> None:
    app = web_app(redis_url, retry_base=0.001, retry_cap=0.001)

    @app.task(name="good")
    async def good() -> None: ...

    @app.task(name="bad", max_retries=1)
    async def bad() -> None:
        raise ValueError

    @app.task(name="patient", max_retries=1)
    async def patient(path: str) -> None:
        if not os.path.exists(path):  # noqa: ASYNC240
            open(path, "x").close()  # noqa: ASYNC230
            raise Retry(delay=0.001)

    async with serving(app) as web, app.client() as client:
        await client.enqueue_many([good.job() for _ in range(5)] + [good.job().options(delay=0.05)])
        await bad.enqueue()
        await patient.enqueue(str(tmp_path / "been"))
        await eventually(lambda: web.worker.counts.completed + web.worker.counts.dead == 8)
        found = await web.samples()
        assert found['jobs_completed_total{task="good"}'] == 6
        assert found['jobs_completed_total{task="patient"}'] == 1
        assert found['jobs_failed_total{task="bad"}'] == 2
        assert found['jobs_retried_total{task="bad"}'] == 1
        assert found['jobs_dead_lettered_total{task="bad"}'] == 1
        assert found['jobs_retried_total{task="patient"}'] == 1
        assert (
            found['jobs_dead_lettered_total{task="good"}'] == 0
        )  # there from the start, so that rates see the first
        assert found['jobs_claimed_total{queue="default"}'] == 10
        assert found['job_run_seconds_count{task="good"}'] == 6
        assert found['job_run_seconds_count{task="bad"}'] == 2
        assert found['job_wait_seconds_count{task="bad"}'] == 1  # its first start
        assert (
            found['job_wait_seconds_bucket{le="1.0",task="good"}'] == 6
        )  # of the delayed one, less its delay
        assert found["capacity_jobs"] == app.settings.worker.concurrency
        assert found["jobs_in_flight"] == 0
        await trio.to_thread.run_sync(purge, redis_url)


def purge(url: str) -> None:
    from redis import Redis

    with Redis.from_url(url) as client:
        client.flushall()


async def test_nothing_is_timed_that_nobody_can_read(redis_url: str) -> None:
    from queue_trio.runtime.worker import Worker

    app = web_app(redis_url, http={"port": None})
    worker = Worker(app)
    assert worker.updater is None
    assert worker.counts.other.run is None


async def test_ten_thousand_task_names_make_no_more_series_than_allowed(redis_url: str) -> None:
    app = web_app(redis_url, metrics={"max_tasks": 20}, concurrency=500, unknown_task_delay=3600.0)

    async def noop() -> None: ...

    for number in range(500):
        app.task(name=f"declared-{number}")(noop)
    async with serving(app) as web, app.client() as client:
        before = await web.samples()
        declared = [task.job() for task in app.tasks.values()]
        await client.enqueue_many(declared)
        for start in range(0, 9_500, 500):
            batch = [
                NewJob(f"job-{number}", encode_record(Record(v=1, task=f"unknown-{number}")))
                for number in range(start, start + 500)
            ]
            await client.store.enqueue(LANE, batch)
        counts = web.worker.counts
        await eventually(lambda: (counts.completed, counts.released) == (500, 9_500), 60)
        after = await web.samples()
    assert after['jobs_completed_total{task="declared-0"}'] == 1
    assert after['jobs_completed_total{task="other"}'] == 480
    assert after['jobs_unknown_task_total{queue="default"}'] == 9_500
    assert set(after) == set(before)
    assert len(after) < 900, "20 tasks and `other`, 38 series each, and what there is once"
    await trio.to_thread.run_sync(purge, redis_url)


async def test_listed_tasks_and_no_others_have_series(redis_url: str) -> None:
    app = web_app(redis_url, metrics={"tasks": ("b", "not declared")})
    app.task(name="a")(good)
    app.task(name="b")(good)
    async with serving(app, wait_ready=False) as web:
        found = await web.samples()
    tasks = {name for name in found if name.startswith("jobs_completed_total")}
    assert tasks == {f'jobs_completed_total{{task="{name}"}}' for name in ("b", "not declared", "other")}


async def good() -> None: ...


# --- queues ----------------------------------------------------------------------------------------------------------


async def test_queues_are_shown_as_redis_says(redis_url: str) -> None:
    app = web_app(redis_url, queues="default,served", concurrency=1)
    gate = trio.Event()

    @app.task(priority="high")
    async def wait() -> None:
        await gate.wait()

    async with serving(app) as web, app.client() as client:
        await wait.enqueue()
        await eventually(lambda: web.worker.in_flight == 1)
        await client.enqueue_many([wait.job(), wait.job(), wait.job().options(priority="low")])
        await client.enqueue(wait.job().options(delay=0.5))

        async def all_there() -> bool:
            return (await web.samples()).get('queue_jobs{priority="",queue="default",state="scheduled"}') == 1

        await eventually(all_there)
        found = await web.samples()
        for state, priority, count in (
            ("ready", "high", 2),
            ("ready", "low", 1),
            ("ready", "normal", 0),
            ("leased", "", 1),
        ):
            assert found[f'queue_jobs{{priority="{priority}",queue="default",state="{state}"}}'] == count
            assert found[f'queue_jobs{{priority="{priority}",queue="served",state="{state}"}}'] == 0
        assert found['queue_enqueued_total{queue="default"}'] == 5
        assert found['queue_workers{queue="default"}'] == 1
        assert found['queue_paused{queue="default"}'] == 0
        assert 0 < found['queue_oldest_ready_age_seconds{priority="high",queue="default"}'] < 30
        assert found['queue_oldest_ready_age_seconds{priority="critical",queue="default"}'] == 0
        assert found['queue_lengths_stale{queue="default"}'] == 0
        assert (found["jobs_in_flight"], found["jobs_held"], found["ready"], found["redis_up"]) == (
            1,
            1,
            1,
            1,
        )
        assert found['breaker_state{state="closed"}'] == 1
        gate.set()
        await eventually(lambda: web.worker.counts.completed == 5)


async def test_during_an_outage_queues_are_withheld_and_come_back(private_redis: EmbeddedRedis) -> None:
    app = web_app(private_redis.url)
    ready = 'queue_jobs{priority="high",queue="default",state="ready"}'
    async with serving(app) as web:

        async def shown() -> bool:
            return ready in await web.samples()

        await eventually(shown)
        await private_redis.kill()
        await eventually(web.is_not_ready)
        during = await web.samples()
        assert not [
            name for name in during if name.startswith(("queue_jobs", "queue_oldest", "queue_enqueued"))
        ]
        assert during['queue_lengths_stale{queue="default"}'] == 1
        assert (during["ready"], during["redis_up"]) == (0, 0)
        assert sum(value for name, value in during.items() if name.startswith("redis_errors_total")) > 0
        await private_redis.restart()
        await eventually(web.is_ready, 10)
        await eventually(shown)
        after = await web.samples()
        assert after["redis_reconnects_total"] > 0
        assert after['queue_lengths_age_seconds{queue="default"}'] < 5


async def test_every_metric_of_the_catalogue_is_there_from_the_start(redis_url: str) -> None:
    async with serving(web_app(redis_url)) as web:

        async def shown() -> bool:
            return any(name.startswith("queue_jobs") for name in await web.samples())

        await eventually(shown)
        text = (await web.get("/metrics")).body
    for metric in CATALOGUE.values():
        assert f"# TYPE {metric.full_name} {metric.kind}\n" in text
    ours = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE queue_trio_")}
    assert {name for name in ours if "_process_" not in name} == {it.full_name for it in CATALOGUE.values()}


async def test_promtool_finds_nothing_to_complain_about(redis_url: str) -> None:
    promtool = tool("promtool")
    async with serving(web_app(redis_url)) as web:
        text = (await web.get("/metrics")).body
    done = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [promtool, "check", "metrics"],
            input=text,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_openmetrics_is_spoken_to_whoever_prefers_it(redis_url: str) -> None:
    async with serving(web_app(redis_url), wait_ready=False) as web:
        answer = await web.get("/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith("# EOF\n")


# --- the parts -------------------------------------------------------------------------------------------------------


class Asked:
    """Operations of which only `lengths` is asked. `down`: it hangs."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.down = False

    async def lengths(self, lane: Lane) -> Lengths:
        self.times.append(trio.current_time())
        if self.down:
            await trio.sleep_forever()
        return lengths_of()


def lengths_of(*heads: Head, now_ms: int = 1_000_000) -> Lengths:
    empty = dict.fromkeys(Priority, 0)
    return Lengths(now_ms, empty, 0, 0, 0, 0, 0, 0, 0, 0, False, heads)


async def test_the_updater_asks_once_per_queue_and_interval_and_knows_when_it_is_stale(
    autojump_clock: MockClock,
) -> None:
    asked: Any = Asked()
    updater = MetricsUpdater(asked, [LANE], interval_s=10, jitter=0.1, rng=random.Random(1))
    assert updater.lengths(LANE) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(updater.run)
        await trio.sleep(1000)
        gaps = [later - earlier for earlier, later in zip(asked.times, asked.times[1:], strict=False)]
        assert 9 <= min(gaps) < 9.5 < 10.5 < max(gaps) <= 11
        assert updater.lengths(LANE) is not None
        asked.down = True
        await trio.sleep(11)
        last = trio.current_time() - updater.age_s(LANE)
        await trio.sleep(last + 21.9 - trio.current_time())
        assert updater.lengths(LANE) is not None
        await trio.sleep(0.2)
        assert updater.lengths(LANE) is None
        nursery.cancel_scope.cancel()


def head(**record: Any) -> Head:
    return Head("id", Priority.HIGH, encode_record(Record(v=1, task="t", **record)))


def test_the_age_of_the_next_job_counts_from_when_it_was_ready() -> None:
    failure = encode_failure(Failure("E", "oops", retry_ms=5_000)).decode()
    for one, age in (
        (head(enqueued_ms=990_000), 10.0),
        (head(enqueued_ms=990_000, delay_ms=4_000), 6.0),
        (head(enqueued_ms=1_000_500), 0.0),  # the client's clock is ahead
        (head(), 0.0),
        (Head("id", Priority.HIGH, b"not a record"), 0.0),
        (Head("id", Priority.HIGH, None), 0.0),
        (Head("id", Priority.HIGH, b"", f"900000 {failure}"), 95.0),
        (Head("id", Priority.HIGH, b"", "900000 nonsense"), 0.0),
    ):
        ages = oldest_ready_ages_s(lengths_of(one))
        assert ages == dict.fromkeys(Priority, 0.0) | {Priority.HIGH: age}


def test_a_histogram_counts_each_value_once_in_the_right_bucket() -> None:
    histogram = Histogram()
    for value in (0.0, 0.001, 0.0011, 1e9):
        histogram.observe(value)
    assert histogram.counts == [2, 1, *[0] * (len(BOUNDS_S) - 2), 1]
    assert histogram.sum == 1e9 + 0.0021


def test_a_name_that_is_not_listed_counts_as_other() -> None:
    counts = Counts.for_tasks(["a"], timed=False)
    counts.task("a").completed += 1
    counts.task("b").completed += 1
    assert (counts.tasks["a"].completed, counts.other.completed, counts.completed) == (1, 1, 2)
    assert list(counts.tasks) == ["a"]
    assert [name for name, _ in counts.labelled()] == ["a", "other"]


async def test_a_worker_tells_what_it_runs(redis_url: str) -> None:
    async with serving(web_app(redis_url), wait_ready=False) as web:
        found = await web.samples()
        assert [value for name, value in found.items() if name.startswith("build_info{")] == [1]
        assert isinstance(web, Web)
        assert isinstance(web.worker.app, App)


def test_the_document_is_what_the_catalogue_says() -> None:
    assert (Path(__file__).parents[2] / DOCUMENT).read_text("utf-8") == document(), (
        "run `python -m queue_trio.ops.metrics_docs` and commit what it writes"
    )
