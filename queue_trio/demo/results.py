"""What the workers wrote down, and the figures that can be told from it. Pure, but for reading the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.demo.tasks import PRIORITIES as BY_EXTENSION
from queue_trio.demo.tasks import RESULTS_SUFFIX, Result
from queue_trio.runtime.folder import path_from_text
from queue_trio.runtime.producer import extension_priorities, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_BY_EXTENSION: Final = extension_priorities(BY_EXTENSION)

_decode = msgspec.json.Decoder(Result).decode


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


class PriorityFigures(msgspec.Struct, frozen=True):
    """The jobs of one priority. `wait`: from enqueue to start. `run`: from start to end.

    `done_s`: when the last one had ended, in seconds since the first job of all started.
    """

    jobs: int
    wait_ms: Quantiles
    run_ms: Quantiles
    done_s: float


class Figures(msgspec.Struct, frozen=True):
    """`jobs`: different ones. `seconds`: from the first start of a job to the last end."""

    jobs: int
    bytes: int
    unreadable: int
    seconds: float
    retries: int
    ran_twice: int
    by_priority: dict[Priority, PriorityFigures]
    overall: PriorityFigures

    @property
    def jobs_per_second(self) -> float:
        return self.jobs / self.seconds if self.seconds else 0.0


def read_results(folder: Path) -> list[Result]:
    """Every run of every job. The last line of a worker that was killed may be torn: that run does not count."""
    results = []
    for file in sorted(folder.glob(f"*{RESULTS_SUFFIX}")):
        lines = file.read_bytes().split(b"\n")
        results += [_decode(line) for line in lines[:-1]]
    return results


def priority_for(path: str) -> Priority:
    """The priority the demo gives to a path, in the form a job carries it."""
    return priority_of(path_from_text(path), _BY_EXTENSION) or Priority.NORMAL


def summarise(results: Sequence[Result]) -> Figures:
    """The figures of a run. A job that ran twice counts once, with its first run."""
    first: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: result.finished_ms):
        first.setdefault(result.id, result)
    attempts: dict[str, int] = {}
    for result in results:
        attempts[result.id] = max(attempts.get(result.id, 1), result.attempt)
    by_priority: dict[Priority, list[Result]] = {priority: [] for priority in PRIORITIES}
    for result in first.values():
        by_priority[priority_for(result.path)].append(result)
    ended = max((result.finished_ms for result in results), default=0.0)
    began = min((result.started_ms for result in results), default=0.0)
    return Figures(
        jobs=len(first),
        bytes=sum(result.measured.size for result in first.values()),
        unreadable=sum(1 for result in first.values() if result.measured.error),
        seconds=(ended - began) / 1000,
        retries=sum(attempts.values()) - len(attempts),
        ran_twice=len({result.id for result in results if result is not first[result.id]}),
        by_priority={priority: _figures(some, began) for priority, some in by_priority.items() if some},
        overall=_figures(first.values(), began),
    )


def _figures(results: Iterable[Result], began: float) -> PriorityFigures:
    every = list(results)
    return PriorityFigures(
        len(every),
        quantiles([it.wait_ms for it in every]),
        quantiles([it.run_ms for it in every]),
        (max((it.finished_ms for it in every), default=began) - began) / 1000,
    )


def quantiles(values: Sequence[float]) -> Quantiles:
    """By nearest rank: each is one of the values. 0 if there are none."""
    ordered = sorted(values)

    def at(percent: int) -> float:
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)] if ordered else 0.0

    return Quantiles(at(50), at(95), at(99))
