"""What a job is: its id, its immutable record, its states, and what can become of it.

Knows nothing of Redis, of tasks as Python functions, or of time: ids are made from a `now_ms` and an `entropy` that the
caller passes in. Arguments stay encoded here (`msgspec.Raw`): only the task's own signature can say what they mean.

                     enqueue(delay)               due
        (nowhere) ──────────────────► SCHEDULED ───────► READY ◄─────────┐ release, reclaim
            │                             ▲                │             │
            └──────── enqueue ────────────┼──────────────► │ claim       │
                                          │ retry          ▼             │
                                          └───────────── LEASED ─────────┘
                                                           │   │
                                  complete                 │   │ bury (budget used up, poison, undecodable)
              COMPLETED ◄──────────────────────────────────┘   └────────────► DEAD ──► PURGED | READY (replay)

SCHEDULED, READY, LEASED and DEAD are places in Redis, and a job is in exactly one of them (promise S). COMPLETED,
CANCELLED and PURGED are ends: the job is gone and only a counter remembers it. An operator can cancel what is SCHEDULED
or READY, and purge or replay what is DEAD.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
from msgspec import structs

from queue_trio.core.dequeue import Priority
from queue_trio.errors import InternalError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_VERSION: Final = 1
MAX_ID_LENGTH: Final = 200
MAX_LIMIT: Final = 2**40
"""For whatever a record limits: in milliseconds more than thirty years."""
Limit: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_LIMIT)]

_ID = re.compile(r"[!-~]{1,200}")
_QUEUE = re.compile(r"[A-Za-z0-9_\-]{1,64}")


class State(StrEnum):
    """Where a job is."""

    SCHEDULED = "scheduled"
    READY = "ready"
    LEASED = "leased"
    DEAD = "dead"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    PURGED = "purged"


class Event(StrEnum):
    """What moves a job from one state to the next."""

    DUE = "due"
    CLAIM = "claim"
    COMPLETE = "complete"
    RETRY = "retry"
    RELEASE = "release"
    RELEASE_LATER = "release later"
    RECLAIM = "reclaim"
    BURY = "bury"
    REPLAY = "replay"
    PURGE = "purge"
    CANCEL = "cancel"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.SCHEDULED, Event.DUE): State.READY,
    (State.READY, Event.CLAIM): State.LEASED,
    (State.LEASED, Event.COMPLETE): State.COMPLETED,
    (State.LEASED, Event.RETRY): State.SCHEDULED,
    (State.LEASED, Event.RELEASE): State.READY,
    (State.LEASED, Event.RELEASE_LATER): State.SCHEDULED,
    (State.LEASED, Event.RECLAIM): State.READY,
    (State.LEASED, Event.BURY): State.DEAD,
    (State.DEAD, Event.REPLAY): State.READY,
    (State.DEAD, Event.PURGE): State.PURGED,
    (State.SCHEDULED, Event.CANCEL): State.CANCELLED,
    (State.READY, Event.CANCEL): State.CANCELLED,
}


def advance(state: State, event: Event) -> State:
    """The state after `event`. Raises InternalError for a transition the picture above does not have."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InternalError(f"a {state} job cannot {event}") from None


class Lane(msgspec.Struct, frozen=True):
    """One partition of one queue: the unit that is atomic in Redis. Its keys share one hash tag."""

    queue: str = "default"
    partition: int = 0

    def __str__(self) -> str:
        return f"{self.queue}.{self.partition}"


def check_queue(name: str) -> str:
    """Return `name` if it can be a queue's name. Raises UsageError."""
    if not _QUEUE.fullmatch(name):
        raise UsageError(f"queue {name!r}: use 1 to 64 letters, digits, '_' or '-'")
    return name


def check_id(job_id: str) -> str:
    """Return `job_id` if it can be a job's id. Raises UsageError."""
    if not _ID.fullmatch(job_id):
        raise UsageError(f"job id {job_id!r}: use 1 to {MAX_ID_LENGTH} printable ASCII characters, no spaces")
    return job_id


_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""A random digit with its upper two bits fixed, as every UUID has it there."""


def new_id(now_ms: int, entropy: str) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) from milliseconds since the epoch and 19 random digits; sorts by time.

    `entropy`: lower-case hexadecimal digits.
    """
    # Cut from text: arithmetic on numbers of 128 bits takes twice as long, and every job needs one.
    return f"{_id_time(now_ms)}{entropy[:3]}-{_VARIANT[entropy[3]]}{entropy[4:7]}-{entropy[7:19]}"


@lru_cache(maxsize=2)
def _id_time(now_ms: int) -> str:
    """What all ids of a millisecond begin with: many jobs are made in one."""
    time = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}"
    return f"{time[:8]}-{time[8:]}-7"


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A job's immutable part, stored as JSON. What is not set here, the worker's own declaration of the task decides.

    `enqueued_ms` is the client's wall clock, in milliseconds since the epoch, and `delay_ms` the delay it was enqueued
    with; both serve measurements only.
    """

    v: int
    task: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    priority: Priority = Priority.NORMAL
    enqueued_ms: int = 0
    delay_ms: int = 0
    timeout_ms: Limit | None = None
    max_retries: Limit | None = None
    keep_result_ms: Limit | None = None
    traceparent: str | None = None
    headers: dict[str, str] | None = None


class UndecodableRecord(ValueError):
    """The stored bytes are not a record of a version this code knows."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def encode_record(record: Record) -> bytes:
    """The record as UTF-8 JSON."""
    return _encode(record)


class Frame:
    """The records of jobs that differ in arguments and time alone, made in a third of the time.

    `record`: one of them, without a text that a user chose but the task's name.
    """

    __slots__ = ("_after", "_before", "_between")

    def __init__(self, record: Record) -> None:
        # Neither mark occurs elsewhere: JSON escapes a zero byte, and nothing else in a record is negative.
        marked = encode_record(structs.replace(record, args=msgspec.Raw(b"\0"), enqueued_ms=-1))
        self._before, rest = marked.split(b"\0")
        self._between, self._after = rest.split(b"-1")

    def encode(self, arguments: bytes, enqueued_ms: int) -> bytes:
        """What `encode_record` would make, though a time of 0 is written out."""
        return b"%b%b%b%d%b" % (self._before, arguments, self._between, enqueued_ms, self._after)


def decode_record(raw: bytes | None) -> Record:
    """The record in `raw`. Raises UndecodableRecord, with the reason in one line."""
    if raw is None:
        raise UndecodableRecord("the record is missing")
    try:
        record = _decode(raw)
    # RecursionError: of a record that is nested too deeply. It must not end who only looks at it.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableRecord(f"not a job record: {error}") from None
    if record.v != RECORD_VERSION:
        raise UndecodableRecord(f"record version {record.v}; this worker knows version {RECORD_VERSION}")
    return record


def recorded_priority(raw: bytes | None) -> Priority | None:
    """What the record says, for a job in a place that does not tell; None if it cannot be decoded."""
    try:
        return decode_record(raw).priority
    except UndecodableRecord:
        return None


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job on its way in. `unique_ms`: how long the id stays taken, counted from now, even after the job has ended."""

    id: str
    record: bytes
    priority: Priority = Priority.NORMAL
    delay_ms: int = 0
    unique_ms: int = 0


class Enqueued(StrEnum):
    """What enqueue did with one job."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    """The queue is at its `max_length`."""


class ClaimedJob(msgspec.Struct, frozen=True, gc=False):
    """A job leased to us. `tries`: failures so far. `crashes`: leases lost so far. `token`: proof of this lease."""

    id: str
    token: str
    raw: bytes | None
    tries: int = 0
    crashes: int = 0

    @property
    def fence(self) -> int:
        """The token's number: grows with every claim of the lane, so a store of the user's own can compare it."""
        return int(self.token.rpartition(":")[2])


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A claim's answer: the jobs, and why there are no more.

    `next_due_ms`: milliseconds until the earliest scheduled job is due, None if there is none or more is ready.
    `drain`: an operator wants this worker to drain and end.
    `accepted`: what became of the outcomes that went along, as `settle` answers; None if they did not.
    """

    jobs: list[ClaimedJob]
    next_due_ms: int | None = None
    paused: bool = False
    drain: bool = False
    accepted: list[bool] | None = None


class Verdict(StrEnum):
    """How a lease ends when its holder says so."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    RELEASE = "release"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one leased job.

    `delay_ms`: before a retry or a release becomes ready; a release without delay goes to the front of its queue.
    `detail`: the encoded Failure of a retry or a death, or the result of a job that keeps it for `keep_ms`.
    """

    id: str
    token: str
    verdict: Verdict = Verdict.DONE
    delay_ms: int = 0
    detail: bytes = b""
    keep_ms: int = 0


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a job's error history. `retry_ms`: how long after it the job was to run again, 0 if not at all."""

    type: str
    message: str
    attempt: int = 0
    worker: str = ""
    traceback: str = ""
    retry_ms: int = 0


def encode_failure(failure: Failure) -> bytes:
    """The failure as one line of JSON."""
    return _encode(failure)
