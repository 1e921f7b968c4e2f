"""Histories written by hand: a small language for what happened, and a lawful run to spoil."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from chaos.bounds import bounds_of
from chaos.checker import judge
from chaos.expectations import expectations_of
from chaos.history import Action, AtRest, Enqueue, Fault, Observation, Run, in_order
from chaos.scenario import Scenario

if TYPE_CHECKING:
    from typing import Any

    from chaos.history import Event
    from chaos.verdict import Judgement

OUTAGE: dict[str, Any] = {"kind": "proxy_down", "for": 2.0, "name": "outage"}


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

    def enqueue(
        self,
        id: str,
        at_s: float,
        phase: Literal["ok", "fail", "info", "refused"] | None = "ok",
        *,
        took_s: float = 0.01,
        task: str = "quick",
    ) -> None:
        self.events.append(Enqueue(at_s, id, "invoke", task))
        if phase is not None:
            self.events.append(Enqueue(at_s + took_s, id, phase, task))

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

    def job(self, id: str, at_s: float, **run: Any) -> None:
        """Enqueued, and run to its end at once."""
        self.enqueue(id, at_s)
        self.run(id, at_s + 0.05, **run)

    def fault(self, name: str, from_s: float, to_s: float, *targets: str, proof: str = "read back") -> None:
        self.events += [
            Fault(from_s, name, "begin", targets=targets),
            Fault(from_s + 0.05, name, "active", proof),
            Fault(to_s - 0.05, name, "heal"),
            Fault(to_s, name, "healed"),
        ]
        self.events.append(Observation(from_s + 0.3, errors={"worker-1": 1}, breaker={"worker-1": "open"}))

    def act(self, what: str, at_s: float = 1.0, *, manual: bool = False) -> None:
        self.events.append(Action(at_s, what, manual))

    def rest(self, at_s: float = 200.0, **told: Any) -> None:
        """The end. `told`: what differs from what an honest queue would say."""
        tried = {e.id for e in self.events if isinstance(e, Enqueue) and e.phase == "ok"}
        returned = {e.id for e in self.events if isinstance(e, Run) and e.outcome == "returned"}
        places: dict[str, str] = told.pop("places", {})
        completed = len(returned - places.keys())
        honest: dict[str, Any] = {
            "drained": True,
            "enqueued": len(tried | returned | places.keys()),
            "completed": completed,
        }
        self.events.append(AtRest(at_s, places=places, **(honest | told)))

    def judged(self, scenario_: Scenario | None = None) -> Judgement:
        scenario_ = scenario_ or scenario()
        return judge(in_order(self.events), expectations_of(scenario_), bounds_of(scenario_))


def lawful(*, outage: bool = True) -> Tale:
    """Twelve jobs, an outage of 2 s in the midst, and everything as it should be. Without its end: call `rest`."""
    tale = Tale()
    for number in range(6):
        tale.job(f"early-{number}", 100.0 + number / 10, worker=f"worker-{number % 2 + 1}")
    if outage:
        tale.fault("outage", 101.0, 103.0)
        tale.enqueue("waiting", 102.0, took_s=1.5)
        tale.run("waiting", 103.6)
    for number in range(6):
        tale.job(f"late-{number}", 104.0 + number / 10)
    return tale
