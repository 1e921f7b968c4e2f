"""What the end of a handler means for its job: done, retry, dead or release, and what is kept of it.

Knows the task's plan, the job's record and the retry budget; not leases, nor whether the outcome will be accepted.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import structlog
import trio
from pydantic_core import to_json

from queue_trio.core.job import Failure, Outcome, Verdict, encode_failure
from queue_trio.errors import ResultTooLarge, Retry
from queue_trio.masking import mask

if TYPE_CHECKING:
    from random import Random
    from types import TracebackType

    from queue_trio.core.job import ClaimedJob, Record
    from queue_trio.core.settings import WorkerSettings
    from queue_trio.runtime.plan import Plan

log = structlog.get_logger(__name__)

MAX_TRACEBACK = 8192
"""Characters of a traceback that are kept; the end tells most."""

_NOT_THE_HANDLERS = frozenset({"queue_trio", "trio", "outcome", "anyio"})


class Endings:
    """Makes outcomes. `worker` is named in failures; `rng` draws the waits before retries."""

    def __init__(self, settings: WorkerSettings, *, worker: str, rng: Random) -> None:
        self._settings = settings
        self._worker = worker
        self._rng = rng

    def done(self, job: ClaimedJob, plan: Plan, record: Record, result: Any) -> Outcome:
        """It returned: done, or dead if the result cannot be kept."""
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
            return self.dead(job, plan.name, error)
        return Outcome(job.id, job.token, Verdict.DONE, 0, detail, keep_ms)

    def failed(self, job: ClaimedJob, plan: Plan, record: Record, error: BaseException) -> Outcome:
        """It failed: once more, or dead if the budget is used up."""
        max_retries = plan.max_retries if record.max_retries is None else record.max_retries
        if job.tries >= max_retries:
            return self.dead(job, plan.name, error)
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
        delay_ms = max(1, round(delay_s * 1000))
        return Outcome(job.id, job.token, Verdict.RETRY, delay_ms, self._failure(job, error, delay_ms))

    def dead(self, job: ClaimedJob, task: str, error: BaseException) -> Outcome:
        """Running it again cannot help."""
        log.error(
            "job.dead",
            job=job.id,
            task=task,
            attempt=job.tries + 1,
            error=f"{type(error).__name__}: {_text(error)}",
        )
        return Outcome(job.id, job.token, Verdict.DEAD, 0, self._failure(job, error))

    def _failure(self, job: ClaimedJob, error: BaseException, retry_ms: int = 0) -> bytes:
        text = ""
        if error.__traceback__ is not None or error.__cause__ is not None:
            lines = traceback.format_exception(type(error), error, _from_handler(error.__traceback__))
            text = mask(_encodable("".join(lines))[-4 * MAX_TRACEBACK :])[-MAX_TRACEBACK:]
        failure = Failure(type(error).__name__, _text(error), job.tries + 1, self._worker, text, retry_ms)
        return encode_failure(failure)


def split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
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
        return mask(_encodable(str(error)[: 4 * MAX_TRACEBACK]))[:MAX_TRACEBACK]
    except Exception:  # noqa: BLE001  # it is the user's code, and already failing
        return "<its str() failed>"


def _encodable(text: str) -> str:
    """Without lone surrogates, which file names that are not UTF-8 bring and no JSON can hold."""
    return text.encode("utf-8", "backslashreplace").decode()
