"""Writes docs/metrics.md from the catalogue: `python -m queue_trio.ops.metrics_docs`. A test says when it is old."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from queue_trio.core.settings import MetricsSettings
from queue_trio.ops.metrics import FRESHNESS, PROCESS, QUEUES
from queue_trio.runtime.counts import BOUNDS_S, OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queue_trio.ops.metrics import Metric

DOCUMENT: Final = Path("docs/metrics.md")

_HEAD: Final = """\
# Metrics

<!-- Generated from queue_trio/ops/metrics.py by `python -m queue_trio.ops.metrics_docs`: change it there. -->

A worker with an HTTP port (`http.port`, or `queue-trio worker ... --http-port 9464`) serves them at `/metrics`, in
Prometheus's text format or as OpenMetrics. Without a port nothing is timed and no queue is looked at.

[deploy/prometheus](../deploy/prometheus) has a scrape configuration and alerts, [deploy/grafana](../deploy/grafana) a
dashboard, [runbooks](../runbooks/README.md) what to do when an alert fires.

## Reading them

- **A worker's own** counters and gauges: `sum` them over the workers.
- **What Redis says of a queue** (`queue_trio_queue_...`) is the same from every worker that serves it: take the
  `max by (queue)`, never the sum. One script call per queue every `metrics.interval` seconds ({interval:g} by default)
  brings them, whatever the length of the queue. While Redis is away, or the last answer is older than two intervals,
  they are not shown at all, which Prometheus takes for stale; `queue_trio_queue_lengths_stale` says so.
  `queue_trio_ready` and `queue_trio_redis_up` are asked for at each scrape.
- **Series are bounded.** `queue` is one of the queues the worker serves. `task` is one of `metrics.tasks`, by default
  the first {tasks} that the app declares (`metrics.max_tasks`); all others, and whatever jobs bring along, are counted
  together as `{other}`. Each task costs {series} series.
- Every series is there from the start with 0, so that `rate` and `increase` see the first event.
- Several workers on one machine: give each a port, or `0` and read `http.listening` in its log. There is no
  multi-process mode: each process counts for itself and is scraped for itself
  ([why](decisions/008-plain-numbers-for-metrics.md)).
"""

_TAIL: Final = """\
## The process

From prometheus-client, on Linux: `queue_trio_process_cpu_seconds_total`, `queue_trio_process_resident_memory_bytes`,
`queue_trio_process_virtual_memory_bytes`, `queue_trio_process_start_time_seconds`, `queue_trio_process_open_fds` and
`queue_trio_process_max_fds`.
"""


def document() -> str:
    """docs/metrics.md as it should be."""
    by_task = [metric for metric in PROCESS if metric.labels == ("task",)]
    per_histogram = len(BOUNDS_S) + 1 + 2  # one to infinity, the count and the sum
    series = sum(per_histogram if metric.kind == "histogram" else 1 for metric in by_task)
    defaults = MetricsSettings()
    head = _HEAD.format(interval=defaults.interval, tasks=defaults.max_tasks, other=OTHER, series=series)
    buckets = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    return "\n".join(
        [
            head,
            _table("A worker's own", PROCESS),
            f"Buckets of both histograms, in seconds: {buckets}.\n",
            _table("What Redis says of a queue", QUEUES),
            _table("Whether to believe that", FRESHNESS),
            _TAIL,
        ]
    )


def _table(title: str, metrics: Iterable[Metric]) -> str:
    lines = [f"## {title}", "", "| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write it below the current folder."""
    DOCUMENT.write_text(document(), "utf-8")


if __name__ == "__main__":
    main()
