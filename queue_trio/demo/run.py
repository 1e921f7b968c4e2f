"""Runs the demo: a server, workers and a producer under one nursery, then the proof that every file came out right.

run_demo
├── signals            Ctrl-C or SIGTERM end the current stage; a second one kills the workers
└── server, lifeline, folder
    ├── stage "work"
    │   ├── workers    one task each, which keeps its process alive
    │   ├── producer   enqueues the folder's files
    │   ├── crash      with --crash: kill -9 half way
    │   └── monitor    counts, draws, and ends the stage when every job has ended
    └── stage "check"  results against the files, the audit, the manifest
"""

from __future__ import annotations

import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from queue_trio.app import App
from queue_trio.core.job import Lane
from queue_trio.core.settings import ProducerSettings, RedisSettings, Settings
from queue_trio.demo.check import check
from queue_trio.demo.crash import Crash, kill_one, recovery_of
from queue_trio.demo.display import Display, Scene
from queue_trio.demo.fleet import Fleet, worker_environment
from queue_trio.demo.manifest import check_manifest, entries, write_manifest
from queue_trio.demo.report import Report
from queue_trio.demo.results import priority_for, read_results, summarise
from queue_trio.demo.tasks import FOLDER_VARIABLE, PRIORITIES, SLOW_VARIABLE, declare
from queue_trio.embedded import open_embedded_redis, open_lifeline
from queue_trio.errors import UsageError
from queue_trio.runtime.folder import Folder
from queue_trio.runtime.globs import Globs
from queue_trio.runtime.producer import Producer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from pydantic import SecretStr
    from rich.console import Console

    from queue_trio.app import Job
    from queue_trio.client import QueueClient
    from queue_trio.core.store import AuditReport
    from queue_trio.demo.fleet import WorkerProcess
    from queue_trio.demo.tasks import Result
    from queue_trio.embedded import EmbeddedRedis
    from queue_trio.runtime.folder import Found

LOOK_S = 0.05
"""Between two looks at the queue."""

LEASE_S = 10
CRASH_LEASE_S = 2
"""Short where a worker is to be lost, because the others wait for its leases to end."""


@dataclass(frozen=True)
class Options:
    """`folder`: None for the standard library's. `slow_ms`: how long every job takes at least. `before_check` is
    called with the workers' results folder between the work and its check: a test's chance to spoil it."""

    folder: Path | None = None
    crash: bool = False
    workers: int = 2
    concurrency: int = 16
    slow_ms: int = 0
    manifest: Path | None = None
    keep: bool = False
    before_check: Callable[[Path], object] | None = None


async def run_demo(options: Options, console: Console) -> Report:
    """Run it, drawing on `console`. Raises QueueTrioError for what stops it from running at all."""
    return await _Demo(options, console).run()


def check_places(folder: Path, manifest: Path | None) -> None:
    """What can be known before anything is started. Raises UsageError for what the demo cannot take or write to."""
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise UsageError(f"{folder} is a file: give a folder")
    except FileNotFoundError:
        raise UsageError(f"{folder}: no such folder") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from None
    if manifest is not None:
        check_manifest(manifest)
    wanted = ProducerSettings()
    skipped: list[str] = []
    globs = Globs.of(wanted.include, wanted.exclude)
    every = Folder(folder.resolve(), globs, lambda path, reason: skipped.append(f"{path}: {reason}"))
    if next(every.scan(), None) is None:
        raise _nothing_in(folder, skipped)


def _nothing_in(folder: Path, skipped: Sequence[str] = ()) -> UsageError:
    why = f" ({skipped[0]})" if skipped else ""
    return UsageError(f"{folder}: there is no file to take in this folder{why}; give another one")


class _Demo:
    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._scene = Scene("")
        self._display = Display(console, self._scene, 0.0)
        self._console = console
        self._lane = Lane()
        self._enqueued: dict[str, Found] = {}
        self._interrupted = 0
        self._stage_scope: trio.CancelScope | None = None
        self._fleet: Fleet | None = None
        self._crash: Crash | None = None

    async def run(self) -> Report:
        source = self._options.folder or Path(sysconfig.get_path("stdlib"))
        await trio.to_thread.run_sync(check_places, source, self._options.manifest, abandon_on_cancel=True)
        report: Report | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            async with open_embedded_redis() as redis, self._workplace() as (folder, group):
                self._scene.title = self._title(redis)
                self._display = Display(self._console, self._scene, trio.current_time())
                app = App("queue-trio-demo", settings=_settings(redis.url))
                async with app.client() as client:
                    with self._display.shown():
                        report = await self._work_and_check(app, client, source, folder, group, redis.url)
            nursery.cancel_scope.cancel()
        assert report is not None
        return report

    # --- stages ----------------------------------------------------------------------------------------------------

    async def _work_and_check(
        self, app: App, client: QueueClient, source: Path, folder: Path, group: int, url: str
    ) -> Report:
        options, scene = self._options, self._scene
        settings = {
            "QUEUE_TRIO_REDIS__URL": url,
            "QUEUE_TRIO_LOG__FORMAT": "json",
            "QUEUE_TRIO_WORKER__CONCURRENCY": str(options.concurrency),
            "QUEUE_TRIO_WORKER__THREADS": str(options.concurrency),
            "QUEUE_TRIO_WORKER__LEASE": str(CRASH_LEASE_S if options.crash else LEASE_S),
            "QUEUE_TRIO_WORKER__SWEEP_INTERVAL": "0.5",
            "QUEUE_TRIO_WORKER__SHUTDOWN_GRACE": "5",
            FOLDER_VARIABLE: str(folder),
            SLOW_VARIABLE: str(options.slow_ms),
        }
        task = declare(app)
        producer = Producer(task, source, client, app.settings.producer, on_batch=self._note_enqueued)
        self._fleet = Fleet(folder, group, worker_environment(settings), scene.events.append)
        with self._stage("working"):
            await self._work(client, producer, self._fleet)
        if not self._enqueued and not self._interrupted:
            raise _nothing_in(source)  # there was one when we looked first
        if options.before_check is not None:
            options.before_check(folder)
        results = await trio.to_thread.run_sync(read_results, folder)
        report = Report(
            scene.title,
            enqueued=len(self._enqueued),
            figures=summarise(results),
            dead=scene.stats.dead if scene.stats else 0,
            skipped=producer.counts.skipped,
            crash=self._crash,
            recovery=recovery_of(self._crash, results) if self._crash else None,
            crash_missed=options.crash and self._crash is None and not self._interrupted,
            kept=folder if options.keep else None,
            events=scene.events,
        )
        with self._stage("checking"):
            await self._check(client, producer.root, results, report)
        report.interrupted = self._interrupted
        return report

    async def _work(self, client: QueueClient, producer: Producer, fleet: Fleet) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(1, self._options.workers + 1):
                nursery.start_soon(fleet.keep_running, number)
            nursery.start_soon(self._produce, producer, fleet)
            if self._options.crash:
                nursery.start_soon(self._kill_half_way, client, fleet)
            await self._monitor(client, fleet)
            self._scene.phase = "stopping"
            nursery.cancel_scope.cancel()

    async def _produce(self, producer: Producer, fleet: Fleet) -> None:
        # Not before the workers are there, or the waiting times would only say how long Python takes to start.
        while fleet.ready < self._options.workers:  # noqa: ASYNC110  # they tell through their logs
            await trio.sleep(LOOK_S)
        await producer.scan()
        self._scene.all_enqueued = True

    def _note_enqueued(self, pairs: Sequence[tuple[Found, Job]]) -> None:
        for found, job in pairs:
            self._enqueued[job.id] = found
            self._scene.enqueued[priority_for(found.path)] += 1

    async def _monitor(self, client: QueueClient, fleet: Fleet) -> None:
        """Return when every job has ended, and with --crash, when the killed worker's jobs are among them."""
        scene = self._scene
        while True:
            scene.update(await client.store.stats(self._lane), trio.current_time())
            scene.workers = [f"{worker}{_state(worker)}" for _, worker in sorted(fleet.members.items())]
            scene.working = fleet.working
            self._display.refresh(trio.current_time())
            if scene.all_enqueued and scene.done >= scene.total:
                return
            await trio.sleep(LOOK_S)

    async def _kill_half_way(self, client: QueueClient, fleet: Fleet) -> None:
        scene = self._scene
        while not scene.all_enqueued or scene.done < scene.total / 2:
            await trio.sleep(LOOK_S / 10)
            if scene.all_enqueued:
                scene.update(await client.store.stats(self._lane), trio.current_time())
        while self._crash is None:
            newest = sorted(fleet.members.values(), key=lambda worker: -worker.number)
            self._crash = await kill_one(client.store, self._lane, newest)
        scene.events.append(
            f"worker {self._crash.number} (pid {self._crash.pid}) killed with SIGKILL, {len(self._crash.orphans)} jobs "
            f"leased to it; others may have them when its lease of {CRASH_LEASE_S} s ends"
        )

    async def _check(
        self, client: QueueClient, root: Path, results: Sequence[Result], report: Report
    ) -> None:
        audit = await client.store.audit(self._lane)
        report.audit = _complaints(audit, report.enqueued)
        self._scene.verified = 0
        verdict = await check(self._enqueued, results, self._show_checked)
        report.checked, report.differences, report.changed = (
            verdict.checked,
            verdict.differences,
            verdict.changed,
        )
        made = entries(self._enqueued, results)
        report.manifest = await trio.to_thread.run_sync(write_manifest, self._options.manifest, root, made)

    def _show_checked(self, count: int) -> None:
        self._scene.verified = count
        self._display.refresh(trio.current_time())

    # --- ending ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, phase: str) -> Iterator[None]:
        """A stage that a signal ends, and that does not begin after one."""
        if not self._interrupted:
            self._scene.phase = phase
        with trio.CancelScope() as scope:
            self._stage_scope = scope
            if self._interrupted:
                scope.cancel()
            yield

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            async for number in received:
                if self._interrupted and self._fleet is not None:
                    self._fleet.kill_all()
                self._interrupted = self._interrupted or number
                self._scene.phase = "stopping"
                if self._stage_scope is not None:
                    self._stage_scope.cancel()

    @asynccontextmanager
    async def _workplace(self) -> AsyncIterator[tuple[Path, int]]:
        """A folder for results and logs, and the process group of the workers. Both go, however we end."""
        folder = Path(tempfile.mkdtemp(prefix="queue-trio-demo-"))
        doomed = folder / "nothing" if self._options.keep else folder
        try:
            async with open_lifeline(doomed) as group:
                yield folder, group
        finally:
            shutil.rmtree(doomed, ignore_errors=True)

    def _title(self, redis: EmbeddedRedis) -> str:
        version = ".".join(map(str, sys.version_info[:3]))
        what = (
            str(self._options.folder) if self._options.folder else f"the standard library of Python {version}"
        )
        workers = (
            "1 worker process" if self._options.workers == 1 else f"{self._options.workers} worker processes"
        )
        return f"{what} · {workers} × {self._options.concurrency} jobs · private {redis.binary.version}"


def _state(worker: WorkerProcess) -> str:
    if not worker.alive:
        return " dead"
    return "" if worker.id else " starting"


def _settings(url: str) -> Settings:
    return Settings(
        redis=RedisSettings(url=_secret(url)), producer=ProducerSettings(priorities=PRIORITIES, batch=200)
    )


def _secret(url: str) -> SecretStr:
    from pydantic import SecretStr

    return SecretStr(url)


def _complaints(audit: AuditReport, enqueued: int) -> list[str]:
    """What is not as it should be after the last job: a broken promise, or a job that is left over."""
    stats = audit.stats
    found = [f"{violation.id}: {violation.problem}" for violation in audit.violations]
    if stats.imbalance:
        found.append(f"the conservation law is off by {stats.imbalance}")
    expected: Mapping[str, tuple[int, int]] = {
        "enqueued": (stats.enqueued, enqueued),
        "completed": (stats.completed, enqueued),
        "left over": (audit.live, 0),
    }
    return found + [
        f"{name}: {is_} instead of {should}" for name, (is_, should) in expected.items() if is_ != should
    ]
