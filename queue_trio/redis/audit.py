"""The audit: does every id have exactly one place, and does the conservation law hold? From the keys alone.

A lane may hold millions of jobs and be in full use, so nothing here reads it in one step. Ids are read in chunks;
whoever seems to be nowhere, or in two places, may only have moved in between. If they are many, everything is read
again, and suspect remains who is so twice. Those few are then looked up in an atomic step, and only what is wrong at
that instant is a violation. The counts are always read in one atomic step, so the law is exact under load.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from queue_trio.core.dequeue import Priority
from queue_trio.core.job import recorded_priority
from queue_trio.core.store import AuditReport, Violation
from queue_trio.redis import scripts
from queue_trio.redis.client import Call
from queue_trio.redis.keys import READY_KEYS, LaneKeys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.core.job import Lane
    from queue_trio.redis.client import Client
    from queue_trio.redis.reads import Reads

CHUNK = 1000
"""Ids per read."""

SUSPECTS: Final = 20
"""Ids per atomic look-up, which searches whole lists for each."""

SEARCHED: Final = 200_000
"""List entries that one atomic look-up may pass, roughly: milliseconds of the server's time."""

READINGS: Final = 3
"""How often everything is read at most before suspects are looked up."""


async def audit(reads: Reads, keys: LaneKeys, *, repair: bool) -> AuditReport:
    """See `Store.audit`."""
    checked, suspects = await _suspects(reads, keys)
    for _ in range(READINGS - 1):
        if len(suspects) <= SUSPECTS:
            break
        suspects &= (await _suspects(reads, keys))[1]
    violations: list[Violation] = []
    ordered = sorted(suspects)
    # One at least: what must be searched cannot be cut any smaller.
    ready = (await reads.stats(keys.lane)).ready_total
    at_once = max(1, min(SUSPECTS, SEARCHED // max(1, ready)))
    for at in range(0, len(ordered), at_once):
        located = await _locate(reads, keys.lane, ordered[at : at + at_once])
        for job_id, where in located.items():
            problem = _problem(where)
            if problem:
                repaired = await _repair(reads.client, keys, job_id, where) if repair else ""
                violations.append(Violation(job_id, problem, repaired))
    if repair:
        await reads.with_inboxes(keys.lane, scripts.load("balance"))
    return AuditReport(stats=await reads.stats(keys.lane), checked=checked, violations=tuple(violations))


async def _suspects(reads: Reads, keys: LaneKeys) -> tuple[int, set[str]]:
    """How many ids there are, and those that did not seem to be in exactly one place."""
    _, inboxes = await reads.inboxes(keys.lane)
    records: set[str] = set()
    places: Counter[str] = Counter()
    async for ids in _members(reads.client, "HSCAN", keys["job"]):
        records.update(ids)
    leased: set[str] = set()
    for name in ("lease", "dead", "scheduled"):
        # A scan may name a member twice, and twice is what this counts: hence a set for each place.
        members: set[str] = leased if name == "lease" else set()
        async for ids in _members(reads.client, "ZSCAN", keys[name]):
            members |= ids
        places.update(member[2:] if name == "scheduled" else member for member in members)
    for name in [*(keys[ready] for ready in READY_KEYS), *inboxes]:
        async for items in _list_items(reads.client, name):
            places.update(items)
    owners: set[str] = set()
    async for ids in _members(reads.client, "HSCAN", keys["owner"]):
        owners.update(ids)

    suspects = {job_id for job_id, count in places.items() if count != 1} | (records ^ places.keys())
    suspects |= owners ^ leased
    return len(records | places.keys()), suspects


def _places(where: str) -> str:
    """The letters of `where` (see lua/locate.lua) that are places: not the record, not the owner."""
    return where.replace("j", "").replace("o", "")


def _problem(where: str) -> str:
    """What is wrong with an id in those places, or nothing."""
    places = _places(where)
    if not where:
        return ""  # it has ended meanwhile
    if "j" not in where:
        return f"has no record, but is {_words(places or where)}"
    if not places:
        return "has a record, but is nowhere"
    if len(places) > 1:
        return f"is in {len(places)} places at once: {_words(places)}"
    if ("l" in where) != ("o" in where):
        return "is leased without an owner" if "l" in where else f"has an owner, but is {_words(places)}"
    return ""


def _words(places: str) -> str:
    names = {"l": "leased", "o": "owned", "d": "dead", "i": "in an inbox"}
    return ", ".join(names.get(place) or ("scheduled" if place.isdigit() else "ready") for place in places)


async def _repair(client: Client, keys: LaneKeys, job_id: str, where: str) -> str:
    """Leave the id in one place. A lease that has an owner wins, then dead, then scheduled, then ready."""
    places = _places(where)
    rank = next((int(place) for place in places if place.isdigit()), None)
    if rank is None:
        rank = next(("ABCD".index(place) for place in places if place in "ABCD"), None)
    if rank is None:
        rank = await _recorded_rank(client, keys, job_id)
    if "j" not in where:
        keep = "nowhere"
    elif "l" in where and "o" in where:
        keep = "leased"
    elif "d" in where:
        keep = "dead"
    elif any(place.isdigit() for place in places):
        keep = "scheduled"
    else:
        keep = "ready"
    if "i" in where:
        return "left alone: its worker will take it out of the inbox"
    script = scripts.load("repair")
    done = await client.run(Call(script, script.keys(keys), (job_id, where, keep, rank)))
    return f"now {keep}" if done else "left alone: it has moved meanwhile"


async def _recorded_rank(client: Client, keys: LaneKeys, job_id: str) -> int:
    """What the record says, for a job that no place can tell the priority of."""
    priority = recorded_priority(await client.ask("HGET", keys["job"], job_id))
    return (priority or Priority.NORMAL).rank


async def _locate(reads: Reads, lane: Lane, ids: list[str]) -> dict[str, str]:
    replies = await reads.with_inboxes(lane, scripts.load("locate"), ids)
    return dict(zip(ids, map(bytes.decode, replies), strict=True))


async def _members(client: Client, command: Literal["HSCAN", "ZSCAN"], key: str) -> AsyncIterator[set[str]]:
    """Fields of a hash or members of a sorted set, by the chunk. A scan may name one twice."""
    script = scripts.load("members")
    cursor = b"0"
    while True:
        cursor, names = await client.run(Call(script, (key,), (command, cursor, CHUNK)))
        yield {name.decode() for name in names}
        if int(cursor) == 0:
            return


async def _list_items(client: Client, key: str) -> AsyncIterator[list[str]]:
    at = 0
    while True:
        items = await client.ask("LRANGE", key, at, at + CHUNK - 1)
        yield [item.decode() for item in items]
        if len(items) < CHUNK:
            return
        at += CHUNK
