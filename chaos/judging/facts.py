"""A history, sorted by what it is about: each job with its enqueues and runs, each fault with its window.

Puts together, judges nothing. What cannot be put together (an end without a beginning) is kept, and told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.history import Action, AtRest, Dropped, Enqueue, Fault, Observation, Probe, Run, Settle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chaos.history import Event


@dataclass(slots=True)
class Attempt:
    """One run of a handler, under one lease. `outcome` is "" if it never ended, as far as anybody wrote down."""

    id: str
    worker: str
    pid: int
    number: int
    fence: int
    started_s: float
    ended_s: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class Job:
    """Everything about one id. `runs` are in the order of their fencing tokens: the last one's lease was the last."""

    id: str
    task: str = ""
    delay_s: float = 0.0
    phases: list[Enqueue] = field(default_factory=list)
    runs: list[Attempt] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)

    def said(self, phase: str) -> bool:
        return any(event.phase == phase for event in self.phases)

    @property
    def open(self) -> bool:
        """An enqueue of it was cut off: nobody was left to write down what came of it."""
        answered = sum(event.phase != "invoke" for event in self.phases)
        return len(self.phases) - answered > answered

    @property
    def acknowledged(self) -> bool:
        return self.said("ok")

    @property
    def unknown(self) -> bool:
        """Nobody knows whether it was queued."""
        return not self.acknowledged and (self.said("info") or self.open)

    @property
    def available_s(self) -> float:
        """Since when a worker could have had it, as far as the client knows."""
        answered = [event.at_s for event in self.phases if event.phase == "ok"]
        return min(answered or [event.at_s for event in self.phases], default=math.inf) + self.delay_s

    @property
    def returned(self) -> list[Attempt]:
        return [run for run in self.runs if run.outcome == "returned"]


@dataclass(slots=True)
class Window:
    """One occurrence of a fault. `healed_s` is infinite if it was never proven to be gone."""

    name: str
    begin_s: float
    number: int = 1
    """Faults of one name can come again: the how manieth this is."""
    active_s: float | None = None
    heal_s: float | None = None
    healed_s: float = math.inf
    proof: str = ""
    targets: tuple[str, ...] = ()
    jobs: dict[str, float] = field(default_factory=dict)
    """Ids that its victims had in hand, to when they died."""
    exits: dict[str, int] = field(default_factory=dict)
    """Workers that it told to end, to their exit codes."""
    probes: list[Probe] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    """Route to bytes."""


@dataclass(slots=True)
class Facts:
    """The whole run, sorted. `broken`: what the journals say that cannot be."""

    jobs: dict[str, Job] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    at_rest: AtRest | None = None
    broken: list[str] = field(default_factory=list)
    twice_begun: list[Attempt] = field(default_factory=list)
    """Runs under a lease that had its run already."""
    began_s: float = 0.0

    @property
    def enqueues(self) -> Iterable[Enqueue]:
        return (event for job in self.jobs.values() for event in job.phases)

    @property
    def runs(self) -> Iterable[Attempt]:
        return (run for job in self.jobs.values() for run in job.runs)

    def job(self, id: str) -> Job:
        return self.jobs.setdefault(id, Job(id))


def facts_of(history: Iterable[Event]) -> Facts:
    """Sort `history`, which is in order of time."""
    facts = Facts()
    begun: dict[tuple[str, int], Attempt] = {}
    current: dict[str, Window] = {}
    for number, event in enumerate(history):
        if not number:
            facts.began_s = event.at_s
        match event:
            case Enqueue():
                _add_enqueue(facts, event)
            case Run():
                _add_run(facts, begun, event)
            case Settle():
                facts.job(event.id).settles.append(event)
            case Fault():
                _add_fault(facts, current, event)
            case Probe() | Dropped():
                _add_evidence(facts, current, event)
            case Observation() | Action() | AtRest():
                _add_look(facts, event)
    for job in facts.jobs.values():
        job.runs.sort(key=lambda run: run.fence)
    return facts


def _add_look(facts: Facts, event: Observation | Action | AtRest) -> None:
    match event:
        case Observation():
            facts.observations.append(event)
        case Action():
            facts.actions.append(event)
        case AtRest():
            if facts.at_rest is not None:
                facts.broken.append("the queue was at rest twice")
            facts.at_rest = event


def _add_enqueue(facts: Facts, event: Enqueue) -> None:
    job = facts.job(event.id)
    if event.phase == "invoke":
        job.task = event.task or job.task
        job.delay_s = event.delay_ms / 1000
    elif not job.open:
        facts.broken.append(f"{event.id}: enqueue {event.phase} without an invoke")
    job.phases.append(event)


def _add_run(facts: Facts, begun: dict[tuple[str, int], Attempt], event: Run) -> None:
    key = event.id, event.fence
    if event.phase == "start":
        run = Attempt(event.id, event.worker, event.pid, event.attempt, event.fence, event.at_s)
        if key in begun:
            facts.twice_begun.append(run)
        begun[key] = run
        facts.job(event.id).runs.append(run)
        return
    started = begun.get(key)
    if started is None or started.ended_s is not None or started.pid != event.pid:
        facts.broken.append(
            f"{event.id}: a run of {event.worker} ended that had not begun (fence {event.fence})"
        )
    elif not event.outcome:
        facts.broken.append(
            f"{event.id}: a run of {event.worker} ended without an outcome (fence {event.fence})"
        )
    else:
        started.ended_s, started.outcome = event.at_s, event.outcome


def _add_fault(facts: Facts, current: dict[str, Window], event: Fault) -> None:
    window = current.get(event.name)
    if event.phase == "begin":
        before = 0 if window is None else window.number
        current[event.name] = window = Window(event.name, event.at_s, before + 1)
        facts.windows.append(window)
    if window is None:
        facts.broken.append(f"fault {event.name}: {event.phase} before it began")
        return
    window.targets = tuple(dict.fromkeys((*window.targets, *event.targets)))
    window.jobs |= event.jobs
    window.exits |= event.exits
    match event.phase:
        case "active":
            window.active_s, window.proof = event.at_s, event.proof
        case "heal":
            window.heal_s = event.at_s
        case "healed":
            window.healed_s = event.at_s
        case "begin":
            pass


def _add_evidence(facts: Facts, current: dict[str, Window], event: Probe | Dropped) -> None:
    window = current.get(event.fault)
    if window is None:
        facts.broken.append(f"fault {event.fault}: something was seen of it before it began")
    elif isinstance(event, Probe):
        window.probes.append(event)
    else:
        window.dropped[event.route] = window.dropped.get(event.route, 0) + event.bytes
