"""What a worker has done, as plain numbers: the hot path increments them, whoever exports them reads them.

No locks and no library: one event loop writes, and a reader in the same loop sees whole numbers. How they are called
when they are exported is `ops.metrics`'s business.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER: Final = "other"
"""Where the tasks are counted that have no name of their own here."""

BOUNDS_S: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets of every histogram."""


class Histogram:
    """How many values fell at or under each of BOUNDS_S and above the one before, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class TaskCounts:
    """Jobs of one task. `lost`: handlers cancelled because the lease was gone. `abandoned`: threads past their timeout.

    `run` and `wait` are there only while somebody may read them: a time costs more than an increment.
    """

    completed: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    abandoned: int = 0
    run: Histogram | None = None
    wait: Histogram | None = None


@dataclass(slots=True)
class QueueCounts:
    """Jobs of one queue. `stale`: outcomes refused by the fence. `unknown`: given back, as no task has their name."""

    claimed: int = 0
    released: int = 0
    stale: int = 0
    unknown: int = 0
    reclaimed: int = 0
    poisoned: int = 0


@dataclass(slots=True)
class Counts:
    """Everything since the worker started. `tasks` are those with a name of their own; there are never more."""

    tasks: dict[str, TaskCounts] = field(default_factory=dict)
    queues: dict[str, QueueCounts] = field(default_factory=dict)
    other: TaskCounts = field(default_factory=TaskCounts)

    @classmethod
    def for_tasks(cls, names: Iterable[str], *, timed: bool) -> Counts:
        """Counts for these tasks, and for all others together. `timed`: keep histograms too."""

        def make() -> TaskCounts:
            return TaskCounts(run=Histogram(), wait=Histogram()) if timed else TaskCounts()

        return cls({name: make() for name in names}, {}, make())

    def task(self, name: str) -> TaskCounts:
        """Where jobs of this task are counted."""
        return self.tasks.get(name, self.other)

    def queue(self, name: str) -> QueueCounts:
        """Where jobs of this queue are counted. For the queues a worker serves: they are a few."""
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = QueueCounts()
        return found

    def labelled(self) -> list[tuple[str, TaskCounts]]:
        """Every task's counts under the name they are known by."""
        return [*self.tasks.items(), (OTHER, self.other)]

    # --- sums, for logs and tests ----------------------------------------------------------------------------------

    def _tasks(self, name: str) -> int:
        return sum(getattr(counts, name) for _, counts in self.labelled())

    def _queues(self, name: str) -> int:
        return sum(getattr(counts, name) for counts in self.queues.values())

    completed = property(lambda self: self._tasks("completed"))
    retried = property(lambda self: self._tasks("retried"))
    dead = property(lambda self: self._tasks("dead"))
    lost = property(lambda self: self._tasks("lost"))
    abandoned = property(lambda self: self._tasks("abandoned"))
    claimed = property(lambda self: self._queues("claimed"))
    released = property(lambda self: self._queues("released"))
    stale = property(lambda self: self._queues("stale"))
    unknown = property(lambda self: self._queues("unknown"))
    reclaimed = property(lambda self: self._queues("reclaimed"))
    poisoned = property(lambda self: self._queues("poisoned"))
