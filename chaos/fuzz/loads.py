"""The loads of a schedule, drawn: what goes on all the time, what is special, what runs when the first fault comes.

What comes out has the form of a scenario's file. Never so much that a queue builds up when nothing is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from random import Random

    from chaos.scenario.model import Processes

UTILIZATION: Final = 0.25
"""Share of the slots that may be busy when nothing is wrong and one worker is gone. With more, what an outage has held
up takes so long to work off that a low priority waits longer than J for its turn, and rightly."""
MARGIN_S: Final = 3.0
"""The base load goes on for so long after all that is planned, and after what that may lag behind."""
BURST_MAX: Final = 24
"""Handlers that are under way when the first fault comes: with what else there is, no more than there are slots."""
WAITING: Final = {"jobs": 40, "rate": None, "delay": 6000}
"""A load for `bad_record`, which spoils what waits."""
COST_S: Final = {"quick": 0.01, "fail": 0.02, "hang": 1.0, "crash": 0.01, "poison": 0.01}
"""Slot time of one job, where it is not its `seconds`."""


def draw_loads(
    rng: Random, processes: Processes, settings: dict[str, dict[str, Any]], wanted_s: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Loads in the order of their begin; and that one of them which must go on all the time (`draw` stretches it)."""
    lasts_s = wanted_s + MARGIN_S
    slots = settings["worker"]["concurrency"] * (processes.workers - 1)
    found: list[dict[str, Any]] = []
    if rng.random() < 0.1:
        found.append(dict(WAITING))
    special = rng.choice([0, 1, 1, 2]) if not found else 1
    found += [_special(rng, processes, slots, lasts_s) for _ in range(special)]
    slow = rng.random() < 0.5  # then whoever is hit has handlers under way
    rate = rng.randint(8, 25) if slow else rng.randint(20, 60)
    base: dict[str, Any] = {"jobs": round(rate * lasts_s), "rate": rate, "priorities": _priorities(rng)}
    payload = rng.choice([0, 0, 0, 200, 2000, 20_000])
    base |= {"payload": payload} if payload else {}
    if slow:
        most_s = UTILIZATION * slots / rate
        base |= {"kind": "slow", "seconds": round(max(0.05, min(1.5, rng.uniform(0.3, 1.0) * most_s)), 2)}
    found.append(base)
    if rng.random() < 0.6:
        found.append(_burst(rng, slots))
    return found, base


def _burst(rng: Random, slots: int) -> dict[str, Any]:
    """Handlers that run when the first fault comes, and some of them until long after it."""
    return {
        "kind": rng.choice(["slow", "slow", "thread"]),
        "seconds": round(rng.uniform(0.8, 4.5), 2),
        "jobs": min(BURST_MAX, slots // 3),
        "rate": 60,
    }


def _special(rng: Random, processes: Processes, slots: int, lasts_s: float) -> dict[str, Any]:
    kinds = {"slow": 8, "thread": 3, "quick": 3, "fail": 3, "hang": 2, "uncancellable": 2}
    kinds |= {"crash": 2, "poison": 1} if processes.workers > 2 else {}
    (kind,) = rng.choices(list(kinds), list(kinds.values()))
    load: dict[str, Any] = {"kind": kind, "priorities": _priorities(rng)}
    if kind == "poison":
        return load | {"jobs": 1}
    if kind == "crash":
        return load | {"jobs": rng.randint(1, processes.workers - 2), "rate": 1}
    if kind in ("slow", "thread", "uncancellable"):
        load["seconds"] = round(
            rng.choice([rng.uniform(0.05, 0.5), rng.uniform(0.5, 2.0), rng.uniform(2.0, 4.5)]), 2
        )
    if kind == "uncancellable":
        load["seconds"] = min(load["seconds"], 2.0)
    if kind == "quick":
        load["delay"] = rng.randint(200, 4000)
    cost_s = max(load.get("seconds", 0.0), COST_S.get(kind, 1.0 if kind == "uncancellable" else 0.0))
    rate = round(min(30.0, UTILIZATION / 4 * slots / cost_s), 2)
    few = 8 if kind in ("fail", "hang", "uncancellable") else 400
    return load | {"jobs": max(1, min(few, round(rate * lasts_s * rng.uniform(0.3, 0.9)))), "rate": rate}


def _priorities(rng: Random) -> dict[str, int]:
    every = ("critical", "high", "normal", "low")
    return {name: rng.randint(1, 4) for name in rng.sample(every, rng.choice([1, 2, 4]))}
