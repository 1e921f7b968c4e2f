"""A worker: composes the runtime's parts into one nursery tree and gives it one way to end.

    run
    ├── services          renewer, reaper, settler, stall watchdog: live as long as any handler does
    │   └── handlers      one task per job
    │       └── fetcher   (in the body) claims until told to stop
    └── finish            in a shielded scope with a deadline: last outcomes, release, deregister

Ending is always the same path: stop claiming, let handlers finish for a grace period, cancel the rest and give their
jobs back to the front of the queue, settle what is left, leave the registry.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import random
import secrets
from typing import TYPE_CHECKING

import structlog
import trio

from queue_trio.core.dequeue import strategy_from_name
from queue_trio.errors import QueueTrioError
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.counts import Counts
from queue_trio.runtime.executor import Executor
from queue_trio.runtime.fetcher import Fetcher
from queue_trio.runtime.plan import make_plan
from queue_trio.runtime.reaper import Reaper
from queue_trio.runtime.renewer import Renewer
from queue_trio.runtime.settler import Settler
from queue_trio.runtime.watchdog import StallWatchdog

if TYPE_CHECKING:
    from queue_trio.app import App
    from queue_trio.core.store import Store

log = structlog.get_logger(__name__)

FINISH_S = 3.0
"""Of the shutdown grace, so much (but no more than a fifth, and never less than FINISH_MIN_S) is kept for settling."""
FINISH_MIN_S = 0.5


class Worker:
    """Runs the jobs of an app's queues. One `run` per object."""

    def __init__(self, app: App, *, store: Store | None = None, rng: random.Random | None = None) -> None:
        settings = app.settings.worker
        self.app = app
        self.id = secrets.token_hex(8)
        self.counts = Counts()
        self._settings = settings
        self._rng = rng or random.Random()
        self._redis: Client | None = None
        if store is None:
            self._redis = Client.from_settings(
                app.settings.redis, name=f"queue-trio:{app.name}:{self.id}", wait_when_refused=True
            )
            store = RedisStore(self._redis, prefix=app.settings.redis.prefix, incarnation=self.id)
        self._store = store
        self._finish_s = max(FINISH_MIN_S, min(FINISH_S, settings.shutdown_grace / 5))
        self._starting = trio.CancelScope()
        self._draining = False

        plans = {name: make_plan(task, settings) for name, task in app.tasks.items()}
        strategy = strategy_from_name(settings.dequeue_strategy, settings.weights, settings.looped_wait)
        self._client = app.client()
        self._settler = Settler(store)
        self._executor = Executor(
            plans, settings, self._settler, self.counts, worker=self.id, client=self._client, rng=self._rng
        )
        self._fetcher = Fetcher(
            store,
            self._executor,
            self._settler,
            settings,
            strategy,
            worker=self.id,
            stop_patience_s=self._finish_s,
        )
        self._lanes = self._fetcher.lanes
        self._renewer = Renewer(store, self._executor, self._lanes, worker=self.id, lease_ms=settings.lease_ms)
        self._reaper = Reaper(store, self._lanes, settings, self.counts, rng=self._rng)
        self._watchdog = StallWatchdog(
            settings.stall_limit,
            {inspect.unwrap(task.function).__code__: name for name, task in app.tasks.items()},
        )
        self._cancel_handlers = trio.Event()

    def drain(self) -> None:
        """Claim nothing more, let running jobs finish within the grace period, then end `run`."""
        self._draining = True
        self._starting.cancel()
        self._fetcher.stop()

    def cancel(self) -> None:
        """Drain without the patience: running jobs are cancelled now and given back."""
        self.drain()
        self._cancel_handlers.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until drained. `task_status` is started when the worker is registered and about to claim.

        Waits for Redis as long as it takes. Raises ServerUnusable if the server will never do.
        """
        async with self._client:
            try:
                await self._serve(task_status)
            except* QueueTrioError as group:
                # One fault ends the nursery once; the rest of the group is the same fault seen by its siblings.
                raise _first(group) from None
            finally:
                if self._redis is not None:
                    with trio.CancelScope(shield=True, relative_deadline=FINISH_MIN_S):
                        await self._redis.aclose()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with self._starting:
            for lane in self._lanes:
                await self._store.register(lane, worker=self.id, info=self._info())
        if self._draining:
            return
        log.info("worker.started", worker=self.id, queues=self._settings.queues, concurrency=self._settings.concurrency)
        try:
            async with trio.open_nursery() as services:
                services.start_soon(self._renewer.run)
                services.start_soon(self._reaper.run)
                services.start_soon(self._settler.run)
                services.start_soon(self._watchdog.run)
                async with trio.open_nursery() as handlers:
                    self._executor.open(handlers)
                    task_status.started()
                    await self._fetcher.run()
                    await self._let_handlers_finish()
                services.cancel_scope.cancel()
        finally:
            # However we got here: what has ended is settled, what has not is given back, within a bounded time.
            with trio.CancelScope(shield=True, relative_deadline=self._finish_s) as finish:
                await self._finish()
            left = self._settler.backlog
            if finish.cancelled_caught:
                log.warning("worker.left_without_settling", jobs=left, hint="their leases expire, others will run them")
            log.info("worker.stopped", worker=self.id, completed=self.counts.completed)

    async def _let_handlers_finish(self) -> None:
        grace_s = max(0.0, self._settings.shutdown_grace - self._finish_s)
        with trio.move_on_after(grace_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_early, nursery.cancel_scope)
                await self._executor.wait_idle()
                nursery.cancel_scope.cancel()
        self._executor.cancel_all()

    async def _end_early(self, scope: trio.CancelScope) -> None:
        await self._cancel_handlers.wait()
        scope.cancel()

    async def _finish(self) -> None:
        await self._settler.flush()
        for lane in self._lanes:
            await self._store.deregister(lane, worker=self.id)

    def _info(self) -> str:
        return json.dumps(
            {
                "host": platform.node(),
                "pid": os.getpid(),
                "app": self.app.name,
                "queues": self._settings.queues,
                "concurrency": self._settings.concurrency,
            }
        )


def _first(group: BaseExceptionGroup[QueueTrioError]) -> QueueTrioError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, QueueTrioError)
    return error
