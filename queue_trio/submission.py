"""From a Job to what a store takes in, and from its answers to ids and errors: the same for all three clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple, TypeAlias, get_args

from queue_trio.core.job import Enqueued, NewJob, encode_record
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import NoResult, OutcomeUnknown, PayloadTooLarge, QueueFull, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queue_trio.app import Job
    from queue_trio.core.job import Lane
    from queue_trio.core.settings import ClientSettings
    from queue_trio.tracing.spans import Spans

ByLane: TypeAlias = "dict[Lane, tuple[list[int], list[NewJob]]]"
"""Encoded jobs by lane, each with its position in the portion."""


class Portion(NamedTuple):
    """Jobs to send. `sending`: the block in which to do it, for the spans that measure it."""

    ids: list[str]
    by_lane: ByLane
    sending: ExitStack


OnOutage: TypeAlias = Literal["wait", "fail"]
OnFull: TypeAlias = Literal["refuse", "wait"]

RESULT_POLL_S: Final = 0.05
"""Between two looks for a result."""


class JobId(str):
    """A job's id. `created` is False if a job of that id existed already, and nothing was added."""

    __slots__ = ()

    created: ClassVar[bool] = True


class _Known(JobId):
    __slots__ = ()

    created = False


def job_id(text: str, answer: Enqueued) -> JobId:
    """The id of a job that was taken in, or was there already."""
    # Two classes instead of an attribute: what no Python code initialises costs a third, and every job has an id.
    return JobId(text) if answer is Enqueued.CREATED else _Known(text)


def wall_ms() -> int:
    """The wall clock, for measurements: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient one enqueue is. `fail_fast`: not with an outage. `wait_for_room`: with a full queue, too."""

    timeout_s: float
    fail_fast: bool
    wait_for_room: bool

    @classmethod
    def of(cls, settings: ClientSettings) -> Terms:
        """What the settings say, for calls that say nothing."""
        return cls(settings.timeout, settings.on_outage == "fail", settings.on_full == "wait")

    def but(
        self, timeout: float | None = None, on_outage: OnOutage | None = None, on_full: OnFull | None = None
    ) -> Terms:
        """The same, except for what is not None. Raises UsageError."""
        terms = self
        if timeout is not None:
            if not timeout >= 0:
                raise UsageError(f"timeout={timeout!r}: a timeout is a number of seconds, 0 or more")
            terms = replace(terms, timeout_s=timeout)
        if on_outage is not None:
            _check_choice("on_outage", on_outage, get_args(OnOutage))
            terms = replace(terms, fail_fast=on_outage == "fail")
        if on_full is not None:
            _check_choice("on_full", on_full, get_args(OnFull))
            terms = replace(terms, wait_for_room=on_full == "wait")
        return terms


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def prepare(
    job: Job, *, now_ms: int, max_payload: int, traceparent: str | None = None
) -> tuple[Lane, NewJob]:
    """The lane a job goes to and its encoded form. Raises PayloadTooLarge, and UsageError for what is no Job.

    `now_ms`: wall clock, for measurements. `traceparent`: W3C trace context of whoever enqueues.
    """
    try:
        task, chosen = job.task, job.chosen
    except AttributeError:
        name = getattr(job, "__name__", "task")
        raise UsageError(f"enqueue takes a job, not {job!r}: {name}.job(...) makes one") from None
    if chosen is task.defaults and traceparent is None:
        new = NewJob(job.id, task.frame.encode(job.arguments, now_ms), chosen.priority)
    else:
        record = chosen.record(task.name, job.arguments, enqueued_ms=now_ms, traceparent=traceparent)
        unique_ms = round(chosen.unique_for * 1000)
        new = NewJob(job.id, encode_record(record), record.priority, record.delay_ms, unique_ms)
    if len(new.record) > max_payload:
        raise PayloadTooLarge(
            f"task {task.name}: the job's record is {len(new.record)} bytes, more than client.max_payload "
            f"({max_payload}); store the data elsewhere and pass a reference to it"
        )
    return task.lane, new


def prepare_many(
    jobs: Sequence[Job],
    *,
    now_ms: int,
    max_payload: int,
    traceparents: Sequence[str] | None = None,
) -> ByLane:
    """Jobs by lane. Raises PayloadTooLarge. `traceparents`: one for each job."""
    by_lane: ByLane = {}
    lane: Lane | None = None
    positions: list[int] = []
    batch: list[NewJob] = []
    for at, job in enumerate(jobs):
        traceparent = None if traceparents is None else traceparents[at]
        where, new = prepare(job, now_ms=now_ms, max_payload=max_payload, traceparent=traceparent)
        if where is not lane:  # mostly it is that of the job before
            lane = where
            positions, batch = by_lane.setdefault(lane, ([], []))
        positions.append(at)
        batch.append(new)
    return by_lane


def portions(
    jobs: Iterable[Job], *, now_ms: Callable[[], int], max_payload: int, spans: Spans | None = None
) -> Iterator[Portion]:
    """Jobs ready to send: of an iterator what one call takes, whenever asked; anything else at once.

    So of what can be looked at twice nothing is sent if one job is too large, and a generator's jobs are made only when
    they are needed.
    """
    size_max = MAX_BATCH
    if not isinstance(jobs, Iterator):
        jobs = tuple(jobs)
        size_max = len(jobs)
        jobs = iter(jobs)
    while batch := tuple(islice(jobs, size_max)):
        with ExitStack() as sending:
            traceparents = None if spans is None else sending.enter_context(spans.enqueue(batch))
            by_lane = prepare_many(batch, now_ms=now_ms(), max_payload=max_payload, traceparents=traceparents)
            portion = Portion([job.id for job in batch], by_lane, sending.pop_all())
        yield portion


def conclude(
    ids: Sequence[str], answers: Sequence[Enqueued], max_length: int, *, before: Sequence[JobId] = ()
) -> list[JobId]:
    """One id per job. Raises QueueFull if any was refused, naming those that did get in, after those `before`."""
    if answers.count(Enqueued.CREATED) == len(ids):
        return list(map(JobId, ids))  # mostly
    made = [job_id(text, answer) for text, answer in zip(ids, answers, strict=True)]
    refused = answers.count(Enqueued.REFUSED)
    if refused:
        accepted = tuple(
            one for one, answer in zip(made, answers, strict=True) if answer is not Enqueued.REFUSED
        )
        count = len(before) + len(made)
        raise QueueFull(
            f"{refused} of {count} jobs refused: the queue holds client.max_length ({max_length}) jobs",
            (*before, *accepted),
        )
    return made


def no_result(job_id: str) -> NoResult:
    """The error for a result that is not there."""
    return NoResult(
        f"no result for job {job_id}: not finished, failed, expired, or its task does not keep results"
    )


def only_some(done: int, total: int, error: Exception) -> OutcomeUnknown:
    """The error for a list of jobs that was queued in part when `error` came."""
    return OutcomeUnknown(
        f"only {done} of {total} jobs are known to be queued: {error}; "
        "enqueue the same job objects again: their ids keep them from being queued twice"
    )
