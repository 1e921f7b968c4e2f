"""A worker: composes the runtime's parts into one nursery tree and gives it one way to end.

    run
    ├── services          renewer, reaper, settler, timekeeper, stall watchdog, metrics updater: live as long as any
    │   │                 handler does
    │   └── handlers      slots, and in each of these nurseries one job after the other, as a task of its own
    │       └── fetcher   (in the body) claims until told to stop
    └── finish            in a shielded scope with a deadline: last outcomes, release, deregister

Ending is always the same path: stop claiming, let handlers finish for a grace period, cancel the rest and give their
jobs back to the front of the queue, settle what is left, leave the registry.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import random
import secrets
from typing import TYPE_CHECKING, Any

import structlog
import trio

from queue_trio.client import QueueClient
from queue_trio.core.dequeue import strategy_from_name
from queue_trio.errors import QueueTrioError
from queue_trio.redis.client import Client
from queue_trio.redis.limiter import TrioTimer
from queue_trio.redis.operations import RedisOperations
from queue_trio.redis.pool import CLOSE_TIMEOUT_S
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.counts import Counts
from queue_trio.runtime.executor import Executor
from queue_trio.runtime.fetcher import Fetcher
from queue_trio.runtime.metrics_updater import MetricsUpdater
from queue_trio.runtime.pacer import Pacer
from queue_trio.runtime.plan import make_plan
from queue_trio.runtime.reaper import Reaper
from queue_trio.runtime.renewer import Renewer
from queue_trio.runtime.settler import Settler
from queue_trio.runtime.watchdog import StallWatchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from queue_trio.app import App
    from queue_trio.core.job import Lane
    from queue_trio.core.operations import Lengths
    from queue_trio.core.store import Store

log = structlog.get_logger(__name__)

FINISH_S = 3.0
"""Of the shutdown grace, so much (but no more than a fifth, and never less than FINISH_MIN_S) is kept for settling.
A grace shorter than twice the minimum is exceeded if Redis does not answer."""
FINISH_MIN_S = 0.5
CLOSE_S = 2 * CLOSE_TIMEOUT_S
"""And of that, so much for closing the connections."""


class Worker:
    """Runs the jobs of an app's queues. One `run` per object."""

    def __init__(self, app: App, *, store: Store | None = None, rng: random.Random | None = None) -> None:
        settings = app.settings.worker
        self.app = app
        self.id = secrets.token_hex(8)
        observed = app.settings.http.port is not None
        self.counts = Counts.for_tasks(_named_tasks(app), timed=observed)
        self._settings = settings
        self._rng = rng or random.Random()
        self.redis: Client | None = None
        if store is None:
            self.redis = Client.from_settings(
                app.settings.redis, name=f"queue-trio:{app.name}:{self.id}", wait_when_refused=True
            )
            store = RedisStore(self.redis, prefix=app.settings.redis.prefix, incarnation=self.id)
            self._client = app.client()
        else:
            self._client = QueueClient(app, store=store)
        self._store = store
        self._finish_s = max(FINISH_MIN_S, min(FINISH_S, settings.shutdown_grace / 5))
        self._starting = trio.CancelScope()
        self._end = math.inf
        self._finish_at: float | None = None

        plans = {name: make_plan(task, settings) for name, task in app.tasks.items()}
        strategy = strategy_from_name(settings.dequeue_strategy, settings.weights, settings.looped_wait)
        self.spans = app.spans
        self._settler = Settler(store, spans=self.spans)
        limits = {plan.rate_limit for plan in plans.values() if plan.rate_limit is not None}
        self.pacer = Pacer(store.limiter, limits, timer=TrioTimer(), rng=self._rng)
        self._executor = Executor(
            plans,
            settings,
            self._settler,
            self.counts,
            self.pacer,
            worker=self.id,
            client=self._client,
            rng=self._rng,
            spans=self.spans,
        )
        self.fetcher = Fetcher(
            store, self._executor, self._settler, settings, strategy, worker=self.id, spans=self.spans
        )
        self.lanes = self.fetcher.lanes
        self._renewer = Renewer(store, self._executor, self.lanes, worker=self.id, lease_ms=settings.lease_ms)
        self.fetcher.on_drain = self._renewer.on_drain = self._drain_on_request
        self._reaper = Reaper(
            store,
            self.lanes,
            settings,
            self.counts,
            rng=self._rng,
            recovery_ms=round(app.settings.redis.recovery * 1000),
        )
        self.watchdog = StallWatchdog(
            settings.stall_limit,
            {code: name for name, task in app.tasks.items() if (code := _code(task.function)) is not None},
        )
        self.updater: MetricsUpdater | None = None
        if observed and isinstance(store, RedisStore):
            self.updater = MetricsUpdater(
                RedisOperations(store),
                self.lanes,
                interval_s=app.settings.metrics.interval,
                jitter=app.settings.metrics.jitter,
                rng=self._rng,
            )
        self.registered = False
        self.draining = False
        self._cancel_handlers = trio.Event()

    # --- how it is -------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Handlers that run now."""
        return self._executor.in_flight

    @property
    def held(self) -> int:
        """Leases held."""
        return sum(map(len, self._executor.held.values()))

    @property
    def backlog(self) -> int:
        """Outcomes not settled yet."""
        return self._settler.backlog

    def lengths(self, lane: Lane) -> Lengths | None:
        """What Redis said of a queue last; None if nobody looks, or what is known is stale."""
        if self.updater is None or (self.redis is not None and self.redis.down_since is not None):
            return None
        return self.updater.lengths(lane)

    # --- its life --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Claim nothing more, let running jobs finish within the grace period, then end `run`."""
        self._end_within(self._settings.shutdown_grace)
        self.fetcher.stop(self._finish_s)

    def _drain_on_request(self) -> None:
        if not self.draining:
            log.info("worker.drain_requested", worker=self.id)
            self.drain()

    def cancel(self) -> None:
        """Drain without the patience: running jobs are cancelled now and given back."""
        self._end_within(self._finish_s)
        self.fetcher.stop(0.0)
        self._cancel_handlers.set()

    def _end_within(self, seconds: float) -> None:
        self.draining = True
        self._end = min(self._end, trio.current_time() + max(seconds, self._finish_s))
        self._starting.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until drained. `task_status` is started when the worker is registered and about to claim, or ends.

        Waits for Redis as long as it takes. Raises ServerUnusable if the server will never do.
        """
        async with self._client:
            try:
                await self._serve(task_status)
            except BaseExceptionGroup as group:
                faults, rest = group.split(QueueTrioError)
                if faults is None or rest is not None:
                    raise
                # One fault ends the nursery once; the rest of the group is the same fault seen by its siblings.
                raise _first(faults) from None
            finally:
                await self._executor.processes.aclose()
                if self.redis is not None:
                    with trio.CancelScope(shield=True):  # bounded by itself
                        await self.redis.aclose()
                if self.spans is not None:
                    # Bounded by `tracing.shutdown_timeout`; handlers may have used up the threads that Trio allows.
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self.spans.flush, limiter=trio.CapacityLimiter(1))

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._starting:
                for lane in self.lanes:
                    await self._store.register(lane, worker=self.id, info=self._info())
                self.registered = True
            if self._starting.cancelled_caught:
                task_status.started()
            else:
                await self._work(task_status)
        finally:
            await self._finish()

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        log.info(
            "worker.started",
            worker=self.id,
            queues=self._settings.queues,
            concurrency=self._settings.concurrency,
        )
        async with trio.open_nursery() as services:
            services.start_soon(self._renewer.run)
            services.start_soon(self._reaper.run)
            services.start_soon(self._settler.run)
            services.start_soon(self.watchdog.run)
            services.start_soon(self._executor.timekeeper.run)
            if self.updater is not None:
                services.start_soon(self.updater.run)
            async with trio.open_nursery() as handlers:
                self._executor.open(handlers)
                task_status.started()
                await self.fetcher.run()
                await self._let_handlers_finish()
            with trio.move_on_at(self._finish_by()):
                await self._settler.wait_below(1)
                await self._renewer.stop()
            services.cancel_scope.cancel()

    async def _let_handlers_finish(self) -> None:
        with trio.move_on_at(self._end - self._finish_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_early, nursery.cancel_scope)
                await self._executor.wait_idle()
                nursery.cancel_scope.cancel()
        self._executor.cancel_all()
        # They are released together, in order, but not later than this: one may hang while it cleans up.
        with trio.move_on_after(self._finish_s / 2):
            await self._executor.wait_ended()
        self._executor.let_go()
        self._executor.close()

    async def _end_early(self, scope: trio.CancelScope) -> None:
        await self._cancel_handlers.wait()
        scope.cancel()

    def _finish_by(self) -> float:
        """Until when to wait for Redis, decided once: within the grace, unless handlers have overrun it."""
        if self._finish_at is None:
            now = trio.current_time()
            self._finish_at = min(now + self._finish_s, max(now + FINISH_MIN_S / 2, self._end - CLOSE_S))
        return self._finish_at

    async def _finish(self) -> None:
        """However we got here: what has ended is settled, what has not is given back, within a bounded time."""
        if self.redis is not None and not self.redis.connects:
            return  # it has never been reached: nothing of ours is there
        with trio.CancelScope(shield=True, deadline=self._finish_by()) as scope:
            try:
                await self._settle_and_leave()
            except QueueTrioError as error:
                log.error("worker.could_not_finish", reason=str(error), kind=type(error).__name__)  # noqa: TRY400
        if scope.cancelled_caught:
            log.warning(
                "worker.left_without_settling",
                jobs=self._settler.backlog,
                hint="their leases expire, others will run them",
            )
        log.info("worker.stopped", worker=self.id, completed=self.counts.completed)

    async def _settle_and_leave(self) -> None:
        self.registered = False
        self._executor.let_go()
        await self.fetcher.give_back()
        await self._settler.flush()
        for lane in self.lanes:
            # A move that was cut off may yet reach the server. Out of the registry, nobody would find that job in our
            # inbox; so there we stay, until a sweep finds that we have been silent for long.
            if lane != self.fetcher.pulling:
                await self._store.deregister(lane, worker=self.id)
        if isinstance(self._store, RedisStore):
            await self._store.aclose()

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


def _named_tasks(app: App) -> list[str]:
    """The tasks that are counted by name; all others are one."""
    settings = app.settings.metrics
    names = app.tasks if settings.tasks is None else settings.tasks
    return list(names)[: settings.max_tasks]


def _code(function: Callable[..., Any]) -> CodeType | None:
    """What its frames will show; None for what is not written in Python."""
    return getattr(inspect.unwrap(function), "__code__", None)


def _first(group: BaseExceptionGroup[QueueTrioError]) -> QueueTrioError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, QueueTrioError)
    return error
