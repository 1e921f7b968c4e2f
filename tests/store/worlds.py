"""A store, its lane, and its time: what a test of stores is written against, whichever store it is.

Time is the one thing in which the stores differ. Memory's is advanced; Redis has a clock of its own, which can only be
waited for. So tests use leases of a millisecond where one shall expire, and an hour where none shall.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Failure, Lane, NewJob, Outcome, Record, Verdict, encode_failure, encode_record
from queue_trio.core.settings import RedisSettings
from queue_trio.memory.operations import MemoryOperations
from queue_trio.memory.store import MemoryStore
from queue_trio.redis.client import Client
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.keys import LaneKeys
from queue_trio.redis.operations import RedisOperations
from queue_trio.redis.store import RedisStore
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from queue_trio.core.job import Claim, ClaimedJob, Enqueued
    from queue_trio.core.operations import Operations
    from queue_trio.core.store import Store, Swept

T = TypeVar("T")

HOUR_MS = 3_600_000
LANE = Lane("tests", 0)
OOPS = encode_failure(Failure(type="ValueError", message="oops"))


def record(task: str = "t", priority: Priority = Priority.NORMAL) -> bytes:
    return encode_record(Record(v=1, task=task, priority=priority))


def job(
    id_: str, priority: Priority = Priority.NORMAL, *, delay_ms: int = 0, unique_ms: int = 0, size: int = 0
) -> NewJob:
    return NewJob(id_, record(f"t-{id_}" + "x" * size, priority), priority, delay_ms, unique_ms)


def done(claimed: ClaimedJob) -> Outcome:
    return Outcome(claimed.id, claimed.token)


def retry(claimed: ClaimedJob, delay_ms: int = 0, detail: bytes = OOPS) -> Outcome:
    return Outcome(claimed.id, claimed.token, Verdict.RETRY, delay_ms, detail)


def dead(claimed: ClaimedJob, detail: bytes = OOPS) -> Outcome:
    return Outcome(claimed.id, claimed.token, Verdict.DEAD, 0, detail)


def release(claimed: ClaimedJob, delay_ms: int = 0) -> Outcome:
    return Outcome(claimed.id, claimed.token, Verdict.RELEASE, delay_ms)


def kept(claimed: ClaimedJob, result: bytes, keep_ms: int = HOUR_MS) -> Outcome:
    return Outcome(claimed.id, claimed.token, Verdict.DONE, 0, result, keep_ms)


def ids(claim: Claim) -> list[str]:
    return [claimed.id for claimed in claim.jobs]


class Time(Protocol):
    async def read_ms(self) -> int:
        """What the store's clock shows."""

    async def pass_ms(self, ms: int) -> None:
        """Return when the store's clock has advanced by `ms`, at least."""


@dataclass
class ManualTime:
    now_ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    async def read_ms(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.now_ms

    async def pass_ms(self, ms: int) -> None:
        await trio.lowlevel.checkpoint()
        self.now_ms += ms


@dataclass
class ServerTime:
    client: Client

    async def now_ms(self) -> int:
        seconds, micros = await self.client.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def read_ms(self) -> int:
        return await self.now_ms()

    async def pass_ms(self, ms: int) -> None:
        until_ms = await self.now_ms() + ms

        async def over() -> bool:
            return await self.now_ms() >= until_ms

        await eventually(over, ms / 1000 + 10, what=f"{ms} ms on the server's clock")


@dataclass
class World:
    """A store with the defaults of these tests filled in."""

    store: Store
    time: Time
    lane: Lane = LANE

    @property
    def redis(self) -> RedisStore:
        """The store as what it is, for a test of Redis alone."""
        assert isinstance(self.store, RedisStore)
        return self.store

    @property
    def client(self) -> Client:
        return self.redis.client

    @property
    def operations(self) -> Operations:
        if isinstance(self.store, MemoryStore):
            return MemoryOperations(self.store)
        return RedisOperations(self.redis)

    async def pass_ms(self, ms: int) -> None:
        await self.time.pass_ms(ms)

    async def enqueue(self, *jobs: NewJob | str, max_length: int = 0) -> list[Enqueued]:
        new = [job(one) if isinstance(one, str) else one for one in jobs]
        return await self.store.enqueue(self.lane, new, max_length=max_length, timeout_s=10)

    async def claim(
        self,
        want: int = 500,
        *,
        worker: str = "w",
        lease_ms: int = HOUR_MS,
        order: Sequence[Priority] = PRIORITIES,
        outcomes: Sequence[Outcome] = (),
    ) -> Claim:
        return await self.store.claim(
            self.lane, worker=worker, want=want, lease_ms=lease_ms, order=order, outcomes=outcomes
        )

    async def lose(self, want: int = 500, *, worker: str = "lost") -> list[ClaimedJob]:
        """Claim jobs whose leases have expired when this returns."""
        claim = await self.claim(want, worker=worker, lease_ms=1)
        await self.pass_ms(2)
        return claim.jobs

    async def kill(self, *jobs: NewJob | str) -> None:
        """Enqueue jobs, and let them die in one millisecond."""
        await self.enqueue(*jobs)
        names = {one if isinstance(one, str) else one.id for one in jobs}
        claimed = (await self.claim()).jobs
        await self.settle(*(dead(one) if one.id in names else release(one) for one in claimed))

    async def settle(self, *outcomes: Outcome) -> list[bool]:
        return await self.store.settle(self.lane, outcomes)

    async def sweep(self, *, lease_ms: int = HOUR_MS, max_crashes: int = 3, limit: int = 200) -> Swept:
        return await self.store.sweep(self.lane, lease_ms=lease_ms, max_crashes=max_crashes, limit=limit)

    async def set_clock_back(self, ms: int) -> None:
        """The store's clock shows `ms` less. On Redis, what was reckoned from its old time is put ahead instead."""
        if isinstance(self.time, ManualTime):
            self.time.now_ms -= ms
            return
        keys = LaneKeys(self.lane)
        for field in ("swept_ms", "hold_until_ms"):
            await self.client.ask("HINCRBY", keys["control"], field, ms)
        for id_ in await self.client.ask("ZRANGE", keys["lease"], 0, -1):
            await self.client.ask("ZINCRBY", keys["lease"], ms, id_)

    async def until_someone_waits(self) -> None:
        """Return when a task is blocked in `wait`: on Redis, when the server says that a client is blocked."""
        if isinstance(self.store, RedisStore):

            async def blocked() -> bool:
                return b"blocked_clients:0" not in await self.client.ask("INFO", "clients")

            await eventually(blocked, what="a client that waits")
        else:
            await trio.testing.wait_all_tasks_blocked()

    async def check(self) -> None:
        """Promise S and the conservation law."""
        report = await self.store.audit(self.lane)
        assert report.violations == ()
        assert report.stats.imbalance == 0
        assert report.stats.records == report.live

    async def counts(self) -> dict[str, int]:
        """Where jobs are and what became of them, zeros left out; checks the conservation law on the way."""
        stats = await self.store.stats(self.lane)
        assert stats.imbalance == 0, stats
        named = {f"ready {priority}": count for priority, count in stats.ready.items()}
        for name in ("scheduled", "leased", "dead", "enqueued", "completed", "cancelled", "purged"):
            named[name] = getattr(stats, name)
        return {name: count for name, count in named.items() if count}


def redis_client(url: str, *, wait_when_refused: bool = False, **settings: Any) -> Client:
    given = {"backoff_base": 0.01, "backoff_cap": 0.05, "breaker_min_samples": 10_000, **settings}
    return Client(FixedResolver(parse_url(url)), RedisSettings(**given), wait_when_refused=wait_when_refused)


def unix_url(path: Path) -> str:
    return f"unix://{path}"


@asynccontextmanager
async def redis_world(url: str, **settings: Any) -> AsyncIterator[World]:
    client = redis_client(url, **settings)
    try:
        yield World(RedisStore(client), ServerTime(client))
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()


def memory_world() -> World:
    time = ManualTime()
    return World(MemoryStore(time), time)


async def dump(client: Client, *, sessions: bool = False) -> dict[str, Any]:
    """Every key with its value, in plain Python, to compare what two courses of events left behind."""
    found: dict[str, Any] = {}
    for key in sorted(await client.ask("KEYS", "*")):
        name = key.decode()
        if ":session:" in name and not sessions:
            continue
        match (await client.ask("TYPE", key)).decode():
            case "string":
                found[name] = await client.ask("GET", key)
            case "list":
                found[name] = await client.ask("LRANGE", key, 0, -1)
            case "hash":
                reply = await client.ask("HGETALL", key)
                found[name] = (
                    reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
                )
            case "zset":
                pairs = await client.ask("ZRANGE", key, 0, -1, "WITHSCORES")
                found[name] = [(member, int(score)) for member, score in pairs]
            case "set":
                found[name] = sorted(await client.ask("SMEMBERS", key))
            case other:
                raise AssertionError(f"{name} is a {other}")
    return found


def lane_keys(lane: Lane = LANE) -> LaneKeys:
    return LaneKeys(lane)
