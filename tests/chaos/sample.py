"""A made-up run that looks like a real one: 2000 jobs, workers cut off for 8 s, duplicates, and one job lost."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from chaos.history import Action, AtRest, Enqueue, Fault, Observation, Run, in_order
from chaos.result import Result, shown_command
from chaos.verdict import Counts, Invariant, Judgement, Offender, Proof, Recovery, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.history import Event

START_S: Final = 1_780_000_000.0
OUTAGE_S: Final = (8.0, 16.0)
LATENCY_S: Final = (11.0, 13.0)
JOBS: Final = 2000
STEP_S: Final = 0.02
WORKERS: Final = ("worker-0", "worker-1", "worker-2", "worker-3")
CLIENTS: Final = ("client-0", "client-1")
SLOTS: Final = 8
LOST: Final = "job-0700"
WEIGHTS: Final = {"critical": 1, "high": 2, "normal": 5, "low": 3}


@dataclass(slots=True)
class Simulation:
    """A crude queue and crude workers, stepped through time."""

    rng: random.Random
    events: list[Event] = field(default_factory=list)
    ready: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in WEIGHTS})
    running: list[tuple[float, str, str, int]] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    held: dict[str, str] = field(default_factory=dict)
    """Jobs that ended while their worker could not say so, with their priority."""
    priorities: dict[str, str] = field(default_factory=dict)
    fence: int = 0
    enqueued: int = 0
    completed: int = 0
    unknown: int = 0

    def cut_off(self, at_s: float) -> bool:
        return OUTAGE_S[0] <= at_s < OUTAGE_S[1] + 0.4

    def enqueue(self, at_s: float) -> None:
        id = f"job-{self.enqueued:04}"
        self.enqueued += 1
        priority = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.priorities[id] = priority
        self.events.append(Enqueue(START_S + at_s, id, "invoke", task="work", priority=priority))
        slow = LATENCY_S[0] <= at_s < LATENCY_S[1] and self.rng.random() < 0.4
        if slow:
            self.unknown += 1
            self.events.append(Enqueue(START_S + at_s + 0.5, id, "info", error="no reply within 0.5 s"))
        else:
            self.events.append(Enqueue(START_S + at_s + self.rng.uniform(0.001, 0.006), id, "ok"))
        if id != LOST:
            self.ready[priority].append(id)

    def end_runs(self, at_s: float) -> None:
        for run in [run for run in self.running if run[0] <= at_s]:
            self.running.remove(run)
            ends_s, id, worker, fence = run
            outcome: Literal["raised", "returned"] = "raised" if self.rng.random() < 0.03 else "returned"
            self.events.append(
                Run(START_S + ends_s, id, "end", worker, pid_of(worker), self.runs[id], fence, outcome)
            )
            if outcome == "raised":
                self.ready[self.priorities[id]].append(id)
            elif self.cut_off(at_s):
                self.held[id] = self.priorities[id]
            else:
                self.completed += 1

    def start_runs(self, at_s: float) -> None:
        if self.cut_off(at_s):
            return
        # Settles that waited for the end of the outage: some leases were swept by then, so the job runs again.
        for held, priority in self.held.items():
            if self.rng.random() < 0.6:
                self.ready[priority].append(held)
            else:
                self.completed += 1
        self.held.clear()
        busy = Counter(worker for _, _, worker, _ in self.running)
        for worker in WORKERS:
            while busy[worker] < SLOTS and (id := self.next_ready()) is not None:
                busy[worker] += 1
                self.fence += 1
                self.runs[id] += 1
                self.events.append(
                    Run(START_S + at_s, id, "start", worker, pid_of(worker), self.runs[id], self.fence)
                )
                self.running.append((at_s + self.rng.uniform(0.1, 0.4), id, worker, self.fence))

    def next_ready(self) -> str | None:
        return next((ids.pop(0) for ids in self.ready.values() if ids), None)

    def observe(self, at_s: float) -> None:
        down = self.cut_off(at_s)
        half = down and int(at_s * 4) % 5 == 0
        state = "half_open" if half else "open" if down and at_s > OUTAGE_S[0] + 0.4 else "closed"
        slow = LATENCY_S[0] + 0.6 <= at_s < LATENCY_S[1]
        breaker = dict.fromkeys(WORKERS, state) | dict.fromkeys(CLIENTS, "half_open" if slow else "closed")
        busy = Counter(worker for _, _, worker, _ in self.running)
        down_for_s = min(max(at_s - OUTAGE_S[0], 0.0), 8.4)
        self.events.append(
            Observation(
                START_S + at_s,
                ready={name: len(ids) for name, ids in self.ready.items()},
                scheduled=0,
                leased=len(self.running) + len(self.held),
                dead=0,
                completed=self.completed,
                breaker=breaker,
                in_flight={worker: busy[worker] for worker in WORKERS},
                errors={worker: int(down_for_s * 5) for worker in WORKERS},
            )
        )

    def run(self) -> None:
        step = 0
        while self.enqueued < JOBS or self.running or any(self.ready.values()):
            at_s = step * STEP_S
            if step % 15 != 14:  # a little uneven, as real load is
                for _ in range(min(self.rng.choice((1, 2)), JOBS - self.enqueued)):
                    self.enqueue(at_s)
            self.end_runs(at_s)
            self.start_runs(at_s)
            if step % 5 == 0:
                self.observe(at_s)
            step += 1
        self.events.append(
            AtRest(
                START_S + step * STEP_S,
                drained=True,
                enqueued=JOBS,
                completed=self.completed,
                violations=("2000 enqueued, 1999 completed, 0 elsewhere",),
            )
        )


def pid_of(worker: str) -> int:
    return 4000 + WORKERS.index(worker)


def faults() -> Iterator[Event]:
    for name, (from_s, to_s), proof in (
        ("workers cut off", OUTAGE_S, "the proxy says enabled: false"),
        ("clients slow", LATENCY_S, "the proxy says latency 700 ms"),
    ):
        yield Fault(START_S + from_s, name, "begin")
        yield Fault(START_S + from_s + 0.03, name, "active", proof=proof)
        yield Fault(START_S + to_s, name, "heal")
        yield Fault(START_S + to_s + 0.04, name, "healed")
    yield Action(START_S + 19.0, "SIGTERM to worker-3, started again")


def made_up_result(seed: int = 7) -> Result:
    """FAIL: one job is lost, everything else is as it should be."""
    simulation = Simulation(random.Random(seed))
    simulation.run()
    history = in_order([*simulation.events, *faults()])
    again = sum(number > 1 for number in simulation.runs.values())
    held = {
        "N": "nothing lost",
        "U": "nothing invented",
        "S": "one state per job",
        "F": "fenced",
        "A": "faults are not failures",
        "D": "duplicates only where they must be",
        "P": "priority is exact",
        "Z": "no stampede",
        "C": "cancellation is clean",
    }
    offender = Offender(LOST, "acknowledged at 8.1 s; neither completed, dead, cancelled nor queued at rest")
    return Result(
        scenario="outage-longer-than-lease",
        title="Workers are cut off from Redis for longer than their lease",
        promises=("N", "A", "D", "Z"),
        seed=seed,
        command=shown_command(
            [
                "python",
                "-m",
                "chaos",
                "run",
                "outage-longer-than-lease",
                "--seed",
                str(seed),
                "--jobs",
                str(JOBS),
            ]
        ),
        judgement=Judgement(
            Verdict.FAIL,
            ("N: 1 job was acknowledged and is nowhere: job-0700",),
            Counts(
                attempted=JOBS,
                acknowledged=JOBS - simulation.unknown,
                unknown=simulation.unknown,
                completed=JOBS - 1,
                lost=1,
                duplicated=again,
                recovered=simulation.unknown,
            ),
            tuple(
                Invariant(
                    letter, name, letter != "N", int(letter == "N"), (offender,) if letter == "N" else ()
                )
                for letter, name in held.items()
            ),
            (
                Recovery("noticed", 0.41, 0.5, "T: the first error after the fault"),
                Recovery("first success", 0.62, 1.1, "C = T + B + O = 0.5 + 0.3 + 0.3"),
                Recovery("orphans run again", 6.2, 5.5, "J = 2L + S + C = 4.0 + 0.4 + 1.1"),
                Recovery("backlog drained", 9.8, 30.0, "depth at heal / measured rate, doubled"),
            ),
            (
                Proof(
                    "workers cut off",
                    (
                        "the proxy says enabled: false",
                        "route workers: 38 of 38 probes refused (before: answered in 0.4 ms)",
                        "worker-0: 42 errors; worker-1: 41 errors; worker-2: 40 errors; worker-3: 41 errors",
                    ),
                ),
                Proof("clients slow", ("the proxy says latency 700 ms",), "nobody asked on route clients"),
            ),
        ),
        started_s=START_S,
        ended_s=history[-1].at_s + 0.3,
        settings={
            "lease_s": 2.0,
            "sweep_interval_s": 0.4,
            "read_timeout_s": 0.5,
            "concurrency": 8,
            "workers": 4,
        },
        versions={
            "queue_trio": "0.7.0b1",
            "python": "3.12.3",
            "redis server": "valkey 9.1.0",
            "toxiproxy": "2.12.0",
            "platform": "Linux x86_64",
        },
        redis_settings={
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
        },
        log_tail=(
            '{"event": "lease lost", "job": "job-0412", "worker": "worker-2", "level": "warning"}',
            '{"event": "settle refused: stale fence", "job": "job-0412", "level": "warning"}',
        ),
        history=history,
    )
