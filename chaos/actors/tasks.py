"""The app of chaos runs: one task for each way in which a handler can behave; a scenario's `kind` is a task's name.

The tasks are plain: whoever runs them writes the journal (`worker_main`), so a user's own can take their place
(`own_tasks`).
"""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from chaos.actors.own_tasks import next_own_job
from queue_trio import App, JobContext
from queue_trio.core.dequeue import Priority

if TYPE_CHECKING:
    from queue_trio import Job

MARKS: Final = "CHAOS_MARKS"
"""The environment variable that names the folder where `crash` remembers what it has done."""

STOP_S: Final = 0.5
"""Timeout of what does not end by itself."""

app = App("chaos")


@app.task(name="quick")
async def quick(payload: str = "") -> int:
    """Returns at once. A big payload makes a big record."""
    await trio.lowlevel.checkpoint()
    return len(payload)


@app.task(name="slow")
async def slow(seconds: float, payload: str = "") -> int:
    """Returns after `seconds`, and can be cancelled meanwhile."""
    await trio.sleep(seconds)
    return len(payload)


@app.task(name="thread")
def thread(seconds: float, payload: str = "") -> int:
    """The same in a thread, which cannot be cancelled but ends soon."""
    time.sleep(seconds)
    return len(payload)


@app.task(name="fail", max_retries=1, retry_base=0.05)
async def fail(payload: str = "") -> None:
    """Raises, every time."""
    await trio.lowlevel.checkpoint()
    raise RuntimeError("this task always fails")


@app.task(name="hang", timeout=STOP_S, max_retries=1, retry_base=0.05)
async def hang(payload: str = "") -> None:
    """Never ends by itself; its timeout ends it."""
    await trio.sleep_forever()


@app.task(name="uncancellable", timeout=STOP_S, max_retries=0)
def uncancellable(seconds: float, payload: str = "") -> None:
    """Works on in its thread, for `seconds` and at least twice its timeout, whatever anybody says."""
    time.sleep(max(seconds, 2 * STOP_S))


@app.task(name="crash")
async def crash(context: JobContext, payload: str = "") -> None:
    """Takes its worker with it, the first time it runs anywhere."""
    await trio.lowlevel.checkpoint()
    if _first_time(context.id):
        os.abort()


@app.task(name="poison")
async def poison(payload: str = "") -> None:
    """Takes its worker with it, every time."""
    await trio.lowlevel.checkpoint()
    os.abort()


def make_job(
    kind: str, *, priority: Priority | None = None, seconds: float = 0.2, payload: int = 0, delay_ms: int = 0
) -> Job:
    """A job of that kind, or one of the user's own. `payload`: bytes of argument. Raises KeyError for no kind."""
    own = next_own_job()
    if own is not None:
        return own.options(priority=priority, delay=delay_ms / 1000)
    task = app.tasks[kind]
    arguments = {"seconds": seconds, "payload": "x" * payload}
    wanted = inspect.signature(task.function).parameters
    known = {name: value for name, value in arguments.items() if name in wanted}
    return task.job(**known).options(priority=priority, delay=delay_ms / 1000)


def _first_time(job_id: str) -> bool:
    """Whether nobody asked before. A file, because who asks is about to die."""
    try:
        os.close(os.open(Path(os.environ[MARKS]) / job_id, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
