"""The three clients keep the same promises: enqueue happens once, through lost replies, dead servers and impatience.

Each test body is written once, against what the clients have in common, and run on each: in Trio as it is, in asyncio
under `asyncio.run` in a thread, and with a blocking client in a thread, where its awaits never wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio
import trustme
from opentelemetry.trace import NoOpTracer
from pydantic import SecretStr

from queue_trio import App, Job, JobId, Permit, RateLimit, Settings, sync_client
from queue_trio.core.job import Lane, decode_record
from queue_trio.core.settings import ClientSettings, RedisSettings
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import (
    DeadlineExceeded,
    InfrastructureError,
    NoResult,
    OutcomeUnknown,
    PayloadTooLarge,
    QueueFull,
    ServerRefused,
    ServerUnusable,
    UsageError,
)
from queue_trio.redis.foreign import run_blocking
from queue_trio.redis.keys import LaneKeys
from queue_trio.redis.store import RedisStore
from queue_trio.tracing.spans import Spans
from tests.relay import open_relay
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis
    from queue_trio.sync_client import SyncQueueClient

pytestmark = pytest.mark.leaves_keys("only clients here: nobody runs what they enqueue")

KINDS = ("trio", "asyncio", "sync")
LANE = Lane("default")


class Awaitably:
    """A blocking client with the asynchronous ones' face."""

    def __init__(self, client: SyncQueueClient) -> None:
        self.client = client

    async def enqueue(self, job: Job, **terms: Any) -> JobId:
        return self.client.enqueue(job, **terms)

    async def enqueue_many(self, jobs: Iterable[Job], **terms: Any) -> list[JobId]:
        return self.client.enqueue_many(jobs, **terms)

    async def acquire(self, limit: RateLimit, *, wait: float | None = None) -> Permit:
        return self.client.acquire(limit, wait=wait)

    async def result(self, job_id: str, *, queue: str = "default", wait: float = 0.0) -> Any:
        return self.client.result(job_id, queue=queue, wait=wait)

    async def connect(self) -> None:
        self.client.connect()


async def use(kind: str, app: App, body: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run `body` with an open client of that kind, while this Trio run goes on."""
    if kind == "trio":
        async with app.client() as client:
            return await body(client)

    async def in_asyncio() -> Any:
        async with app.asyncio_client() as client:
            return await body(client)

    def blocking() -> Any:
        with app.sync_client() as client:

            async def run() -> Any:
                return await body(Awaitably(client))

            return run_blocking(run())

    work = blocking if kind == "sync" else lambda: asyncio.run(in_asyncio())
    return await trio.to_thread.run_sync(work)


async def pause(kind: str, seconds: float) -> None:
    if kind == "trio":
        await trio.sleep(seconds)
    elif kind == "asyncio":
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)  # noqa: ASYNC251  # a blocking client's body runs in a thread of its own


def make_app(
    url: str,
    *,
    tls_ca_file: str | None = None,
    tls_verify: bool = True,
    read_timeout: float = 0.5,
    **client: Any,
) -> App:
    settings = Settings(
        redis=RedisSettings(
            url=SecretStr(url),
            tls_ca_file=tls_ca_file,
            tls_verify=tls_verify,
            read_timeout=read_timeout,
            backoff_cap=0.1,
            connect_timeout=0.5,
        ),
        client=ClientSettings(**({"timeout": 20.0} | client)),
    )
    app = App("tests", settings=settings)

    @app.task(name="note")
    async def note(text: str = "") -> None: ...

    @app.task(name="other", queue="other")
    async def other(text: str = "") -> None: ...

    return app


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


async def ids_in(app: App, lane: Lane = LANE) -> list[str]:
    """Every id of the lane; checks on the way that each is in one place and that the conservation law holds."""
    async with app.client() as client:
        report = await client.store.audit(lane)
        assert report.violations == ()
        assert report.stats.imbalance == 0
        assert isinstance(client.store, RedisStore)
        return [job_id.decode() for job_id in await client.store.client.ask("HKEYS", LaneKeys(lane)["job"])]


# --- what they do --------------------------------------------------------------------------------------------------


async def test_enqueue_queues_once(kind: str, redis_url: str) -> None:
    app = make_app(redis_url)
    job = app.tasks["note"].job("one")

    async def body(client: Any) -> None:
        first = await client.enqueue(job)
        again = await client.enqueue(job)
        assert first == again == job.id
        assert first.created is True
        assert again.created is False

    await use(kind, app, body)
    assert await ids_in(app) == [job.id]


async def test_enqueue_many_goes_to_every_queue_and_keeps_the_order(kind: str, redis_url: str) -> None:
    app = make_app(redis_url)
    jobs = [app.tasks["note" if at % 2 else "other"].job(str(at)) for at in range(1203)]
    jobs.append(jobs[7])

    async def body(client: Any) -> None:
        ids = await client.enqueue_many(jobs)
        assert ids == [job.id for job in jobs]
        assert [job_id.created for job_id in ids] == [True] * 1203 + [False]
        assert await client.enqueue_many([]) == []

    await use(kind, app, body)
    assert sorted(await ids_in(app) + await ids_in(app, Lane("other"))) == sorted({job.id for job in jobs})


async def test_a_generator_goes_to_every_queue_and_keeps_the_order(
    kind: str, redis_url: str, server: redis.Redis
) -> None:
    app = make_app(redis_url)
    jobs = [app.tasks["note" if at % 2 else "other"].job(str(at)) for at in range(1203)]
    jobs.append(jobs[7])

    async def body(client: Any) -> None:
        ids = await client.enqueue_many(iter(jobs))
        assert ids == [job.id for job in jobs]
        assert [job_id.created for job_id in ids] == [True] * 1203 + [False]
        assert await client.enqueue_many(iter(())) == []

    await use(kind, app, body)
    assert len(await ids_in(app) + await ids_in(app, Lane("other"))) == 1203
    assert in_line(server) == [job.id for job in jobs[1:1203:2]]
    assert in_line(server, Lane("other")) == [job.id for job in jobs[0:1203:2]]


def in_line(server: redis.Redis, lane: Lane = LANE) -> list[str]:
    """The ids of ready jobs of normal priority, the oldest first."""
    return [str(one) for one in server.lrange(LaneKeys(lane)["ready:normal"], 0, -1)]


async def test_a_generator_goes_on_while_a_call_is_on_its_way_in_the_task_and_context_of_its_caller(
    redis_url: str,
) -> None:
    app = make_app(redis_url)
    at = contextvars.ContextVar("at", default=-1)
    under_way: list[bool] = []
    tasks: set[trio.lowlevel.Task] = set()

    async with app.client() as client:
        await client.enqueue(app.tasks["note"].job())
        assert isinstance(client.store, RedisStore)
        session = client.store._calls(LANE).enqueuers[0]._session

        def jobs() -> Iterator[Job]:
            token = at.set(0)
            for number in range(3 * MAX_BATCH):
                if number % MAX_BATCH == 0:
                    call = session.unanswered
                    under_way.append(call is not None and call.maybe_sent)
                    tasks.add(trio.lowlevel.current_task())
                assert at.get() == number
                at.set(number + 1)
                yield app.tasks["note"].job(str(number))
            at.reset(token)

        assert len(await client.enqueue_many(jobs())) == 3 * MAX_BATCH
    assert under_way == [False, True, True]
    assert tasks == {trio.lowlevel.current_task()}
    assert len(await ids_in(app)) == 3 * MAX_BATCH + 1


async def test_a_generator_slower_than_the_read_timeout_breaks_no_connection(redis_url: str) -> None:
    app = make_app(redis_url, read_timeout=0.2)

    def jobs() -> Iterator[Job]:
        for number in range(2 * MAX_BATCH):
            if number == MAX_BATCH:
                time.sleep(0.3)
            yield app.tasks["note"].job(str(number))

    async with app.client() as client:
        assert len(await client.enqueue_many(jobs())) == 2 * MAX_BATCH
        assert client._redis is not None
        assert (client._redis.connects, client._redis.errors.total()) == (1, 0)
    assert len(await ids_in(app)) == 2 * MAX_BATCH


@pytest.mark.parametrize("tracing", [False, True], ids=["plain", "tracing"])
async def test_what_is_wrong_in_a_generator_leaves_queued_the_portions_before(
    kind: str, tracing: bool, redis_url: str, server: redis.Redis
) -> None:
    app = make_app(redis_url, max_payload=2000)
    app._spans = Spans(NoOpTracer(), ratio=1.0) if tracing else None
    note = app.tasks["note"]
    made: list[str] = []

    def jobs(last: Callable[[], Job]) -> Iterator[Job]:
        for at in range(2 * MAX_BATCH + 10):
            made.append((job := note.job(str(at))).id)
            yield job
        yield last()

    def broken() -> Job:
        raise ValueError("the file ends here")

    async def body(client: Any) -> None:
        for last, kind_of_error in ((lambda: note.job("x" * 3000), PayloadTooLarge), (broken, ValueError)):
            before, made[:] = in_line(server), []
            with pytest.raises(kind_of_error) as caught:
                await client.enqueue_many(jobs(last))
            assert caught.value.__notes__ == ["the first 1000 jobs are queued"]
            assert in_line(server) == before + made[: 2 * MAX_BATCH]

    await use(kind, app, body)
    assert len(await ids_in(app)) == 4 * MAX_BATCH


async def test_priority_delay_and_unique_reach_redis(kind: str, redis_url: str, server: redis.Redis) -> None:
    app = make_app(redis_url)
    task = app.tasks["note"]
    keys = LaneKeys(LANE)

    async def body(client: Any) -> None:
        await client.enqueue(task.job().options(id="urgent", priority="critical"))
        await client.enqueue(task.job().options(id="later", delay=60, priority="low", unique_for=100))

    await use(kind, app, body)
    assert server.lrange(keys["ready:critical"], 0, -1) == ["urgent"]
    assert server.zrange(keys["scheduled"], 0, -1) == ["3:later"]
    assert server.zrange(keys["unique"], 0, -1) == ["later"]
    records = {
        job_id: decode_record(str(server.hget(keys["job"], job_id)).encode())
        for job_id in ("urgent", "later")
    }
    assert {job_id: record.delay_ms for job_id, record in records.items()} == {"urgent": 0, "later": 60_000}
    assert server.smembers("qt:lanes") == {"default.0"}


async def test_results(kind: str, redis_url: str, server: redis.Redis) -> None:
    app = make_app(redis_url)
    server.set(LaneKeys(LANE).result("done"), '{"width": 3}')

    async def body(client: Any) -> None:
        assert await client.result("done") == {"width": 3}
        with pytest.raises(NoResult, match="no result for job missing"):
            await client.result("missing", wait=0.06)

    await use(kind, app, body)


async def test_a_result_is_waited_for(kind: str, redis_url: str, server: redis.Redis) -> None:
    app = make_app(redis_url)
    asked = trio.Event()

    async def body(client: Any) -> Any:
        return await client.result("soon", wait=20)

    async def bring() -> None:
        def waiting() -> bool:
            return any(line["cmd"] == "get" for line in server.client_list())

        await eventually(waiting)
        server.set(LaneKeys(LANE).result("soon"), "[1]")
        asked.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        assert await use(kind, app, body) == [1]
    assert asked.is_set()


async def test_too_large_and_too_many(kind: str, redis_url: str) -> None:
    app = make_app(redis_url, max_payload=2000, max_length=2)
    task = app.tasks["note"]

    async def body(client: Any) -> None:
        with pytest.raises(PayloadTooLarge, match="store the data elsewhere"):
            await client.enqueue_many([task.job("fits"), task.job("x" * 3000)])
        jobs = [task.job(str(at)) for at in range(3)]
        with pytest.raises(QueueFull, match="1 of 3 jobs refused") as caught:
            await client.enqueue_many(jobs)
        assert caught.value.accepted == (jobs[0].id, jobs[1].id)
        with pytest.raises(QueueFull):
            await client.enqueue(task.job("one more"))
        assert (await client.enqueue(jobs[0])).created is False

    await use(kind, app, body)
    assert len(await ids_in(app)) == 2


async def test_the_client_shows_its_name(kind: str, redis_url: str, server: redis.Redis) -> None:
    app = make_app(redis_url)

    async def body(client: Any) -> list[str]:
        await client.connect()
        return [line["name"] for line in server.client_list()]

    assert "queue-trio:tests:client" in await use(kind, app, body)


async def test_over_a_unix_socket_and_another_database(kind: str, private_redis: EmbeddedRedis) -> None:
    app = make_app(f"unix://{private_redis.unix_socket}?db=3")
    job = app.tasks["note"].job()
    assert (await use(kind, app, lambda client: client.enqueue(job))).created
    with redis.Redis(unix_socket_path=str(private_redis.unix_socket), db=3, decode_responses=True) as plain:
        assert plain.hkeys(LaneKeys(LANE)["job"]) == [job.id]


async def test_over_tls(kind: str, private_redis: EmbeddedRedis, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert private_redis.port is not None
    async with open_relay(private_redis.port, context) as relay:
        app = make_app(relay.url, tls_ca_file=str(tmp_path / "ca.pem"))
        job = app.tasks["note"].job()
        assert (await use(kind, app, lambda client: client.enqueue(job))).created
        blind = make_app(relay.url, tls_verify=False)
        assert not (await use(kind, blind, lambda client: client.enqueue(job))).created
        stranger = make_app(relay.url)
        with pytest.raises(InfrastructureError, match=r"(?i)certificate"):
            await use(kind, stranger, lambda client: client.connect())


def test_a_client_that_is_not_open_says_so() -> None:
    app = make_app("redis://localhost")
    job = app.tasks["note"].job()
    with pytest.raises(UsageError, match="not open"):
        app.sync_client().enqueue(job)
    with pytest.raises(UsageError, match="not open"):
        asyncio.run(app.asyncio_client().enqueue(job))


async def test_a_task_is_no_job(kind: str, redis_url: str) -> None:
    app = make_app(redis_url)
    task: Any = app.tasks["note"]

    async def body(client: Any) -> None:
        for enqueued in (client.enqueue(task), client.enqueue_many([task.job(), task])):
            with pytest.raises(
                UsageError, match=r"enqueue takes a job, not <Task note>: note\.job\(\.\.\.\)"
            ):
                await enqueued

    await use(kind, app, body)
    assert await ids_in(app) == []


def test_the_trio_client_outside_trio_names_the_other_one() -> None:
    app = make_app("redis://localhost")

    async def main() -> None:
        async with app.client():
            raise AssertionError

    with pytest.raises(UsageError, match=r"use app\.asyncio_client\(\) under asyncio"):
        asyncio.run(main())


# --- servers that refuse -------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_said_at_once(kind: str, private_redis: EmbeddedRedis) -> None:
    with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
        plain.config_set("requirepass", "right")
    job = make_app("redis://localhost").tasks["note"].job()
    for login, reason in (
        ("", "wants a password"),
        (":wrong@", "the password is wrong"),
        ("eve:x@", "'eve'"),
    ):
        app = make_app(private_redis.url.replace("://", f"://{login}"))
        with pytest.raises(ServerUnusable, match=reason) as caught:
            await use(kind, app, lambda client: client.enqueue(job))
        assert "wrong@" not in str(caught.value)
    app = make_app(private_redis.url.replace("://", "://:right@"))
    assert (await use(kind, app, lambda client: client.enqueue(job))).created


async def test_a_server_that_evicts_is_unusable(kind: str, private_redis: EmbeddedRedis) -> None:
    with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
        plain.config_set("maxmemory-policy", "allkeys-lru")
    app = make_app(private_redis.url)
    with pytest.raises(ServerUnusable, match="set it to noeviction"):
        await use(kind, app, lambda client: client.enqueue(app.tasks["note"].job()))


async def test_full_memory_is_said_at_once(kind: str, private_redis: EmbeddedRedis) -> None:
    app = make_app(private_redis.url)

    async def body(client: Any) -> None:
        await client.enqueue(app.tasks["note"].job())
        with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
            plain.config_set("maxmemory", "1")
        with pytest.raises(ServerRefused) as caught:
            await client.enqueue(app.tasks["note"].job())
        assert caught.value.code == "OOM"
        with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
            plain.config_set("maxmemory", "0")
        await client.enqueue(app.tasks["note"].job())

    await use(kind, app, body)
    assert len(await ids_in(app)) == 2


async def test_a_replica_is_waited_out(kind: str, private_redis: EmbeddedRedis) -> None:
    app = make_app(private_redis.url)
    with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
        plain.replicaof("127.0.0.1", "1")

        async def promote() -> None:
            def refused() -> bool:
                errors = plain.info("errorstats")
                assert isinstance(errors, dict)
                return "errorstat_READONLY" in errors

            await eventually(refused)
            plain.replicaof("NO", "ONE")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(promote)
            job = app.tasks["note"].job()
            assert (await use(kind, app, lambda client: client.enqueue(job))).created


# --- outages -------------------------------------------------------------------------------------------------------


async def test_no_server_and_little_patience(kind: str, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    app = make_app(private_redis.url, timeout=0.3)

    async def body(client: Any) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="nothing was queued"):
            await client.enqueue(app.tasks["note"].job())
        assert time.monotonic() - began < 2
        with pytest.raises(InfrastructureError, match=r"cannot connect|circuit breaker is open"):
            await client.connect()
        with pytest.raises(DeadlineExceeded):
            await client.result("any")

    await use(kind, app, body)


@pytest.mark.parametrize("kind", ["asyncio", "sync"])
async def test_the_breaker_opens_here_too(kind: str, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    app = make_app(private_redis.url)
    dead, back = threading.Event(), threading.Event()

    async def body(client: Any) -> None:
        with pytest.raises(DeadlineExceeded):
            await client.enqueue(app.tasks["note"].job(), timeout=1)
        breaker = (client.client if kind == "sync" else client)._foreign._breaker
        assert breaker.opened_at is not None
        dead.set()
        while not back.is_set():
            await pause(kind, 0.01)
        await client.enqueue(app.tasks["note"].job())
        assert breaker.opened_at is None

    async def restart() -> None:
        await eventually(dead.is_set)
        await private_redis.restart()
        back.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await use(kind, app, body)


async def test_a_server_that_never_answers_leaves_it_open(kind: str, private_redis: EmbeddedRedis) -> None:
    app = make_app(private_redis.url, timeout=0.3)
    first, second = app.tasks["note"].job(), app.tasks["note"].job()
    ready = threading.Event()

    async def body(client: Any) -> None:
        await client.enqueue(first)
        ready.set()
        with pytest.raises(OutcomeUnknown, match="its id keeps it from being queued twice"):
            await enqueue_until_it_fails(client)

    async def enqueue_until_it_fails(client: Any) -> None:
        while True:
            await client.enqueue(second)

    async def freeze_when_ready() -> None:
        await eventually(ready.is_set)
        await private_redis.freeze()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze_when_ready)
        await use(kind, app, body)
    private_redis.thaw()
    patient = make_app(private_redis.url)
    await use(kind, patient, lambda client: client.enqueue(second))
    assert sorted(await ids_in(patient)) == sorted([first.id, second.id])


async def test_a_call_too_large_for_a_hanging_servers_buffers_ends_in_time(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    app = make_app(f"unix://{private_redis.unix_socket}", read_timeout=20)
    ready, frozen = threading.Event(), threading.Event()

    async def body(client: Any) -> None:
        await client.enqueue(app.tasks["note"].job())
        ready.set()
        while not frozen.is_set():
            await pause(kind, 0.01)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await client.enqueue_many([app.tasks["note"].job("x" * 1_000_000) for _ in range(4)], timeout=0.3)
        assert time.monotonic() - began < 5

    async def freeze() -> None:
        await eventually(ready.is_set)
        await private_redis.freeze()
        frozen.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await use(kind, app, body)
    private_redis.thaw()


async def test_a_lost_reply_is_asked_for_again(kind: str, private_redis: EmbeddedRedis) -> None:
    assert private_redis.port is not None
    async with open_relay(private_redis.port) as relay:
        app = make_app(relay.url)
        jobs = [app.tasks["note"].job(str(at)) for at in range(3)]

        async def body(client: Any) -> None:
            assert (await client.enqueue(jobs[0])).created is True
            relay.lose_replies(2)
            assert (
                await client.enqueue(jobs[1])
            ).created is True  # created by the first, whose answer was lost
            relay.lose_replies(1)
            assert [job_id.created for job_id in await client.enqueue_many(jobs)] == [False, False, True]

        await use(kind, app, body)
        assert relay.lost == 3
        assert sorted(await ids_in(app)) == sorted(job.id for job in jobs)


async def test_a_server_killed_in_the_middle_loses_and_doubles_nothing(
    kind: str, private_redis: EmbeddedRedis
) -> None:
    app = make_app(private_redis.url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(600)]
    answered: list[JobId] = []

    async def body(client: Any) -> None:
        for at in range(0, len(jobs), 4):
            answered.extend(await client.enqueue_many(jobs[at : at + 3]))
            answered.append(await client.enqueue(jobs[at + 3]))

    async def torment() -> None:
        for rounds in (60, 300):
            await eventually(lambda least=rounds: len(answered) >= least)  # type: ignore[misc]
            await private_redis.kill()
            await private_redis.restart()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(torment)
        await use(kind, app, body)
    assert answered == [job.id for job in jobs]
    assert all(job_id.created for job_id in answered)
    assert sorted(await ids_in(app)) == sorted(job.id for job in jobs)


# --- many at once --------------------------------------------------------------------------------------------------


async def test_threads_share_a_sync_client(redis_url: str) -> None:
    app = make_app(redis_url)
    found: list[list[JobId]] = [[] for _ in range(12)]
    failed: list[BaseException] = []

    def hammer(client: SyncQueueClient, mine: list[JobId]) -> None:
        try:
            for at in range(60):
                mine.append(client.enqueue(app.tasks["other" if at % 3 == 0 else "note"].job(str(at))))
                if at % 10 == 0:
                    mine.extend(client.enqueue_many([app.tasks["note"].job() for _ in range(5)]))
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            failed.append(error)

    def run() -> None:
        with app.sync_client() as client:
            threads = [threading.Thread(target=hammer, args=(client, mine)) for mine in found]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    await trio.to_thread.run_sync(run)
    assert failed == []
    ids = [job_id for mine in found for job_id in mine]
    assert all(job_id.created for job_id in ids)
    assert sorted(await ids_in(app) + await ids_in(app, Lane("other"))) == sorted(ids)


async def test_threads_share_calls_while_the_server_dies(private_redis: EmbeddedRedis) -> None:
    app = make_app(private_redis.url)
    found: list[list[JobId]] = [[] for _ in range(6)]

    def hammer(client: SyncQueueClient, mine: list[JobId]) -> None:
        for _ in range(80):
            mine += [client.enqueue(app.tasks["note"].job())]

    def run() -> None:
        with app.sync_client() as client:
            threads = [threading.Thread(target=hammer, args=(client, mine)) for mine in found]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, run)
        await eventually(lambda: sum(map(len, found)) > 100)
        await private_redis.kill()
        await private_redis.restart()
    ids = [job_id for mine in found for job_id in mine]
    assert len(ids) == 480
    assert all(job_id.created for job_id in ids)
    assert sorted(await ids_in(app)) == sorted(ids)


async def test_asyncio_tasks_share_round_trips(redis_url: str, server: redis.Redis) -> None:
    app = make_app(redis_url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(400)]

    def calls() -> int:
        stats = server.info("commandstats")
        assert isinstance(stats, dict)
        return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

    async def main() -> list[JobId]:
        async with app.asyncio_client() as client:
            return await asyncio.gather(*(client.enqueue(job) for job in jobs))

    before = calls()
    ids = await trio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert ids == [job.id for job in jobs]
    assert calls() - before < 20
    assert sorted(await ids_in(app)) == sorted(ids)


async def test_impatient_tasks_know_that_nothing_was_queued(private_redis: EmbeddedRedis) -> None:
    """All wait behind one leader that cannot connect: not one of them may be told that the outcome is unknown."""
    await private_redis.kill()
    app = make_app(private_redis.url, timeout=0.3)

    async def main() -> list[BaseException | JobId]:
        async with app.asyncio_client() as client:
            jobs = [app.tasks["note"].job() for _ in range(20)]
            return await asyncio.gather(*map(client.enqueue, jobs), return_exceptions=True)

    results = await trio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert {type(result) for result in results} == {DeadlineExceeded}
    await private_redis.restart()
    assert await ids_in(app) == []


async def test_a_cancelled_asyncio_call_spoils_nothing(private_redis: EmbeddedRedis) -> None:
    """The reply of the cancelled call must not be read by the next one, and tasks in the same batch are served."""
    app = make_app(private_redis.url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(4)]

    async def main() -> list[JobId]:
        async with app.asyncio_client() as client:
            await client.enqueue(jobs[0])
            with redis.Redis(unix_socket_path=str(private_redis.unix_socket)) as plain:
                plain.client_pause(300, all=True)
            cancelled = asyncio.create_task(client.enqueue(jobs[1]))
            others = [asyncio.create_task(client.enqueue(job)) for job in jobs[2:]]
            for _ in range(5):
                await asyncio.sleep(0)  # until the first is on its way and the others wait behind it
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            return await asyncio.gather(*others)

    ids = await trio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert ids == [job.id for job in jobs[2:]]
    assert all(job_id.created for job_id in ids)
    assert {job.id for job in jobs} - {jobs[1].id} <= set(await ids_in(app))


async def test_a_cancelled_asyncio_call_is_cancelled_wherever_it_is(redis_url: str) -> None:
    """Before Python 3.12 `asyncio.wait_for`, which redis-py uses, can swallow a cancellation."""
    app = make_app(redis_url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(12)]

    async def main() -> None:
        async with app.asyncio_client() as client:
            await client.enqueue(jobs[-1])
            for turns in range(9):
                task = asyncio.create_task(client.enqueue(jobs[turns]))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not task.done():
                    assert task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1e-7):
                    await client.enqueue(jobs[9])
            assert await client.enqueue_many(jobs) == [job.id for job in jobs]
            assert not (await client.enqueue(jobs[0])).created

    await trio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert sorted(await ids_in(app)) == sorted(job.id for job in jobs)


async def test_an_interrupt_in_a_sync_call_spoils_nothing(
    private_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(private_redis.url)
    jobs = [app.tasks["note"].job(str(at)) for at in range(3)]
    read = sync_client._BlockingWire._read

    def run() -> list[bool]:
        with app.sync_client() as client:
            created = [client.enqueue(jobs[0]).created]

            def interrupted(wire: Any, timeout_s: float) -> Any:
                monkeypatch.setattr(sync_client._BlockingWire, "_read", read)
                raise KeyboardInterrupt

            monkeypatch.setattr(sync_client._BlockingWire, "_read", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.enqueue(jobs[1])
            return [*created, client.enqueue(jobs[2]).created, client.enqueue(jobs[1]).created]

    created = await trio.to_thread.run_sync(run)
    # The interrupted call had been delivered: asking again finds its job there.
    assert created[:2] == [True, True]
    assert sorted(await ids_in(app)) == sorted(job.id for job in jobs)


async def test_clients_that_close_leave_no_session(redis_url: str) -> None:
    app = make_app(redis_url)
    note = app.tasks["note"]

    def from_a_thread() -> None:
        with app.sync_client() as client:
            client.enqueue(note.job("sync"))

    async def from_asyncio() -> None:
        async with app.asyncio_client() as client:
            await client.enqueue(note.job("asyncio"))

    await trio.to_thread.run_sync(from_a_thread)
    await trio.to_thread.run_sync(lambda: asyncio.run(from_asyncio()))
    with redis.Redis.from_url(redis_url) as server:
        assert list(server.scan_iter("*:session:*")) == []
    assert len(await ids_in(app)) == 2


async def test_a_forked_process_has_a_session_of_its_own(redis_url: str) -> None:
    """Parent and child would otherwise use the same sequence numbers, and one would read the other's answers."""
    program = """
import os, sys
from queue_trio import App
app = App("forks")

@app.task(name="note")
def note(text: str) -> None: ...

with app.sync_client() as client:
    ids = [client.enqueue(note.job("before"))]
    child = os.fork()
    who = "child" if child == 0 else "parent"
    ids += [client.enqueue(note.job(f"{who} {n}")) for n in range(20)]
    ok = all(job_id.created for job_id in ids)
    if child == 0:
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
sys.exit(0 if ok and status == 0 else 1)
"""
    done = await trio.run_process(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"QUEUE_TRIO_REDIS__URL": redis_url, "PYTHONPATH": os.getcwd()},
        check=False,
        capture_stderr=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(await ids_in(make_app(redis_url))) == 41
