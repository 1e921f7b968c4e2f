"""`queue-trio worker` as a process: it runs jobs, drains on SIGTERM, waits for Redis; flags set its settings."""

from __future__ import annotations

import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cli.conftest import NOWHERE, SECRET, Invoke, command, environment, run_process
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis

END_S = 10.0


class Running:
    """A worker process and what it has logged so far."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def logged(self, text: str) -> str:
        """Wait for a line with `text`, and give all of the log."""
        await eventually(lambda: text in self.log.read_text(), what=f"{text!r} in the log")
        return self.log.read_text()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(END_S):
            return await self.process.wait()


@asynccontextmanager
async def running(folder: Path, url: str, *arguments: str) -> AsyncIterator[Running]:
    """A worker on tasks:app. Killed if the test leaves it running."""
    log = folder / "worker.log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            command("worker", "tasks:app", *arguments),
            cwd=folder,
            env=environment(QUEUE_TRIO_REDIS__URL=url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def call(folder: Path, url: str, *arguments: str) -> str:
    """A one-shot command that must succeed."""
    ended = await trio.to_thread.run_sync(
        lambda: run_process(folder, *arguments, env={"QUEUE_TRIO_REDIS__URL": url})
    )
    assert ended.code == 0, ended.err
    return ended.out


async def test_it_runs_a_job_and_drains_on_sigterm(project: Path, redis_url: str) -> None:
    async with running(project, redis_url, "--concurrency", "2") as worker:
        await worker.logged("worker.started")
        await call(project, redis_url, "enqueue", "tasks:app", "touch", "path=made", "times=2")
        await eventually(lambda: (project / "made").exists() and (project / "made").read_text() == "donedone")
        assert await worker.end() == 0
        log = await worker.logged("worker.draining")
    assert "worker.stopped" in log
    assert '"concurrency": 2' in log
    assert "Traceback" not in log


async def test_the_collector_does_not_look_at_what_was_imported(project: Path, redis_url: str) -> None:
    more = "\n\n@app.task\nasync def frozen(path: str) -> None:\n    import gc\n"
    more += "    Path(path).write_text(f'{gc.get_freeze_count()} {len(gc.get_objects())}')\n"
    (project / "tasks.py").write_text((project / "tasks.py").read_text() + more)
    async with running(project, redis_url) as worker:
        await call(project, redis_url, "enqueue", "tasks:app", "frozen", "path=count")
        await eventually(lambda: (project / "count").exists() and (project / "count").read_text().count(" "))
        assert await worker.end() == 0
    frozen, seen = map(int, (project / "count").read_text().split())
    assert frozen > 50_000
    assert seen < frozen / 10


@pytest.mark.leaves_keys("the job given back is the point")
async def test_a_second_signal_cancels_and_gives_the_job_back(project: Path, redis_url: str) -> None:
    job_id = (await call(project, redis_url, "enqueue", "tasks:app", "hang", "path=started")).strip()
    async with running(project, redis_url) as worker:
        await eventually((project / "started").exists)
        worker.process.send_signal(signal.SIGINT)
        await worker.logged("worker.draining")
        assert await worker.end() == 0
        assert "worker.cancelling" in worker.log.read_text()
    shown = await call(project, redis_url, "admin", "peek", "--state", "ready")
    assert job_id in shown
    assert "failures" not in shown


async def test_it_waits_for_a_redis_that_comes_later(project: Path, private_redis: EmbeddedRedis) -> None:
    await private_redis.kill()
    async with running(project, private_redis.url) as worker:
        log = await worker.logged("redis.unavailable")
        assert log.count("redis.unavailable") == 1
        assert private_redis.url in log
        assert "worker.started" not in log
        await private_redis.restart()
        await worker.logged("worker.started")
        assert await worker.end() == 0


async def test_sigterm_while_it_waits(project: Path) -> None:
    url = NOWHERE.replace("://", f"://shop:{SECRET}@")
    async with running(project, url) as worker:
        log = await worker.logged("redis.unavailable")
        assert "redis://shop:***@127.0.0.1:1/0" in log
        assert await worker.end() == 0
        log = worker.log.read_text()
    assert log.count("redis.unavailable") == 1
    assert SECRET not in log
    assert "Traceback" not in log


async def test_a_queue_without_tasks_is_said(project: Path, redis_url: str) -> None:
    async with running(project, redis_url, "--queues", "emials,default") as worker:
        log = await worker.logged("worker.started")
        assert '"queue": "emials"' in log
        assert "did you mean emails?" in log
        assert await worker.end() == 0


# --- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--concurrency", "0"), ("--concurrency: is 0", "greater than or equal to 1")),
        (("--queues", "no spaces"), ("--queues: ", "'no spaces'")),
        (("--strategy", "fair"), ("--strategy: is 'fair'", "'strict', 'weighted' or 'looped'")),
        (("--lease", "0.1"), ("--lease: is 0.1", "greater than or equal to 0.3")),
        (("--log-level", "loud"), ("--log-level: is 'loud'",)),
    ],
)
def test_a_flag_that_makes_no_sense(invoke: Invoke, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    ended = invoke("worker", "tasks:app", *flags)
    assert ended.code == 3
    for word in words:
        assert word in ended.error


def test_two_wrong_flags_are_two_lines(invoke: Invoke) -> None:
    ended = invoke("worker", "tasks", "--concurrency", "0", "--threads", "0")
    assert ended.code == 3
    assert len(ended.err.splitlines()) == 2
