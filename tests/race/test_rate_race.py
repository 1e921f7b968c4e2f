"""Eight processes, with all three kinds of clients, take permits of one limit as fast as they get them, for seconds.

Judged from what each of them wrote down: the moment a permit was for, and the moment it was used at, by the server's
clock. Not one window above its limit, nobody early, and over all whole windows 98 % of the limit at least was had.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from queue_trio import RateLimit

pytestmark = pytest.mark.leaves_keys("the account of a limit expires by itself")

KINDS = ("trio", "asyncio", "sync")
PROCESSES = 8
CALLERS = 6
RUN_S = 4
WINDOW = RateLimit("busy", 60, 0.5)
SMOOTH = RateLimit("busy", 120, 1, "smooth", 1)


def take_permits(url: str, limit: RateLimit) -> list[tuple[int, int]]:
    """All permits that eight processes got, in the order of the moments they were for."""
    numbers = {"name": limit.name, "limit": limit.limit, "per": limit.per, "mode": limit.mode}
    with ExitStack() as stack:
        processes = []
        for n in range(PROCESSES):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.race.rate_main",
                    url,
                    KINDS[n % 3],
                    json.dumps(numbers),
                    str(CALLERS),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        with redis.Redis.from_url(url) as server:
            seconds, micros = server.time()
        until_us = (int(seconds) + RUN_S) * 1_000_000 + int(micros)
        permits: list[tuple[int, int]] = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{until_us}\n")
            process.stdin.flush()
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            found: Any = json.loads(out)
            assert found, "every process gets its share"
            permits += [(at_us, used_us) for at_us, used_us in found]
    # When the first of them stops asking, the limit is no longer all used.
    permits.sort()
    return [permit for permit in permits if permit[0] < until_us]


def test_no_window_is_above_its_limit_and_none_is_left_unused(redis_url: str) -> None:
    permits = take_permits(redis_url, WINDOW)
    assert all(used_us >= at_us for at_us, used_us in permits)
    taken = Counter(at_us // WINDOW.per_us for at_us, _ in permits)
    assert max(taken.values()) <= WINDOW.limit
    whole = range(min(taken) + 1, max(taken))
    assert len(whole) >= 5
    achieved = sum(taken[window] for window in whole) / (len(whole) * WINDOW.limit)
    print(f"achieved {achieved:.4f} of the limit over {len(whole)} windows")
    assert 0.98 <= achieved <= 1


def test_smooth_permits_are_never_closer_than_the_rate_and_none_is_left_out(redis_url: str) -> None:
    permits = take_permits(redis_url, SMOOTH)
    assert all(used_us >= at_us for at_us, used_us in permits)
    slots = [at_us for at_us, _ in permits]
    apart_us = SMOOTH.per_us / SMOOTH.limit
    assert min(later - before for before, later in pairwise(slots)) >= apart_us - 1
    achieved = (len(slots) - 1) * apart_us / (slots[-1] - slots[0])
    print(f"achieved {achieved:.4f} of the rate over {(slots[-1] - slots[0]) / 1e6:.2f} s")
    assert len(slots) >= RUN_S * 100
    assert 0.98 <= achieved <= 1.001
