"""The demo's worker processes: real `queue-trio worker` commands, each kept alive by a task of its own.

Cancelling the nursery they run in is how they are stopped: SIGTERM, time to drain, then SIGKILL. They are in the
process group of a lifeline (see `queue_trio.embedded`), so the terminal's Ctrl-C does not reach them, and they do not
outlive this process, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import queue_trio
from queue_trio.core.backoff import Backoff
from queue_trio.errors import QueueTrioError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMMAND: Final = (sys.executable, "-m", "queue_trio", "worker", "queue_trio.demo.tasks:app")

DRAIN_S: Final = 8.0
"""After SIGTERM, until SIGKILL; a little more than the workers' own grace."""

RESTARTS_MAX: Final = 3
"""A worker that ends by itself so often in a row, never having started work, will not do it the next time either."""
BACKOFF: Final = Backoff(base=0.1, cap=1.0)


class WorkersFail(QueueTrioError):
    """The worker processes do not run; the message ends with what the last one said."""


class WorkerProcess:
    """One process. `log`: what it says, one JSON object a line."""

    def __init__(self, number: int, process: trio.Process, log: Path) -> None:
        self.number = number
        self.pid = process.pid
        self.process = process
        self.log = log
        self._id = ""

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    @property
    def id(self) -> str:
        """The name it has in Redis, once it has started work; till then empty."""
        if not self._id:
            self._id = _worker_id(self.log)
        return self._id

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class Fleet:
    """`members`: the newest process of every number. `on_event` is told, in words, what people should know."""

    def __init__(
        self, folder: Path, group: int, environment: Mapping[str, str], on_event: Callable[[str], object]
    ) -> None:
        self._folder = folder
        self._group = group
        self._environment = dict(environment)
        self._on_event = on_event
        self.members: dict[int, WorkerProcess] = {}
        self.started = 0

    @property
    def ready(self) -> int:
        """How many have started work."""
        return sum(bool(worker.id) for worker in self.members.values())

    @property
    def working(self) -> int:
        """How many of those are alive."""
        return sum(bool(worker.id) and worker.alive for worker in self.members.values())

    async def keep_running(self, number: int) -> None:
        """Run one worker, and another one whenever it ends, until cancelled. Raises WorkersFail."""
        early_ends = 0
        while True:
            log = self._folder / f"worker-{number}-{self.started}.log"
            self.started += 1
            worker = await self._run(number, log)
            code = worker.process.returncode
            if code != -signal.SIGKILL:
                self._on_event(f"{worker} ended by itself with exit code {code}: {_last_line(log)}")
            early_ends = 0 if worker.id else early_ends + 1
            if early_ends == RESTARTS_MAX:
                raise WorkersFail(f"the workers do not start: exit code {code}: {_last_line(log)}")
            await trio.sleep(BACKOFF.ceiling(early_ends))
            self._on_event(f"worker {number} is started again")

    async def _run(self, number: int, log: Path) -> WorkerProcess:
        with log.open("wb") as output:
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(
                    partial(
                        trio.run_process,
                        COMMAND,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        check=False,
                        cwd=self._folder,  # no queue-trio.yaml of the caller's folder may change the demo
                        env=self._environment,
                        process_group=self._group,
                        deliver_cancel=_drain,
                    )
                )
                worker = self.members[number] = WorkerProcess(number, process, log)
        return worker

    def kill_all(self) -> None:
        """No more patience."""
        for worker in self.members.values():
            if worker.alive:
                worker.process.kill()


async def _drain(process: trio.Process) -> None:
    """SIGTERM, and SIGKILL when the time is up. Trio calls this shielded, and waits for the end itself."""
    process.terminate()
    process.send_signal(signal.SIGCONT)  # a stopped one would leave it lying
    with trio.move_on_after(DRAIN_S):
        await process.wait()
        return
    process.kill()


def worker_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with `settings` instead of whatever it says about queue_trio."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_TRIO_")}
    source = str(Path(queue_trio.__file__).parents[1])
    if source not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        # Not installed, or in place: the workers run in another folder and would not find it.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (source, kept.get("PYTHONPATH"))))
    return kept | dict(settings)


def _worker_id(log: Path) -> str:
    for line in _lines(log):
        if '"worker.started"' in line:
            return str(json.loads(line).get("worker", ""))
    return ""


def _last_line(log: Path) -> str:
    return (_lines(log) or ["it said nothing"])[-1]


def _lines(log: Path) -> list[str]:
    """Whole lines only: the last one may be half written."""
    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n")[:-1] if line.strip()]
