"""An app whose jobs end in every way a chart of the dashboard shows. Imported by its worker and by its test."""

from __future__ import annotations

import time

import trio

from queue_trio.app import App
from queue_trio.context import JobContext
from queue_trio.errors import Retry

app = App("dashboard")
slowly = app.rate_limit("slowly", 5, per=1)


@app.task(name="fine", priority="high")
async def fine() -> None:
    await trio.sleep(0.002)


@app.task(name="threaded", queue="mails")
def threaded() -> None:
    time.sleep(0.002)


@app.task(name="again", max_retries=3)
async def again(context: JobContext) -> None:
    if context.attempt == 1:
        raise Retry("not yet", delay=0.05)


@app.task(name="dies", max_retries=0)
async def dies() -> None:
    raise ValueError("no such customer")


@app.task(name="limited", rate_limit=slowly)
async def limited() -> None: ...
