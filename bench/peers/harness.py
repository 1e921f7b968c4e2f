"""What every adapter shares: the order it is given, the ledger of what ran, and how it reports.

Standard library only: this is imported in every peer's environment. It knows no queue.

An adapter is a module with two functions:

    work(order)      run a worker for ever; call LEDGER.ready() as late as possible before it takes its first job
    enqueue(order)   connect, then hand `send` (and `send_many`, if the queue has one) to one of ways.py

Its handler calls `LEDGER.run(number, payload)` or awaits `LEDGER.run_asyncio(number, payload)`. Counting happens in the
worker's memory, where it costs next to nothing; at the end the numbers go to a file, and the process ends at once.
What a process has to say goes to its standard output, one JSON object per line: `ready`, then `done`.

Times are of the monotonic clock, which is one for all processes of a machine. Clients on an event loop wake with a
granularity of about 1 ms, and what that makes a planned send late counts as latency.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

LINGER_S: Final = 0.3
"""After the last job was seen, so long is waited for one that runs twice."""
PRIORITIES: Final = 3

Way = Literal["one", "concurrent", "bulk", "planned"]


@dataclass(frozen=True, slots=True)
class Order:
    """One run. `file`: where the numbers go. `sync`: handlers are plain functions in threads.

    `concurrency`: jobs at once for queues on an event loop, `threads`: for those in threads. `rate_per_s` and `seed`:
    of planned sends.
    """

    url: str
    file: str
    variant: str
    jobs: int
    concurrency: int
    threads: int
    timeout_s: float
    way: Way = "bulk"
    enqueuers: int = 32
    payload_bytes: int = 0
    pause_s: float = 0.0
    sync: bool = False
    priorities: bool = False
    rate_per_s: float = 0.0
    seed: int = 0

    @property
    def payload(self) -> str:
        """Text of the ordered size that does not repeat itself; the same in every run."""
        return random.Random(0).randbytes(self.payload_bytes // 2 + 1).hex()[: self.payload_bytes]

    @property
    def roomy_url(self) -> str:
        """For redis-py, whose pools raise an error at the 101st connection unless told otherwise."""
        return f"{self.url}?max_connections=1000"

    def plan(self) -> list[float]:
        """When to send each job, in seconds from the start: arrivals at random (Poisson), at `rate_per_s`."""
        rng = random.Random(self.seed)
        at_s, plan = 0.0, []
        for _ in range(self.jobs):
            at_s += rng.expovariate(self.rate_per_s)
            plan.append(at_s)
        return plan


def level(number: int) -> int:
    """A job's priority in the workload of mixed ones: 0 (low) to 2 (high), taking turns."""
    return number % PRIORITIES


# --- what a process says --------------------------------------------------------------------------------------------


def serve(order: Order, role: Callable[[Order], None]) -> None:
    """Run one role of an adapter. What libraries print goes to standard error, with everybody's complaints."""
    global _voice  # noqa: PLW0603, one process, one voice
    _voice = os.dup(1)
    os.dup2(2, 1)
    LEDGER.open(order)
    role(order)


_voice = 1


def say(what: str, **details: object) -> None:
    """One line for the driver."""
    os.write(_voice, json.dumps({"said": what, **details}).encode() + b"\n")


def cpu_s() -> float:
    """Processor time of this process and of its children that have ended, user and system."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_bytes() -> int:
    """The most memory this process has had. Not ru_maxrss on Linux: that starts with what its parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- the worker's side ----------------------------------------------------------------------------------------------


class Ledger:
    """Which jobs ran, and when each was started. Any thread may note."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, float]] = []
        self._order: Order | None = None
        self._full = threading.Event()
        self._last_at_s = 0.0
        self._cpu_s = 0.0

    def open(self, order: Order) -> None:
        """Expect that order's jobs."""
        self._order = order
        self._jobs, self._pause_s, self._payload_bytes = order.jobs, order.pause_s, order.payload_bytes

    def ready(self) -> None:
        """The worker is about to take its first job: the clock runs from here. Once per process."""
        threading.Thread(target=self._see_it_end, daemon=True).start()
        self._cpu_s = cpu_s()
        say("ready", at_s=time.monotonic())

    def run(self, number: int, payload: str) -> None:
        """The job, for a handler that is a plain function."""
        started_s = time.monotonic()
        if self._pause_s:
            time.sleep(self._pause_s)
        self.note(number, payload, started_s)

    async def run_asyncio(self, number: int, payload: str) -> None:
        """The job, for a handler on asyncio."""
        started_s = time.monotonic()
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        self.note(number, payload, started_s)

    def note(self, number: int, payload: str, started_s: float) -> None:
        """A job has run, whole. Raises ValueError if its payload has not come through."""
        if len(payload) != self._payload_bytes:
            raise ValueError(f"job {number} came with {len(payload)} bytes of {self._payload_bytes}")
        self.entries.append((number, started_s))
        if len(self.entries) == self._jobs:
            self._last_at_s = time.monotonic()
            self._cpu_s = cpu_s() - self._cpu_s
            self._full.set()

    def _see_it_end(self) -> None:
        assert self._order is not None
        if self._full.wait(self._order.timeout_s):
            time.sleep(LINGER_S)
        Path(self._order.file).write_text(json.dumps(self.entries))
        say("done", at_s=self._last_at_s, cpu_s=self._cpu_s, peak_bytes=peak_bytes())
        # No two queues shut down alike, and how they do is not what is measured.
        os._exit(0)


LEDGER: Final = Ledger()
