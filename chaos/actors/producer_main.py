"""Puts a load into the queue and writes down what became of every enqueue, before and after it.

Several times a second it also writes down how its connection fares: its breaker, its errors, its tries to connect.

`produce` runs in anybody's Trio program; `python -m chaos.actors.producer_main --journal FILE --load JSON` is a process
of its own, for runs in which a producer is killed. Nothing is tried again here: what a client has to say is the result.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from chaos.actors.tasks import app as chaos_app
from chaos.actors.tasks import make_job
from chaos.history import Enqueue, Journal, Observation, process_of
from chaos.playing.observer import INTERVAL_S, connects_of
from queue_trio.core.dequeue import Priority
from queue_trio.errors import (
    CircuitOpen,
    DeadlineExceeded,
    Indeterminate,
    NotSent,
    OutcomeUnknown,
    QueueFull,
    QueueTrioError,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
    UsageError,
)
from queue_trio.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from queue_trio import Job
    from queue_trio.client import QueueClient
    from queue_trio.core.settings import Settings

Phase = Literal["ok", "fail", "info", "refused"]


class Load(msgspec.Struct, frozen=True):
    """`rate`: jobs a second, None for as fast as it goes. `kinds`, `priorities`: names to shares.

    `timeout_s`: for one enqueue, None for the settings' own. `at_once`: so many enqueues under way, at most.
    """

    jobs: int
    rate: float | None = 100.0
    kinds: dict[str, int] = msgspec.field(default_factory=lambda: {"quick": 1})
    priorities: dict[str, int] = msgspec.field(default_factory=lambda: {"normal": 1})
    seconds: float = 0.2
    payload: int = 0
    delay_ms: int = 0
    timeout_s: float | None = None
    on_outage: Literal["wait", "fail"] | None = None
    at_once: int = 512


class Tally:
    """How many enqueues have ended how, and how many are under way."""

    def __init__(self) -> None:
        self.ended: dict[Phase, int] = {"ok": 0, "fail": 0, "info": 0, "refused": 0}
        self.under_way = 0

    @property
    def total(self) -> int:
        return sum(self.ended.values()) + self.under_way


def phase_of(error: BaseException) -> Phase:
    """What an error says about the job: `fail` only if it is certainly not queued, `info` if nobody knows."""
    if isinstance(error, QueueFull):
        return "refused"
    if isinstance(error, OutcomeUnknown | Indeterminate):
        return "info"
    if isinstance(error, CircuitOpen | DeadlineExceeded | NotSent | UsageError):
        return "fail"
    if isinstance(error, ServerNotReady | ServerRefused | ServerUnusable):
        return "fail"  # "nothing was changed": a promise of the product, so it is judged by it
    if isinstance(error, ServerError):
        return "info"
    return "info"  # cancelled, or what should not happen


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[QueueClient]:
    """A client of the chaos app with settings of its own, such as one of several proxies; others keep theirs."""
    chaos_app.configure(settings)
    async with chaos_app.client() as client:
        yield client


async def produce(
    client: QueueClient,
    load: Load,
    journal: Journal,
    rng: random.Random,
    tally: Tally | None = None,
    *,
    who: str = "",
) -> Tally:
    """Enqueue all of it, in order of time; back when the last one has ended. What should not be raised, is raised.

    `who`: its name in the journal, as in an observation.
    """
    tally = tally or Tally()
    places = trio.CapacityLimiter(load.at_once)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number, job in enumerate(_jobs(load, rng)):
            if load.rate is not None:
                await trio.sleep_until(began + number / load.rate)
            await places.acquire_on_behalf_of(job.id)
            tally.under_way += 1
            nursery.start_soon(_enqueue, client, job, load, journal, tally, places, process_of(who))
    return tally


def _jobs(load: Load, rng: random.Random) -> Iterator[Job]:
    kinds, priorities = list(load.kinds), list(load.priorities)
    for _ in range(load.jobs):
        (kind,) = rng.choices(kinds, list(load.kinds.values()))
        (priority,) = rng.choices(priorities, list(load.priorities.values()))
        yield make_job(
            kind,
            priority=Priority(priority),
            seconds=load.seconds,
            payload=load.payload,
            delay_ms=load.delay_ms,
        )


async def _enqueue(
    client: QueueClient,
    job: Job,
    load: Load,
    journal: Journal,
    tally: Tally,
    places: trio.CapacityLimiter,
    process: str,
) -> None:
    def note(phase: Literal["invoke", "ok", "fail", "info", "refused"], error: str = "") -> None:
        journal.append(
            Enqueue(
                at_s=journal.clock(),
                id=job.id,
                phase=phase,
                task=job.task.name,
                priority=str(job.chosen.priority),
                delay_ms=load.delay_ms,
                error=error,
                client=process,
            )
        )

    note("invoke")
    phase: Phase = "info"
    error_text = "cancelled"
    try:
        await client.enqueue(job, timeout=load.timeout_s, on_outage=load.on_outage)
        phase, error_text = "ok", ""
    except QueueTrioError as error:
        phase, error_text = phase_of(error), f"{type(error).__name__}: {error}"
    except Exception as error:
        error_text = f"{type(error).__name__}: {error}"
        raise
    finally:
        note(phase, error_text)
        tally.under_way -= 1
        tally.ended[phase] += 1
        places.release_on_behalf_of(job.id)


async def tell(client: QueueClient, journal: Journal, who: str) -> None:
    """Write down how the client's connection fares, until it is cancelled. Nothing, if it has none."""
    if not isinstance(client.store, RedisStore):
        return
    redis = client.store.client
    while True:
        journal.append(
            Observation(
                at_s=journal.clock(),
                breaker={who: str(redis.breaker.state(trio.current_time()))},
                errors={who: redis.errors.total()},
                connects={who: connects_of(redis.reconnects, redis.errors["NotSent"])},
            )
        )
        await trio.sleep(INTERVAL_S)


def _session(client: QueueClient) -> str:
    """Its stream of calls, which Redis remembers for a day if the process is killed."""
    store = client.store
    length = chaos_app.settings.client.max_length
    return f"{store.incarnation}:enqueue:{length}" if isinstance(store, RedisStore) else ""


async def _main(journal: Journal, load: Load, seed: int, who: str) -> None:
    from chaos.actors.worker_main import say

    async with chaos_app.client() as client, trio.open_nursery() as background:
        background.start_soon(tell, client, journal, who)
        say("started", session=_session(client))
        tally = await produce(client, load, journal, random.Random(seed), who=who)
        background.cancel_scope.cancel()
    say("loaded", **{str(phase): count for phase, count in tally.ended.items()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.actors.producer_main")
    parser.add_argument("--journal", type=Path, required=True, help="PROCESS-NUMBER.journal")
    parser.add_argument("--load", required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    load = msgspec.json.decode(given.load, type=Load)
    # Several loads make several processes of one name: their number tells them apart.
    process, _, number = given.journal.stem.rpartition("-")
    journal = Journal(given.journal, clock=time.time)
    trio.run(_main, journal, load, given.seed, f"{process}#{number}")


if __name__ == "__main__":
    main()
