"""How many workers a load needs: by hand-made sums, and in the limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.core.capacity import CONCURRENCY_MAX, Need, workers_for


def need(load: float, job_ms: float, cpu_ms: float = 0.0, headroom: float = 0.5) -> Need:
    return workers_for(
        load, job_s=job_ms / 1000, cpu_s=cpu_ms / 1000, run_per_s=10_000, pickup_s=0.0, headroom=headroom
    )


@pytest.mark.parametrize(
    ("found", "processes", "concurrency"),
    [
        (need(200, 250), 1, 75),  # 50 at once, × 1.5
        (need(200, 250, headroom=0), 1, 50),
        (need(0.001, 0), 1, 1),
        (need(10_000, 0), 2, 1),  # one process does 10,000, without headroom
        (need(20_000, 100), 3, 1000),  # 2,000 at once, × 1.5
        (need(1000, 10_000), 15, 1000),  # more at once than a process should have
        (need(1000, 10, cpu_ms=0.9), 2, 8),  # each keeps a process busy for 1 ms
    ],
)
def test_what_a_load_needs(found: Need, processes: int, concurrency: int) -> None:
    assert (found.processes, found.concurrency) == (processes, concurrency)


def test_waiting_for_the_next_job_takes_a_slot_too() -> None:
    found = workers_for(100, job_s=0.01, cpu_s=0, run_per_s=10_000, pickup_s=0.01)
    assert (found.in_flight, found.concurrency) == (2.0, 3)


@given(st.floats(0.01, 1e5), st.floats(0, 60_000), st.floats(0, 1), st.floats(0, 2))
def test_it_is_enough_with_headroom(load: float, job_ms: float, share: float, headroom: float) -> None:
    found = need(load, job_ms, job_ms * share, headroom)
    assert found.processes * found.concurrency >= found.in_flight * (1 + headroom) * (1 - 1e-9)
    assert found.processes >= found.busy * (1 + headroom)
    assert 1 <= found.concurrency <= CONCURRENCY_MAX
