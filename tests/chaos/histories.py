"""Histories written by hand: a small language for what happened, and a lawful run to spoil."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from chaos.history import Action, AtRest, Enqueue, Fault, Observation, Probe, Run, Settle, in_order
from chaos.judging.bounds import bounds_of
from chaos.judging.checker import judge
from chaos.judging.expectations import expectations_of
from chaos.scenario.model import Scenario

if TYPE_CHECKING:
    from typing import Any

    from chaos.history import Event
    from chaos.verdict import Judgement

Met = Literal["answered", "refused", "cut", "silent"]
OUTAGE: dict[str, Any] = {"kind": "proxy_down", "for": 2.0, "name": "outage"}
"""Nobody reaches Redis, so nobody may lose a lease."""
LATE: dict[str, Any] = {"kind": "latency", "latency": 900, "for": 2.0, "name": "late"}
"""Calls take too long: a lease may be lost to that."""


def scenario(*faults: dict[str, Any], load: dict[str, Any] | None = None, **more: Any) -> Scenario:
    """A scenario with these faults, two workers and one producer."""
    steps = [
        {"load": {"jobs": 10} | (load or {})},
        *({"fault": fault} for fault in faults),
        {"settle": {"within": 20}},
    ]
    basis = {"name": "by-hand", "title": "By hand", "promises": "N", "steps": steps}
    return Scenario.model_validate(basis | more)


@dataclass
class Tale:
    """Events in any order; `rest` sums up what they come to, unless told otherwise."""

    events: list[Event] = field(default_factory=list)
    fence: int = 0
    errors: int = 0

    def enqueue(
        self,
        id: str,
        at_s: float,
        phase: Literal["ok", "fail", "info", "refused"] | None = "ok",
        *,
        took_s: float = 0.01,
        task: str = "quick",
        client: str = "",
    ) -> None:
        self.events.append(Enqueue(at_s, id, "invoke", task, client=client))
        if phase is not None:
            self.events.append(Enqueue(at_s + took_s, id, phase, task, client=client))

    def run(
        self,
        id: str,
        at_s: float,
        outcome: Literal["", "returned", "raised", "cancelled"] = "returned",
        *,
        took_s: float = 0.02,
        worker: str = "worker-1",
        attempt: int = 1,
        pid: int = 0,
        fence: int = 0,
    ) -> None:
        """`outcome` "" for a run that never ended."""
        self.fence = fence or self.fence + 1
        pid = pid or 100 + int(worker.rpartition("-")[2])
        self.events.append(Run(at_s, id, "start", worker, pid, attempt, self.fence))
        if outcome:
            self.events.append(Run(at_s + took_s, id, "end", worker, pid, attempt, self.fence, outcome))

    def settle(
        self,
        id: str,
        at_s: float,
        verdict: Literal["done", "retry", "dead", "release"] = "done",
        *,
        fence: int = 0,
        accepted: bool = True,
    ) -> None:
        """What the last run's worker, or that with this fence, was told of its outcome; sent 10 ms before."""
        self.events.append(Settle(at_s, at_s - 0.01, id, fence or self.fence, verdict, accepted))

    def job(self, id: str, at_s: float, **run: Any) -> None:
        """Enqueued, and run to its end at once."""
        self.enqueue(id, at_s)
        self.run(id, at_s + 0.05, **run)

    def fault(
        self,
        name: str,
        from_s: float,
        to_s: float,
        *targets: str,
        proof: str = "read back",
        jobs: dict[str, float] | None = None,
        exits: dict[str, int] | None = None,
        met: Met | None = "refused",
        took_s: float = 0.001,
        trouble: bool = True,
    ) -> None:
        """One that bites, as a proxy that is down does. `met`: by the probes, None for no probes; after `took_s`.

        Without `trouble` nobody has any.
        """
        self.events += [
            Fault(from_s, name, "begin", targets=targets),
            Fault(from_s + 0.05, name, "active", proof, jobs=jobs or {}, exits=exits or {}),
            Fault(to_s - 0.05, name, "heal"),
            Fault(to_s, name, "healed"),
        ]
        for route in ("workers", "clients") if met else ():
            self.probe(name, route, from_s + 0.01, "answered", before=True)
            self.probe(name, route, from_s + 0.1, met or "refused", took_s)
        if trouble:
            self.trouble("worker-1", from_s + 0.3)

    def late(self, from_s: float, to_s: float) -> None:
        """The fault LATE, as it bites."""
        self.fault("late", from_s, to_s, met="answered", took_s=0.95)

    def probe(
        self, fault: str, route: str, at_s: float, met: Met, took_s: float = 0.001, **more: Any
    ) -> None:
        self.events.append(Probe(at_s, fault, route, met, took_s, **more))

    def trouble(self, who: str, at_s: float) -> None:
        """Seen with more errors than before, and an open breaker."""
        self.errors += 1
        self.events.append(Observation(at_s, errors={who: self.errors}, breaker={who: "open"}))

    def act(self, what: str, at_s: float = 1.0, *, manual: bool = False) -> None:
        self.events.append(Action(at_s, what, manual))

    def rest(self, at_s: float = 200.0, **told: Any) -> None:
        """The end. `told`: what differs from what an honest queue would say."""
        tried = {e.id for e in self.events if isinstance(e, Enqueue) and e.phase == "ok"}
        returned = {e.id for e in self.events if isinstance(e, Run) and e.outcome == "returned"}
        places: dict[str, str] = told.pop("places", {})
        if told.pop("settled", True):
            self.events += self._settles()
        completed = len(returned - places.keys())
        honest: dict[str, Any] = {
            "drained": True,
            "enqueued": len(tried | returned | places.keys()),
            "completed": completed,
            "stale": sum(isinstance(e, Settle) and not e.accepted for e in self.events),
        }
        self.events.append(AtRest(at_s, places=places, **(honest | told)))

    def _settles(self) -> list[Settle]:
        """What honest workers and an honest fence make of the runs that returned."""
        runs = [event for event in self.events if isinstance(event, Run)]
        told = {(event.id, event.fence) for event in self.events if isinstance(event, Settle)}
        found: list[Settle] = []
        for run in runs:
            newer = [e.at_s for e in runs if e.id == run.id and e.fence > run.fence and e.phase == "start"]
            stale = bool(newer) and min(newer) < run.at_s
            # One that ran again later was never settled: its worker did not come to it.
            if run.outcome == "returned" and (run.id, run.fence) not in told and (stale or not newer):
                at_s = run.at_s + 0.01
                found.append(Settle(at_s, run.at_s, run.id, run.fence, "done", not stale))
        return found

    def judged(self, scenario_: Scenario | None = None) -> Judgement:
        scenario_ = scenario_ or scenario()
        return judge(in_order(self.events), expectations_of(scenario_), bounds_of(scenario_))


def lawful(*, outage: bool = True, late: bool = False) -> Tale:
    """Twelve jobs, an outage of 2 s in the midst, or calls that are `late`, and everything as it should be.

    Without its end: call `rest`.
    """
    tale = Tale()
    for number in range(6):
        tale.job(f"early-{number}", 100.0 + number / 10, worker=f"worker-{number % 2 + 1}")
    if late:
        tale.late(101.0, 103.0)
    elif outage:
        tale.fault("outage", 101.0, 103.0)
    if late or outage:
        tale.enqueue("waiting", 102.0, took_s=1.5)
        tale.run("waiting", 103.6)
    for number in range(6):
        tale.job(f"late-{number}", 104.0 + number / 10)
    return tale
