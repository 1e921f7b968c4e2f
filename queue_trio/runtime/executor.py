"""Runs leased jobs: one task per job in a slot of its own, and one outcome for each.

What an ending means is `endings`'s to say; the outcome goes to the settler. It does not fetch, settle or renew. A job
stays in `held` until its outcome is settled, so that its lease is renewed for as long as it matters.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from queue_trio.context import JobContext, JobInScope, job_in_scope
from queue_trio.core.job import (
    ClaimedJob,
    Lane,
    Outcome,
    Record,
    UndecodableRecord,
    Verdict,
    decode_record,
)
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import InvalidArguments, JobTimeout
from queue_trio.runtime.endings import Endings, split
from queue_trio.runtime.handlers import Processes, ThreadCall
from queue_trio.runtime.running import Ending, Running
from queue_trio.runtime.slots import Slots
from queue_trio.runtime.timekeeper import Timekeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from queue_trio.client import QueueClient
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.runtime.counts import Counts
    from queue_trio.runtime.pacer import Pacer
    from queue_trio.runtime.plan import Plan
    from queue_trio.runtime.settler import Settler
    from queue_trio.tracing.spans import Receipt, Spans

log = structlog.get_logger(__name__)

_RELEASE: Final = (
    Verdict.RELEASE
)  # until Python 3.12 a member of an enum costs a call, and every job asks for this one


class Executor:
    """`open` must be given a nursery before the first job starts."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        settings: WorkerSettings,
        settler: Settler,
        counts: Counts,
        pacer: Pacer,
        *,
        worker: str,
        client: QueueClient | None,
        rng: Random,
        wall_clock: Callable[[], float] = time.time,
        spans: Spans | None = None,
    ) -> None:
        self._plans = {name: (plan, counts.task(plan.name)) for name, plan in plans.items()}
        self._settings = settings
        self._settler = settler
        self._counts = counts
        self._pacer = pacer
        self._worker = worker
        self._client = client
        self._spans = spans
        self._wall_clock = wall_clock
        self._endings = Endings(settings, worker=worker, rng=rng)
        self._threads = trio.CapacityLimiter(settings.thread_limit)
        self.processes = Processes(settings.processes)
        self._slots = Slots(self._run, self._interrupted)
        # Not an Event: one would have to be made anew for every job that ends.
        self._slot_freed = trio.lowlevel.ParkingLot()
        self._awaited = False
        self._numbers = itertools.count()
        self._to_release: list[tuple[int, Lane, Outcome]] | None = []
        self.in_flight = 0
        self.held: dict[Lane, dict[str, Running]] = {}
        self.timekeeper = Timekeeper(
            lambda: [running for held in self.held.values() for running in held.values()]
        )
        settler.on_settled = self._settled

    def open(self, nursery: trio.Nursery) -> None:
        """Handlers run in `nursery`."""
        self._slots.open(nursery)

    def close(self) -> None:
        """Start nothing more. The nursery can end when those have who run now."""
        self._slots.close()

    @property
    def free(self) -> int:
        """How many more jobs may start."""
        return self._settings.concurrency - self.in_flight

    async def slot_freed(self) -> None:
        """Return when a job ends or `rouse` is called, and perhaps at other times: look again then."""
        self._awaited = True
        await self._slot_freed.park()

    def rouse(self) -> None:
        """Let those who wait look again."""
        self._awaited = False
        self._slot_freed.unpark_all()

    async def wait_idle(self) -> None:
        """Return when no handler runs."""
        while self.in_flight:
            await self.slot_freed()

    async def wait_ended(self) -> None:
        """Return when every handler has unwound. Contrast `wait_idle`: an abandoned thread may still work."""
        while any(not running.finished for held in self.held.values() for running in held.values()):
            await self.slot_freed()

    def start(self, lane: Lane, jobs: Sequence[ClaimedJob], receipt: Receipt | None = None) -> None:
        """Run jobs just claimed. `receipt`: of the claim, for its span."""
        held = self.held.setdefault(lane, {})
        for job in jobs:
            before = held.get(job.id)
            if before is not None:
                # We lost its lease and got the job again, before any renewal could tell. Settling the old lease is
                # refused, and gives back the crash that its loss was charged as: we are alive.
                if not before.finished:
                    self._settler.add(lane, Outcome(job.id, before.job.token, Verdict.RELEASE))
                before.end(Ending.LOST)
            running = held[job.id] = Running(lane, job, next(self._numbers), self._counts.other, receipt)
            self._slots.start(running)
        self.in_flight += len(jobs)
        self._counts.queue(lane.queue).claimed += len(jobs)

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
        stopped = False
        try:
            try:
                outcome = await self._outcome(running)
            except Exception as error:  # noqa: BLE001  # a bug of ours, and still no job may end the worker
                outcome = self._dead(running, "?", error)
            except BaseException:
                stopped = True
                if running.ending is not None:
                    self._conclude(running, self._stopped(running))
                raise  # into the slot, which was cancelled for this; or it will know by whom: see `_interrupted`
            self._conclude(running, outcome)
        finally:
            self._slots.ended(running, stopped=stopped)

    def _interrupted(self, running: Running, by_worker: bool) -> None:
        """A job was stopped, and not by us."""
        if by_worker:
            self._conclude(running, _released(running))  # never the job's fault
        else:
            text = "cancelled by a scope or a nursery that it left open, or by an exception that was another task's"
            self._conclude(running, self._failed(running, RuntimeError(text)))

    def _conclude(self, running: Running, outcome: Outcome | None) -> None:
        running.finished = True
        self._free_slot()
        if outcome is None:
            self._forget(running)
        elif self._to_release is not None and outcome.verdict is _RELEASE and not outcome.delay_ms:
            self._to_release.append((running.number, running.lane, outcome))
        else:
            self._settler.add(running.lane, outcome)
        if running.span is not None:
            running.span.end(outcome)

    async def _outcome(self, running: Running) -> Outcome | None:
        """Run the handler; what became of the job, or None if its lease is another's now."""
        unfit = self._prepare(running)
        if unfit is not None:
            return unfit
        plan = running.plan
        if plan.at_once:
            self._begin(running)
        pause_ms: int | None = None
        result: Any = None
        failure: BaseException | None = None
        try:
            if plan.at_once:
                result = await plan.function(**running.arguments)
            else:
                pause_ms, result = await self._call(running)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its outcome
            stop, failure = split(error)
            if stop is not None:
                running.cleanup_failure = failure
                raise stop from None
        self._observe(running)
        if running.ending is Ending.LOST:
            self._lost(running)
            return None
        if failure is not None:
            return _released(running) if running.ending is Ending.SHUTDOWN else self._failed(running, failure)
        if pause_ms is not None:
            return _released(running, pause_ms)
        return self._endings.done(running.job, plan, running.record, result)

    def _stopped(self, running: Running) -> Outcome | None:
        """What became of a job whose handler we have cancelled, or None if its lease is another's now."""
        self._observe(running)
        if running.ending is Ending.LOST:
            self._lost(running)
            return None
        if running.ending is Ending.SHUTDOWN:
            return _released(running)
        failure = JobTimeout(f"ran longer than its timeout of {running.timeout_s:g} s")
        failure.__cause__ = running.cleanup_failure
        try:
            return self._failed(running, failure)
        except Exception as error:  # noqa: BLE001  # as in `_run`
            return self._dead(running, running.plan.name, error)

    def _prepare(self, running: Running) -> Outcome | None:
        """Find out what is to be run; or the outcome, if that cannot be found out."""
        try:
            running.record = record = self._read(running)
        except UndecodableRecord as error:
            return self._dead(running, "?", error)
        known = self._plans.get(record.task)
        if known is None:
            self._counts.queue(running.lane.queue).unknown += 1
            delay_s = self._settings.unknown_task_delay
            log.warning("job.unknown_task", job=running.job.id, task=record.task, again_in_s=delay_s)
            return _released(running, round(delay_s * 1000))
        running.plan, running.counts = plan, _ = known
        try:
            running.arguments = plan.decode(record.args)
        except InvalidArguments as error:
            return self._dead(running, plan.name, error)
        except Exception as error:  # noqa: BLE001  # a type of the user's own may raise anything when it is built
            return self._failed(running, error)
        return None

    def _read(self, running: Running) -> Record:
        """The job's record. From here on, what this task logs and traces is about the job. Raises UndecodableRecord."""
        job, spans = running.job, self._spans
        running.about = about = JobInScope(job.id, "?", running.lane.queue, job.tries + 1)
        job_in_scope.set(about)
        try:
            record = decode_record(job.raw)
        except UndecodableRecord:
            if spans is not None:
                spans.arrived(running.receipt, None, None)
            raise
        about.task = record.task
        if spans is not None:
            parent = spans.arrived(running.receipt, about, record.traceparent)
            running.span = spans.run(about, parent, self._worker)
        return record

    async def _call(self, running: Running) -> tuple[int | None, Any]:
        """For a handler that may have to wait: for how many ms its job is to be put off, or None and its result."""
        plan = running.plan
        if plan.rate_limit is not None:
            pause_ms = await self._pacer.admit(plan.rate_limit)
            if pause_ms is not None:
                return pause_ms, None
        if plan.run_in == "trio":
            self._begin(running)
            return None, await plan.function(**running.arguments)
        if plan.run_in == "thread":
            return None, await self._call_in_thread(running)
        return None, await self.processes.run(
            plan.function, bytes(running.record.args), lambda: self._begin(running)
        )

    def _begin(self, running: Running) -> None:
        """The clock starts. Not before: waiting for a thread or a process is not running."""
        plan, record, job = running.plan, running.record, running.job
        running.began = began = trio.current_time()
        if running.span is not None and not plan.at_once:
            running.span.note("handler.started")  # until now it waited
        running.deadline = running.about.deadline = deadline = began + running.timeout_s
        if deadline < self.timekeeper.looks_at:
            self.timekeeper.expect(deadline)
        wait = running.counts.wait
        if wait is not None and not job.tries and record.enqueued_ms:
            # The client's clock is another machine's and may be ahead.
            wait.observe(max(0.0, self._wall_clock() - (record.enqueued_ms + record.delay_ms) / 1000))
        if plan.context_parameter is not None:
            running.arguments[plan.context_parameter] = JobContext(
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

    def _observe(self, running: Running) -> None:
        if running.began and running.counts.run is not None:
            running.counts.run.observe(trio.current_time() - running.began)

    async def _call_in_thread(self, running: Running) -> Any:
        def late_end() -> None:
            self._threads.release_on_behalf_of(running)
            self._free_slot()

        await self._threads.acquire_on_behalf_of(running)
        self._begin(running)
        call = ThreadCall(running.plan.function, running.arguments, late_end)
        try:
            return await call.run()
        finally:
            if call.abandoned:
                # Its slot stays taken until the thread has really ended, or hanging handlers would pile up threads.
                self.in_flight += 1
                running.counts.abandoned += 1
                log.error("job.thread_abandoned", job=running.job.id, task=running.plan.name)
            else:
                self._threads.release_on_behalf_of(running)

    # --- endings -----------------------------------------------------------------------------------------------------

    def _failed(self, running: Running, error: BaseException) -> Outcome:
        if running.span is not None:
            running.span.fail(error)
        return self._endings.failed(running.job, running.plan, running.record, error)

    def _dead(self, running: Running, task: str, error: BaseException) -> Outcome:
        if running.span is not None:
            running.span.fail(error)
        return self._endings.dead(running.job, task, error)

    def _lost(self, running: Running) -> None:
        running.counts.lost += 1
        log.warning("job.lease_lost", job=running.job.id, task=running.plan.name, token=running.job.token)

    # --- afterwards ------------------------------------------------------------------------------------------------

    def _settled(self, lane: Lane, outcomes: Sequence[Outcome], accepted: Sequence[bool]) -> None:
        held, queue = self.held.get(lane, {}), self._counts.queue(lane.queue)
        done = Verdict.DONE
        for outcome, yes in zip(outcomes, accepted, strict=True):
            running = held.get(outcome.id)
            task = self._counts.other
            # The same job may have been claimed again meanwhile, by ourselves: that is another lease.
            if running is not None and running.job.token == outcome.token:
                task = running.counts
                del held[outcome.id]
            if not yes:
                queue.stale += 1
                log.warning("job.stale", job=outcome.id, token=outcome.token, verdict=outcome.verdict.value)
            elif outcome.verdict is done:
                task.completed += 1
            elif outcome.verdict is Verdict.RETRY:
                task.retried += 1
            elif outcome.verdict is Verdict.DEAD:
                task.dead += 1
            else:
                queue.released += 1

    def _forget(self, running: Running) -> None:
        held = self.held[running.lane]
        if held.get(running.job.id) is running:
            del held[running.job.id]

    def _free_slot(self) -> None:
        self.in_flight -= 1
        if self._awaited:
            self.rouse()


def _released(running: Running, delay_ms: int = 0) -> Outcome:
    return Outcome(running.job.id, running.job.token, Verdict.RELEASE, delay_ms)
