"""Where every job of a lane is after each transaction of a server's append-only file. Judges nothing.

Knows every write that queue_trio makes to the keys a job can be in; one that it does not know is an error, because
whatever is judged after that would be judged on a guess.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from chaos.errors import HarnessError
from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import UndecodableRecord, decode_record
from queue_trio.redis.keys import READY_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.judging.aof import Command
    from queue_trio.redis.keys import LaneKeys

LEVELS: Final = tuple(str(priority) for priority in PRIORITIES)
_ZADD_WORDS: Final = frozenset({"NX", "XX", "GT", "LT", "CH"})


@dataclass(slots=True)
class Place:
    """One key that jobs can be in. `level`: the priority it is for, "" if it is for all."""

    name: str
    level: str = ""
    ids: deque[str] = field(default_factory=deque)
    """Of a list, in its order."""
    members: set[str] = field(default_factory=set)
    """Of a sorted set."""


@dataclass(slots=True)
class Change:
    """What one transaction did."""

    before: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Every id it touched, and where that was before."""
    put: list[tuple[str, str]] = field(default_factory=list)
    """Ids that came into a place for one priority, and which."""
    taken: list[tuple[str, str]] = field(default_factory=list)
    """Ids taken from the end of a ready list, and of which priority; not what somebody picked out of it."""
    leased: list[str] = field(default_factory=list)
    """Ids that came into the lease."""


class Replay:
    """The lane that has these keys, from its first write on. All is public to read, and changed by `apply` alone."""

    def __init__(self, keys: LaneKeys) -> None:
        self.records: dict[str, str] = {}
        """Ids that have a record, and the priority that their first one asks for; "" if it cannot be read."""
        self.where: dict[str, tuple[str, ...]] = {}
        """Every id that is in any place, and in which."""
        self.ready = tuple(
            Place(name, level) for name, level in zip(READY_KEYS, LEVELS, strict=True)
        )  # the most urgent first
        self._job = keys["job"]
        self._scheduled = keys["scheduled"]
        self._lease = keys["lease"]
        self._inbox = keys.inboxes("")[0].removesuffix(":0")
        self._places = dict(zip(keys.pick(READY_KEYS), self.ready, strict=True))
        self._places |= {keys[name]: Place(name) for name in ("lease", "scheduled", "dead")}
        self._change = Change()
        self._writes: dict[str, Callable[[str, Sequence[str]], None]] = {
            "RPUSH": self._rpush,
            "LPUSH": self._lpush,
            "LPOP": self._lpop,
            "RPOP": self._rpop,
            "LREM": self._lrem,
            "ZADD": self._zadd,
            "ZREM": self._zrem,
            "HSET": self._hset,
            "HMSET": self._hset,
            "HSETNX": self._hset,
            "HDEL": self._hdel,
        }

    def apply(self, transaction: Iterable[Command]) -> Change:
        """Do what it did. Raises HarnessError for a write to one of the keys whose meaning is not known."""
        self._change = Change()
        for name, *arguments in transaction:
            command = name.upper()
            if (write := self._writes.get(command)) is not None:
                if self._knows(arguments[0]):
                    write(arguments[0], arguments[1:])
            elif command in {"DEL", "UNLINK"}:  # also how a pop that empties a list may be written
                for key in filter(self._knows, arguments):
                    self._clear(key)
            elif command in {"LMOVE", "BLMOVE", "RPOPLPUSH", "BRPOPLPUSH"}:
                self._move(command, arguments)
            elif ours := [key for key in arguments if self._knows(key)]:
                raise HarnessError(
                    f"append-only file: {command} on {ours[0]}, and nobody knows what that means"
                )
        return self._change

    def _knows(self, key: str) -> bool:
        """Whether it is one of ours; inboxes are made known as they come."""
        if key in self._places or key == self._job:
            return True
        if not key.startswith(self._inbox):
            return False
        rank = key.rpartition(":")[2]
        level = LEVELS[int(rank)] if rank in {"0", "1", "2", "3"} else ""
        self._places[key] = Place(f"inbox:{level}", level)
        return True

    # --- one id ----------------------------------------------------------------------------------------------------

    def _touch(self, id: str) -> None:
        self._change.before.setdefault(id, self.where.get(id, ()))

    def _enter(self, id: str, place: str, level: str = "") -> None:
        self._touch(id)
        self.where[id] = (*self.where.get(id, ()), place)
        if level:
            self._change.put.append((id, level))

    def _leave(self, id: str, place: str) -> None:
        self._touch(id)
        rest = list(self.where[id])
        rest.remove(place)
        if rest:
            self.where[id] = tuple(rest)
        else:
            del self.where[id]

    # --- lists -----------------------------------------------------------------------------------------------------

    def _rpush(self, key: str, ids: Sequence[str]) -> None:
        place = self._places[key]
        place.ids.extend(ids)
        for id in ids:
            self._enter(id, place.name, place.level)

    def _lpush(self, key: str, ids: Sequence[str]) -> None:
        place = self._places[key]
        place.ids.extendleft(ids)
        for id in ids:
            self._enter(id, place.name, place.level)

    def _lpop(self, key: str, count: Sequence[str]) -> None:
        self._pop(key, deque.popleft, int(count[0]) if count else 1)

    def _rpop(self, key: str, count: Sequence[str]) -> None:
        self._pop(key, deque.pop, int(count[0]) if count else 1)

    def _pop(self, key: str, pop: Callable[[deque[str]], str], count: int) -> list[str]:
        place = self._places[key]
        popped = [pop(place.ids) for _ in range(min(count, len(place.ids)))]
        for id in popped:
            self._leave(id, place.name)
            if place.name in READY_KEYS:
                self._change.taken.append((id, place.level))
        return popped

    def _lrem(self, key: str, arguments: Sequence[str]) -> None:
        place, (count, id) = self._places[key], arguments
        for _ in range(min(abs(int(count)) or len(place.ids), place.ids.count(id))):
            place.ids.remove(id)
            self._leave(id, place.name)

    def _move(self, command: str, arguments: Sequence[str]) -> None:
        source, target, *ends = arguments
        ours = [key for key in (source, target) if self._knows(key)]
        if not ours:
            return
        if len(ours) == 1:
            raise HarnessError(
                f"append-only file: {command} from {source} to {target}, and only one is a list of jobs"
            )
        from_, to = ends[:2] if command.endswith("LMOVE") else ("RIGHT", "LEFT")
        for id in self._pop(source, deque.popleft if from_.upper() == "LEFT" else deque.pop, 1):
            (self._lpush if to.upper() == "LEFT" else self._rpush)(target, [id])

    # --- sorted sets -----------------------------------------------------------------------------------------------

    def _zadd(self, key: str, arguments: Sequence[str]) -> None:
        at = 0
        while arguments[at].upper() in _ZADD_WORDS:
            at += 1
        if any(word.upper() == "XX" for word in arguments[:at]):
            return  # changes scores
        place = self._places[key]
        for member in arguments[at + 1 :: 2]:
            if member in place.members:
                continue
            place.members.add(member)
            id, level = self._scheduled_id(key, member)
            self._enter(id, place.name, level)
            if key == self._lease:
                self._change.leased.append(id)

    def _zrem(self, key: str, members: Sequence[str]) -> None:
        place = self._places[key]
        for member in members:
            if member in place.members:
                place.members.remove(member)
                self._leave(self._scheduled_id(key, member)[0], place.name)

    def _scheduled_id(self, key: str, member: str) -> tuple[str, str]:
        """A member's id, and its priority if it is scheduled: then it is "<rank>:<id>"."""
        if key != self._scheduled:
            return member, ""
        rank, _, id = member.partition(":")
        return id, LEVELS[int(rank)] if rank in {"0", "1", "2", "3"} else f"rank {rank}"

    # --- records ---------------------------------------------------------------------------------------------------

    def _hset(self, key: str, arguments: Sequence[str]) -> None:
        for id, record in zip(arguments[::2], arguments[1::2], strict=True):
            self._touch(id)
            if id not in self.records:
                self.records[id] = _asked(record)

    def _hdel(self, key: str, ids: Sequence[str]) -> None:
        for id in ids:
            self._touch(id)
            self.records.pop(id, None)

    def _clear(self, key: str) -> None:
        if key == self._job:
            self._hdel(key, list(self.records))
            return
        place = self._places[key]
        self._pop(key, deque.popleft, len(place.ids))
        self._zrem(key, list(place.members))


def _asked(record: str) -> str:
    """The priority that a record asks for; "" if nobody can decode it."""
    try:
        return str(decode_record(record.encode("utf-8", "surrogateescape")).priority)
    except UndecodableRecord:
        return ""
