"""Where a run takes place: a Redis, proxies in front of it, and who may do what to them. Here one that is all its own.

`staging` opens one that others run. The runner knows only a Stage.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from chaos.driving.redis_faults import RedisFaults
from chaos.driving.redis_server import open_chaos_redis
from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.driving.toxiproxy_server import open_toxiproxy
from chaos.scenario.model import DIRECT
from queue_trio.redis.keys import DEFAULT_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from chaos.driving.toxiproxy import Api, Proxy
    from chaos.playing.environment import Environment
    from chaos.scenario.model import Scenario
    from queue_trio.server_binary import ServerBinary

SHOWN_SETTINGS: Final = ("appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write", "save")
UNKNOWN: Final = "unknown"


class Asked(Protocol):
    """A Redis that answers questions past every proxy."""

    @property
    def url(self) -> str: ...

    async def command(self, *command: str) -> Any:
        """The reply to one command. Raises HarnessError."""
        ...


class Toxiproxies(Protocol):
    """A Toxiproxy and its proxies by position. What cannot be done to it raises HarnessError."""

    proxies: dict[str, Proxy]

    @property
    def api(self) -> Api: ...

    @property
    def pid(self) -> int: ...

    async def restart(self) -> str: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


@dataclass(slots=True)
class Stage:
    """One place. `urls`: of Redis, by route. `journals`: of workers elsewhere, whose names are their processes'."""

    redis: Asked
    toxiproxy: Toxiproxies
    urls: dict[str, str]
    faults: RedisFaults | None = None
    """What can be done to that Redis; None if it is not ours."""
    aof: Path | None = None
    """The folder of its append-only file."""
    prefix: str = DEFAULT_PREFIX
    versions: dict[str, str] = field(default_factory=dict)
    redis_settings: dict[str, str] = field(default_factory=dict)
    journals: dict[str, Path] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """Addresses of workers elsewhere, by name."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """Promises that cannot be judged here, and why."""
    workers: set[str] = field(default_factory=set)
    """What all workers that ever were call themselves: the run tells, so that what they leave can be found by name."""
    sessions: set[str] = field(default_factory=set)
    """Streams of calls of the run's clients, likewise."""
    jobs: set[str] = field(default_factory=set)
    """Ids, likewise."""

    @property
    def has_workers(self) -> bool:
        """Whether workers are there already, and are not ours to start or stop."""
        return bool(self.journals)


def shown(told: Mapping[str, Any]) -> dict[str, str]:
    """Of the settings of a Redis those that a report shows."""
    return {name: str(told[name]) for name in SHOWN_SETTINGS if name in told}


@asynccontextmanager
async def open_stage(
    environment: Environment,
    scenario: Scenario,
    *,
    say: Callable[[str], None],
    server: ServerBinary | None = None,
) -> AsyncIterator[Stage]:
    """The place that `environment` names, and nothing of the run is left there after the block. Raises HarnessError,
    and ConfigError, before anything is changed, for what is not as it must be."""
    if environment.given is None:
        async with _open_own(scenario, say, server) as stage:
            yield stage
        return
    from chaos.playing.staging import open_given

    async with open_given(environment.given, scenario, environment.own) as stage:
        yield stage


@asynccontextmanager
async def _open_own(
    scenario: Scenario, say: Callable[[str], None], server: ServerBinary | None
) -> AsyncIterator[Stage]:
    binary = await trio.to_thread.run_sync(ensure_toxiproxy, say)
    async with (
        open_chaos_redis(server=server, appendfsync=scenario.redis.appendfsync) as redis,
        open_toxiproxy(binary) as toxiproxy,
    ):
        urls = {DIRECT: f"redis://{redis.address}/0"}
        for position in scenario.processes.proxies:
            host, port = (await toxiproxy.create(position, redis.address)).address
            urls[position] = f"redis://{host}:{port}/0"
        yield Stage(
            redis,
            toxiproxy,
            urls,
            RedisFaults(redis),
            redis.folder,
            versions={"server": redis.server.binary.version.label, "toxiproxy": toxiproxy.version},
            redis_settings=shown(await redis.command("CONFIG", "GET", "*")),
        )
