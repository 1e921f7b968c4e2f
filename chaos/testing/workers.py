"""Real worker processes that a test can kill, stop and send away: what the fixture `worker_process` gives."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chaos.driving.processes import START_S, environment, open_processes
from chaos.history import SUFFIX
from queue_trio.config.load import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chaos.actors.worker_main import Phase
    from chaos.driving.processes import Child, Processes
    from chaos.testing.driver import Driver

LOG_LINES_MAX: Final = 200
END_S: Final = 30.0
"""For a worker to end; longer than a worker's own grace."""


class WorkerProcess:
    """One process, which `worker_process` has started. At the end of the test it is killed, if it is still there."""

    def __init__(self, driver: Driver, child: Child) -> None:
        self._driver = driver
        self._child = child

    def __repr__(self) -> str:
        state = "alive" if self.alive else f"ended with exit code {self.exit_code}"
        return f"<WorkerProcess {self._child}, {state}>"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process exists. A stopped one does."""
        return self._child.alive

    @property
    def exit_code(self) -> int | None:
        """None while it is alive; minus the signal's number if one killed it."""
        return self._child.exit_code

    @property
    def log(self) -> Path:
        """What it logged and what its handlers printed."""
        return self._child.log

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Does nothing if it is."""
        self._driver.call(self._child.kill)

    def kill_at(self, phase: Phase) -> None:
        """Let it kill itself, with SIGKILL, when it next comes to that phase of its work: "running" is in a handler.

        Back when the worker knows; put in the job after that, and `wait`. The phases are in `chaos.actors.worker_main`.
        """
        self._driver.call(self._child.order, phase, "kill")

    def terminate(self, *, within_s: float = END_S) -> int:
        """SIGTERM: it finishes what runs, and ends. Returns its exit code. Raises HarnessError if it takes longer."""
        self._driver.call(self._child.terminate, within_s)
        return self.wait(within_s=within_s)

    def wait(self, *, within_s: float = END_S) -> int:
        """Wait until it has ended. Returns its exit code. Raises HarnessError if it takes longer."""
        return self._driver.call(self._child.wait, within_s)

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped. Raises HarnessError if it is gone."""
        self._driver.call(self._child.stop)

    def go_on(self) -> None:
        """SIGCONT. Raises HarnessError if it is gone."""
        self._child.go_on()


class StartWorker:
    """Call it to start a worker."""

    def __init__(self, driver: Driver, processes: Processes, folder: Path) -> None:
        self._driver = driver
        self._processes = processes
        self._folder = folder

    def __call__(
        self, app: str, *, url: str, ready: bool = True, **settings: Mapping[str, object]
    ) -> WorkerProcess:
        """Start a worker of `app`, MODULE:APP, in the current folder. Back when it is registered in the Redis at `url`.

        `settings`: by section, such as `worker={"concurrency": 2}`; they win over environment and file. What the code
        gives to `App(settings=...)` does not count. Without `ready` it is back when it has started, which it can while
        Redis is away.

        Raises ConfigError, a line for each setting that is wrong; HarnessError if the worker ends, or takes too long.
        """
        whole = {**settings, "redis": {**settings.get("redis", {}), "url": url}}
        variables = {**os.environ, **environment(whole, self._folder), "PYTHONPATH": _python_path()}
        load_settings(environ=variables)
        name = f"worker-{len(self._processes.children) + 1}"
        command = ["-m", "chaos.testing.worker_main", str(Path.cwd())]
        command += ["--journal", str(self._folder / f"{name}{SUFFIX}"), "--app", app]
        return self._driver.call(self._start, name, command, variables, ready)

    async def _start(
        self, name: str, command: list[str], variables: Mapping[str, str], ready: bool
    ) -> WorkerProcess:
        child = await self._processes.start(name, command, variables)
        await child.wait_said("registered" if ready else "started", within_s=START_S)
        return WorkerProcess(self._driver, child)

    def logs(self) -> Iterator[tuple[str, str]]:
        """A title and the log's end for every process that was started, those that did not get ready included."""
        for child in self._processes.children:
            state = "alive" if child.alive else f"exit code {child.exit_code}"
            lines = child.log.read_text(errors="replace").splitlines()
            more = [f"({len(lines) - LOG_LINES_MAX} lines before)"] if len(lines) > LOG_LINES_MAX else []
            yield f"log of {child}, {state}", "\n".join(more + lines[-LOG_LINES_MAX:])


@contextmanager
def open_workers(driver: Driver, folder: Path) -> Iterator[StartWorker]:
    """Start workers inside the block; logs and journals go to `folder`. What is left at its end is killed."""
    with driver.enter(open_processes(folder)) as processes:
        yield StartWorker(driver, processes, folder)


def _python_path() -> str:
    """What can be imported here can be imported there."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
