"""The producer: one job for every file of a folder, once, and again when the file has changed.

    folder ──chunks, read in a thread──> jobs ──enqueue_many──> queue
       └──watchfiles──> changed paths ──────^

A job's id is made of the task, the path, the size and the modification time, and stays taken for
`producer.remember` seconds. So the queue itself knows what it has had: the producer keeps no list, may be restarted
or run twice, and may send a batch again after a lost reply. An outage is waited for. Only one batch is held at a time.

A file that is still being written is taken when the writer has paused: watchfiles reports changes once there were none
for 50 ms (`STEP_MS`), and in any case after 1.6 s (`DEBOUNCE_MS`). A slower writer gets its file enqueued more than
once, under other ids, the last time with all of it. Writing elsewhere and renaming into the folder avoids that.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
import trio
from watchfiles import Change, watch

from queue_trio.core.backoff import Backoff
from queue_trio.core.dequeue import Priority
from queue_trio.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    PayloadTooLarge,
    QueueFull,
    ServerRefused,
    UsageError,
)
from queue_trio.runtime.folder import Folder, Found, path_from_text, path_to_text
from queue_trio.runtime.globs import Globs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from queue_trio.app import Job, Task
    from queue_trio.client import QueueClient
    from queue_trio.core.settings import ProducerSettings

Changes: TypeAlias = "Generator[set[tuple[Change, str]], None, None]"

__all__ = ["Producer", "ProducerCounts", "path_from_text"]

log = structlog.get_logger(__name__)

STEP_MS = 50
DEBOUNCE_MS = 1_600
WAKE_MS = 200
"""The thread that waits for changes looks up this often, so that a cancelled producer ends within it."""

RESCAN_S = 300.0
"""While watching, everything is looked at again this often: the kernel drops events when too many are waiting, and
watchfiles does not tell."""

BACKOFF = Backoff(base=0.1, cap=2.0)
"""Between two tries while Redis is away, refuses writes, or the queue is full."""


PACE_S = 0.25
"""With a rate, a batch is no more than what that allows in this time: what comes at once shall be little."""


@dataclass(slots=True)
class ProducerCounts:
    """What became of the files so far. `unsure`: enqueued, but a lost reply hides whether by us or long ago."""

    created: int = 0
    unchanged: int = 0
    unsure: int = 0
    skipped: int = 0
    waiting: bool = False

    @property
    def seen(self) -> int:
        return self.created + self.unchanged + self.unsure


class Producer:
    """Enqueues the files of `folder` as jobs of `task`, whose first parameter takes the path.

    A path whose bytes are not UTF-8 arrives as a `file://` address; `path_from_text` gives the path back.
    `on_batch` is told of every file and whether its job was new. `rate`: files a second, at most; None for as fast as
    it goes. Raises UsageError if folder, globs or task will not do.
    """

    def __init__(
        self,
        task: Task[..., Any],
        folder: str | os.PathLike[str],
        client: QueueClient,
        settings: ProducerSettings,
        *,
        on_batch: Callable[[Sequence[tuple[Found, Job]]], None] | None = None,
        rate: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.counts = ProducerCounts()
        self.root = _existing_folder(folder)
        self._task = task
        self._client = client
        self._settings = settings
        self._priorities = extension_priorities(settings.priorities)
        self._folder = Folder(self.root, Globs.of(settings.include, settings.exclude), self._skip)
        self._on_batch = on_batch
        self._rng = rng or random.Random()
        self._pace = _Pace(rate)
        self._batch = settings.batch if rate is None else max(1, min(settings.batch, int(rate * PACE_S)))
        task.job(
            path_to_text(str(self.root))
        )  # one that cannot take a path says so now, not at the first file

    async def scan(self) -> None:
        """Enqueue every file that is there. Waits through outages; raises ServerUnusable if waiting cannot help."""
        await self._take(self._folder.scan())

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Enqueue every file that is there or appears or changes, until cancelled. Raises as `scan`.

        `task_status` is started when nothing that happens from now on can be missed.
        """
        while True:
            # Watch first, then scan: the other way round, a file that comes in between would be missed.
            changes = self._changes()
            with closing(changes):
                try:
                    await _next(changes)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self.scan()
                    await self._follow(changes, trio.current_time() + RESCAN_S)
                except _WatchBroke as error:
                    log.warning("producer.looking_again", reason=str(error))
            await trio.sleep(WAKE_MS / 1000)

    async def _follow(self, changes: Changes, until: float) -> None:
        while trio.current_time() < until:
            changed = await _next(changes)
            paths = {path for change, path in changed if change is not Change.deleted}
            if paths:
                await self._take(self._folder.named(paths))

    def _changes(self) -> Changes:
        # Not awatch: it sets up its watches, a system call for every folder, in the event loop's own thread.
        try:
            yield from watch(
                self.root,
                watch_filter=None,
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=WAKE_MS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            )
        except OSError as error:
            raise UsageError(
                f"{self.root} cannot be watched: {error}; on Linux, raise fs.inotify.max_user_watches, "
                "or set WATCHFILES_FORCE_POLLING=1"
            ) from None

    # --- files to jobs ---------------------------------------------------------------------------------------------

    async def _take(self, files: Iterator[Found]) -> None:
        while True:
            chunk = await trio.to_thread.run_sync(_next_chunk, files, self._batch)
            if not chunk:
                return
            await self._pace.wait(len(chunk))
            pairs = [(found, self._job(found)) for found in chunk]
            await self._enqueue([job for _, job in pairs])
            if self._on_batch is not None:
                self._on_batch(pairs)

    def _job(self, found: Found) -> Job:
        job = self._task.job(path_to_text(found.path))
        return job.options(
            id=file_job_id(self._task.name, found),
            priority=priority_of(found.path, self._priorities),
            unique_for=self._settings.remember,
        )

    async def _enqueue(self, jobs: list[Job]) -> None:
        failures = 0
        unsure = False
        while jobs:
            try:
                # Whatever the settings say for web requests: nobody waits for a producer.
                ids = await self._client.enqueue_many(jobs, on_outage="wait")
            except PayloadTooLarge as error:
                await self._enqueue_apart(jobs, error)
                return
            except QueueFull as error:
                self._count(error.accepted, unsure=unsure)
                jobs = [job for job in jobs if job.id not in error.accepted]
                self._wait(error)
            except (DeadlineExceeded, OutcomeUnknown, ServerRefused) as error:
                unsure = unsure or isinstance(error, OutcomeUnknown)
                self._wait(error)
            else:
                self._count(ids, unsure=unsure)
                if self.counts.waiting:
                    self.counts.waiting = False
                    log.info("producer.goes_on")
                return
            await trio.sleep(BACKOFF.delay(failures, self._rng))
            failures += 1

    async def _enqueue_apart(self, jobs: list[Job], error: PayloadTooLarge) -> None:
        """One job is too large, and that must not keep out the others."""
        if len(jobs) == 1:
            self._skip(jobs[0].arguments.decode(), str(error))
            return
        middle = len(jobs) // 2
        await self._enqueue(jobs[:middle])
        await self._enqueue(jobs[middle:])

    # --- what is told ----------------------------------------------------------------------------------------------

    def _count(self, ids: Sequence[str], *, unsure: bool) -> None:
        for job_id in ids:
            if getattr(job_id, "created", False):
                self.counts.created += 1
            elif unsure:
                self.counts.unsure += 1
            else:
                self.counts.unchanged += 1

    def _wait(self, error: Exception) -> None:
        # Once, however long it takes: every further try says nothing new.
        if not self.counts.waiting:
            self.counts.waiting = True
            log.warning("producer.waiting", reason=str(error))

    def _skip(self, path: str, reason: str) -> None:
        self.counts.skipped += 1
        log.warning("producer.skipped", path=path_to_text(path), reason=reason)


class _Pace:
    """`rate` files a second at most. Time in which there was nothing to do is not made up for later."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = -math.inf

    async def wait(self, files: int) -> None:
        """Until so many may go."""
        if self._rate is not None:
            await trio.sleep_until(self._free_at)
            self._free_at = max(self._free_at, trio.current_time()) + files / self._rate


def file_job_id(task: str, found: Found) -> str:
    """The id of the job for this file in this state: the same file gives the same id, a changed one another.

    The task's name is part of it, or two tasks over one folder would take each other's ids. 128 bits of SHA-256.
    """
    facts = b"\0".join((task.encode(), os.fsencode(found.path), b"%d" % found.size, b"%d" % found.mtime_ns))
    return f"file-{hashlib.sha256(facts).hexdigest()[:32]}"


def extension_priorities(given: Mapping[str, Priority]) -> dict[str, Priority]:
    """By extension in lower case with its dot, however it was written."""
    return {f".{extension.lower().removeprefix('.')}": priority for extension, priority in given.items()}


def priority_of(path: str, priorities: Mapping[str, Priority]) -> Priority | None:
    """By the longest extension that is named, `.tar.gz` before `.gz`; None leaves it to the task."""
    name = path.rpartition("/")[2].lower()
    dot = name.find(".", 1)
    while dot != -1:
        priority = priorities.get(name[dot:])
        if priority is not None:
            return priority
        dot = name.find(".", dot + 1)
    return None


class _WatchBroke(Exception):
    """watchfiles gave up. It does on a name that is not UTF-8, and looking ourselves does not."""


async def _next(changes: Changes) -> set[tuple[Change, str]]:
    try:
        return await trio.to_thread.run_sync(next, changes)
    except RuntimeError as error:
        raise _WatchBroke(str(error)) from error


def _next_chunk(files: Iterator[Found], size: int) -> list[Found]:
    return list(islice(files, size))


def _existing_folder(folder: str | os.PathLike[str]) -> Path:
    try:
        root = Path(folder).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, until Python 3.13
        raise UsageError(
            f"{os.fspath(folder)}: no such folder: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not root.is_dir():
        raise UsageError(f"{root} is a file: the producer takes a folder")
    return root
