"""Runs leased jobs: one task per job under one cancel scope, and one outcome for each.

It decides what an ending means (done, retry, dead, release) and hands that to the settler. It does not fetch, settle
or renew. A job stays in `held` until its outcome is settled, so that its lease is renewed for as long as it matters.
"""

from __future__ import annotations

import itertools
import traceback
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import structlog
import trio
from pydantic_core import to_json

from queue_trio.context import JobContext
from queue_trio.core.job import (
    ClaimedJob,
    Failure,
    Lane,
    Outcome,
    Record,
    UndecodableRecord,
    Verdict,
    decode_record,
    encode_failure,
)
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import InvalidArguments, JobTimeout, ResultTooLarge, Retry
from queue_trio.runtime.handlers import Processes, ThreadCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random
    from types import TracebackType

    from queue_trio.client import QueueClient
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.runtime.counts import Counts
    from queue_trio.runtime.plan import Plan
    from queue_trio.runtime.settler import Settler

log = structlog.get_logger(__name__)

MAX_TRACEBACK = 8192
"""Characters of a traceback that are kept; the end tells most."""


_NOT_THE_HANDLERS = frozenset({"queue_trio", "trio", "outcome", "anyio"})


class Ending(Enum):
    """Why we cancelled a handler."""

    LOST = auto()
    SHUTDOWN = auto()


class Running:
    """A job we hold the lease of. `finished`: the handler has ended, the outcome waits to be settled."""

    __slots__ = ("ending", "finished", "job", "lane", "number", "scope")

    def __init__(self, lane: Lane, job: ClaimedJob, number: int) -> None:
        self.lane = lane
        self.job = job
        self.number = number
        self.scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.finished = False

    def end(self, ending: Ending) -> None:
        """Cancel the handler. The first reason counts."""
        if self.ending is None and not self.finished:
            self.ending = ending
            self.scope.cancel()


class Executor:
    """`open` must be given a nursery before the first job starts."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        settings: WorkerSettings,
        settler: Settler,
        counts: Counts,
        *,
        worker: str,
        client: QueueClient | None,
        rng: Random,
    ) -> None:
        self._plans = plans
        self._settings = settings
        self._settler = settler
        self._counts = counts
        self._worker = worker
        self._client = client
        self._rng = rng
        self._threads = trio.CapacityLimiter(settings.thread_limit)
        self.processes = Processes(settings.processes)
        self._nursery: trio.Nursery | None = None
        self._slot_freed = trio.Event()
        self._numbers = itertools.count()
        self._to_release: list[tuple[int, Lane, Outcome]] | None = []
        self.in_flight = 0
        self.held: dict[Lane, dict[str, Running]] = {}
        settler.on_settled = self._settled

    def open(self, nursery: trio.Nursery) -> None:
        """Handlers run in `nursery`."""
        self._nursery = nursery

    @property
    def free(self) -> int:
        """How many more jobs may start."""
        return self._settings.concurrency - self.in_flight

    async def wait_for_slot(self) -> None:
        """Return when at least one slot is free."""
        while self.free <= 0:
            await self._slot_freed.wait()

    async def wait_idle(self) -> None:
        """Return when no handler runs."""
        while self.in_flight:
            await self._slot_freed.wait()

    async def wait_ended(self) -> None:
        """Return when every handler has unwound. Contrast `wait_idle`: an abandoned thread may still work."""
        while any(not running.finished for held in self.held.values() for running in held.values()):
            await self._slot_freed.wait()

    def start(self, lane: Lane, jobs: Sequence[ClaimedJob]) -> None:
        """Run jobs just claimed."""
        assert self._nursery is not None
        held = self.held.setdefault(lane, {})
        for job in jobs:
            before = held.get(job.id)
            if before is not None:
                # We lost its lease and got the job again, before any renewal could tell. Settling the old lease is
                # refused, and gives back the crash that its loss was charged as: we are alive.
                if not before.finished:
                    self._settler.add(lane, Outcome(job.id, before.job.token, Verdict.RELEASE))
                before.end(Ending.LOST)
            running = held[job.id] = Running(lane, job, next(self._numbers))
            self._nursery.start_soon(self._run, running)
        self.in_flight += len(jobs)
        self._counts.claimed += len(jobs)

    def lost(self, lane: Lane, job_id: str, token: str) -> None:
        """The lease went to someone else: stop the handler, unless it has ended and its settling will tell."""
        running = self.held.get(lane, {}).get(job_id)
        if running is not None and running.job.token == token and not running.finished:
            running.end(Ending.LOST)

    def cancel_all(self) -> None:
        """Cancel every handler. Their jobs are released when `let_go` is called."""
        for held in self.held.values():
            for running in held.values():
                running.end(Ending.SHUTDOWN)

    def let_go(self) -> None:
        """Release the jobs of cancelled handlers, the one claimed first foremost; and from now on each as it ends."""
        collected, self._to_release = self._to_release or [], None
        collected.sort(key=lambda entry: entry[0])
        # In batches from the end, because each is put before what is there.
        for end in range(len(collected), 0, -MAX_BATCH):
            for _, lane, outcome in collected[max(0, end - MAX_BATCH) : end]:
                self._settler.add(lane, outcome)

    # --- one job ---------------------------------------------------------------------------------------------------

    async def _run(self, running: Running) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._outcome(running)
        except Exception as error:  # noqa: BLE001  # a bug of ours, and still no job may end the worker
            outcome = self._dead(running, "?", error)
        except BaseException:
            # Not by us: the whole worker is being cancelled, which is never the job's fault.
            outcome = self._release(running)
            raise
        finally:
            running.finished = True
            self._free_slot()
            if outcome is None:
                self._forget(running)
            elif self._to_release is not None and outcome.verdict is Verdict.RELEASE and not outcome.delay_ms:
                self._to_release.append((running.number, running.lane, outcome))
            else:
                self._settler.add(running.lane, outcome)

    async def _outcome(self, running: Running) -> Outcome | None:
        """Run the handler; what became of the job, or None if its lease is another's now."""
        job = running.job
        try:
            record = decode_record(job.raw)
        except UndecodableRecord as error:
            return self._dead(running, "?", error)
        plan = self._plans.get(record.task)
        if plan is None:
            self._counts.unknown += 1
            log.warning(
                "job.unknown_task", job=job.id, task=record.task, again_in_s=self._settings.unknown_task_delay
            )
            delay_ms = round(self._settings.unknown_task_delay * 1000)
            return Outcome(job.id, job.token, Verdict.RELEASE, delay_ms)
        try:
            arguments = plan.decode(record.args)
        except InvalidArguments as error:
            return self._dead(running, plan.name, error)
        except Exception as error:  # noqa: BLE001  # a type of the user's own may raise anything when it is built
            return self._failed(running, plan, record, error)

        scope = running.scope
        result: Any = None
        failure: BaseException | None = None
        with scope:
            try:
                result = await self._call(running, plan, record, arguments)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its outcome
                stop, failure = _split(error)
                if stop is not None:
                    raise stop from None
        if running.ending is Ending.LOST:
            self._counts.lost += 1
            log.warning("job.lease_lost", job=job.id, task=plan.name, token=job.token)
            return None
        if running.ending is Ending.SHUTDOWN and (scope.cancelled_caught or failure is not None):
            return self._release(running)
        if scope.cancelled_caught:
            cleanup_failed = failure
            failure = JobTimeout(f"ran longer than its timeout of {self._timeout(plan, record):g} s")
            failure.__cause__ = cleanup_failed
        if failure is not None:
            return self._failed(running, plan, record, failure)
        return self._done(running, plan, record, result)

    async def _call(self, running: Running, plan: Plan, record: Record, arguments: dict[str, Any]) -> Any:
        if plan.run_in == "trio":
            self._begin(running, plan, record, arguments)
            return await plan.function(**arguments)
        if plan.run_in == "thread":
            return await self._call_in_thread(running, plan, record, arguments)
        return await self.processes.run(
            plan.function, bytes(record.args), lambda: self._begin(running, plan, record, arguments)
        )

    def _begin(self, running: Running, plan: Plan, record: Record, arguments: dict[str, Any]) -> None:
        """The clock starts. Not before: waiting for a thread or a process is not running."""
        running.scope.deadline = deadline = trio.current_time() + self._timeout(plan, record)
        if plan.context_parameter is not None:
            job = running.job
            arguments[plan.context_parameter] = JobContext(
                id=job.id,
                task=plan.name,
                queue=running.lane.queue,
                attempt=job.tries + 1,
                fencing_token=job.fence,
                deadline=deadline,
                enqueued_ms=record.enqueued_ms,
                headers=record.headers or {},
                open_client=self._client,
            )

    async def _call_in_thread(
        self, running: Running, plan: Plan, record: Record, arguments: dict[str, Any]
    ) -> Any:
        def late_end() -> None:
            self._threads.release_on_behalf_of(running)
            self._free_slot()

        await self._threads.acquire_on_behalf_of(running)
        self._begin(running, plan, record, arguments)
        call = ThreadCall(plan.function, arguments, late_end)
        try:
            return await call.run()
        finally:
            if call.abandoned:
                # Its slot stays taken until the thread has really ended, or hanging handlers would pile up threads.
                self.in_flight += 1
                self._counts.abandoned += 1
                log.error("job.thread_abandoned", job=running.job.id, task=plan.name)
            else:
                self._threads.release_on_behalf_of(running)

    # --- endings ---------------------------------------------------------------------------------------------------

    def _timeout(self, plan: Plan, record: Record) -> float:
        return plan.timeout_s if record.timeout_ms is None else record.timeout_ms / 1000

    def _done(self, running: Running, plan: Plan, record: Record, result: Any) -> Outcome:
        job = running.job
        keep_ms = plan.keep_result_ms if record.keep_result_ms is None else record.keep_result_ms
        if not keep_ms:
            return Outcome(job.id, job.token)
        try:
            detail = to_json(result)
            if len(detail) > self._settings.max_result:
                raise ResultTooLarge(
                    f"its result is {len(detail)} bytes, more than worker.max_result ({self._settings.max_result})"
                )
        except Exception as error:  # noqa: BLE001  # a type of the user's own may raise anything
            # The work is done, and doing it again would give the same result: a retry could not help.
            return self._dead(running, plan.name, error)
        return Outcome(job.id, job.token, Verdict.DONE, 0, detail, keep_ms)

    def _failed(self, running: Running, plan: Plan, record: Record, error: BaseException) -> Outcome:
        job = running.job
        max_retries = plan.max_retries if record.max_retries is None else record.max_retries
        if job.tries >= max_retries:
            return self._dead(running, plan.name, error)
        delay_s = error.delay if isinstance(error, Retry) and error.delay is not None else None
        if delay_s is None:
            delay_s = plan.backoff.delay(job.tries, self._rng)
        log.warning(
            "job.failed",
            job=job.id,
            task=plan.name,
            attempt=job.tries + 1,
            error=f"{type(error).__name__}: {_text(error)}",
            again_in_s=round(delay_s, 3),
        )
        detail = self._failure(job, error)
        return Outcome(job.id, job.token, Verdict.RETRY, max(1, round(delay_s * 1000)), detail)

    def _dead(self, running: Running, task: str, error: BaseException) -> Outcome:
        job = running.job
        log.error(
            "job.dead",
            job=job.id,
            task=task,
            attempt=job.tries + 1,
            error=f"{type(error).__name__}: {_text(error)}",
        )
        return Outcome(job.id, job.token, Verdict.DEAD, 0, self._failure(job, error))

    def _release(self, running: Running) -> Outcome:
        return Outcome(running.job.id, running.job.token, Verdict.RELEASE)

    def _failure(self, job: ClaimedJob, error: BaseException) -> bytes:
        text = ""
        if error.__traceback__ is not None or error.__cause__ is not None:
            lines = traceback.format_exception(type(error), error, _from_handler(error.__traceback__))
            text = _encodable("".join(lines))[-MAX_TRACEBACK:]
        return encode_failure(Failure(type(error).__name__, _text(error), job.tries + 1, self._worker, text))

    def _settled(self, lane: Lane, outcome: Outcome, accepted: bool) -> None:
        counts = self._counts
        if accepted:
            if outcome.verdict is Verdict.DONE:
                counts.completed += 1
            elif outcome.verdict is Verdict.RETRY:
                counts.retried += 1
            elif outcome.verdict is Verdict.DEAD:
                counts.dead += 1
            else:
                counts.released += 1
        else:
            counts.stale += 1
            log.warning("job.stale", job=outcome.id, token=outcome.token, verdict=outcome.verdict.value)
        held = self.held.get(lane, {})
        running = held.get(outcome.id)
        # The same job may have been claimed again meanwhile, by ourselves: that is another lease.
        if running is not None and running.job.token == outcome.token:
            del held[outcome.id]

    def _forget(self, running: Running) -> None:
        held = self.held[running.lane]
        if held.get(running.job.id) is running:
            del held[running.job.id]

    def _free_slot(self) -> None:
        self.in_flight -= 1
        self._slot_freed.set()
        self._slot_freed = trio.Event()


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What stops the handler from outside, and what it raised itself: a handler's own nursery may raise both."""
    stops = (trio.Cancelled, KeyboardInterrupt)
    if isinstance(error, BaseExceptionGroup):
        return error.split(stops)
    return (error, None) if isinstance(error, stops) else (None, error)


def _from_handler(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames between us and the handler, which tell its author nothing."""
    later = trace
    while (
        later is not None
        and later.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_HANDLERS
    ):
        later = later.tb_next
    return later or trace


def _text(error: BaseException) -> str:
    try:
        return _encodable(str(error))[:MAX_TRACEBACK]
    except Exception:  # noqa: BLE001  # it is the user's code, and already failing
        return "<its str() failed>"


def _encodable(text: str) -> str:
    """Without lone surrogates, which file names that are not UTF-8 bring and no JSON can hold."""
    return text.encode("utf-8", "backslashreplace").decode()
