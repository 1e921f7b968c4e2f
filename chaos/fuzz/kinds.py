"""One fault, drawn: for every kind how often, with which attributes, for how long. Knows no other fault.

What comes out has the form of a scenario's file. Times are of the size of a lease and of T, on both sides of them:
what is far away from every limit finds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chaos.fuzz.timing import PROBE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from chaos.scenario.model import Processes

    Draw = Callable[[Random], dict[str, Any]]

STREAMS: Final = ("downstream", "upstream", "both")
PHASES: Final = ("any", "idle", "before_claim", "claimed", "running", "before_settle", "settled")
"""Not `sweeping`: that a sweep finds something cannot be promised, and what is waited for in vain is an ERROR."""
REPEATED: Final = frozenset(
    {"proxy_down", "upstream_gone", "timeout", "reset_peer", "limit_data", "redis_stall", "redis_pause"}
    | {"script_flush", "worker_kill", "worker_freeze", "redis_freeze"}
)
"""Kinds that may come several times."""


def _latency(rng: Random) -> dict[str, Any]:
    late_ms = rng.choice([rng.randint(10, 60), rng.randint(700, 1200)])
    return {"latency": late_ms, "stream": rng.choice(STREAMS)}


def _jitter(rng: Random) -> dict[str, Any]:
    low, high = rng.choice([(0, 50), (0, rng.randint(600, 1000)), (300, 900)])
    return {
        "low": low,
        "high": high,
        "every": round(rng.uniform(0.15, 0.5), 2),
        "stream": rng.choice(STREAMS),
    }


def _timeout(rng: Random) -> dict[str, Any]:
    return {"timeout": rng.choice([0, 0, rng.randint(20, 600)]), "stream": rng.choice(STREAMS)}


def _slicer(rng: Random) -> dict[str, Any]:
    # Without a delay the kernel puts the slices together again, and nobody can tell.
    return {
        "average_size": rng.randint(12, 200),
        "delay": rng.choice([20, 50]),
        "stream": rng.choice(STREAMS),
    }


NETWORK: Final[Mapping[str, tuple[int, Draw]]] = {
    "proxy_down": (5, lambda _: {}),
    "upstream_gone": (3, lambda _: {}),
    "latency": (3, _latency),
    "jitter_script": (2, _jitter),
    "timeout": (6, _timeout),
    "limit_data": (4, lambda rng: {"bytes": rng.randint(100, 6000), "stream": rng.choice(STREAMS)}),
    "slicer": (1, _slicer),
    "reset_peer": (3, lambda rng: {"timeout": rng.choice([0, rng.randint(1, 200)])}),
    "slow_close": (2, lambda rng: {"delay": rng.randint(50, 500), "stream": rng.choice(STREAMS)}),
    "bandwidth": (1, lambda rng: {"rate": rng.randint(150, 8000), "stream": rng.choice(STREAMS)}),
}
"""Each kind's weight, and what draws its attributes."""
REDIS: Final[Mapping[str, tuple[int, Draw]]] = {
    "redis_kill": (5, lambda _: {}),
    "redis_freeze": (3, lambda _: {}),
    "redis_stall": (3, lambda _: {}),
    "redis_pause": (3, lambda _: {}),
    "script_flush": (2, lambda _: {}),
    "out_of_memory": (2, lambda _: {}),
    "read_only": (2, lambda _: {}),
    "min_replicas": (2, lambda _: {}),
    "redis_loading": (1, lambda _: {}),
    "redis_busy": (2, lambda _: {}),
    "misconf": (2, lambda _: {}),
    "bad_record": (0, lambda rng: {"count": rng.randint(1, 5)}),
}
"""`bad_record` needs jobs that wait, so it is drawn with them (`draw`)."""
WORKERS: Final[Mapping[str, tuple[int, Draw]]] = {
    "worker_kill": (5, lambda rng: {"phase": rng.choice(PHASES)}),
    "worker_freeze": (5, lambda _: {}),
    "worker_term": (4, lambda _: {}),
    "worker_clock": (1, lambda rng: {"ahead": rng.choice([-3600, -5, 5, 3600])}),
}
INSTANT: Final = frozenset({"script_flush", "bad_record"})
LEAST_S: Final[Mapping[str, float]] = {
    "redis_freeze": 0.9,
    "redis_stall": 0.9,
    "redis_pause": 0.9,
    "jitter_script": 1.5,
    "limit_data": 1.0,
}
"""Less than T, and nobody's call fails; with few draws none may be late; a connection must come to its limit. What hurt
nobody has proven nothing, and its verdict is INVALID."""


def draw_fault(rng: Random, processes: Processes, *, left_s: float, kind: str = "") -> dict[str, Any]:
    """One fault that lasts, all its times together, about `left_s` seconds at most. `kind`: if it must be that."""
    known = {**WORKERS, **REDIS, **(NETWORK if processes.proxies else {})}
    kind = kind or rng.choices(list(known), [weight for weight, _ in known.values()])[0]
    fault: dict[str, Any] = {"kind": kind} | known[kind][1](rng)
    if kind in NETWORK and rng.random() < 0.5:
        fault["proxies"] = _some(rng, processes.proxies)
    if kind in WORKERS:
        fault |= _victims(rng, processes)
    if kind not in INSTANT:
        fault["for"] = max(_seconds(rng, left_s, kind), _least_s(fault))
    if kind in REPEATED and rng.random() < 0.3:
        pause_s = round(rng.uniform(0.3, 1.5), 1)
        times = min(rng.randint(2, 4), int(left_s / (fault.get("for", 0.0) + pause_s)))
        fault |= {"times": times, "pause": pause_s} if times > 1 else {}
    return fault


def _seconds(rng: Random, left_s: float, kind: str) -> float:
    """A moment, less than a lease, or more than one: then a worker that is stopped has lost it."""
    long = 8 if kind == "worker_freeze" else 4
    low, high = rng.choices([(0.2, 0.8), (0.8, 1.8), (2.2, 4.5)], [3, 3, long])[0]
    return round(max(0.2, min(rng.uniform(low, high), left_s + 1.0)), 1)


def _least_s(fault: dict[str, Any]) -> float:
    """How long it must last to be seen: see `LEAST_S`."""
    late_ms = fault.get("latency", 0) * (2 if fault.get("stream") == "both" else 1) + fault.get("delay", 0)
    asked_s = PROBE_S + late_ms / 1000 if fault["kind"] in NETWORK else 0.0
    return round(max(asked_s, LEAST_S.get(fault["kind"], 0.0)), 1)


def _victims(rng: Random, processes: Processes) -> dict[str, Any]:
    count = rng.randint(1, max(1, processes.workers - 1))
    return {"names": _some(rng, processes.worker_names, count)} if rng.random() < 0.7 else {"count": count}


def _some(rng: Random, names: Sequence[str], count: int = 0) -> list[str]:
    return sorted(rng.sample(names, count or rng.randint(1, len(names))))
