"""A place that others run: their Redis, their Toxiproxy. Looks whether all is as it must be, and leaves it as it was.

Nothing is changed before it is known that the proxies are sound and nobody's toxics are on them, that they lead to the
Redis that was named, and that no key of the run's prefix is there. Afterwards toxics and keys are gone, those that are
known by name: the keyspace of a Redis that is not ours is not searched.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis
import trio

from chaos.driving.given_redis import GivenRedis, by_way_of, login_of, place_of
from chaos.driving.toxiproxy import Api, Proxy
from chaos.errors import HarnessError
from chaos.playing.stage import SHOWN_SETTINGS, UNKNOWN, Stage, shown
from chaos.scenario.model import DIRECT
from queue_trio.cli.loading import load_app
from queue_trio.core.job import Lane
from queue_trio.errors import ConfigError
from queue_trio.redis.keys import LANE_KEYS, READY_KEYS, LaneKeys, lanes_key, limit_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from chaos.actors.own_tasks import OwnTasks
    from chaos.playing.environment import Given
    from chaos.scenario.model import Scenario

RESTORE_S: Final = 60.0
CLEAR_TRIES: Final = 10
QUIET_S: Final = 0.3
_MARK_S: Final = 60
"""A key that could not be taken away again expires."""
_STREAMS: Final = ("claim", "settle", "operate")
"""Of which a worker that was killed leaves a session."""
_PRESENCE: Final = ("workers", "worker_info", "leases", "control", "wake")
"""Keys that idle workers have."""

NO_AOF: Final = (
    "the order of claims, and for S each state between the first and the last, is read from the server's append-only "
    "file, which is out of reach here"
)
NO_PROCESSES: Final = "the workers are elsewhere, and nobody here sees what is left of them when they end"


class ReachableProxy(Proxy):
    """A proxy of somebody else's, and where it can be reached from here."""

    def __init__(
        self, api: Api, name: str, told: dict[str, Any], *, address: tuple[str, int] | None, login: bytes
    ) -> None:
        super().__init__(api, name, listen=told["listen"], upstream=told["upstream"])
        host, port = super().address
        # A server that listens everywhere is where its API is.
        self._address = address or (api.host if host in {"", "0.0.0.0", "::"} else host, port)  # noqa: S104
        self.login = login

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    async def restore(self) -> None:
        """Up, without toxics, before its own upstream: as it was. Raises HarnessError."""
        told = await self.told()
        if told["upstream"] != self.upstream:
            self.enabled, self.toxics = told["enabled"], {}
            await self.redirect(self.upstream)
        if told["toxics"] or not told["enabled"]:
            await self.heal()


class GivenToxiproxy:
    """Somebody else's server: its proxies are used, and nothing else is done to it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.proxies: dict[str, Proxy] = {}

    @property
    def pid(self) -> int:
        raise self._not_ours("seen as a process")

    async def restart(self) -> str:
        raise self._not_ours("started again")

    def freeze(self) -> None:
        raise self._not_ours("stopped")

    def thaw(self) -> None:
        raise self._not_ours("continued")

    def _not_ours(self, what: str) -> HarnessError:
        return HarnessError(f"Toxiproxy at {self.api.url} is not ours, so it cannot be {what}")


@asynccontextmanager
async def open_given(given: Given, scenario: Scenario, own: OwnTasks | None = None) -> AsyncIterator[Stage]:
    """That place, ready for a run of `scenario`; afterwards as it was.

    Raises ConfigError, before anything is changed, if it is not as it must be.
    """
    server = GivenRedis(given.redis)
    toxiproxy = GivenToxiproxy(Api(given.toxiproxy))
    proxies = await _find_proxies(given, scenario, toxiproxy)
    lane = _Lane(server, given, own)
    urls = {DIRECT: given.redis}
    urls |= {position: by_way_of(given.redis, proxy.address) for position, proxy in proxies.items()}
    try:
        await _same_server(
            server, {place: url for place, url in urls.items() if place != DIRECT}, given.prefix
        )
        await lane.check(scenario)
    except HarnessError as error:
        raise ConfigError(str(error)) from None
    stage = Stage(server, toxiproxy, urls, prefix=given.prefix, unjudged={"P": NO_AOF})
    stage.versions, stage.redis_settings = await _describe(server, toxiproxy.api)
    if given.journals is not None:
        names = scenario.processes.worker_names
        stage.journals = dict(zip(names, given.journal_files, strict=True))
        stage.metrics = dict(zip(names, given.metrics, strict=True))
        stage.unjudged["C"] = NO_PROCESSES
    try:
        yield stage
    finally:
        with trio.CancelScope(shield=True, relative_deadline=RESTORE_S):
            await _restore(set(proxies.values()), lane, stage)


async def _restore(proxies: set[ReachableProxy], lane: _Lane, stage: Stage) -> None:
    """As it was, as far as can be. Raises HarnessError if something could not be."""
    wrong: list[str] = []
    for proxy in proxies:
        try:
            await proxy.restore()
        except HarnessError as error:
            wrong.append(f"proxy {proxy.name} is not as it was: {error}")
    try:
        await lane.clear(stage)
    except HarnessError as error:
        wrong.append(f"keys of the run are left: {error}")
    if wrong:
        raise HarnessError("; ".join(wrong))


# --- proxies ---------------------------------------------------------------------------------------------------------


async def _find_proxies(
    given: Given, scenario: Scenario, toxiproxy: GivenToxiproxy
) -> dict[str, ReachableProxy]:
    try:
        state = await toxiproxy.api.state()
    except HarnessError as error:
        raise ConfigError(str(error)) from None
    found: dict[str, ReachableProxy] = {}
    for position in scenario.processes.proxies:
        wanted = given.proxy(position)
        assert wanted is not None, "or the scenario does not fit"
        told = state.get(wanted.name)
        if told is None:
            names = ", ".join(sorted(state)) or "none"
            raise ConfigError(
                f"Toxiproxy at {toxiproxy.api.url} has no proxy {wanted.name!r}: it has {names}"
            )
        if told["toxics"] or not told["enabled"]:
            state_word = "has toxics" if told["toxics"] else "is down"
            raise ConfigError(
                f"proxy {wanted.name!r} {state_word}: somebody is at work there, or has left it so; "
                f"POST {toxiproxy.api.url}/reset mends all of its proxies"
            )
        found[position] = ReachableProxy(
            toxiproxy.api, wanted.name, told, address=wanted.address, login=login_of(given.redis)
        )
    toxiproxy.proxies = dict(found)
    return found


async def _same_server(server: GivenRedis, ways: dict[str, str], prefix: str) -> None:
    """Whether what is written past the proxies is read through them. Raises ConfigError and HarnessError."""
    key, mark = f"{prefix}:same:{secrets.token_hex(8)}", secrets.token_hex(8)
    await server.command("SET", key, mark, "EX", str(_MARK_S))
    try:
        for position, url in ways.items():
            try:
                read = await server.ask(url, "GET", key)
            except redis.RedisError as error:
                raise ConfigError(
                    f"Redis cannot be reached through the proxy for {position} at {place_of(url)}: {error}; "
                    "if its port is published as another one, give --proxy NAME@HOST:PORT"
                ) from None
            if read != mark:
                raise ConfigError(
                    f"the proxy for {position} at {place_of(url)} leads to another Redis, or another database, than "
                    f"--redis at {place_of(server.url)}: both must be the same"
                )
    finally:
        await server.command("DEL", key)


async def _describe(server: GivenRedis, api: Api) -> tuple[dict[str, str], dict[str, str]]:
    """Versions and settings, as far as they are told."""
    info = await server.told("INFO", "server")
    name = next((name for name in ("valkey", "redis") if f"{name}_version" in info), "")
    version = f"{name}-{info[f'{name}_version']}" if name else UNKNOWN
    told = await api.call("version", lambda api: api.get("/version").json().get("version", UNKNOWN))
    settings: dict[str, Any] = {}
    for setting in SHOWN_SETTINGS:
        settings |= await server.told("CONFIG", "GET", setting)
    return (
        {"server": version, "toxiproxy": UNKNOWN if told == "git" else str(told)},
        dict.fromkeys(SHOWN_SETTINGS, UNKNOWN) | shown(settings),
    )


# --- keys ------------------------------------------------------------------------------------------------------------


class _Lane:
    """The keys of the run."""

    def __init__(self, server: GivenRedis, given: Given, own: OwnTasks | None) -> None:
        self._server = server
        self._given = given
        self._own = own
        self._keys = LaneKeys(Lane(), given.prefix)
        names = (*LANE_KEYS, *READY_KEYS)
        # Workers elsewhere are there before us, and after us.
        self._names = [name for name in names if given.journals is None or name not in _PRESENCE]

    async def check(self, scenario: Scenario) -> None:
        """Raises ConfigError unless nobody is at work in the lane but the workers that should be."""
        elsewhere = self._given.journals is not None
        here = [name for name in self._names if not (elsewhere and name == "stats")]
        for name in here:
            if await self._server.command("EXISTS", self._keys[name]):
                raise ConfigError(
                    f"key {self._keys[name]!r} is there already: another run is at work, or one was killed; "
                    f"wait, or give another --prefix, such as {self._given.prefix}-2"
                )
        if not elsewhere:
            return
        workers = await self._server.command("ZRANGE", self._keys["workers"], "0", "-1")
        if not workers:
            raise ConfigError(
                f"no worker elsewhere is registered: they need QUEUE_TRIO_REDIS__PREFIX={self._given.prefix}"
            )
        wanted_ms = scenario.all_settings().worker.lease * 1000
        leases = await self._server.command("ZRANGE", self._keys["leases"], "0", "-1", "WITHSCORES")
        for lease_ms in {float(score) for _, score in _pairs(leases)}:
            if lease_ms != wanted_ms:
                raise ConfigError(
                    f"a worker elsewhere has a lease of {lease_ms / 1000:g} s, and this run reckons with "
                    f"{wanted_ms / 1000:g} s: give the workers the settings that docs/chaos-staging.md lists"
                )
        # Left by an earlier run, and nothing is queued.
        await self._server.command("UNLINK", self._keys["stats"])

    async def clear(self, stage: Stage) -> None:
        """Delete what the run has left. Raises HarnessError."""
        names = [self._keys[name] for name in self._names]
        sessions = [self._keys.session(f"{id}:{stream}") for id in stage.workers for stream in _STREAMS]
        sessions += map(self._keys.session, stage.sessions)
        inboxes = [key for id in stage.workers for key in self._keys.inboxes(id)]
        own = list(self._of_own_tasks(stage.jobs))
        if not stage.has_workers:
            own.append(lanes_key(self._given.prefix))
        for _ in range(CLEAR_TRIES):
            for keys in _batches([*names, *sessions, *inboxes, *own]):
                await self._server.command("UNLINK", *keys)
            # What a process had sent when it was killed may still be on its way through a proxy.
            await trio.sleep(QUIET_S)
            if not await self._server.command("EXISTS", *names):
                return
        raise HarnessError(f"somebody still writes keys of {self._given.prefix}")

    def _of_own_tasks(self, jobs: Iterable[str]) -> Iterable[str]:
        """Results that they keep, and accounts of their rate limits."""
        if self._own is None:
            return
        for limit in load_app(self._own.app).rate_limits.values():
            yield limit_key(limit.name, limit.mode, self._given.prefix)
        yield from map(self._keys.result, jobs)


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """A reply of members with scores, as RESP 2 and RESP 3 have it."""
    if flat and isinstance(flat[0], list | tuple):
        return [(pair[0], pair[1]) for pair in flat]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _batches(keys: list[str], size: int = 500) -> Iterable[list[str]]:
    return (keys[at : at + size] for at in range(0, len(keys), size))


def worker_ids(journal: bytes) -> set[str]:
    """What the workers that wrote a journal call themselves."""
    found: set[str] = set()
    for line in journal.splitlines():
        event = msgspec.json.decode(line)
        if event.get("worker"):
            found.add(event["worker"])
    return found
