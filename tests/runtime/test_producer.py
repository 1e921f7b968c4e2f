"""The producer: every file once, again when it has changed, whatever happens to Redis meanwhile."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import structlog
import trio

from queue_trio import App
from queue_trio.client import QueueClient
from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Lane, State, decode_record
from queue_trio.core.settings import ClientSettings, ProducerSettings, RedisSettings, Settings
from queue_trio.errors import InvalidArguments, ServerUnusable, UsageError
from queue_trio.memory.store import MemoryStore
from queue_trio.runtime import producer as producer_module
from queue_trio.runtime.folder import Found
from queue_trio.runtime.producer import Producer, extension_priorities, file_job_id, priority_of
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

    from queue_trio.app import Task
    from queue_trio.core.store import Store
    from queue_trio.embedded import EmbeddedRedis

LANE = Lane()


def declare(settings: Settings) -> tuple[App, Task[..., Any]]:
    app = App("test", settings=settings)

    @app.task(name="read")
    def read(path: str) -> None: ...

    return app, read


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class World:
    """A producer of `folder`, on a store in memory."""

    def __init__(
        self, folder: Path, *, store: Store | None = None, max_length: int = 0, **producer: Any
    ) -> None:
        self.store = store or MemoryStore(now_ms)
        self.settings = Settings(
            client=ClientSettings(max_length=max_length, max_payload=4096),
            producer=ProducerSettings(**{"batch": 3, **producer}),
        )
        app, self.task = declare(self.settings)
        self.client = QueueClient(app, store=self.store)
        self.folder = folder

    def producer(self, rate: float | None = None) -> Producer:
        return Producer(self.task, self.folder, self.client, self.settings.producer, rate=rate)

    async def scan(self) -> Producer:
        producer = self.producer()
        await producer.scan()
        return producer

    async def queued(self) -> dict[str, Priority]:
        """Names of the files in the queue, by path relative to the folder."""
        jobs = await self.store.peek(LANE, State.READY, count=1000)
        found = {}
        for job in jobs:
            record = decode_record(job.raw)
            path = str(bytes(record.args), "utf-8").removeprefix('{"path":"').removesuffix('"}')
            found[path.removeprefix(f"{self.folder}/")] = record.priority
        return found

    async def claim_all(self) -> int:
        claim = await self.store.claim(LANE, worker="w", want=100, lease_ms=60_000, order=PRIORITIES)
        return len(claim.jobs)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


# --- what is enqueued ----------------------------------------------------------------------------------------------


async def test_every_file_becomes_a_job(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n}.txt" for n in range(10)), "sub/a.py", "__pycache__/a.pyc", "x/.git/config")
    world = World(tmp_path)
    producer = await world.scan()
    assert set(await world.queued()) == {*(f"{n}.txt" for n in range(10)), "sub/a.py"}
    assert (producer.counts.created, producer.counts.unchanged, producer.counts.skipped) == (11, 0, 0)


async def test_globs_and_priorities(tmp_path: Path) -> None:
    fill(tmp_path, "a.py", "b.TXT", "c.tar.gz", "d.gz", "e", "sub/f.py", "sub/g.md")
    world = World(
        tmp_path,
        include=("*", "sub/*.py"),
        exclude=("e",),
        priorities={".py": "high", "txt": "low", ".tar.gz": "critical"},
    )
    await world.scan()
    assert await world.queued() == {
        "a.py": Priority.HIGH,
        "b.TXT": Priority.LOW,
        "c.tar.gz": Priority.CRITICAL,
        "d.gz": Priority.NORMAL,
        "sub/f.py": Priority.HIGH,
    }


async def test_a_rate_spreads_the_files_over_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    fill(tmp_path, *(f"{n}.txt" for n in range(20)))
    world = World(tmp_path, batch=200)
    began = trio.current_time()
    await world.producer(rate=8).scan()
    assert (
        2.25 <= trio.current_time() - began < 2.5
    )  # twos, a quarter of a second apart; the first goes at once
    slow = world.producer(rate=0.5)
    await slow.scan()
    assert slow.counts.unchanged == 20
    assert trio.current_time() - began >= 2.25 + 38


async def test_unchanged_file_is_not_enqueued_again(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    world = World(tmp_path)
    await world.scan()
    again = await world.scan()
    assert (again.counts.created, again.counts.unchanged) == (0, 2)


async def test_nor_after_its_job_has_ended(tmp_path: Path) -> None:
    from queue_trio.core.job import Outcome

    fill(tmp_path, "a")
    world = World(tmp_path)
    await world.scan()
    claim = await world.store.claim(LANE, worker="w", want=9, lease_ms=60_000, order=PRIORITIES)
    await world.store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])
    again = await world.scan()
    assert (again.counts.created, again.counts.unchanged) == (0, 1)


async def test_changed_file_is_enqueued_again(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    world = World(tmp_path)
    await world.scan()
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("more than before")
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))  # the size alone tells
    (tmp_path / "b").write_text("B")
    os.utime(tmp_path / "b", ns=(0, 1))  # and so does the time
    again = await world.scan()
    assert (again.counts.created, again.counts.unchanged) == (2, 0)


async def test_a_file_reached_by_another_way_is_the_same(tmp_path: Path) -> None:
    fill(tmp_path, "real/a")
    (tmp_path / "link").symlink_to("real")
    store = MemoryStore(now_ms)
    await World(tmp_path / "real", store=store).scan()
    again = await World(tmp_path / "link", store=store).scan()
    assert (again.counts.created, again.counts.unchanged) == (0, 1)


def test_the_id_tells_every_difference() -> None:
    file = Found("/f/a", "a", 1, 2)
    ids = {
        file_job_id("t", file),
        file_job_id("u", file),
        file_job_id("t", file._replace(path="/f/b")),
        file_job_id("t", file._replace(size=2)),
        file_job_id("t", file._replace(mtime_ns=3)),
        file_job_id("t", file._replace(path=os.fsdecode(b"/f/\xff"))),
    }
    assert len(ids) == 6
    assert file_job_id("t", file) == file_job_id("t", Found("/f/a", "elsewhere/a", 1, 2))


@pytest.mark.parametrize(
    ("path", "priority"),
    [
        ("/x.py/a", None),
        ("/a.py", Priority.HIGH),
        ("/a.PY", Priority.HIGH),
        ("/a.b.py", Priority.HIGH),
        ("/.py", None),
        ("/.x.py", Priority.HIGH),
    ],
)
def test_priority_of(path: str, priority: Priority | None) -> None:
    assert priority_of(path, extension_priorities({"Py": Priority.HIGH})) is priority


async def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("x")
    world = World(tmp_path)
    await world.scan()
    assert list(await world.queued()) == [f"{tmp_path.as_uri()}/caf%E9"]


# --- what is refused -----------------------------------------------------------------------------------------------


async def test_what_cannot_be_read_is_counted_and_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    (tmp_path / "self").symlink_to("self")
    world = World(tmp_path)
    with structlog.testing.capture_logs() as logs:
        producer = await world.scan()
    assert (producer.counts.created, producer.counts.skipped) == (1, 1)
    assert [entry["event"] for entry in logs] == ["producer.skipped"]


async def test_a_path_too_long_for_a_job_does_not_keep_out_the_others(tmp_path: Path) -> None:
    deep = tmp_path
    while len(os.fsencode(deep)) < 1100:
        deep /= "d" * 250
    fill(tmp_path, "a", "b", "c")
    deep.mkdir(parents=True)
    (deep / "too far").write_text("x")
    world = World(tmp_path, batch=4)
    world.settings = world.settings.model_copy(update={"client": ClientSettings(max_payload=1024)})
    app, world.task = declare(world.settings)
    world.client = QueueClient(app, store=world.store)
    producer = await world.scan()
    assert (producer.counts.created, producer.counts.skipped) == (3, 1)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        World(tmp_path / "none").producer()
    fill(tmp_path, "file")
    with pytest.raises(UsageError, match="is a file"):
        World(tmp_path / "file").producer()


def test_bad_glob(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/etc"):
        World(tmp_path, include=("/etc/*",)).producer()


def test_a_task_that_takes_no_path(tmp_path: Path) -> None:
    world = World(tmp_path)

    @world.task.app.task(name="count")
    def count(number: int) -> None: ...

    with pytest.raises(InvalidArguments):
        Producer(count, tmp_path, world.client, world.settings.producer)


# --- a full queue, an outage ---------------------------------------------------------------------------------------


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    fill(tmp_path, *map(str, range(7)))
    world = World(tmp_path, max_length=2)
    producer = world.producer()
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.scan)
            claimed = 0
            while claimed < 7:
                claimed += await world.claim_all()
                await trio.sleep(0.001)
    assert (producer.counts.created, producer.counts.unchanged) == (7, 0)
    assert not producer.counts.waiting
    events = [entry["event"] for entry in logs]
    assert events.count("producer.waiting") == events.count("producer.goes_on")


@pytest.fixture(params=["wait", "fail"])
async def outage(
    private_redis: EmbeddedRedis, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[QueueClient, Task[..., Any], EmbeddedRedis]]:
    """A client that gives up long before an outage ends, or at once: a producer waits all the same."""
    settings = Settings(
        redis=RedisSettings.model_validate(
            {"url": private_redis.url, "backoff_cap": 0.05, "breaker_open_wait": 0.05}
        ),
        client=ClientSettings(timeout=0.1, on_outage=request.param),
    )
    app, task = declare(settings)
    async with app.client() as client:
        yield client, task, private_redis


async def test_an_outage_in_the_middle(
    tmp_path: Path, outage: tuple[QueueClient, Task[..., Any], EmbeddedRedis]
) -> None:
    client, task, redis = outage
    fill(tmp_path, *map(str, range(30)))

    def kill_after_the_second(pairs: object) -> None:
        if producer.counts.seen == 10:
            os.kill(redis.pid, signal.SIGKILL)

    producer = Producer(task, tmp_path, client, ProducerSettings(batch=5), on_batch=kill_after_the_second)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.scan)
            await eventually(lambda: producer.counts.waiting)
            await redis.restart()
    counts = producer.counts
    assert counts.created + counts.unsure == 30
    assert counts.unchanged == 0
    stats = await client.store.stats(LANE)
    assert (stats.ready_total, stats.enqueued) == (30, 30)
    assert [entry["event"] for entry in logs].count("producer.waiting") == 1


async def test_a_start_without_redis(
    tmp_path: Path, outage: tuple[QueueClient, Task[..., Any], EmbeddedRedis]
) -> None:
    client, task, redis = outage
    await redis.kill()
    fill(tmp_path, "a")
    producer = Producer(task, tmp_path, client, ProducerSettings())
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.scan)
            await eventually(lambda: producer.counts.waiting)
            await redis.restart()
    assert producer.counts.seen == 1
    assert {"redis.unavailable", "producer.waiting", "redis.back", "producer.goes_on"} <= {
        it["event"] for it in logs
    }


async def test_a_wrong_password_ends_it(tmp_path: Path, private_redis: EmbeddedRedis) -> None:
    assert private_redis.port is not None
    settings = Settings(
        redis=RedisSettings.model_validate({"url": f"redis://nobody:wrong@127.0.0.1:{private_redis.port}/0"})
    )
    app, task = declare(settings)
    fill(tmp_path, "a")
    async with app.client() as client:
        with pytest.raises(ServerUnusable):
            await Producer(task, tmp_path, client, ProducerSettings()).scan()


# --- watching ------------------------------------------------------------------------------------------------------


async def test_watch_picks_up_what_comes(tmp_path: Path, nursery: trio.Nursery) -> None:
    fill(tmp_path, "before", "cache/ignored")
    world = World(tmp_path, exclude=("cache/",))
    producer = world.producer()
    await nursery.start(producer.watch)
    await eventually(lambda: producer.counts.created == 1)

    fill(tmp_path, "new", "cache/new")
    await eventually(lambda: producer.counts.created == 2)

    fill(tmp_path, "sub/deep/file")
    await eventually(lambda: producer.counts.created == 3)

    # A whole folder that is moved in tells of itself only.
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    fill(outside, "x/inside")
    outside.rename(tmp_path / "moved")
    await eventually(lambda: producer.counts.created == 4)

    (tmp_path / "new").write_text("changed")
    await eventually(lambda: producer.counts.created == 5)

    (tmp_path / "before").unlink()
    (tmp_path / os.fsdecode(b"\xff")).write_text("a name that watchfiles cannot tell")
    await eventually(lambda: producer.counts.created == 6)
    assert set(await world.queued()) == {
        "before", "new", "sub/deep/file", "moved/x/inside", f"{tmp_path.as_uri()}/%FF"
    }  # fmt: skip
    assert producer.counts.skipped == 0


async def test_watch_looks_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_module, "RESCAN_S", 0.0)
    fill(tmp_path, "a")
    producer = World(tmp_path).producer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(producer.watch)
        await eventually(lambda: producer.counts.unchanged >= 2)
        nursery.cancel_scope.cancel()
