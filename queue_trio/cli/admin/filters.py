"""Which dead jobs are meant: by task, by error, by age. Pure: the time is passed in, and nothing is asked of Redis."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

if TYPE_CHECKING:
    from queue_trio.core.store import PeekedJob

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_AGE_S_MAX: Final = 86400 * 36600


def parse_age(text: str) -> float:
    """Seconds in a duration such as 90s, 15m, 12h, 7d or 1d12h. Raises typer.BadParameter."""
    parts = _AGE.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        raise typer.BadParameter(f"{text!r} is no duration: write it as 90s, 15m, 12h or 7d")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if seconds > _AGE_S_MAX:
        raise typer.BadParameter(f"{text!r} is more than a hundred years")
    return seconds


class Kind(NamedTuple):
    """What dead jobs are grouped by. `error`: the type of the failure that ended it."""

    task: str
    error: str


@dataclass(frozen=True, slots=True)
class Filters:
    """All that are given must fit. `task`: a glob. `error`: part of the last failure's type or message, in any case."""

    task: str | None = None
    error: str | None = None
    older_s: float | None = None
    newer_s: float | None = None

    def since_ms(self, now_ms: int) -> int | None:
        """The earliest death that fits, or None for any."""
        return None if self.newer_s is None else now_ms - round(self.newer_s * 1000)

    def until_ms(self, now_ms: int) -> int:
        """The latest death that fits: never one after `now_ms`, so that what is asked about does not grow."""
        return now_ms - round((self.older_s or 0) * 1000)

    def fits(self, task: str | None, error: str) -> bool:
        """Whether a job of that task, ended by that "type: message", is meant. `task`: None if it cannot be read."""
        if self.task is not None and (task is None or not fnmatchcase(task, self.task)):
            return False
        return self.error is None or self.error.casefold() in error.casefold()

    def as_json(self) -> dict[str, Any]:
        """Those that are given."""
        known = {
            "task": self.task,
            "error": self.error,
            "older_than_s": self.older_s,
            "newer_than_s": self.newer_s,
        }
        return {name: value for name, value in known.items() if value is not None}


def identify(job: PeekedJob) -> tuple[str | None, str, Kind]:
    """The task, or None if the record cannot be read; "type: message" of the last failure; and the kind of the job."""
    from queue_trio.cli.peeking import last_failure
    from queue_trio.core.job import UndecodableRecord, decode_record

    try:
        task: str | None = decode_record(job.raw).task
    except UndecodableRecord:
        task = None
    failure = last_failure(job)
    kind = Kind(task or "?", failure.type if failure else "?")
    return task, f"{failure.type}: {failure.message}" if failure else "", kind


@dataclass(slots=True)
class Tally:
    """How many jobs there are of which kind, by queue, and when they died."""

    kinds: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    oldest_ms: int | None = None
    newest_ms: int | None = None

    @property
    def total(self) -> int:
        return self.kinds.total()

    def add(self, queue: str, kind: Kind, at_ms: int | None) -> None:
        """Count one job."""
        self.kinds[queue, kind] += 1
        if at_ms is not None:
            self.oldest_ms = at_ms if self.oldest_ms is None else min(self.oldest_ms, at_ms)
            self.newest_ms = at_ms if self.newest_ms is None else max(self.newest_ms, at_ms)

    def as_json(self) -> list[dict[str, Any]]:
        """The kinds, the most frequent first."""
        return [
            {"queue": queue, "task": kind.task, "error": kind.error, "count": count}
            for (queue, kind), count in self.kinds.most_common()
        ]
