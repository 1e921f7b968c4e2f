"""`queue-trio producer` and `queue-trio all`, as commands: flags, exit codes, signals, what is printed."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.redis.keys import DEFAULT_PREFIX
from tests.cli.conftest import NOWHERE, Invoke, command, environment, on_terminal
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support import SharedRedis

pytestmark = pytest.mark.leaves_keys("enqueued files stay remembered, and nobody runs them")

END_S = 30.0
TASK = ("tasks:app", "send")


@pytest.fixture
def files(project: Path) -> Path:
    folder = project / "files"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.py", "b.txt", "sub/c.py"):
        (folder / name).write_text(name)
    return folder


def test_every_file_once(on_redis: Invoke, files: Path) -> None:
    ended = on_redis("producer", *TASK, "files")
    assert (ended.code, ended.out) == (0, "3 files enqueued, 0 unchanged since the last time\n")
    (files / "a.py").write_text("changed")
    (files / "self").symlink_to("self")
    ended = on_redis("producer", *TASK, "files")
    assert ended.out == "1 file enqueued, 2 unchanged since the last time, 1 skipped\n"
    (files / "a.py").write_text("changed again")
    ended = on_redis("producer", *TASK, str(files), "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == {"created": 1, "unchanged": 2, "unsure": 0, "skipped": 1}


def test_flags(on_redis: Invoke, files: Path) -> None:
    flags = ("--include", "**/*.py", "--include", "*.txt", "--exclude", "sub/", "--priority", "py=high")
    assert on_redis("producer", *TASK, "files", *flags).out.startswith("2 files enqueued")
    stats = json.loads(on_redis("admin", "stats", "--json").out)
    assert '"high": 1' in json.dumps(stats)
    assert '"normal": 1' in json.dumps(stats)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((*TASK, "none"), 2, "no such folder"),
        (("tasks:app", "nothing", "files"), 2, "nothing"),
        ((*TASK, "files", "--priority", "py"), 2, ".py=high"),
        ((*TASK, "files", "--priority", ".py=urgent"), 2, "choose one of critical"),
        ((*TASK, "files", "--include", "/etc/*"), 2, "/etc/*"),
    ],
)
def test_what_is_refused(
    invoke: Invoke, files: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = invoke("producer", *arguments)
    assert ended.code == code
    assert says in ended.error


def test_on_a_terminal(project: Path, files: Path, redis_url: str) -> None:
    (files / "self").symlink_to("self")
    ended = on_terminal(project, redis_url, "producer", *TASK, "files")
    assert ended.code == 0
    assert "producer.skipped" in ended.out
    assert ended.out.rstrip().endswith("3 files enqueued, 0 unchanged since the last time, 1 skipped")


@asynccontextmanager
async def running(folder: Path, url: str, *arguments: str, **env: str) -> AsyncIterator[trio.Process]:
    """A command that goes on; its output is in `folder`."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = await trio.lowlevel.open_process(
            command(*arguments),
            cwd=folder,
            env=environment(QUEUE_TRIO_REDIS__URL=url, **env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def end(process: trio.Process, number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    with trio.fail_after(END_S):
        return await process.wait()


def counted(redis: SharedRedis, queue: str, what: str) -> int:
    from tests.support import connect

    with connect(redis.unix_socket) as client:
        return int(client.hget(f"{DEFAULT_PREFIX}:{{{queue}.0}}:stats", what) or 0)


async def test_watch_until_sigterm(
    project: Path, files: Path, redis_url: str, redis_server: SharedRedis
) -> None:
    async with running(project, redis_url, "producer", *TASK, "files", "--watch") as process:
        await eventually(lambda: counted(redis_server, "emails", "enqueued") == 3, END_S)
        (files / "new").write_text("x")
        await eventually(lambda: counted(redis_server, "emails", "enqueued") == 4, END_S)
        assert await end(process) == 0
    assert (project / "out").read_text() == "4 files enqueued, 0 unchanged since the last time\n"


async def test_it_waits_for_redis_and_can_be_interrupted(project: Path, files: Path) -> None:
    async with running(project, NOWHERE, "producer", *TASK, "files") as process:
        await eventually(lambda: "redis.unavailable" in (project / "err").read_text(), END_S)
        assert await end(process, signal.SIGINT) == 130


async def test_all(project: Path, files: Path, redis_url: str, redis_server: SharedRedis) -> None:
    queues = {"QUEUE_TRIO_WORKER__QUEUES": "emails"}
    async with running(project, redis_url, "all", *TASK, "files", "--watch", **queues) as process:
        await eventually(lambda: counted(redis_server, "emails", "completed") == 3, END_S)
        (files / "new").write_text("x")
        await eventually(lambda: counted(redis_server, "emails", "completed") == 4, END_S)
        assert await end(process) == 0
    assert "worker.stopped" in (project / "err").read_text()
    assert (project / "out").read_text().startswith("4 files enqueued")
