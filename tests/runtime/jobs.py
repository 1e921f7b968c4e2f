"""An app that other processes can import: for handlers in processes, and for workers that are killed.

What ran is written to a ledger, a file outside Redis: one line per event, `<event> <job id> <attempt> <pid>`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import trio

from queue_trio.app import App
from queue_trio.context import JobContext
from queue_trio.core.settings import Settings

app = App("jobs", settings=Settings.model_validate_json(os.environ.get("TEST_SETTINGS", "{}")))


def note(event: str, job_id: str, attempt: int) -> None:
    with Path(os.environ["TEST_LEDGER"]).open("a") as ledger:
        ledger.write(f"{event} {job_id} {attempt} {os.getpid()}\n")


@app.task(name="brief", max_retries=0)
async def brief(context: JobContext) -> None:
    await trio.sleep(0.02)
    note("ran", context.id, context.attempt)


@app.task(name="steps", max_retries=0)
async def steps(context: JobContext, seconds: float) -> None:
    note("began", context.id, context.attempt)
    await trio.sleep(seconds)
    note("ended", context.id, context.attempt)


@app.task(name="slow_once", max_retries=0)
async def slow_once(context: JobContext, flag: str) -> None:
    """Hangs the first time, and ends at once when `flag` exists."""
    note("began", context.id, context.attempt)
    if not await trio.Path(flag).exists():
        await trio.Path(flag).touch()
        await trio.sleep_forever()
    note("ended", context.id, context.attempt)


@app.task(name="crash", max_retries=0)
async def crash(context: JobContext) -> None:
    """Takes its worker with it."""
    note("crashed", context.id, context.attempt)
    os.abort()


@app.task(name="square", run_in="process", keep_result=60)
def square(x: int) -> int:
    return x * x


@app.task(name="pid", run_in="process", keep_result=60)
def pid() -> int:
    return os.getpid()


@app.task(name="fail", run_in="process", max_retries=0)
def fail() -> None:
    raise LookupError("in the child")


@app.task(name="leave", run_in="process", max_retries=0)
def leave() -> None:
    raise SystemExit(3)


@app.task(name="die", run_in="process", max_retries=0)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="sleep", run_in="process", max_retries=0, keep_result=60)
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def helper() -> None:
    """No task: what a module may have beside them."""
