"""What a panel of the dashboard is, and the expressions panels are made of. Knows Prometheus, not Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

WIDTH: Final = 24
"""Columns of the dashboard's grid."""

# What the variables choose. Series of a queue are the same from every worker: they are joined with max, never with sum.
JOB: Final = 'job=~"$job"'
WORKER: Final = 'job=~"$job", instance=~"$instance"'
QUEUE: Final = 'job=~"$job", queue=~"$queue"'
OWN_QUEUE: Final = f'{WORKER}, queue=~"$queue"'

Kind = Literal["timeseries", "stat", "state-timeline", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the name its series get; "" leaves naming to Grafana."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. `unit`: a unit id of Grafana's. `red_from`, `red_below`: where a stat turns red; None for never.

    `words`: what to show for 0, 1, 2 instead of the number, each with its colour.
    """

    title: str
    queries: tuple[Query, ...]
    about: str
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    red_from: float | None = None
    red_below: float | None = None
    words: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


# --- expressions ---------------------------------------------------------------------------------------------------


def rate(name: str, labels: str, by: str) -> str:
    """What workers counted, per second, added up."""
    return f"sum by ({by}) (rate(queue_trio_{name}{{{labels}}}[$__rate_interval]))"


def queue_rate(name: str, by: str = "queue") -> str:
    """What Redis counted for a queue, per second."""
    joined = f"max by (job, queue) (rate(queue_trio_{name}{{{QUEUE}}}[$__rate_interval]))"
    return f"sum by ({by}) ({joined})" if by else f"sum({joined})"


def jobs(state: str, by: str = "") -> str:
    """Jobs in a state, as Redis tells."""
    joined = f'max by (job, queue, priority) (queue_trio_queue_jobs{{{QUEUE}, state="{state}"}})'
    return f"sum by ({by}) ({joined})" if by else f"sum({joined})"


def quantile(share: float, name: str, by: str = "") -> str:
    """A quantile of a histogram, over all tasks or for each."""
    le = f"le, {by}" if by else "le"
    buckets = f"sum by ({le}) (rate(queue_trio_{name}_bucket{{{WORKER}}}[$__rate_interval]))"
    return f"histogram_quantile({share:g}, {buckets})"


def quantiles(name: str) -> tuple[Query, ...]:
    """The median and the two tails people ask for."""
    return tuple(Query(quantile(share, name), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


def stat(title: str, expr: str, about: str, **options: Any) -> Panel:
    """One number, six to a line."""
    return Panel(title, (Query(expr),), about, kind="stat", width=4, height=4, **options)
