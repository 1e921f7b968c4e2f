"""How long things may take, each bound as a number and the formula it comes from; and what each fault may cause.

L lease, S sweep interval, T command timeout, B backoff cap, O breaker open wait (half as much again is its jitter).
Everything is computed from the settings of the run. Nothing here looks at what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from chaos.judging.bites import Bite, bite_of
from chaos.scenario import faults

if TYPE_CHECKING:
    from chaos.scenario.model import Processes, Scenario
    from queue_trio.core.settings import Settings

TICK_S: Final = 0.5
"""What is seen by looking now and then is seen so much later at most: the harness looks at least this often."""
LEAVE_S: Final = 1.0
"""Beside its grace, a process may need so long to be gone: the interpreter has to end too."""
STOP_S: Final = 0.5
"""The timeout that the tasks which never end have of their own (`tasks`)."""
CONNECTS_S: Final = 1.0
"""Any stretch of time so long is looked at for a rush of connections."""
CONNECTS_LATE_S: Final = 0.7
"""A worker in trouble may tell its count so late."""
REPLY_BYTES: Final = 16 * 1024
"""A large reply, for the question whether slicing it takes longer than a command may."""

EVERYBODY: Final = ("*",)

NETWORK_WIDE: Final = (faults.ProxyDown, faults.UpstreamGone)
ORPHANING: Final = ("claimed", "running", "before_settle")
"""Phases in which a worker has a job in hand, and Redis knows no better."""
SERVER_WIDE: Final = (
    faults.RedisKill,
    faults.RedisFreeze,
    faults.RedisStall,
    faults.RedisPause,
    faults.ReadOnly,
    faults.MinReplicas,
    faults.RedisLoading,
    faults.RedisBusy,
    faults.Misconf,
)
"""While one of these lasts, nobody can change anything."""


class Bound(msgspec.Struct, frozen=True):
    """So many seconds at most, and why."""

    seconds: float
    formula: str


class FaultRule(msgspec.Struct, frozen=True):
    """What one fault of a scenario may cause, under its settings."""

    kind: str
    family: faults.Family
    times: int = 1
    instant: bool = False
    hits: tuple[str, ...] | None = None
    """Processes it hits, or `EVERYBODY`; None if the journal must say whom."""
    disrupts: bool = True
    """Calls fail while it lasts: they must be noticed to, and must succeed again within `first_success` of its heal."""
    excuses: bool = True
    """A lease may be lost to it. No duplicate is laid to the account of a fault that cannot cost a lease."""
    total: bool = False
    """Nobody can change anything in Redis while it lasts, so afterwards live workers must keep their leases."""
    first_success: Bound | None = None
    detection: Bound | None = None
    bite: Bite = Bite()
    """What must be seen of it."""
    routes: tuple[str, ...] = ()
    """The proxies it is on."""
    exit: Bound | None = None
    """For SIGTERM: until the process is gone."""
    orphans: bool = False
    """Each victim dies with a job in hand that it can neither settle nor give back, and names it."""


class Bounds(msgspec.Struct, frozen=True):
    """Every bound of one scenario."""

    lease_s: float
    command_s: float
    slots: int
    """Handlers that one worker runs at once."""
    workers: tuple[str, ...]
    """All that there are, by name."""
    recovery: Bound
    orphan: Bound
    drain: Bound
    handler: Bound
    """For handlers that never end by themselves."""
    poison: Bound
    connects_free: int
    """Connections that a process may try to make without any wait: once all that its pool has."""
    connects_max: Bound
    """Its seconds are a wait: the shortest mean time between further tries to connect of one process in trouble."""
    faults: dict[str, FaultRule]


def bounds_of(scenario: Scenario) -> Bounds:
    """Every bound of `scenario`, from its settings."""
    settings = scenario.all_settings()
    return Bounds(
        lease_s=settings.worker.lease,
        command_s=settings.redis.read_timeout,
        slots=settings.worker.concurrency,
        workers=all_processes(scenario).worker_names,
        recovery=recovery(settings),
        orphan=orphan(settings, slowest_handler(scenario)),
        drain=Bound(scenario.settle.within, "settle within"),
        handler=handler_end(),
        poison=poison(settings),
        connects_free=settings.redis.max_connections,
        connects_max=connect_spacing(settings),
        faults={name: rule_of(fault, scenario, settings) for name, fault in scenario.faults.items()},
    )


# --- formulas ------------------------------------------------------------------------------------------------------


def recovery(settings: Settings) -> Bound:
    """C: the first success after a heal."""
    redis = settings.redis
    seconds = redis.read_timeout + redis.backoff_cap + 1.5 * redis.breaker_open_wait
    return Bound(seconds, "C = T + B + 1.5 O")


def orphan(settings: Settings, handler_s: float) -> Bound:
    """J: a job whose worker is gone runs again. It may have to wait for a slot: as long as the slowest handler."""
    worker = settings.worker
    seconds = 2 * worker.lease + worker.sweep_interval + recovery(settings).seconds
    if not handler_s:
        return Bound(seconds, "J = 2 L + S + C")
    return Bound(seconds + handler_s, "J = 2 L + S + C, and the slowest handler")


def black_hole(settings: Settings) -> Bound:
    """A connection that is never closed has to be given up first: a silent one is noticed within 2 T."""
    return Bound(2 * settings.redis.read_timeout + recovery(settings).seconds, "2 T + C")


def detection(settings: Settings) -> Bound:
    """Until the first sign of trouble: an idle worker asks once every poll interval, and is patient for 2 T."""
    seconds = settings.worker.poll_interval + 2 * settings.redis.read_timeout + TICK_S
    return Bound(seconds, "poll interval + 2 T + how often the harness looks")


def leaving(settings: Settings) -> Bound:
    """From SIGTERM until the process is gone, with or without Redis."""
    return Bound(settings.worker.shutdown_grace + LEAVE_S, "shutdown grace + end of the interpreter")


def handler_end() -> Bound:
    """A handler that does not end is made to."""
    return Bound(STOP_S + TICK_S, "timeout of the task + a busy machine")


def poison(settings: Settings) -> Bound:
    """K J: from the first run of a job that kills its worker every time to its last."""
    budget = settings.worker.max_crashes
    return Bound(max(budget, 1) * orphan(settings, 0.0).seconds, "K J")


def connect_spacing(settings: Settings) -> Bound:
    """Full jitter draws waits of half the cap on average; a sixth of the cap leaves room for bad luck."""
    redis = settings.redis
    return Bound(min(redis.backoff_cap, redis.breaker_open_wait) / 6, "min(B, O) / 6")


def slowest_handler(scenario: Scenario) -> float:
    """The longest that a handler of this scenario keeps its slot, in seconds."""
    seconds = [0.0]
    for load in scenario.loads:
        if load.kind in ("slow", "thread"):
            seconds.append(load.seconds)
        elif load.kind == "hang":
            seconds.append(STOP_S)
        elif load.kind == "uncancellable":
            seconds.append(max(load.seconds, 2 * STOP_S))
    return max(seconds)


# --- what a fault may cause ----------------------------------------------------------------------------------------


def rule_of(fault: faults.Fault, scenario: Scenario, settings: Settings) -> FaultRule:
    """What `fault` may cause in `scenario`."""
    hurts = disrupts(fault, settings)
    first = black_hole(settings) if is_black_hole(fault) else recovery(settings)
    return FaultRule(
        kind=fault.kind,
        family=fault.family,
        times=fault.times,
        instant=fault.instant,
        hits=hits(fault, scenario),
        disrupts=hurts,
        excuses=can_cost_leases(fault, settings),
        total=is_total(fault),
        first_success=first if hurts else None,
        detection=detection(settings) if hurts and is_total(fault) else None,
        bite=bite_of(fault, disrupts=hurts),
        routes=(fault.proxies or scenario.processes.proxies)
        if isinstance(fault, faults.NetworkFault)
        else (),
        exit=leaving(settings) if isinstance(fault, faults.WorkerTerm) else None,
        orphans=isinstance(fault, faults.WorkerKill) and fault.phase in ORPHANING,
    )


def hits(fault: faults.Fault, scenario: Scenario) -> tuple[str, ...] | None:
    """Whom it hits by its nature; None if chance decides, so that only the journal can tell."""
    if isinstance(fault, faults.NetworkFault):
        return all_processes(scenario).behind(fault.proxies)
    if isinstance(fault, faults.WorkerFault):
        return fault.names or None
    return EVERYBODY


def all_processes(scenario: Scenario) -> Processes:
    """With the workers that are started on the way, and do not refuse to."""
    hired = sum(step.start is not None and step.start.refuses is None for step in scenario.steps)
    return scenario.processes.model_copy(update={"workers": scenario.processes.workers + hired})


def disrupts(fault: faults.Fault, settings: Settings) -> bool:
    """Whether calls fail because of it: they get no answer within T, or an error for one."""
    allowed_ms = settings.redis.read_timeout * 1000
    match fault:
        case faults.Latency():
            return _there_and_back(fault.stream, fault.latency) >= allowed_ms
        case faults.JitterScript():
            return _there_and_back(fault.stream, fault.high) >= allowed_ms
        case faults.Slicer():
            smallest = fault.average_size - fault.size_variation
            return fault.delay * REPLY_BYTES / smallest >= allowed_ms * 1000
        case faults.SlowClose() | faults.ScriptFlush() | faults.BadRecord() | faults.EvictionPolicy():
            return False
        case _:
            return fault.family != "worker"


def can_cost_leases(fault: faults.Fault, settings: Settings) -> bool:
    """Whether a lease may be lost to it. Slow is not lost, and refused enqueues cost nobody a lease."""
    if isinstance(fault, faults.OutOfMemory | faults.Bandwidth | faults.WorkerClock):
        return False
    return fault.family == "worker" or disrupts(fault, settings)


def is_total(fault: faults.Fault) -> bool:
    """Whether nobody whom it hits can change anything in Redis while it lasts."""
    return isinstance(fault, NETWORK_WIDE + SERVER_WIDE) or is_black_hole(fault)


def is_black_hole(fault: faults.Fault) -> bool:
    """Both ways, and never closed."""
    return isinstance(fault, faults.Timeout) and fault.timeout == 0 and fault.stream == "both"


def _there_and_back(stream: str, latency_ms: int) -> int:
    return 2 * latency_ms if stream == "both" else latency_ms
