"""Every metric: its name, what it means, and where its value comes from at the moment somebody asks.

The runtime counts in plain numbers (`runtime.counts`); a scrape reads them. So counting costs an increment, and nothing
is done for what nobody scrapes. Labels are bounded: queues are those the worker serves, tasks those the settings allow.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

import queue_trio
from queue_trio.core.breaker import State
from queue_trio.runtime.counts import BOUNDS_S
from queue_trio.runtime.metrics_updater import oldest_ready_ages_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric as Family

    from queue_trio.ops.health import Report
    from queue_trio.runtime.counts import Histogram
    from queue_trio.runtime.worker import Worker

PREFIX: Final = "queue_trio_"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the catalogue. `name` is without the prefix, and for a counter without `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        """As Prometheus shows it."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


# What this process has done and how it is.
PROCESS: Final = (
    Metric("jobs_claimed", "counter", ("queue",), "Jobs claimed."),
    Metric("jobs_completed", "counter", ("task",), "Jobs completed."),
    Metric("jobs_failed", "counter", ("task",), "Attempts that failed: retried or dead-lettered."),
    Metric("jobs_retried", "counter", ("task",), "Attempts that failed and will be tried again."),
    Metric("jobs_dead_lettered", "counter", ("task",), "Jobs that went to the dead letters."),
    Metric("jobs_lease_lost", "counter", ("task",), "Handlers cancelled because their lease was lost."),
    Metric("threads_abandoned", "counter", ("task",), "Threads that still worked after their timeout."),
    Metric("job_run_seconds", "histogram", ("task",), "How long handlers ran."),
    Metric(
        "job_wait_seconds",
        "histogram",
        ("task",),
        "From enqueueing, or the end of the job's delay, to the start of its first attempt, by both machines' clocks.",
    ),
    Metric("jobs_released", "counter", ("queue",), "Jobs given back unfinished; costs them no retry."),
    Metric("jobs_unknown_task", "counter", ("queue",), "Of those, because no task has their name here."),
    Metric("jobs_stale", "counter", ("queue",), "Outcomes refused, because the lease was another's by then."),
    Metric("jobs_reclaimed", "counter", ("queue",), "Expired leases this worker took back from others."),
    Metric("jobs_poisoned", "counter", ("queue",), "Jobs whose workers were lost too often, dead-lettered."),
    Metric("jobs_in_flight", "gauge", (), "Handlers that run now."),
    Metric("jobs_held", "gauge", (), "Leases held: running, or the outcome not settled yet."),
    Metric("capacity_jobs", "gauge", (), "Jobs that may run at once."),
    Metric("outcomes_waiting", "gauge", (), "Outcomes not settled yet."),
    Metric("ready", "gauge", (), "1 if /readyz says 200."),
    Metric("redis_up", "gauge", (), "1 if Redis answered just now."),
    Metric("redis_errors", "counter", ("kind",), "Calls to Redis that failed, by kind."),
    Metric("redis_reconnects", "counter", (), "Connections made in the place of broken ones."),
    Metric(
        "breaker_state", "gauge", ("state",), "1 for the state the circuit breaker is in, 0 for the others."
    ),
    Metric(
        "loop_lag_seconds", "gauge", (), "The longest the event loop was late in the last 15 to 30 seconds."
    ),
    Metric(
        "loop_stalls", "counter", (), "Times the event loop was stuck for longer than worker.stall_limit."
    ),
    Metric(
        "rate_limit_waits",
        "counter",
        ("limit",),
        "Jobs that had to wait for a permit, in a slot or given back.",
    ),
    Metric("rate_limit_wait_seconds", "counter", ("limit",), "How long they waited."),
    Metric(
        "trace_spans_dropped", "counter", (), "Spans lost because the collector did not take them in time."
    ),
    Metric("worker_start_time_seconds", "gauge", (), "When the worker started, seconds since the epoch."),
    Metric("build_info", "gauge", ("version", "python", "trio", "app"), "Always 1; what runs here."),
)

# What Redis says of the queues: the same from every worker that serves them.
QUEUES: Final = (
    Metric(
        "queue_jobs",
        "gauge",
        ("queue", "state", "priority"),
        'Jobs in each state; ready ones by priority, the others with priority "".',
    ),
    Metric(
        "queue_oldest_ready_age_seconds",
        "gauge",
        ("queue", "priority"),
        "How long the job that goes next has been ready; 0 if there is none.",
    ),
    Metric("queue_paused", "gauge", ("queue",), "1 if the queue is paused."),
    Metric("queue_workers", "gauge", ("queue",), "Workers registered for it."),
    Metric("queue_enqueued", "counter", ("queue",), "Jobs ever enqueued, by anyone."),
    Metric("queue_completed", "counter", ("queue",), "Jobs ever completed, by anyone."),
    Metric("queue_cancelled", "counter", ("queue",), "Jobs ever cancelled."),
    Metric("queue_purged", "counter", ("queue",), "Dead letters ever purged."),
)

# Whether to believe them.
FRESHNESS: Final = (
    Metric(
        "queue_lengths_stale", "gauge", ("queue",), "1 while what Redis says of the queue is too old to show."
    ),
    Metric("queue_lengths_age_seconds", "gauge", ("queue",), "Since Redis was last asked about the queue."),
)

CATALOGUE: Final = {metric.name: metric for metric in (*PROCESS, *QUEUES, *FRESHNESS)}

BREAKER_STATES: Final = tuple(State)
ERROR_KINDS: Final = ("Indeterminate", "NotSent", "other")
"""Shown from the start; others, such as LOADING and OOM, when they first come. They are a few."""

Sample = tuple[tuple[str, ...], Any]


def _family(name: str, samples: Iterable[Sample]) -> Family:
    metric = CATALOGUE[name]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(PREFIX + name, metric.help, labels=metric.labels)
        for labels, value in samples:
            histogram.add_metric(labels, *_buckets(value))
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(PREFIX + name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    bounds = [*map(floatToGoString, BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True)), histogram.sum


class WorkerMetrics:
    """One worker's metrics, in a registry of their own. `wall_clock`: seconds since the epoch.

    `report`: what readiness said last. Collected in the worker's event loop only, so nothing changes under the reader.
    """

    def __init__(self, worker: Worker, report: Callable[[], Report], *, started_s: float) -> None:
        self._worker = worker
        self._report = report
        self._started_s = started_s
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(namespace="queue_trio", registry=self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in whatever text format the `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """What prometheus-client asks a collector for."""
        yield from self._tasks()
        yield from self._own_queues()
        yield from self._state()
        yield from self._redis()
        yield from self._limits_and_traces()
        yield from self._queues()

    # --- this process ----------------------------------------------------------------------------------------------

    def _tasks(self) -> Iterator[Family]:
        tasks = self._worker.counts.labelled()
        for name, field in (
            ("jobs_completed", "completed"),
            ("jobs_retried", "retried"),
            ("jobs_dead_lettered", "dead"),
            ("jobs_lease_lost", "lost"),
            ("threads_abandoned", "abandoned"),
        ):
            yield _family(name, [((label,), getattr(counts, field)) for label, counts in tasks])
        yield _family("jobs_failed", [((label,), counts.retried + counts.dead) for label, counts in tasks])
        for name, field in (("job_run_seconds", "run"), ("job_wait_seconds", "wait")):
            kept = [((label,), getattr(counts, field)) for label, counts in tasks]
            yield _family(name, [(labels, histogram) for labels, histogram in kept if histogram is not None])

    def _own_queues(self) -> Iterator[Family]:
        queues = [(lane.queue, self._worker.counts.queue(lane.queue)) for lane in self._worker.lanes]
        for name, field in (
            ("jobs_claimed", "claimed"),
            ("jobs_released", "released"),
            ("jobs_unknown_task", "unknown"),
            ("jobs_stale", "stale"),
            ("jobs_reclaimed", "reclaimed"),
            ("jobs_poisoned", "poisoned"),
        ):
            yield _family(name, [((queue,), getattr(counts, field)) for queue, counts in queues])

    def _state(self) -> Iterator[Family]:
        worker, report = self._worker, self._report()
        yield _one("jobs_in_flight", worker.in_flight)
        yield _one("jobs_held", worker.held)
        yield _one("capacity_jobs", worker.app.settings.worker.concurrency)
        yield _one("outcomes_waiting", worker.backlog)
        yield _one("ready", int(report.ready))
        yield _one("loop_lag_seconds", worker.watchdog.worst_lag_s)
        yield _one("loop_stalls", worker.watchdog.stalls)
        yield _one("worker_start_time_seconds", self._started_s)
        build = (queue_trio.__version__, platform.python_version(), trio.__version__, worker.app.name)
        yield _family("build_info", [(build, 1)])

    def _redis(self) -> Iterator[Family]:
        client = self._worker.redis
        if client is None:
            return
        yield _one("redis_up", int(self._report().checks["redis"].ok))
        errors = dict.fromkeys(ERROR_KINDS, 0) | client.errors
        yield _family("redis_errors", [((kind,), count) for kind, count in sorted(errors.items())])
        yield _one("redis_reconnects", client.reconnects)
        now = client.breaker.state(trio.current_time())
        yield _family("breaker_state", [((state.value,), int(state is now)) for state in BREAKER_STATES])

    def _limits_and_traces(self) -> Iterator[Family]:
        waits = sorted(self._worker.pacer.waits.items())
        yield _family("rate_limit_waits", [((limit,), found.waits) for limit, found in waits])
        yield _family("rate_limit_wait_seconds", [((limit,), found.wait_ms / 1000) for limit, found in waits])
        spans = self._worker.spans
        yield _one("trace_spans_dropped", 0 if spans is None else spans.dropped)

    # --- what Redis says -------------------------------------------------------------------------------------------

    def _queues(self) -> Iterator[Family]:
        updater = self._worker.updater
        if updater is None:
            return
        names = [lane.queue for lane in self._worker.lanes]
        found = [self._worker.lengths(lane) for lane in self._worker.lanes]
        fresh = [(name, lengths) for name, lengths in zip(names, found, strict=True) if lengths is not None]
        jobs: list[Sample] = []
        ages: list[Sample] = []
        for name, lengths in fresh:
            jobs += [((name, "ready", str(priority)), count) for priority, count in lengths.ready.items()]
            jobs += [
                ((name, state, ""), getattr(lengths, state)) for state in ("scheduled", "leased", "dead")
            ]
            ages += [((name, str(priority)), age) for priority, age in oldest_ready_ages_s(lengths).items()]
        yield _family("queue_jobs", jobs)
        yield _family("queue_oldest_ready_age_seconds", ages)
        for field in ("paused", "workers", "enqueued", "completed", "cancelled", "purged"):
            yield _family(f"queue_{field}", [((name,), getattr(lengths, field)) for name, lengths in fresh])
        stale = [((name,), int(lengths is None)) for name, lengths in zip(names, found, strict=True)]
        yield _family("queue_lengths_stale", stale)
        ages_s = [((lane.queue,), updater.age_s(lane)) for lane in self._worker.lanes]
        yield _family("queue_lengths_age_seconds", ages_s)


def _one(name: str, value: float) -> Family:
    return _family(name, [((), value)])
