"""From a Job to what a store takes in, and from its answers to ids and errors: the same for all three clients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, get_args

import msgspec

from queue_trio.core.job import RECORD_VERSION, Enqueued, Lane, NewJob, Record, encode_record
from queue_trio.errors import NoResult, OutcomeUnknown, PayloadTooLarge, QueueFull, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.app import Job
    from queue_trio.core.settings import ClientSettings

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


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def prepare(
    job: Job, *, now_ms: int, max_payload: int, traceparent: str | None = None
) -> tuple[Lane, NewJob]:
    """The lane a job goes to and its encoded form. Raises PayloadTooLarge, and UsageError for what is no Job.

    `now_ms`: wall clock, for measurements. `traceparent`: W3C trace context of whoever enqueues.
    """
    try:
        chosen = job.chosen
    except AttributeError:
        name = getattr(job, "__name__", "task")
        raise UsageError(f"enqueue takes a job, not {job!r}: {name}.job(...) makes one") from None
    delay_ms = round(chosen.delay * 1000)
    record = encode_record(
        Record(
            v=RECORD_VERSION,
            task=job.task.name,
            args=msgspec.Raw(job.arguments),
            priority=chosen.priority,
            enqueued_ms=now_ms,
            delay_ms=delay_ms,
            timeout_ms=_ms(chosen.timeout),
            max_retries=chosen.max_retries,
            keep_result_ms=_ms(chosen.keep_result),
            traceparent=traceparent,
            headers=chosen.headers or None,
        )
    )
    if len(record) > max_payload:
        raise PayloadTooLarge(
            f"task {job.task.name}: the job's record is {len(record)} bytes, more than client.max_payload "
            f"({max_payload}); store the data elsewhere and pass a reference to it"
        )
    return Lane(job.task.queue), NewJob(
        job.id, record, chosen.priority, delay_ms, round(chosen.unique_for * 1000)
    )


def prepare_many(
    jobs: Sequence[Job], *, now_ms: int, max_payload: int, traceparents: Sequence[str] | None = None
) -> dict[Lane, tuple[list[int], list[NewJob]]]:
    """Jobs by lane, with their positions in `jobs`. Raises PayloadTooLarge before anything is sent.

    `traceparents`: one for each job.
    """
    by_lane: dict[Lane, tuple[list[int], list[NewJob]]] = {}
    for at, job in enumerate(jobs):
        traceparent = None if traceparents is None else traceparents[at]
        lane, new = prepare(job, now_ms=now_ms, max_payload=max_payload, traceparent=traceparent)
        positions, batch = by_lane.setdefault(lane, ([], []))
        positions.append(at)
        batch.append(new)
    return by_lane


def conclude(jobs: Sequence[Job], answers: Sequence[Enqueued], max_length: int) -> list[JobId]:
    """One id per job. Raises QueueFull, naming those that did get in, if any was refused."""
    ids = [job_id(job.id, answer) for job, answer in zip(jobs, answers, strict=True)]
    refused = sum(answer is Enqueued.REFUSED for answer in answers)
    if refused:
        accepted = tuple(
            one for one, answer in zip(ids, answers, strict=True) if answer is not Enqueued.REFUSED
        )
        raise QueueFull(
            f"{refused} of {len(jobs)} jobs refused: the queue holds client.max_length ({max_length}) jobs",
            accepted,
        )
    return ids


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
