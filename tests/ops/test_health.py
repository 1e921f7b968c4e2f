"""What readiness makes of what the fetcher does. In memory, on the mock clock."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import trio

from queue_trio.core.job import NewJob, Record, encode_record
from queue_trio.memory.store import MemoryStore
from queue_trio.ops.health import LATE_S, Health
from queue_trio.runtime.worker import Worker
from tests.runtime.rig import LANE, make_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from queue_trio.app import App
    from queue_trio.core.job import Claim, Lane, Outcome
    from queue_trio.ops.health import Check


class SlowStore(MemoryStore):
    """Takes its time."""

    claim_s = 0.0
    settle_s = 0.0

    async def claim(self, lane: Lane, **options: object) -> Claim:
        await trio.sleep(self.claim_s)
        # No outcomes go along: they take a time of their own here.
        return await super().claim(lane, **{**options, "outcomes": ()})  # type: ignore[arg-type]

    async def settle(self, lane: Lane, outcomes: Sequence[Outcome]) -> list[bool]:
        await trio.sleep(self.settle_s)
        return await super().settle(lane, outcomes)


def slow_store() -> SlowStore:
    return SlowStore(lambda: round(trio.current_time() * 1000))


async def findings(app: App, store: SlowStore, *, jobs: int, seconds: float, step_s: float) -> list[Check]:
    """What was found of a worker's fetching, looked at every `step_s`, after the first second."""
    raw = encode_record(Record(v=1, task="slow"))
    for number in range(jobs):
        await store.enqueue(LANE, [NewJob(f"j{number}", raw)])
    worker = Worker(app, store=store, rng=random.Random(1))
    health, found = Health(worker, stall_limit_s=math.inf, wall_clock=trio.current_time), []
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await trio.sleep(1)
        for _ in range(round(seconds / step_s)):
            found.append((await health.ready()).checks["fetching"])
            await trio.sleep(step_s)
        store.claim_s = store.settle_s = 0.0
        worker.cancel()
    return found


def slow_app(job_s: float = 10.0, **worker: object) -> App:
    app = make_app(**worker)  # type: ignore[arg-type]

    @app.task(name="slow")
    async def slow() -> None:
        await trio.sleep(job_s)

    return app


async def test_a_slot_that_becomes_free_late_is_not_a_late_claim(autojump_clock: MockClock) -> None:
    store = slow_store()
    store.claim_s = 0.6
    found = await findings(slow_app(concurrency=1), store, jobs=3, seconds=30, step_s=0.25)
    assert "claiming" in {check.why for check in found}
    assert [check.why for check in found if not check.ok] == []


async def test_the_looped_strategy_waits_long_and_fetches_all_the_while(autojump_clock: MockClock) -> None:
    app = slow_app(queues="default,b,c", dequeue_strategy="looped", looped_wait=3.0, poll_interval=0.5)
    found = await findings(app, slow_store(), jobs=0, seconds=60, step_s=0.5)
    assert [check.why for check in found if not check.ok] == []


async def test_a_claim_without_an_answer_is_noticed(autojump_clock: MockClock) -> None:
    store = slow_store()
    store.claim_s = 60.0
    found = await findings(slow_app(), store, jobs=0, seconds=10, step_s=0.5)
    assert "claiming, held up for" in found[-1].why
    first = next(at for at, check in enumerate(found) if "held up" in check.why)
    assert 1 + first * 0.5 <= LATE_S + 1


async def test_outcomes_that_cannot_be_settled_hold_up_fetching(autojump_clock: MockClock) -> None:
    store = slow_store()
    store.settle_s = 60.0
    app = slow_app(job_s=0.1, concurrency=100, shutdown_grace=1.0)
    found = await findings(app, store, jobs=1050, seconds=20, step_s=0.5)
    assert not found[-1].ok
    assert "waiting for outcomes to be settled, held up for" in found[-1].why
