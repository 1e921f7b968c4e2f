"""What a scenario is: which processes, what load, which faults when, and what is expected of it. Only data.

`loading` reads one from a file; `bounds` and `checker` judge by it; the runner plays it. Steps go one after the other;
a load goes on beside the steps that follow it, and so does a fault with `go_on`.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from chaos.scenario.faults import Condition, Fault, Model, NetworkFault, Positive, Some, Whole, WorkerFault
from chaos.verdict import Counts, Verdict
from queue_trio.core.dequeue import Priority
from queue_trio.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LETTERS: Final = "NUSFADPZC"
DIRECT: Final = "direct"
"""The route of those who speak to Redis without a proxy."""
ROUTES: Final[Mapping[str, str]] = {"workers": "workers", "producers": "clients"}
"""By default workers and clients can be cut off separately."""

SHARES: Final[Mapping[Priority, int]] = {
    Priority.CRITICAL: 1,
    Priority.HIGH: 2,
    Priority.NORMAL: 4,
    Priority.LOW: 2,
}
"""By default a load has every priority: whatever goes wrong must not upset their order."""

RUN_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "redis": {"read_timeout": 0.5, "connect_timeout": 0.5, "backoff_cap": 0.3, "breaker_open_wait": 0.2},
    "worker": {
        "lease": 2.0,
        "sweep_interval": 0.4,
        "poll_interval": 0.2,
        "concurrency": 8,
        "shutdown_grace": 3.0,
    },
}
"""Short, so that runs are; a scenario's own settings win over these."""

TaskKind = Literal["quick", "slow", "thread", "fail", "hang", "uncancellable", "crash", "poison"]
"""quick: returns at once. slow, thread: after `seconds`, in Trio or in a thread. fail: raises.

hang: never, but can be cancelled. uncancellable: a thread that works past its timeout.

crash: kills its worker on its first run. poison: on every run.
"""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]

_AMOUNT: Final = re.compile(r"(==|!=|>=|<=|>|<)?\s*(\d{1,9})")
_COMPARE: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Processes(Model):
    """How many there are, and who reaches Redis through which proxy.

    They are called worker-1, worker-2, producer-1 and so on. `routes` maps a group (`workers`, `producers`) or one
    process to the name of a proxy, or to `direct`; the process wins over its group.
    """

    workers: Annotated[int, Field(strict=True, ge=0, le=64)] = 2
    producers: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    routes: dict[str, Name] = Field(default_factory=lambda: dict(ROUTES))

    @property
    def worker_names(self) -> tuple[str, ...]:
        return tuple(f"worker-{number}" for number in range(1, self.workers + 1))

    @property
    def producer_names(self) -> tuple[str, ...]:
        return tuple(f"producer-{number}" for number in range(1, self.producers + 1))

    def route(self, process: str) -> str:
        """The proxy that `process` goes through, or `direct`."""
        group = "workers" if process.startswith("worker-") else "producers"
        return self.routes.get(process, self.routes.get(group, ROUTES[group]))

    @property
    def proxies(self) -> tuple[str, ...]:
        """The names of all proxies that anybody goes through."""
        routes = {self.route(name): None for name in (*self.worker_names, *self.producer_names)}
        return tuple(route for route in routes if route != DIRECT)

    def behind(self, proxies: tuple[str, ...]) -> tuple[str, ...]:
        """Who goes through these; without any, through any."""
        everyone = (*self.worker_names, *self.producer_names)
        return tuple(process for process in everyone if self.route(process) in (proxies or self.proxies))


class Redis(Model):
    """The server that the run starts for itself."""

    appendfsync: Literal["always", "everysec"] = "always"


class Load(Model):
    """Jobs, handed over one after the other at `rate` a second (as fast as it goes if null)."""

    jobs: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    rate: Annotated[float, Field(strict=True, gt=0, le=100_000, allow_inf_nan=False)] | None = 100.0
    kind: TaskKind = "quick"
    seconds: Some = 0.2
    """How long the handler takes; for quick and the kinds without end it means nothing."""
    priorities: dict[Priority, Positive] = Field(default_factory=lambda: dict(SHARES))
    """Shares: {high: 1, normal: 3} is a quarter high."""
    payload: Whole = 0
    """Bytes of argument."""
    delay: Whole = 0
    """Milliseconds until it is due."""

    @field_validator("priorities")
    @classmethod
    def _some(cls, value: dict[Priority, int]) -> dict[Priority, int]:
        if not value:
            raise ValueError("must name at least one priority, such as {normal: 1}")
        return value


class Start(Model):
    """One more worker. With `refuses` it must end by itself, and say that text."""

    refuses: Annotated[str, Field(min_length=1)] | None = None


class Settle(Model):
    """Everything is healed; all jobs must end within so many seconds."""

    within: Some = 30.0


class Step(Model):
    """Exactly one of these."""

    load: Load | None = None
    fault: Fault | None = None
    wait: Condition | None = None
    start: Start | None = None
    settle: Settle | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("must be exactly one of load, fault, wait, start, settle")
        return self


class Amount(Model):
    """What a count must be: written as a number, or as "> 0" and the like."""

    compare: Literal["==", "!=", ">=", "<=", ">", "<"] = "=="
    number: int

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, dict | Amount):
            return value
        found = None if isinstance(value, bool) else _AMOUNT.fullmatch(str(value).strip())
        if found is None:
            raise ValueError('must be a number, or a comparison with one, such as "> 0"')
        return {"compare": found[1] or "==", "number": int(found[2])}

    def holds(self, count: int) -> bool:
        return _COMPARE[self.compare](count, self.number)

    def __str__(self) -> str:
        return f"{self.compare} {self.number}"


class Expect(Model):
    """What must come out. Counts that are not named have the default that the checker gives them."""

    verdict: Verdict = Verdict.PASS
    reason: Annotated[str, Field(min_length=1)] | None = None
    """A text that must be in the first of the verdict's reasons, if it is not PASS."""
    counts: dict[str, Amount] = Field(default_factory=dict)
    """Fields of `verdict.Counts` to what each must be."""
    completed_during: dict[str, Amount] = Field(default_factory=dict)
    """Faults, by their names in the journal, to how many jobs must be settled as done while each is there."""

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if (self.verdict is Verdict.PASS) != (self.reason is None):
            raise ValueError("a verdict other than PASS needs a reason, and PASS has none")
        return self


class Scenario(Model):
    """One run, complete but for its seed."""

    name: Name
    title: Annotated[str, Field(min_length=1, max_length=120)]
    promises: Annotated[str, Field(pattern=rf"^[{LETTERS}]+$")]
    """Letters of the promises it is about. All are judged, whatever it says here."""
    rows: tuple[Positive, ...] = ()
    """Of the catalogue: docs/chaos.md."""
    smoke: Annotated[bool, Field(strict=True)] = False
    """Whether it belongs to the short suite."""
    kills: tuple[str, ...] = ()
    """Mutants that this scenario is there to find."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    processes: Processes = Processes()
    redis: Redis = Redis()
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    expect: Expect = Expect()

    @property
    def loads(self) -> tuple[Load, ...]:
        return tuple(step.load for step in self.steps if step.load is not None)

    @property
    def settle(self) -> Settle:
        return next((step.settle for step in self.steps if step.settle is not None), Settle())

    @property
    def faults(self) -> dict[str, Fault]:
        """Every fault by its name in the journal: its own, or its kind, numbered where that is there twice."""
        faults = [step.fault for step in self.steps if step.fault is not None]
        number = Counter(fault.name or fault.kind for fault in faults)
        named: dict[str, Fault] = {}
        seen: Counter[str] = Counter()
        for fault in faults:
            name = fault.name or fault.kind
            seen[name] += 1
            named[f"{name}-{seen[name]}" if number[name] > 1 else name] = fault
        return named

    def all_settings(self, **sections: Mapping[str, Any]) -> Settings:
        """The settings of the run. `sections`: what only the runner knows, such as `redis={"url": ...}`."""
        merged: dict[str, dict[str, Any]] = {}
        for layer in (RUN_SETTINGS, self.settings, sections):
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        return Settings.model_validate(merged)


Contradiction = tuple[tuple[str | int, ...], str, str | None, tuple[str, ...]]
"""Where, why, and a wrong name with the right ones."""


def contradictions(scenario: Scenario) -> Iterator[Contradiction]:
    """What fits each model, but not the rest of the scenario."""
    processes = scenario.processes
    known = ("workers", "producers", *processes.worker_names, *processes.producer_names)
    for who in processes.routes:
        if who not in known:
            yield ("processes", "routes", who), "there is no such process", who, known
    for counted in scenario.expect.counts:
        if counted not in Counts.__struct_fields__:
            yield ("expect", "counts", counted), "there is no such count", counted, Counts.__struct_fields__
    for name in scenario.expect.completed_during:
        if name not in scenario.faults:
            yield ("expect", "completed_during", name), "there is no such fault", name, tuple(scenario.faults)
    given: set[str] = set()
    for number, step in enumerate(scenario.steps):
        if step.fault is not None:
            at = ("steps", number, "fault", step.fault.kind)
            yield from _unknown_targets(step.fault, processes, at)
            if step.fault.name in given:
                yield (*at, "name"), f"{step.fault.name!r} is there twice", None, ()
            given |= {step.fault.name} if step.fault.name else set()
        if step.settle is not None and number != len(scenario.steps) - 1:
            yield ("steps", number, "settle"), "must be the last step", None, ()


def _unknown_targets(
    fault: Fault, processes: Processes, at: tuple[str | int, ...]
) -> Iterator[Contradiction]:
    if isinstance(fault, NetworkFault):
        for proxy in fault.proxies:
            if proxy not in processes.proxies:
                yield (*at, "proxies"), "there is no such proxy", proxy, processes.proxies
    if isinstance(fault, WorkerFault):
        for name in fault.names:
            if name not in processes.worker_names:
                yield (*at, "names"), "there is no such worker", name, processes.worker_names
        if fault.count > processes.workers:
            yield (*at, "count"), f"is more than the {processes.workers} workers", None, ()


def missing(scenario: Scenario) -> Iterator[str]:
    """What every scenario must have, and this one has not."""
    if not scenario.loads:
        yield "must have a load: without one nothing can be judged"
    if all(step.settle is None for step in scenario.steps):
        yield "must end with a settle step: what is not given time to recover cannot be judged"
