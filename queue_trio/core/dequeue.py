"""Which job next: the priorities, the dequeue strategies, and the order among queues.

It knows no key, no script and no job: a strategy only says in which order one claim looks at the priorities. Whether
a claim is one atomic step is the Store's promise, for `Strict` and `Weighted`; `Looped` cannot have it.

Call `order` once per claim, and send a claim again with the order it had: drawing a new one for a retried call would
spend a turn that led to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T", bound=Hashable)


class Priority(StrEnum):
    """How urgent a job is. Compare by `rank`: as strings, "low" < "normal"."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent, 3 for the least."""
        return PRIORITIES.index(self)


PRIORITIES = tuple(Priority)
"""All of them, most urgent first."""

DEFAULT_WEIGHTS: Mapping[Priority, int] = dict(zip(PRIORITIES, (8, 4, 2, 1), strict=True))
DEFAULT_WAIT = 0.1
"""Seconds for which `Looped` waits at each priority."""


class SmoothWeightedRoundRobin(Generic[T]):
    """Takes turns among items, each as often as its weight says, spread out instead of in bursts.

    Every turn each item gains its weight in credit; the richest, the first of equals, leads and pays W, the sum of all
    weights. After W turns all credits are zero again, so the turns repeat, and in any W consecutive ones an item of
    weight w leads exactly w times. Between two of its turns others lead W - w times at most. The algorithm is nginx's,
    https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1.

    `weights` are whole numbers, 1 or more. Raises ValueError otherwise, or if there are none.
    """

    def __init__(self, weights: Mapping[T, int]) -> None:
        if not weights:
            raise ValueError("no weights: give at least one")
        for item, weight in weights.items():
            if weight < 1:
                raise ValueError(f"weight of {item} is {weight!r}: it must be a whole number, 1 or more")
        self._weights = dict(weights)
        self._total = sum(weights.values())
        self._credits = dict.fromkeys(weights, 0)

    def leader(self) -> T:
        """Who leads this turn."""
        for item, weight in self._weights.items():
            self._credits[item] += weight
        leader = max(self._credits, key=self._credits.__getitem__)
        self._credits[leader] -= self._total
        return leader

    def order(self) -> tuple[T, ...]:
        """Who leads this turn, then all others in the order in which `weights` named them."""
        leader = self.leader()
        return (leader, *(item for item in self._weights if item != leader))


@dataclass(frozen=True, slots=True)
class Strict:
    """Always the most urgent first: no job is claimed while a more urgent one is ready. Low ones may starve."""

    def order(self) -> tuple[Priority, ...]:
        return PRIORITIES


class Weighted:
    """Priorities take turns at leading a claim, by weight; the rest follow, most urgent first.

    The starvation bound: in any W consecutive claims of one worker, where W is the sum of the weights, priority p leads
    exactly `weights[p]` times; so a ready job that is first of its priority is claimed after W - weights[p] other
    claims at most. Turns count claims, not jobs: a leader may fill a whole batch.

    `weights` gives every priority a whole number, 1 or more. Raises ValueError otherwise.
    """

    def __init__(self, weights: Mapping[Priority, int] = DEFAULT_WEIGHTS) -> None:
        if set(weights) != set(PRIORITIES):
            raise ValueError(f"weights name {_listed(weights)}: they must name {_listed(PRIORITIES)}")
        self._turns = SmoothWeightedRoundRobin({priority: weights[priority] for priority in PRIORITIES})

    def order(self) -> tuple[Priority, ...]:
        """The order for the next claim. Each call takes a turn."""
        return self._turns.order()


@dataclass(frozen=True, slots=True)
class Looped:
    """The classic loop: one blocking move per priority, most urgent first, each waiting up to `wait` seconds.

    Not atomic. While the loop waits at the other priorities it does not see the first, so a ready job of the top
    priority is noticed after at most (number of priorities - 1) * `wait` seconds (`granularity`), plus the round
    trips, and a less urgent job that arrives meanwhile goes first.

    Redis counts `wait` in milliseconds and takes 0 for forever, hence 0.001 or more. Raises ValueError otherwise.
    """

    wait: float = DEFAULT_WAIT

    def __post_init__(self) -> None:
        if not 0.001 <= self.wait < math.inf:
            raise ValueError(f"wait is {self.wait!r}: it must be a number of seconds, 0.001 or more")

    @property
    def granularity(self) -> float:
        """Seconds for which a ready job of the top priority can go unnoticed, at most."""
        return (len(PRIORITIES) - 1) * self.wait

    def order(self) -> tuple[Priority, ...]:
        return PRIORITIES


Strategy: TypeAlias = Strict | Weighted | Looped


def strategy_from_name(
    name: str, weights: Mapping[Priority, int] | None = None, wait: float = DEFAULT_WAIT
) -> Strategy:
    """The strategy called "strict", "weighted" or "looped". Raises ValueError for another name or bad settings.

    Only `weighted` reads `weights` and only `looped` reads `wait`, so changing the name alone is always enough.
    """
    match name:
        case "strict":
            return Strict()
        case "weighted":
            return Weighted(DEFAULT_WEIGHTS if weights is None else weights)
        case "looped":
            return Looped(wait)
    raise ValueError(f"unknown dequeue strategy {name!r}: choose strict, weighted or looped")


class LaneOrder:
    """In which order a worker looks at its queues: as listed, or taking turns at the lead by weight.

    Queues come before priorities: each claim is for one lane of one queue, and the strategy orders what is in it.
    `queues` is a sequence of names (strict) or a mapping of name to weight, 1 or more. Raises ValueError if it is
    empty, names a queue twice, or has a bad weight.
    """

    def __init__(self, queues: list[str] | tuple[str, ...] | Mapping[str, int]) -> None:
        self._queues = tuple(queues)
        if not self._queues or not all(self._queues) or len(set(self._queues)) < len(self._queues):
            raise ValueError(f"queues are {_listed(self._queues)}: name at least one, and each once")
        self._turns = SmoothWeightedRoundRobin(queues) if isinstance(queues, Mapping) else None

    @classmethod
    def parse(cls, text: str) -> LaneOrder:
        """From "emails, default" (strict) or "emails:3, default:1" (by weight). Raises ValueError otherwise."""
        pairs = [tuple(part.strip() for part in entry.partition(":")) for entry in text.split(",")]
        if not any(colon for _, colon, _ in pairs):
            return cls([name for name, _, _ in pairs])
        weights: dict[str, int] = {}
        for name, _, weight in pairs:
            if not weight.isdecimal() or name in weights:
                raise ValueError(f"queues are {text!r}: give each one weight, as in emails:3, default:1")
            weights[name] = int(weight)
        return cls(weights)

    def order(self) -> tuple[str, ...]:
        """The order for the next round of claims. Each call takes a turn."""
        return self._queues if self._turns is None else self._turns.order()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(str(name) for name in names) or "nothing"
