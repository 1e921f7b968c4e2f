"""What happened in a run, written down outside Redis while it happens and judged afterwards.

Every process appends to a file of its own, one JSON object a line, flushed before the operation it announces goes out:
a process that is killed leaves everything it did up to there. `read_history` puts the files in one order. All processes
are on one machine, so one wall clock dates all of it. Knows nothing of what is right or wrong: that is `checker`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

SUFFIX: Final = ".journal"


class Enqueue(msgspec.Struct, frozen=True, tag="enqueue", omit_defaults=True):
    """A client's enqueue of one job. Every `invoke` is followed by one other phase, unless its process was killed.

    `ok`: acknowledged. `fail`: certainly not queued. `info`: nobody knows. `refused`: the queue was full.
    """

    at_s: float
    id: str
    phase: Literal["invoke", "ok", "fail", "info", "refused"]
    task: str = ""
    priority: str = "normal"
    delay_ms: int = 0
    error: str = ""
    client: str = ""
    """Process that sent it, such as producer-1."""


class Run(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """A handler began or ended. `fence` is the fencing token's number, `attempt` counts from 1.

    `end` says how: returned, raised, or cancelled (shutdown, lost lease, timeout).
    """

    at_s: float
    id: str
    phase: Literal["start", "end"]
    worker: str
    pid: int
    attempt: int
    fence: int
    outcome: Literal["", "returned", "raised", "cancelled"] = ""


class Settle(msgspec.Struct, frozen=True, tag="settle", omit_defaults=True):
    """Redis has answered a worker what became of one job's outcome: `accepted`, or refused by the fence.

    `fence` is that of the run whose outcome it is; `sent_s` is when the call went out.
    """

    at_s: float
    sent_s: float
    id: str
    fence: int
    verdict: Literal["done", "retry", "dead", "release"]
    accepted: bool


class Fault(msgspec.Struct, frozen=True, tag="fault", omit_defaults=True):
    """A fault on its way: asked for, proven to be there (`proof` says how), asked to heal, proven to be gone."""

    at_s: float
    name: str
    phase: Literal["begin", "active", "heal", "healed"]
    proof: str = ""
    targets: tuple[str, ...] = ()
    """Workers and clients it hits, by name, in any of its phases. Without any, the scenario says whom."""
    jobs: dict[str, float] = {}
    """Jobs that its victims had in hand when they died, to when that was."""
    exits: dict[str, int] = {}
    """Workers that were told to end, to their exit codes."""


class Probe(msgspec.Struct, frozen=True, tag="probe", omit_defaults=True):
    """What a question of the harness met on a route that a fault is on; asked on a connection of its own, at `at_s`.

    `answered`: in full. `cut`: the connection ended before that. `silent`: neither came within `took_s`.
    """

    at_s: float
    fault: str
    route: str
    outcome: Literal["answered", "refused", "cut", "silent"]
    took_s: float
    before: bool = False
    """Asked before the fault was there, for comparison."""
    got: int = 0
    """Bytes of the answer."""
    pieces: int = 0
    """In so many reads."""
    closing_s: float | None = None
    """From our end of the stream to the other's, if that was waited for, and came."""


class Dropped(msgspec.Struct, frozen=True, tag="dropped", omit_defaults=True):
    """Bytes that a proxy took from somebody and never passed on while a fault was there; not those of our probes."""

    at_s: float
    fault: str
    route: str
    bytes: int


class Observation(msgspec.Struct, frozen=True, tag="observation", omit_defaults=True):
    """What was seen at one moment, for the timeline and for proof that a fault bit.

    By the harness, of the queue and the workers; or by a producer, of itself. Who has a process's name, and a number
    after a `#` where several processes have that name: `process_of`.
    """

    at_s: float
    ready: dict[str, int] = {}
    scheduled: int | None = None
    leased: int | None = None
    dead: int | None = None
    completed: int | None = None
    breaker: dict[str, str] = {}
    """Worker or client to breaker state."""
    in_flight: dict[str, int] = {}
    errors: dict[str, int] = {}
    """Worker or client to errors of its connection so far."""
    connects: dict[str, int] = {}
    """Worker or client to connections it has tried to make so far."""


class Action(msgspec.Struct, frozen=True, tag="action", omit_defaults=True):
    """Something was done to the system besides faults and load. `manual`: a person, or the harness in their stead."""

    at_s: float
    what: str
    manual: bool = False


class AtRest(msgspec.Struct, frozen=True, tag="at_rest", omit_defaults=True):
    """The end: what the queue itself says after everything is healed and drained, or the time was up.

    `completed` and so on are the queue's own counters; `places` maps every id that is still there to its state.
    """

    at_s: float
    drained: bool
    places: dict[str, str] = {}
    enqueued: int = 0
    completed: int = 0
    cancelled: int = 0
    purged: int = 0
    violations: tuple[str, ...] = ()
    """Against S: what its own audit found; jobs that were not in one place after a transaction of its file."""
    inversions: tuple[str, ...] = ()
    """Against P: claims and moves in the file that did not go by priority."""
    leftovers: tuple[str, ...] = ()
    """Tasks, threads, processes or leases that outlived the runtime that had them."""
    transactions: int | None = None
    """In the server's own append-only file; None where that is out of reach."""
    leases: int | None = None
    """How often that file tells that a job was leased: less than runs that began, and it is not the whole story."""
    reclaimed: int = 0
    """Leases that a sweep has taken back, and with `poisoned` those after which the job was dead."""
    poisoned: int = 0
    stale: int = 0
    """Settles that the fence has refused."""


Event = Enqueue | Run | Settle | Fault | Probe | Dropped | Observation | Action | AtRest

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Event).decode


class Journal:
    """One process's own file. `append` returns when the line is with the operating system: kill -9 cannot undo it."""

    def __init__(self, file: Path, *, clock: Callable[[], float]) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.clock = clock

    def append(self, *events: Event) -> None:
        """Write them. One write, so lines of several threads do not mix."""
        os.write(self._file, b"".join(_encode(event) + b"\n" for event in events))

    def close(self) -> None:
        os.close(self._file)


def read_history(folder: Path) -> list[Event]:
    """Every event of every journal in `folder`, by time. Raises ValueError for a line that is no event.

    A last line that a kill cut off is left out: what it announces never went out.
    """
    events: list[Event] = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        events += _parse(file.read_bytes(), str(file))
    return in_order(events)


def process_of(who: str) -> str:
    """The process of a scenario that speaks under this name in an observation: "producer-1" of "producer-1#7"."""
    return who.partition("#")[0]


def in_order(events: Iterable[Event]) -> list[Event]:
    """By time; of equals in the order given."""
    return sorted(events, key=lambda event: event.at_s)


def _parse(data: bytes, where: str) -> Sequence[Event]:
    *lines, _unfinished = data.split(b"\n")
    found: list[Event] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_decode(line))
        except msgspec.DecodeError as error:
            raise ValueError(f"{where}:{number}: not an event: {error}") from None
    return found
