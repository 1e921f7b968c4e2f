"""How many workers a load needs: arithmetic on measured figures, nothing else.

Little's law says how many jobs run at once, and utilisation how many processes that takes; headroom is on top of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

HEADROOM: Final = 0.5
CONCURRENCY_MAX: Final = 1000
"""More jobs at once than this are spread over more processes."""


@dataclass(frozen=True, slots=True)
class Need:
    """`processes` workers, each with `concurrency`. `in_flight` and `busy` (processes' worth) are without headroom."""

    processes: int
    concurrency: int
    in_flight: float
    busy: float


def workers_for(
    load_per_s: float,
    *,
    job_s: float,
    cpu_s: float,
    run_per_s: float,
    pickup_s: float,
    headroom: float = HEADROOM,
) -> Need:
    """What `load_per_s` jobs a second need, each taking `job_s` seconds, `cpu_s` of them computing in Python.

    `run_per_s`: no-op jobs a second that one worker runs; its inverse is what the queue itself costs for a job.
    `pickup_s`: how long a slot waits for its next job. Jobs that compute do so in the worker's own process.

        in flight = load × (job + pickup)                    (Little's law)
        busy      = load × (1 / run + cpu)                   (utilisation)
        processes = whole(busy × (1 + headroom)), and enough for CONCURRENCY_MAX jobs in flight each
        concurrency = whole(in flight × (1 + headroom) / processes)
    """
    in_flight = load_per_s * (job_s + pickup_s)
    busy = load_per_s * (1 / run_per_s + cpu_s)
    slots = in_flight * (1 + headroom)
    processes = max(1, math.ceil(busy * (1 + headroom)), math.ceil(slots / CONCURRENCY_MAX))
    return Need(processes, max(1, math.ceil(slots / processes)), in_flight, busy)
