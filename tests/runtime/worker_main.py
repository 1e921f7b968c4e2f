"""A worker process for tests: `python -m tests.runtime.worker_main`, with its settings in TEST_SETTINGS."""

from __future__ import annotations

import sys

import trio

from queue_trio.runtime.signals import watch_signals
from queue_trio.runtime.worker import Worker
from tests.runtime.jobs import app


async def main() -> None:
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, worker.drain, worker.cancel)
        sys.stderr.write("READY\n")
        sys.stderr.flush()
        await worker.run()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
