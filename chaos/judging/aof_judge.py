"""Judges a lane by the server's own append-only file: S at every instant, and P at every claim.

S: after each transaction an id that has a record is in exactly one place, and an id without one is in none. P: a job is
always put where the priority that its record asks for belongs, and no claim leaves a more urgent job ready. How many
leases the file tells of is told too: what was judged from a file that is not the whole story says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from chaos.judging.aof import transactions
from chaos.judging.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from chaos.judging.replay import Change
    from queue_trio.redis.keys import LaneKeys

FOUND_MAX: Final = 20
"""So many are told; who breaks a promise that often has broken it."""


class Told(msgspec.Struct, frozen=True):
    """What the file tells of one lane. Lines for people, the worst first; each begins with the id of a job."""

    transactions: int
    leases: int
    """How often a job was leased."""
    misplaced: tuple[str, ...]
    """Against S."""
    inversions: tuple[str, ...]
    """Against P; means something of the strategy `strict` alone."""
    places: Mapping[str, tuple[str, ...]]
    """Where every job is in the end."""


def judge_file(folder: Path, keys: LaneKeys, database: int = 0) -> Told:
    """What the append-only file in `folder` tells of the lane that has `keys`.

    Raises HarnessError for a file that cannot be read from its beginning, and for a write that nobody knows.
    """
    replay, states, order = Replay(keys), _States(), _Order()
    number = leases = 0
    for number, transaction in enumerate(transactions(folder, database), 1):
        change = replay.apply(transaction)
        if change.before:
            leases += len(change.leased)
            states.judge(number, replay, change)
            order.judge(number, replay, change)
    return Told(number, leases, states.told(number), tuple(order.found), dict(replay.where))


@dataclass(frozen=True, slots=True)
class _Break:
    """An id that came into no place, or too many."""

    id: str
    what: str
    since: int
    until: int | None = None
    """The transaction that mended it."""

    def words(self, last: int) -> str:
        end = "and it stayed so" if self.until is None else f"until transaction {self.until}"
        return f"{self.id}: {self.what} after transaction {self.since} of {last}, {end}"


@dataclass(slots=True)
class _States:
    """S. One breach lasts until the id is as it should be again."""

    open: dict[str, _Break] = field(default_factory=dict)
    mended: list[_Break] = field(default_factory=list)

    def judge(self, number: int, replay: Replay, change: Change) -> None:
        for id, before in change.before.items():
            places = replay.where.get(id, ())
            if len(places) == (id in replay.records):
                if (was := self.open.pop(id, None)) is not None:
                    self.mended.append(_Break(was.id, was.what, was.since, number))
            elif id not in self.open:
                self.open[id] = _Break(id, _what(places, before, recorded=id in replay.records), number)

    def told(self, last: int) -> tuple[str, ...]:
        """The worst is what was never mended, then what took longest."""
        mended = sorted(self.mended, key=lambda one: one.since - (one.until or last))
        return tuple(one.words(last) for one in (*self.open.values(), *mended)[:FOUND_MAX])


def _what(places: tuple[str, ...], before: tuple[str, ...], *, recorded: bool) -> str:
    was = f"was in {' and '.join(before)}" if before else "was nowhere"
    if not places:
        return f"nowhere, though it has a record ({was}),"
    there = f"in {' and '.join(places)}"
    return f"{there} ({was})" if recorded else f"{there}, and has no record ({was}),"


@dataclass(slots=True)
class _Order:
    """P."""

    homes: dict[str, str] = field(default_factory=dict)
    """Ids to their priorities."""
    found: list[str] = field(default_factory=list)

    def judge(self, number: int, replay: Replay, change: Change) -> None:
        for id, level in change.put:
            # A record that nobody can decode asks for nothing: then the first place says what it is.
            home = self.homes.setdefault(id, replay.records.get(id) or level)
            if level != home:
                place = " and ".join(replay.where.get(id, ())) or f"a place for {level}"
                self._tell(f"{id}: its priority is {home}, and transaction {number} put it into {place}")
        if change.taken:
            self._judge_claim(number, replay, change)
        for id in change.before:
            if id not in replay.records:
                self.homes.pop(id, None)

    def _judge_claim(self, number: int, replay: Replay, change: Change) -> None:
        levels = [place.level for place in replay.ready]
        id, level = max(change.taken, key=lambda one: levels.index(one[1]))
        over = [(other, place.level) for place in replay.ready[: levels.index(level)] for other in place.ids]
        if over:
            more = f" and {len(over) - 1} more" if len(over) > 1 else ""
            ready = f"{over[0][0]} ({over[0][1]}){more} of a higher priority"
            self._tell(f"{id}: transaction {number} took it ({level}) and left {ready} ready")

    def _tell(self, line: str) -> None:
        if len(self.found) < FOUND_MAX:
            self.found.append(line)
