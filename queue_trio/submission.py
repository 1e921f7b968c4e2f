"""From a Job to what a store takes in, and from its answers to ids and errors: the same for all three clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from queue_trio.core.job import RECORD_VERSION, Enqueued, Lane, NewJob, Record, encode_record
from queue_trio.errors import NoResult, OutcomeUnknown, PayloadTooLarge, QueueFull, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.app import Job

RESULT_POLL_S: Final = 0.05
"""Between two looks for a result."""


class JobId(str):
    """A job's id. `created` is False if a job of that id existed already, and nothing was added."""

    __slots__ = ("created",)

    created: bool

    def __new__(cls, value: str, created: bool = True) -> JobId:
        self = super().__new__(cls, value)
        self.created = created
        return self


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def prepare(job: Job, *, now_ms: int, max_payload: int) -> tuple[Lane, NewJob]:
    """The lane a job goes to and its encoded form. Raises PayloadTooLarge, and UsageError for what is no Job.

    `now_ms`: wall clock, for measurements.
    """
    try:
        chosen = job.chosen
    except AttributeError:
        name = getattr(job, "__name__", "task")
        raise UsageError(f"enqueue takes a job, not {job!r}: {name}.job(...) makes one") from None
    record = encode_record(
        Record(
            v=RECORD_VERSION,
            task=job.task.name,
            args=msgspec.Raw(job.arguments),
            priority=chosen.priority,
            enqueued_ms=now_ms,
            timeout_ms=_ms(chosen.timeout),
            max_retries=chosen.max_retries,
            keep_result_ms=_ms(chosen.keep_result),
            headers=chosen.headers or None,
        )
    )
    if len(record) > max_payload:
        raise PayloadTooLarge(
            f"task {job.task.name}: the job's record is {len(record)} bytes, more than client.max_payload "
            f"({max_payload}); store the data elsewhere and pass a reference to it"
        )
    return Lane(job.task.queue), NewJob(
        job.id, record, chosen.priority, round(chosen.delay * 1000), round(chosen.unique_for * 1000)
    )


def prepare_many(
    jobs: Sequence[Job], *, now_ms: int, max_payload: int
) -> dict[Lane, tuple[list[int], list[NewJob]]]:
    """Jobs by lane, with their positions in `jobs`. Raises PayloadTooLarge before anything is sent."""
    by_lane: dict[Lane, tuple[list[int], list[NewJob]]] = {}
    for at, job in enumerate(jobs):
        lane, new = prepare(job, now_ms=now_ms, max_payload=max_payload)
        positions, batch = by_lane.setdefault(lane, ([], []))
        positions.append(at)
        batch.append(new)
    return by_lane


def conclude(jobs: Sequence[Job], answers: Sequence[Enqueued], max_length: int) -> list[JobId]:
    """One id per job. Raises QueueFull, naming those that did get in, if any was refused."""
    ids = [JobId(job.id, answer is Enqueued.CREATED) for job, answer in zip(jobs, answers, strict=True)]
    refused = sum(answer is Enqueued.REFUSED for answer in answers)
    if refused:
        accepted = tuple(
            job_id for job_id, answer in zip(ids, answers, strict=True) if answer is not Enqueued.REFUSED
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
        f"only the first {done} of {total} jobs are known to be queued: {error}; "
        "enqueue the same job objects again: their ids keep them from being queued twice"
    )
