"""Draws a whole schedule from a seed: processes, settings, loads, faults, and what must come of them. Pure.

The same seed gives the same schedule, as long as this package does not change: a schedule that is worth keeping is kept
as a file. What is drawn can be judged: see `clashes`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from chaos.fuzz.clashes import clashes
from chaos.fuzz.expected import with_expectations
from chaos.fuzz.kinds import draw_fault
from chaos.fuzz.loads import MARGIN_S, WAITING, draw_loads
from chaos.fuzz.timing import PROBE_S, lag_s, length_s, span_s
from chaos.scenario.model import LETTERS, Processes, Scenario, contradictions, missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.scenario.faults import Fault

SPAN_S: Final = (4.0, 11.0)
"""From the first fault to the last heal, roughly."""
FAULTS_MAX: Final = 6
TRIES: Final = 30
"""For one fault that clashes with nothing; then the schedule is complete without it."""
SETTLE_S: Final = 40.0


def draw(seed: int) -> Scenario:
    """The schedule of that seed."""
    rng = Random(f"schedule {seed}")
    processes = _processes(rng)
    settings = _settings(rng)
    wanted_s = rng.uniform(*SPAN_S)
    head: dict[str, Any] = {
        "name": f"fuzz-{seed}",
        "title": f"Drawn from seed {seed}",
        "promises": LETTERS,
        "settings": settings,
        "processes": processes.model_dump(exclude_unset=True),
        "redis": {"appendfsync": rng.choice(["always", "everysec"])},
    }
    loads, base = draw_loads(rng, processes, settings, wanted_s)
    steps: list[dict[str, Any]] = []
    for load in loads:
        steps.append({"load": load})
        if (
            load == WAITING
        ):  # what is to be spoiled must be there by then, however long its producer takes to start
            steps.append({"wait": {"loaded": True}})
    steps.append({"wait": {"seconds": round(rng.uniform(0.4, 1.0), 1)}})
    end: list[dict[str, Any]] = [{"load": {"jobs": 40, "rate": 40}}, {"settle": {"within": SETTLE_S}}]
    for _ in range(rng.randint(1, FAULTS_MAX)):
        steps += _fault_steps(rng, head, steps, end, wanted_s)
    rest_s = span_s(_scenario(head, [*steps, *end])) - _now_s(head, [*steps, *end])
    if rest_s > 0:  # the last load shall come after the last heal
        steps.append({"wait": {"seconds": round(rest_s + 0.3, 1)}})
    _stretch(base, _scenario(head, [*steps, *end]))
    return with_expectations(_scenario(head, [*steps, *end]))


def unfit(scenario: Scenario) -> list[str]:
    """Why this schedule cannot be run, or could not be judged."""
    wrong = [reason for _, reason, _, _ in contradictions(scenario)]
    return wrong or [*missing(scenario)] or [*clashes(scenario)]


def _stretch(base: dict[str, Any], scenario: Scenario) -> None:
    """Make the base load go on for longer than all the rest: without load nothing is proven."""
    lasts_s = span_s(scenario) + sum(map(lag_s, scenario.faults.values())) + MARGIN_S
    base["jobs"] = round(base["rate"] * lasts_s)


# --- who and how ---------------------------------------------------------------------------------------------------


def _processes(rng: Random) -> Processes:
    # Mostly few: with each load every producer starts anew, and what takes long to start is no fault.
    workers = rng.choices([2, 3, 4, 5], [3, 3, 2, 2])[0]
    producers = rng.choices([1, 2, 3], [3, 2, 1])[0]
    routes = {"workers": "workers", "producers": "clients"}
    one = f"worker-{rng.randint(1, workers)}"
    match rng.choices(
        ["apart", "together", "one of its own", "one direct", "producers direct"], [5, 2, 3, 2, 1]
    )[0]:
        case "together":
            routes = {"workers": "all", "producers": "all"}
        case "one of its own":
            routes[one] = "own"
        case "one direct":
            routes[one] = "direct"
        case "producers direct":
            routes["producers"] = "direct"
    return Processes.model_validate({"workers": workers, "producers": producers, "routes": routes})


def _settings(rng: Random) -> dict[str, dict[str, Any]]:
    worker: dict[str, Any] = {
        "dequeue_strategy": rng.choices(["strict", "weighted", "looped"], [6, 2, 2])[0],
        "concurrency": rng.choice([4, 8, 16]),
    }
    if rng.random() < 0.25:
        worker["lease"] = rng.choice([1.5, 3.0])
    # No limit on the queue: of who waits for room nobody can tell whether it has recovered.
    clients: list[dict[str, Any]] = [
        {},
        {"timeout": 1},
        {"timeout": 3},
        {"on_outage": "fail"},
    ]
    (client,) = rng.choices(clients, [10, 2, 2, 2])
    return {"worker": worker, "client": client} if client else {"worker": worker}


# --- faults --------------------------------------------------------------------------------------------------------


def _fault_steps(
    rng: Random,
    head: dict[str, Any],
    steps: Sequence[dict[str, Any]],
    end: Sequence[dict[str, Any]],
    wanted_s: float,
) -> list[dict[str, Any]]:
    """A wait and one more fault, which clashes with nothing before it; nothing if there is no time, or none found."""
    so_far = _scenario(head, [*steps, *end])
    left_s = wanted_s - _now_s(head, [*steps, *end])
    if left_s < 0.5:
        return []
    spoil = not so_far.faults and any(step.get("load") == WAITING for step in steps)
    for _ in range(TRIES):
        more: list[dict[str, Any]] = []
        if so_far.faults:
            # Sometimes into the one before it, sometimes when its recovery is just about over.
            wait_s = round(rng.choice([0.1, rng.uniform(0.1, 0.8), rng.uniform(0.8, 2.0)]), 1)
            more.append({"wait": {"seconds": wait_s}})
        fault = draw_fault(rng, so_far.processes, left_s=left_s, kind="bad_record" if spoil else "")
        if rng.random() < 0.5:
            fault["go_on"] = True
        more.append({"fault": fault})
        if fault["kind"] == "slow_close":
            more += _closing(rng, fault)
        if not unfit(_scenario(head, [*steps, *more, *end])):
            return more
    return []


def _closing(rng: Random, slow: dict[str, Any]) -> list[dict[str, Any]]:
    """What closes connections while a close is slow: else nothing is seen of it."""
    wait_s = round(PROBE_S + slow["delay"] / 1000 + 0.1, 1)
    kill: dict[str, Any] = {"kind": "redis_kill", "for": round(rng.uniform(0.3, 1.2), 1)}
    slow |= {"go_on": True, "for": round(max(slow["for"], wait_s + kill["for"]), 1)}
    return [{"wait": {"seconds": wait_s}}, {"fault": kill}]


def _now_s(head: dict[str, Any], steps: Sequence[dict[str, Any]]) -> float:
    """How far the plan has come when these steps have been taken, without those that still go on."""
    now_s = 0.0
    for step in _scenario(head, steps).steps:
        now_s += (step.wait.seconds or 0.0) if step.wait is not None else 0.0
        now_s += _held_s(step.fault)
    return now_s


def _held_s(fault: Fault | None) -> float:
    return 0.0 if fault is None or fault.go_on else length_s(fault)


def _scenario(head: dict[str, Any], steps: Sequence[dict[str, Any]]) -> Scenario:
    return Scenario.model_validate({**head, "steps": [*steps]})
