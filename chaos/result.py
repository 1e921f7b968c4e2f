"""One run and everything that is known of it, as one JSON document: what the reports show and what a file keeps.

Knows neither how a run is driven nor how it is judged.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from chaos.history import Action, AtRest, Event
from chaos.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chaos.verdict import Recovery

PROMISES: Final = {
    "N": "nothing lost",
    "U": "nothing invented",
    "S": "one state per job",
    "F": "fenced",
    "A": "faults are not failures",
    "D": "duplicates only where they must be",
    "P": "priority is exact",
    "Z": "no stampede",
    "C": "cancellation is clean",
}
"""The promises of the design, by letter."""

NOT_TESTED: Final = (
    "Power loss: after kill -9 the operating system still has what Redis wrote; a power cut takes that too.",
    "Packet loss, corrupted bytes and half-open connections: Toxiproxy speaks proper TCP on both sides.",
    "Clocks that disagree between machines: every process of a run is on one machine, and one clock dates them.",
    "Failover to a replica that is behind: with asynchronous replication that can lose acknowledged jobs.",
)
"""What no run of this harness tests, whatever its scenario."""


COUNTS: Final = {
    "Enqueues": (
        ("attempted", "attempted"),
        ("acknowledged", "acknowledged"),
        ("failed", "failed: certainly not queued"),
        ("unknown", "unknown: no answer came"),
        ("refused", "refused: queue full"),
        ("deepest", "deepest: most that waited at once"),
    ),
    "Where jobs ended": (
        ("completed", "completed"),
        ("dead", "dead-lettered"),
        ("cancelled", "cancelled"),
        ("purged", "purged"),
        ("still_queued", "still queued"),
        ("in_flight", "in flight: handlers, when an outage began"),
    ),
    "Allowed, and counted": (
        ("recovered", "recovered: outcome unknown, ran"),
        ("duplicated", "duplicated: lease overlapped a fault"),
        ("reclaimed", "reclaimed: leases taken back by a sweep"),
        ("poisoned", "poisoned: dead, crash budget used up"),
        ("stale_refused", "stale settles refused"),
    ),
    "Must be zero": (
        ("lost", "lost: acknowledged, now nowhere"),
        ("unexpected", "unexpected: ran, never enqueued"),
        ("duplicated_without_cause", "duplicated without cause"),
        ("stale_accepted", "stale settles accepted"),
        ("inverted", "priority inversions"),
        ("stuck", "stuck"),
        ("manual_interventions", "manual interventions"),
    ),
}
"""The fields of `Counts` in groups, each with the words for it."""
MUST_BE_ZERO: Final = "Must be zero"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A judged run. Times are seconds since the epoch; `history` is in order of time."""

    format: Literal[1] = 1
    scenario: str
    title: str
    promises: tuple[str, ...]
    """Letters, see `PROMISES`."""
    seed: int
    command: str
    """What to type to run exactly this again: `shown_command`."""
    judgement: Judgement
    started_s: float
    ended_s: float
    settings: dict[str, Any] = {}
    """The settings that bounds come from, and the size of the load."""
    versions: dict[str, str] = {}
    redis_settings: dict[str, str] = {}
    not_tested: tuple[str, ...] = NOT_TESTED
    log_tail: tuple[str, ...] = ()
    """The last lines of the workers' logs, if the run did not pass."""
    history: list[Event] = []

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s

    @property
    def passed(self) -> bool:
        return self.judgement.verdict is Verdict.PASS

    def actions(self) -> list[Action]:
        """What was done to the system besides faults and load."""
        return [event for event in self.history if isinstance(event, Action)]

    def at_rest(self) -> AtRest | None:
        """What the queue said of itself at the end, if the run came that far."""
        return next((event for event in reversed(self.history) if isinstance(event, AtRest)), None)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Result).decode


def to_json(result: Result) -> bytes:
    """The whole result; the same result gives the same bytes."""
    return _encode(result) + b"\n"


def in_short(result: Result) -> Result:
    """The result without its history."""
    return msgspec.structs.replace(result, history=[])


def from_json(data: bytes | str, where: str = "result") -> Result:
    """What `to_json` wrote. Raises ValueError, naming `where`, for anything else."""
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"{where}: not the result of a chaos run: {error}") from None


# --- words that every report uses ----------------------------------------------------------------------------------


def promise_words(letters: Iterable[str]) -> list[str]:
    """Letters with what they stand for: "N nothing lost"."""
    return [f"{letter} {PROMISES[letter]}" if letter in PROMISES else letter for letter in letters]


def tightest(recoveries: Sequence[Recovery]) -> Recovery | None:
    """The recovery that came nearest to its bound, or broke it worst. One that never came is worse than any."""

    def strain(recovery: Recovery) -> float:
        if recovery.measured_s is None:
            return float("inf")
        return recovery.measured_s / recovery.allowed_s if recovery.allowed_s else recovery.measured_s * 1e9

    return max(recoveries, key=strain, default=None)


def recovery_words(recovery: Recovery | None) -> str:
    """Measured of allowed, for a cell: "1.24 of 2.00 s". A dash if there is nothing to recover from."""
    if recovery is None:
        return "–"
    measured = "never" if recovery.measured_s is None else f"{recovery.measured_s:.2f}"
    return f"{measured} of {recovery.allowed_s:.2f} s"


_LOGIN: Final = re.compile(r"(?<=://)\S*@")
"""Up to the last "@": a password may hold anything but a space."""
_SECRET: Final = re.compile(r"([?&](?:username|password)=)[^\s&#'\"]+")


def shown_command(arguments: Iterable[str]) -> str:
    """A command line to paste into a shell. A password in a URL gives way to stars: reports get passed around."""
    return shlex.join(without_logins(argument) for argument in arguments)


def without_logins(text: str) -> str:
    """Text in which no URL tells a user or a password."""
    return _SECRET.sub(r"\1***", _LOGIN.sub("***@", text))
