"""The queues that are measured, and the workloads: what each of them is, and what a queue cannot do.

Only data. How a queue is set up is in its adapter, bench/peers/<program>.py; what is installed with it is what its own
documentation asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.peers.harness import Way

CONCURRENCY: Final = 32
THREADS: Final = 8
ENQUEUERS: Final = 32
WAITING_CONCURRENCY: Final = 100
PAUSE_S: Final = 0.010

Feature = Literal["waits", "threads", "priorities"]


@dataclass(frozen=True, slots=True)
class Queue:
    """One contestant. `environment`: its virtual environment, None for this one. `lacks`: a feature, and the reason.

    `pace_per_s`: roughly how many jobs it runs; it only decides how long a run is, and what a whole run will take.
    """

    name: str
    program: str
    package: str
    pace_per_s: float
    environment: str | None = None
    variant: str = ""
    lacks: Mapping[Feature, str] = field(default_factory=dict)


OURS: Final = Queue("queue_trio", "queue_trio", "queue-trio", 12_000)

_NO_PRIORITIES: Final = "no priorities"
_NO_THREADS: Final = "coroutines only"

PEERS: Final = (
    Queue("dramatiq", "dramatiq", "dramatiq", 1500, "dramatiq"),
    Queue(
        "taskiq-list", "taskiq", "taskiq", 1700, "taskiq", "list", {"priorities": "no priorities on Redis"}
    ),
    Queue(
        "taskiq-stream",
        "taskiq",
        "taskiq",
        1500,
        "taskiq",
        "stream",
        {"priorities": "no priorities on Redis"},
    ),
    Queue("huey", "huey", "huey", 3000, "huey"),
    Queue("arq", "arq", "arq", 1400, "arq", "", {"priorities": _NO_PRIORITIES, "threads": _NO_THREADS}),
    Queue("celery", "celery", "celery", 1000, "celery"),
    Queue("saq", "saq", "saq", 600, "saq", "", {"priorities": "priorities only on PostgreSQL"}),
    Queue("streaq-asyncio", "streaq", "streaq", 440, "streaq", "asyncio"),
    Queue("streaq-trio", "streaq", "streaq", 400, "streaq", "trio"),
    Queue(
        "rq",
        "rq",
        "rq",
        220,
        "rq",
        "",
        {"waits": "one job at a time", "threads": "one job at a time, no threads"},
    ),
    Queue(
        "docket",
        "docket",
        "pydocket",
        130,
        "docket",
        "",
        {"priorities": _NO_PRIORITIES, "threads": _NO_THREADS},
    ),
)
QUEUES: Final[Mapping[str, Queue]] = {queue.name: queue for queue in (OURS, *PEERS)}
ENVIRONMENTS: Final = tuple(sorted({queue.environment for queue in PEERS if queue.environment}))

Shape = Literal["preloaded", "live", "latency"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is run. preloaded: all jobs are queued, then a worker starts; live: the worker is there before the jobs.

    `figures`: what is kept of it. `size`: jobs, as a share of the usual number. `load`: for latency, share of capacity.
    """

    name: str
    title: str
    shape: Shape = "preloaded"
    figures: tuple[str, ...] = ("run_per_s", "cpu_us_per_job")
    needs: Feature | None = None
    way: Way = "bulk"
    concurrency: int = CONCURRENCY
    payload_bytes: int = 0
    pause_s: float = 0.0
    sync: bool = False
    priorities: bool = False
    size: float = 1.0
    load: float = 0.0


_LATENCY: Final = ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms", "sent_per_s")

WORKLOADS: Final[Mapping[str, Workload]] = {
    workload.name: workload
    for workload in (
        Workload(
            "noop",
            "Jobs that do nothing, queued in bulk",
            figures=("run_per_s", "cpu_us_per_job", "enqueue_per_s", "redis_bytes_per_job"),
        ),
        Workload("enqueue-one", "Enqueue one by one, awaited", figures=("enqueue_per_s",), way="one"),
        Workload(
            "enqueue-concurrent",
            f"Enqueue from {ENQUEUERS} tasks or threads",
            figures=("enqueue_per_s",),
            way="concurrent",
        ),
        Workload(
            "waiting",
            f"Jobs that wait for 10 ms, {WAITING_CONCURRENCY} at once",
            needs="waits",
            concurrency=WAITING_CONCURRENCY,
            pause_s=PAUSE_S,
        ),
        Workload(
            "payload-1k",
            "Jobs with 1 KiB",
            figures=("run_per_s", "cpu_us_per_job", "enqueue_per_s"),
            payload_bytes=1024,
        ),
        Workload(
            "payload-100k",
            "Jobs with 100 KiB",
            figures=("run_per_s", "cpu_us_per_job", "enqueue_per_s"),
            payload_bytes=100 * 1024,
            size=0.1,
        ),
        Workload("threads", f"Plain functions in {THREADS} threads", needs="threads", sync=True),
        Workload(
            "priorities",
            "Jobs of three priorities, mixed",
            figures=("run_per_s", "overtaken_percent"),
            needs="priorities",
            priorities=True,
        ),
        Workload(
            "together",
            f"Enqueue from {ENQUEUERS} tasks or threads, and run, at once",
            shape="live",
            figures=("through_per_s",),
            way="concurrent",
        ),
        *(
            Workload(
                f"latency-{percent}",
                f"Latency at {percent} % of capacity",
                shape="latency",
                figures=_LATENCY,
                way="planned",
                load=percent / 100,
            )
            for percent in (10, 50, 80)
        ),
    )
}

LABELS: Final[Mapping[str, str]] = {
    "run_per_s": "run, jobs/s",
    "enqueue_per_s": "enqueue, jobs/s",
    "through_per_s": "through, jobs/s",
    "cpu_us_per_job": "worker's CPU per job, µs",
    "redis_bytes_per_job": "Redis memory per job, bytes",
    "overtaken_percent": "ran after one of lower priority, %",
    "p50_ms": "p50, ms",
    "p90_ms": "p90, ms",
    "p99_ms": "p99, ms",
    "p99_9_ms": "p99.9, ms",
    "max_ms": "max, ms",
    "sent_per_s": "sent, jobs/s",
}
"""Every figure, and what people call it."""

BARS: Final[Mapping[tuple[str, str], float]] = {
    ("noop", "run_per_s"): 10.0,
    ("enqueue-one", "enqueue_per_s"): 1.2,
    ("enqueue-concurrent", "enqueue_per_s"): 5.0,
    ("noop", "enqueue_per_s"): 10.0,
}
"""By workload and figure: how many times better than the best peer queue_trio means to be."""


def higher_is_better(figure: str) -> bool:
    """Rates; everything else is a cost."""
    return figure.endswith("_per_s")


# --- how long a run is ----------------------------------------------------------------------------------------------

JOBS: Final = 3000
RUN_S_MIN: Final = 1.0
RUN_S_MAX: Final = 3.0
JOBS_MIN: Final = 60
LATENCY_S: Final = 5.0
QUICK_JOBS: Final = 300
QUICK_LATENCY_S: Final = 1.0
START_S: Final = 2.8
"""What two processes cost that start, connect, and wait for a second run of the last job."""


def jobs_for(queue: Queue, workload: Workload, jobs: int | None) -> int:
    """How many jobs: as given, or as many as keep a run between one and three seconds, 3000 where that does."""
    if jobs is None:
        pace = queue.pace_per_s
        if workload.pause_s:
            pace = min(pace, workload.concurrency / workload.pause_s)
        jobs = round(min(max(JOBS, pace * RUN_S_MIN), pace * RUN_S_MAX))
    return max(JOBS_MIN, math.ceil(jobs * workload.size))


def seconds_for(queue: Queue, workload: Workload, jobs: int | None, latency_s: float) -> float:
    """About how long one run will take."""
    if workload.shape == "latency":
        return START_S + latency_s
    return START_S + 1.5 * jobs_for(queue, workload, jobs) / queue.pace_per_s
