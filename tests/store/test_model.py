"""RedisStore does what the model does: random courses of events, step by step, on both stores.

Memory's clock can be set and Redis' cannot, so no step depends on how long it takes: delays are none or an hour, leases
are an hour or are over before the next step, and every step happens in a later millisecond than the one before, in
both stores, so that both sort equal things alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queue_trio.core.dequeue import PRIORITIES, Priority
from queue_trio.core.job import Claim, Outcome, State, Verdict
from tests.store.worlds import HOUR_MS, OOPS, ManualTime, ServerTime, World, job, memory_world, redis_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.store import PeekedJob, Store

STEP_MS = 3
"""Longer than a lease of one millisecond, so that such a lease is over when the next step begins."""

NAMES = tuple("abcdefgh")
WORKERS = ("v", "w")
LIVE = (State.SCHEDULED, State.READY, State.LEASED, State.DEAD)


@dataclass
class Course:
    """One store on its way through the steps."""

    world: World
    leases: list[tuple[str, str]] = field(default_factory=list)
    """Every lease ever given, (id, token): settling and renewing draws from these, stale or not."""
    ready: list[Priority] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.world.store

    def claimed(self, claim: Claim) -> Any:
        self.leases += [(one.id, one.token) for one in claim.jobs]
        due = claim.next_due_ms
        return claim.jobs, claim.paused, claim.drain, None if due is None else due > HOUR_MS / 2


class Step:
    """One call of the Store. `run` gives what both stores must agree on."""

    async def run(self, at: Course) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Enqueue(Step):
    jobs: tuple[tuple[str, Priority, int, int], ...]
    max_length: int

    async def run(self, at: Course) -> Any:
        new = [
            job(id_, priority, delay_ms=delay, unique_ms=unique) for id_, priority, delay, unique in self.jobs
        ]
        return await at.world.enqueue(*new, max_length=self.max_length)


@dataclass(frozen=True)
class Take(Step):
    worker: str
    want: int
    lease_ms: int
    order: tuple[Priority, ...]

    async def run(self, at: Course) -> Any:
        return at.claimed(
            await at.world.claim(self.want, worker=self.worker, lease_ms=self.lease_ms, order=self.order)
        )


@dataclass(frozen=True)
class Settle(Step):
    ends: tuple[tuple[int, Verdict, int, int], ...]

    async def run(self, at: Course) -> Any:
        if not at.leases:
            return None
        outcomes = {}
        for number, verdict, delay_ms, keep_ms in self.ends:
            # Once each: of two outcomes for one lease in one call, which one counts is not promised.
            id_, token = at.leases[-1 - number % len(at.leases)]
            outcomes[id_, token] = Outcome(id_, token, verdict, delay_ms, OOPS, keep_ms)
        return await at.world.settle(*outcomes.values())


@dataclass(frozen=True)
class Renew(Step):
    worker: str
    lease_ms: int
    numbers: tuple[int, ...]

    async def run(self, at: Course) -> Any:
        held = [at.leases[-1 - number % len(at.leases)] for number in self.numbers if at.leases]
        return await at.store.renew(at.world.lane, worker=self.worker, lease_ms=self.lease_ms, held=held)


@dataclass(frozen=True)
class Sweep(Step):
    max_crashes: int
    limit: int

    async def run(self, at: Course) -> Any:
        swept = await at.world.sweep(max_crashes=self.max_crashes, limit=self.limit)
        return (
            swept.promoted,
            sorted(swept.reclaimed),
            sorted(swept.poisoned),
            swept.buried_workers,
            swept.hold_ms,
        )


@dataclass(frozen=True)
class Pull(Step):
    worker: str
    priority: Priority

    async def run(self, at: Course) -> Any:
        await at.store.register(at.world.lane, worker=self.worker, info="{}")
        ready = await at.store.peek(at.world.lane, State.READY, count=99)
        if not any(one.priority is self.priority for one in ready):
            return False  # Redis would wait for one
        return await at.store.pull(at.world.lane, worker=self.worker, priority=self.priority, timeout_s=1)


@dataclass(frozen=True)
class Adopt(Step):
    worker: str
    want: int

    async def run(self, at: Course) -> Any:
        return at.claimed(
            await at.store.adopt(at.world.lane, worker=self.worker, want=self.want, lease_ms=HOUR_MS)
        )


@dataclass(frozen=True)
class Leave(Step):
    worker: str

    async def run(self, at: Course) -> Any:
        await at.store.deregister(at.world.lane, worker=self.worker)


@dataclass(frozen=True)
class Pause(Step):
    paused: bool

    async def run(self, at: Course) -> Any:
        await at.store.pause(at.world.lane, self.paused)


@dataclass(frozen=True)
class Cancel(Step):
    id: str

    async def run(self, at: Course) -> Any:
        return await at.world.operations.cancel(at.world.lane, self.id)


@dataclass(frozen=True)
class Purge(Step):
    ids: tuple[str, ...]

    async def run(self, at: Course) -> Any:
        return await at.world.operations.purge(at.world.lane, self.ids)


@dataclass(frozen=True)
class Replay(Step):
    ids: tuple[str, ...]

    async def run(self, at: Course) -> Any:
        return await at.world.operations.replay(at.world.lane, self.ids)


@dataclass(frozen=True)
class Drain(Step):
    worker: str

    async def run(self, at: Course) -> Any:
        return await at.world.operations.request_drain(at.world.lane, self.worker)


names = st.sampled_from(NAMES)
workers = st.sampled_from(WORKERS)
priorities = st.sampled_from(PRIORITIES)
never_or_hour = st.sampled_from((0, 0, HOUR_MS))
lease_ms = st.sampled_from((1, HOUR_MS))
few = st.integers(0, 5)
orders = st.permutations(PRIORITIES).map(tuple)
steps = st.one_of(
    st.builds(
        Enqueue,
        st.lists(st.tuples(names, priorities, never_or_hour, never_or_hour), max_size=6).map(tuple),
        st.sampled_from((0, 0, 3, 6)),
    ),
    st.builds(Take, workers, few, lease_ms, st.one_of(st.just(PRIORITIES), orders)),
    st.builds(
        Settle,
        st.lists(st.tuples(few, st.sampled_from(Verdict), never_or_hour, never_or_hour), max_size=5).map(
            tuple
        ),
    ),
    st.builds(Renew, workers, lease_ms, st.lists(few, max_size=4).map(tuple)),
    st.builds(Sweep, st.integers(0, 2), st.sampled_from((1, 2, 200))),
    st.builds(Pull, workers, priorities),
    st.builds(Adopt, workers, few),
    st.builds(Leave, workers),
    st.builds(Pause, st.booleans()),
    st.builds(Cancel, names),
    st.builds(Purge, st.lists(names, max_size=3).map(tuple)),
    st.builds(Replay, st.lists(names, max_size=3).map(tuple)),
    st.builds(Drain, workers),
)


def _timeless(found: Sequence[PeekedJob]) -> list[PeekedJob]:
    return [
        msgspec.structs.replace(one, at_ms=None, errors=tuple(line.partition(" ")[2] for line in one.errors))
        for one in found
    ]


async def _shown(world: World) -> Any:
    """Everything a caller can see, without times."""
    store, operations, lane = world.store, world.operations, world.lane
    peeked = [_timeless(await store.peek(lane, state, count=99)) for state in LIVE]
    results = [await store.result(lane, id_) for id_ in NAMES]
    found = [await operations.find(lane, id_) for id_ in NAMES]
    browsed = await operations.browse_dead(lane, count=99)
    lengths = await operations.lengths(lane)
    heads = [(one.id, one.priority, one.raw, (one.failure or "").partition(" ")[2]) for one in lengths.heads]
    workers = [msgspec.structs.replace(one, silent_ms=0) for one in await operations.workers(lane)]
    return (
        peeked,
        results,
        await store.stats(lane),
        _timeless([one for one in found if one is not None]),
        _timeless(browsed),
        msgspec.structs.replace(lengths, now_ms=0, heads=()),
        heads,
        workers,
    )


async def _compare(url: str, course: list[Step]) -> None:
    async with redis_world(url) as world:
        assert isinstance(world.time, ServerTime)
        await world.client.ask("FLUSHALL")
        model, real = Course(memory_world()), Course(world)
        assert isinstance(model.world.time, ManualTime)
        for step in course:
            expected = await step.run(model)
            assert await step.run(real) == expected, step
            assert await _shown(real.world) == await _shown(model.world), step
            assert real.leases == model.leases
            model.world.time.now_ms += STEP_MS
            until_ms = await world.time.now_ms() + STEP_MS
            while await world.time.now_ms() < until_ms:
                pass
        await real.world.check()
        await model.world.check()
        await world.client.ask("FLUSHALL")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(course=st.lists(steps, min_size=5, max_size=30))
def test_redis_and_memory_give_the_same_answers_and_the_same_state(
    redis_url: str, course: list[Step]
) -> None:
    trio.run(_compare, redis_url, course)
