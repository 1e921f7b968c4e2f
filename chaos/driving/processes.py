"""The processes of a run, workers and producers, started, killed, stopped and continued; and none of them is left.

They are in the process group of a lifeline (see `queue_trio.embedded`): the terminal's Ctrl-C does not reach them, and
when this process ends, kill -9 included, the kernel ends them. What they report on standard output is kept here, and
whoever waits for a report is woken. Knows nothing of jobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

import chaos
from chaos.errors import HarnessError
from chaos.history import SUFFIX
from queue_trio.embedded import open_lifeline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from chaos.actors.own_tasks import OwnTasks
    from chaos.actors.producer_main import Load
    from chaos.actors.worker_main import Deed, Phase

START_S: Final = 60.0
"""For a worker to say who it is; two cores may be busy with others that start."""
_SIGNAL_S: Final = 10.0
_POLL_S: Final = 0.005

Report = dict[str, Any]


class Child:
    """One process. `reports`: what it has said so far, in order."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self.reports: list[Report] = []
        self._process = process
        self._news = trio.Event()
        self._listened = trio.Event()

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def alive(self) -> bool:
        """Whether it exists. A stopped one does."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it is alive; minus the signal's number if one killed it."""
        return self._process.poll()

    def said(self, what: str, since: int = 0) -> Report | None:
        """The first report of that kind, from the `since`-th report on, or None."""
        return next((report for report in self.reports[since:] if report["report"] == what), None)

    async def wait_said(self, what: str, *, within_s: float, since: int = 0) -> Report:
        """Wait for such a report. Raises HarnessError if the process ends first, or the time does."""
        with trio.move_on_after(within_s):
            while (found := self.said(what, since)) is None:
                if self._listened.is_set():
                    raise HarnessError(
                        f"{self} ended with exit code {self.exit_code} before {what!r}: {self.last_words()}"
                    )
                await self._news.wait()
            return found
        raise HarnessError(f"{self} did not say {what!r} within {within_s:g} s: {self.last_words()}")

    async def kill(self) -> str:
        """SIGKILL, and wait until it is gone; does nothing if it is. Returns the proof, as all of these do."""
        if self.alive:
            self._process.send_signal(signal.SIGKILL)
        await self.wait(_SIGNAL_S)
        return f"pid {self.pid} is gone"

    async def terminate(self, within_s: float) -> str:
        """SIGTERM, and wait until it is gone. Raises HarnessError if it is not within that time."""
        began = trio.current_time()
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
        code = await self.wait(within_s)
        return (
            f"pid {self.pid} is gone with exit code {code}, {trio.current_time() - began:.2f} s after SIGTERM"
        )

    async def stop(self) -> str:
        """SIGSTOP, and wait until the kernel says that it has stopped. Raises HarnessError."""
        self._signal(signal.SIGSTOP)
        return await self.wait_stopped()

    async def wait_stopped(self) -> str:
        """Wait until it has stopped, by whoever's doing. Raises HarnessError."""
        with trio.move_on_after(_SIGNAL_S):
            while not self.stopped:
                if not self.alive:
                    raise HarnessError(f"{self} ended with exit code {self.exit_code} and cannot be stopped")
                await trio.sleep(_POLL_S)  # the kernel offers nothing to wait on
            return f"pid {self.pid} is stopped"
        raise HarnessError(f"{self} does not stop for SIGSTOP")

    def go_on(self) -> str:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        return f"pid {self.pid} goes on"

    @property
    def stopped(self) -> bool:
        """Whether a SIGSTOP holds it now."""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return self.alive and _stopped_by_ps(self.pid)
        return text.rpartition(")")[2].split()[0] in {"T", "t"}

    async def wait(self, within_s: float) -> int:
        """Its exit code, when it has ended and all its reports are here. Raises HarnessError."""
        with trio.move_on_after(within_s):
            code = await self._process.wait()
            await self._listened.wait()
            return code
        raise HarnessError(f"{self} is still there after {within_s:g} s")

    async def order(self, phase: Phase, deed: Deed) -> None:
        """Tell it to die, or to stop, when it reaches `phase` next. Back when it has heard. Raises HarnessError."""
        heard = len(self.reports)
        assert self._process.stdin is not None
        try:
            with trio.fail_after(_SIGNAL_S):
                line = json.dumps({"order": "at", "phase": phase, "do": deed})
                await self._process.stdin.send_all(line.encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise HarnessError(f"{self} takes no orders; exit code {self.exit_code}") from None
        await self.wait_said("armed", within_s=_SIGNAL_S, since=heard)

    async def kill_at(self, phase: Phase, *, within_s: float) -> str:
        """It dies by SIGKILL in `phase`, by its own hand, so exactly there. Raises HarnessError if that never comes."""
        await self.order(phase, "kill")
        report = await self.wait_said("at", within_s=within_s)
        await self.wait(_SIGNAL_S)
        return f"pid {self.pid} is gone, killed at {phase!r}" + (
            f" of job {report['job']}" if "job" in report else ""
        )

    def last_words(self) -> str:
        """The last line of its log."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:500] if lines else "it said nothing"

    def _signal(self, number: signal.Signals) -> None:
        if not self.alive:
            raise HarnessError(f"{self} is gone and cannot get {number.name}")
        self._process.send_signal(number)

    async def _listen(self) -> None:
        """Take in its reports until it has closed its side. Runs as long as the process does."""
        rest = b""
        assert self._process.stdout is not None
        try:
            async for data in self._process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                self.reports += map(_report, lines)
                self._wake()
            await self._process.wait()
        finally:
            self._listened.set()
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                await stream.aclose()


class Processes:
    """Made by `open_processes`. `children`: all that were ever started, in order; a name may be there twice."""

    def __init__(
        self,
        folder: Path,
        group: int,
        nursery: trio.Nursery,
        sources: Sequence[Path],
        variables: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._group = group
        self._nursery = nursery
        self._sources = sources
        self._variables = variables
        self.children: list[Child] = []

    def named(self, name: str) -> Child:
        """The newest process of that name. Raises KeyError."""
        for child in reversed(self.children):
            if child.name == name:
                return child
        raise KeyError(name)

    @property
    def alive(self) -> list[Child]:
        return [child for child in self.children if child.alive]

    async def start_worker(
        self,
        name: str,
        settings: Mapping[str, Mapping[str, Any]],
        *,
        app: str = "chaos.actors.tasks:app",
        clock_off_s: float = 0.0,
        ready: bool = True,
        at: tuple[Phase, Deed] | None = None,
    ) -> Child:
        """A worker, serving HTTP on a free port; `settings` by section and name. Back when it is registered.

        `at`: an order, as for `Child.order`, that holds from the start. Without `ready` it is back when it has started,
        which it can during an outage. Raises HarnessError if it ends, or takes longer than START_S.
        """
        number = len(self.children)
        journal = self._folder / f"{name}-{number}{SUFFIX}"
        command = ["-m", "chaos.actors.worker_main", "--journal", str(journal), "--app", app]
        if at:
            command += ["--at", ":".join(at)]
        if clock_off_s:
            command += ["--clock-off", str(clock_off_s)]
        whole = {**settings, "http": {"port": 0, **settings.get("http", {})}}
        child = await self.start(name, command, environment(whole, self._marks(), self._sources))
        await child.wait_said("registered" if ready else "started", within_s=START_S)
        return child

    async def start_producer(
        self, name: str, settings: Mapping[str, Mapping[str, Any]], load: Load, *, seed: int
    ) -> Child:
        """A producer that puts in `load`, says "loaded" with its counts, and ends. Back when it has started.

        Raises HarnessError if it ends before, or takes longer than START_S.
        """
        journal = self._folder / f"{name}-{len(self.children)}{SUFFIX}"
        text = msgspec.json.encode(load).decode()
        command = [
            "-m",
            "chaos.actors.producer_main",
            "--journal",
            str(journal),
            "--load",
            text,
            "--seed",
            str(seed),
        ]
        child = await self.start(name, command, environment(settings, self._marks(), self._sources))
        await child.wait_said("started", within_s=START_S)
        return child

    async def start(self, name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Child:
        """Any Python program that reports as JSON lines. Its log is NAME-NUMBER.log."""
        log = self._folder / f"{name}-{len(self.children)}.log"
        with log.open("ab") as output:
            # lowlevel: trio.run_process would end it when it is cancelled, gently and with time; ours just die.
            process = await trio.lowlevel.open_process(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=self._folder,  # no queue-trio.yaml of the caller's folder may change the run
                env={**variables, **self._variables},
                process_group=self._group,
            )
        child = Child(name, process, log)
        self.children.append(child)
        self._nursery.start_soon(child._listen)
        return child

    def _marks(self) -> Path:
        marks = self._folder / "marks"
        marks.mkdir(exist_ok=True)
        return marks

    async def _end(self) -> None:
        for child in self.children:
            if child.alive:
                child._process.send_signal(signal.SIGKILL)
        for child in self.children:
            await child._process.wait()


def environment(
    settings: Mapping[str, Mapping[str, Any]], marks: Path, sources: Sequence[Path] = ()
) -> dict[str, str]:
    """This process's environment, with `settings` instead of whatever it says about queue_trio.

    `sources`: folders to import from before any other.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_TRIO_")}
    folders = (*sources, Path(chaos.__file__).parents[1], kept.get("PYTHONPATH") or "")
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, map(str, folders)))
    kept["CHAOS_MARKS"] = str(marks)
    for section, values in settings.items():
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            kept[f"QUEUE_TRIO_{section}__{name}".upper()] = text
    return kept


@asynccontextmanager
async def open_processes(
    folder: Path, mutant: str = "", own: OwnTasks | None = None
) -> AsyncIterator[Processes]:
    """A place to start processes, whose journals and logs go to `folder`. At the end of the block they are killed.

    `mutant`: what is wrong with each of them (`chaos.mutants`); by default nothing. `own`: what jobs are, instead of
    the harness's own. Raises HarnessError, and ConfigError for a mutant that is not there.
    """
    sources: list[Path] = [] if own is None else [Path(own.folder)]
    variables = {} if own is None else own.variables
    if mutant:
        from chaos.mutants import apply_mutant  # not installed: only a source tree has them

        sources.insert(0, await trio.to_thread.run_sync(apply_mutant, mutant, folder))
    with tempfile.TemporaryDirectory(prefix="qt-chaos-", ignore_cleanup_errors=True) as lifeline_folder:
        async with open_lifeline(Path(lifeline_folder)) as group, trio.open_nursery() as nursery:
            processes = Processes(folder, group, nursery, sources, variables)
            try:
                yield processes
            finally:
                with trio.CancelScope(shield=True, relative_deadline=_SIGNAL_S):
                    await processes._end()
                    for child in processes.children:
                        # What they said last is read by then, or never will be: a grandchild may hold the pipe.
                        with trio.move_on_after(1):
                            await child._listened.wait()
                        await child._close()
                nursery.cancel_scope.cancel()


def _report(line: bytes) -> Report:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return (
        found
        if isinstance(found, dict) and "report" in found
        else {"report": "noise", "text": repr(line[:200])}
    )


def _stopped_by_ps(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip().startswith("T")
