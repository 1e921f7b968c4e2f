"""What can go wrong, as data: one small model for each kind of fault, with its attributes and their bounds.

Nothing is injected here, and nothing judged. Attributes of network faults have the names and units that Toxiproxy gives
them, and what its source shows to be dangerous or to mean nothing is refused (docs/chaos.md says why, one by one).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

HOUR_S: Final = 3600.0

# Strict: in lax mode `true` would be a number of seconds.
Whole = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2**40)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=HOUR_S, allow_inf_nan=False)]
Some = Annotated[float, Field(strict=True, gt=0, le=HOUR_S, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Family = Literal["network", "redis", "worker", "harness"]


class Model(BaseModel):
    """What every part of a scenario is: complete, known, and unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Condition(Model):
    """Something to wait for: exactly one of these, and for no longer than `within` seconds."""

    seconds: Some | None = None
    completed: Share | None = None
    """Share of the acknowledged jobs whose handler has returned."""
    loaded: Literal[True] | None = None
    """Every load so far has been handed over, or has failed to be."""
    ready_above: Whole | None = None
    """More jobs than this are ready."""
    ready_below: Positive | None = None
    running: Positive | None = None
    """So many handlers run, or more."""
    dead: Positive | None = None
    """So many dead letters are there, or more."""
    refused: Positive | None = None
    """So many enqueues were refused, or more."""
    breaker: Literal["open", "half_open", "closed"] | None = None
    """Some worker's breaker is open, or half open; or every worker's is closed."""
    within: Some = 30.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = self.model_fields_set - {"within"}
        if len(given) != 1 or getattr(self, next(iter(given))) is None:
            raise ValueError("must name exactly one thing to wait for, such as {completed: 0.5}")
        return self

    @property
    def what(self) -> str:
        """The one that is named."""
        return next(iter(self.model_fields_set - {"within"}))


class Healing(Model):
    """What every fault has: a name in the journal, how long it lasts, whether later steps wait for its heal."""

    family: ClassVar[Family]
    instant: ClassVar[bool] = False
    """Done as soon as it has begun: there is nothing to heal."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    for_s: Seconds | None = Field(default=None, alias="for")
    """Seconds until it is healed."""
    until: Condition | None = None
    """Or: healed when this holds. When it does not come `within` its time, the run is INVALID."""
    times: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    pause: Some = 1.0
    """Seconds between its heal and its next time."""
    go_on: Annotated[bool, Field(strict=True)] = False
    """The next step begins as soon as it is there, not when it has healed."""

    @model_validator(mode="after")
    def _heals(self) -> Self:
        given = [value for value in (self.for_s, self.until) if value is not None]
        if self.instant and given:
            raise ValueError("is over at once: it takes neither for nor until")
        if not self.instant and len(given) != 1:
            raise ValueError("must heal: give it either for (seconds) or until (a condition)")
        return self


# --- network: through Toxiproxy ------------------------------------------------------------------------------------


class NetworkFault(Healing):
    """`proxies`: which of them, by the names in `routes`; without any, all."""

    family = "network"
    proxies: tuple[str, ...] = ()


class ProxyDown(NetworkFault):
    """Closes every connection and stops listening."""

    kind: Literal["proxy_down"]


class UpstreamGone(NetworkFault):
    """What is behind the proxy is gone: connecting works, then comes the end of the stream."""

    kind: Literal["upstream_gone"]


class Toxic(NetworkFault):
    """`toxicity` is drawn once for each connection and cannot be seeded, so only 1 can be repeated."""

    stream: Literal["downstream", "upstream", "both"] = "downstream"
    """downstream: replies of Redis. upstream: requests to it."""
    toxicity: Literal[1] = 1

    def attributes(self) -> dict[str, int]:
        """What Toxiproxy is told, by its own names."""
        names = type(self).model_fields.keys() - Toxic.model_fields.keys() - {"kind"}
        return {name: getattr(self, name) for name in sorted(names)}


class Latency(Toxic):
    """Every chunk is late by `latency` milliseconds."""

    kind: Literal["latency"]
    latency: Positive
    jitter: Literal[0] = 0
    """Toxiproxy's jitter cannot be seeded: use jitter_script."""


class JitterScript(NetworkFault):
    """Latency drawn anew from our own seed every `every` seconds, between `low` and `high` milliseconds.

    It stays for twice as long as it is, if that is longer: a change lets go at once what Toxiproxy holds back.
    """

    kind: Literal["jitter_script"]
    stream: Literal["downstream", "upstream", "both"] = "downstream"
    low: Whole
    high: Positive
    every: Some = 0.25

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be less than high ({self.high})")
        return self


class Timeout(Toxic):
    """Drops all data; closes after `timeout` milliseconds without any, never if 0. Its heal closes every connection."""

    kind: Literal["timeout"]
    timeout: Whole


class LimitData(Toxic):
    """Closes a connection after `bytes` bytes: counted for each connection and direction."""

    kind: Literal["limit_data"]
    bytes: Positive


class Slicer(Toxic):
    """Cuts data into slices of `average_size` bytes, give or take `size_variation`, `delay` microseconds apart."""

    kind: Literal["slicer"]
    average_size: Positive
    size_variation: Whole = 0
    delay: Whole = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.size_variation >= self.average_size:
            raise ValueError(
                f"size_variation ({self.size_variation}) must be less than average_size ({self.average_size})"
            )
        return self


class ResetPeer(Toxic):
    """Resets connections made from now on, `timeout` milliseconds after their next data. Older ones are just closed."""

    kind: Literal["reset_peer"]
    timeout: Whole = 0


class SlowClose(Toxic):
    """Delays the close, and only that, by `delay` milliseconds."""

    kind: Literal["slow_close"]
    delay: Positive


class Bandwidth(Toxic):
    """`rate` KB/s for each connection. 0 stalls for ever, and what is negative can crash Toxiproxy."""

    kind: Literal["bandwidth"]
    rate: Positive


# --- Redis ---------------------------------------------------------------------------------------------------------


class RedisFault(Healing):
    family = "redis"


class RedisKill(RedisFault):
    """SIGKILL; its heal starts the server again. What it kept is up to the scenario's `redis.appendfsync`."""

    kind: Literal["redis_kill"]


class RedisFreeze(RedisFault):
    """SIGSTOP; the heal is SIGCONT."""

    kind: Literal["redis_freeze"]


class RedisStall(RedisFault):
    """DEBUG SLEEP: the server answers nobody."""

    kind: Literal["redis_stall"]


class RedisPause(RedisFault):
    """CLIENT PAUSE WRITE: writes wait, reads are answered."""

    kind: Literal["redis_pause"]


class ScriptFlush(RedisFault):
    """SCRIPT FLUSH: every script is forgotten."""

    kind: Literal["script_flush"]
    instant = True


class OutOfMemory(RedisFault):
    """`maxmemory` set to what is in use plus `headroom` bytes, with noeviction."""

    kind: Literal["out_of_memory"]
    headroom: Whole = 0


class EvictionPolicy(RedisFault):
    """A policy that would drop keys, and a worker that is started under it."""

    kind: Literal["eviction_policy"]
    policy: Literal["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"] = (
        "allkeys-lru"
    )


class ReadOnly(RedisFault):
    """REPLICAOF: the primary refuses writes; its heal is REPLICAOF NO ONE."""

    kind: Literal["read_only"]


class MinReplicas(RedisFault):
    """min-replicas-to-write above what is there."""

    kind: Literal["min_replicas"]
    replicas: Positive = 1


class RedisLoading(RedisFault):
    """Killed and started again with so much to load that it answers LOADING for a while."""

    kind: Literal["redis_loading"]


class RedisBusy(RedisFault):
    """A script that runs long enough for others to be told BUSY; its heal is SCRIPT KILL."""

    kind: Literal["redis_busy"]


class Misconf(RedisFault):
    """Snapshots fail because their folder cannot be written, so writes are refused."""

    kind: Literal["misconf"]


class BadRecord(RedisFault):
    """The records of `count` jobs that wait are overwritten with bytes that nobody can decode."""

    kind: Literal["bad_record"]
    instant = True
    count: Positive = 1


# --- workers -------------------------------------------------------------------------------------------------------


class WorkerFault(Healing):
    """Hits the workers named, or else as many as `count`, drawn from the seed."""

    family = "worker"
    names: tuple[str, ...] = ()
    count: Positive = 1


class WorkerKill(WorkerFault):
    """SIGKILL when a job of theirs is in that phase; the heal starts a new process of that name."""

    kind: Literal["worker_kill"]
    phase: Literal[
        "any", "idle", "before_claim", "claimed", "running", "before_settle", "settled", "sweeping"
    ] = "any"


class WorkerFreeze(WorkerFault):
    """SIGSTOP; the heal is SIGCONT."""

    kind: Literal["worker_freeze"]


class WorkerTerm(WorkerFault):
    """SIGTERM, and the process must end; the heal starts a new one of that name."""

    kind: Literal["worker_term"]


class WorkerClock(WorkerFault):
    """Started anew with a clock `ahead` by so many seconds (or behind); its heal starts it with the right one."""

    kind: Literal["worker_clock"]
    ahead: Annotated[float, Field(strict=True, ge=-86400, le=86400, allow_inf_nan=False)]


# --- the harness ---------------------------------------------------------------------------------------------------


class ToxiproxyStopped(Healing):
    """SIGSTOP to Toxiproxy itself, so that its API hangs."""

    family = "harness"
    kind: Literal["toxiproxy_stopped"]


Fault = Annotated[
    ProxyDown
    | UpstreamGone
    | Latency
    | JitterScript
    | Timeout
    | LimitData
    | Slicer
    | ResetPeer
    | SlowClose
    | Bandwidth
    | RedisKill
    | RedisFreeze
    | RedisStall
    | RedisPause
    | ScriptFlush
    | OutOfMemory
    | EvictionPolicy
    | ReadOnly
    | MinReplicas
    | RedisLoading
    | RedisBusy
    | Misconf
    | BadRecord
    | WorkerKill
    | WorkerFreeze
    | WorkerTerm
    | WorkerClock
    | ToxiproxyStopped,
    Field(discriminator="kind"),
]
"""Any of them."""
