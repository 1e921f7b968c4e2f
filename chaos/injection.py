"""From a fault of a scenario to what brings it about and heals it: which driver, on which proxies, servers, workers.

Knows the drivers and the models of faults; not when anything is done, nor for how long, nor what is written down.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import trio

from chaos import faults
from chaos.errors import HarnessError
from chaos.toxiproxy import HEAL_S, Stream, Toxic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from chaos.crew import Act, Crew
    from chaos.redis_faults import Fault as RedisFault
    from chaos.redis_faults import RedisFaults
    from chaos.scenario import Scenario
    from chaos.toxiproxy import Proxy
    from chaos.toxiproxy_server import ToxiproxyServer
    from chaos.worker_main import Phase

    Doing = Callable[[], Awaitable[str]]

NOBODY: Final = "127.0.0.1:1"
"""Where nobody listens."""
PHASE_S: Final = 20.0
"""For a worker to come to the phase in which it is to be hit."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault, once. `begin` and `heal` return proofs and raise HarnessError.

    `targets`: processes, if chance has chosen them. `hold_s`: how long it lasts, where the driver decides that. Without
    `heal_always` it need not be healed when the run is given up.
    """

    begin: Doing
    heal: Doing
    targets: tuple[str, ...] = ()
    hold_s: float | None = None
    heal_always: bool = True


class Injector:
    """Makes an Injection of each fault of one run. Chance comes from the run's seed."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        toxiproxy: ToxiproxyServer,
        redis: RedisFaults,
        crew: Crew,
        background: trio.Nursery,
        act: Act,
    ) -> None:
        self._scenario = scenario
        self._victims = random.Random(f"{seed} victims")
        self._delays = random.Random(f"{seed} delays")
        self._toxiproxy = toxiproxy
        self._redis = redis
        self._crew = crew
        self._background = background
        self._act = act

    def make(self, name: str, fault: faults.Fault, *, calm: Callable[[], bool]) -> Injection:
        """`name`: in the journal. `calm`: whether no other fault is there, so that what is started can get ready."""
        match fault:
            case faults.NetworkFault():
                return self._network(name, fault)
            case faults.RedisFault():
                return self._server(fault)
            case faults.WorkerFault():
                return self._worker(fault, calm)
            case faults.ToxiproxyStopped():
                return Injection(self._stop_toxiproxy, self._continue_toxiproxy)
        raise HarnessError(f"nobody can bring about {fault.kind}")

    # --- network ---------------------------------------------------------------------------------------------------

    def _network(self, name: str, fault: faults.NetworkFault) -> Injection:
        names = fault.proxies or self._scenario.processes.proxies
        proxies = [self._toxiproxy.proxies[proxy] for proxy in names]
        match fault:
            case faults.ProxyDown():
                return self._on(proxies, lambda proxy: proxy.disable(), lambda proxy: proxy.enable())
            case faults.UpstreamGone():
                return self._on(
                    proxies,
                    lambda proxy: proxy.redirect(NOBODY),
                    lambda proxy: proxy.redirect(proxy.upstream),
                )
            case faults.JitterScript():
                return self._jitter(name, fault, proxies)
            case (
                faults.Latency()
                | faults.Timeout()
                | faults.LimitData()
                | faults.Slicer()
                | faults.ResetPeer()
                | faults.SlowClose()
                | faults.Bandwidth()
            ):
                toxics = [
                    Toxic(f"{name}-{stream}", fault.kind, stream, fault.attributes())
                    for stream in streams(fault.stream)
                ]
                return self._on(
                    proxies, lambda proxy: _add(proxy, toxics), lambda proxy: _remove(proxy, toxics)
                )
        raise HarnessError(f"nobody can bring about {fault}")

    def _on(
        self,
        proxies: Sequence[Proxy],
        begin: Callable[[Proxy], Awaitable[str]],
        heal: Callable[[Proxy], Awaitable[str]],
    ) -> Injection:
        async def begin_all() -> str:
            return "; ".join([await begin(proxy) for proxy in proxies])

        async def heal_all() -> str:
            return "; ".join([await self._insist(heal, proxy) for proxy in proxies])

        return Injection(begin_all, heal_all)

    async def _insist(self, heal: Callable[[Proxy], Awaitable[str]], proxy: Proxy) -> str:
        """Heal one proxy. Other faults may be on it, which must stay; a server that fails to is replaced by another."""
        with trio.CancelScope(shield=True, relative_deadline=HEAL_S):
            try:
                return await heal(proxy)
            except HarnessError as error:
                self._act(f"Toxiproxy is started again: {error}", False)
        with trio.CancelScope(shield=True, relative_deadline=HEAL_S):
            return await self._toxiproxy.restart()
        raise HarnessError(f"proxy {proxy.name} was not healed within {HEAL_S:g} s")

    def _jitter(self, name: str, fault: faults.JitterScript, proxies: Sequence[Proxy]) -> Injection:
        scope, done = trio.CancelScope(), trio.Event()

        def draw() -> list[Toxic]:
            late_ms = self._delays.randint(fault.low, fault.high)
            return [
                Toxic(f"{name}-{stream}", "latency", stream, {"latency": late_ms, "jitter": 0})
                for stream in streams(fault.stream)
            ]

        async def go_on() -> None:
            with scope:
                while True:
                    await trio.sleep(fault.every)
                    toxics = draw()
                    for proxy in proxies:
                        for toxic in toxics:
                            await proxy.update(toxic)
            done.set()

        first = draw()
        whole = self._on(proxies, lambda proxy: _add(proxy, first), lambda proxy: _remove(proxy, first))

        async def begin() -> str:
            proof = await whole.begin()
            self._background.start_soon(go_on)
            return f"{proof}; drawn anew every {fault.every:g} s from {fault.low} to {fault.high} ms"

        async def heal() -> str:
            scope.cancel()
            with trio.move_on_after(HEAL_S):
                await done.wait()
            return await whole.heal()

        return Injection(begin, heal)

    async def _stop_toxiproxy(self) -> str:
        self._toxiproxy.freeze()
        with trio.move_on_after(HEAL_S):
            while True:
                try:
                    await self._toxiproxy.api.ping()
                except HarnessError as error:
                    return str(error)
                await trio.sleep(0.01)  # the signal is on its way
        raise HarnessError("Toxiproxy still answers after SIGSTOP")

    async def _continue_toxiproxy(self) -> str:
        self._toxiproxy.thaw()
        with trio.CancelScope(shield=True, relative_deadline=HEAL_S):
            while True:
                try:
                    await self._toxiproxy.api.ping()
                except HarnessError:
                    continue
                return f"pid {self._toxiproxy.pid} answers"
        raise HarnessError(f"Toxiproxy does not answer {HEAL_S:g} s after SIGCONT")

    # --- Redis -----------------------------------------------------------------------------------------------------

    def _server(self, fault: faults.RedisFault) -> Injection:
        if isinstance(fault, faults.RedisLoading):
            driver = self._redis.loading(fault.for_s or 1.5)
            return Injection(driver.begin, driver.heal, hold_s=0.0)  # it ends by itself, when all is loaded
        driver = self._driver(fault)
        return Injection(driver.begin, driver.heal)

    def _driver(self, fault: faults.RedisFault) -> RedisFault:  # noqa: C901, one line for each fault
        redis = self._redis
        match fault:
            case faults.RedisKill():
                return redis.killed()
            case faults.RedisFreeze():
                return redis.frozen()
            case faults.RedisStall():
                # DEBUG SLEEP must know beforehand for how long.
                return redis.frozen() if fault.for_s is None else redis.asleep(fault.for_s)
            case faults.RedisPause():
                return redis.writes_paused()
            case faults.ScriptFlush():
                return redis.scripts_flushed()
            case faults.OutOfMemory():
                return redis.out_of_memory(fault.headroom)
            case faults.EvictionPolicy():
                return redis.would_evict(fault.policy)
            case faults.ReadOnly():
                return redis.read_only()
            case faults.MinReplicas():
                return redis.too_few_replicas(fault.replicas)
            case faults.RedisBusy():
                return redis.busy()
            case faults.Misconf():
                return redis.cannot_persist()
            case faults.BadRecord():
                return redis.bad_records(fault.count)
        raise HarnessError(f"nobody can bring about {fault}")

    # --- workers ---------------------------------------------------------------------------------------------------

    def _worker(self, fault: faults.WorkerFault, calm: Callable[[], bool]) -> Injection:
        names = fault.names or self._draw(fault.count)
        crew = self._crew

        async def hit(name: str) -> str:
            crew.in_hand.add(name)
            match fault:
                case faults.WorkerKill(phase="any"):
                    return await crew[name].kill()
                case faults.WorkerKill():
                    return await crew[name].kill_at(cast("Phase", fault.phase), within_s=PHASE_S)
                case faults.WorkerFreeze():
                    return await crew[name].stop()
                case faults.WorkerTerm():
                    return await crew[name].terminate(2 * crew.leaving_s)
                case faults.WorkerClock():
                    await crew[name].terminate(2 * crew.leaving_s)
                    return (
                        f"{await crew.start(name, clock_off_s=fault.ahead, ready=calm())}, {fault.ahead:+g} s"
                    )
            raise HarnessError(f"nobody can bring about {fault}")

        async def heal(name: str) -> str:
            if isinstance(fault, faults.WorkerFreeze):
                proof = crew[name].go_on()
            else:
                if crew[name].alive:
                    await crew[name].terminate(2 * crew.leaving_s)
                proof = await crew.start(name, ready=calm())
            crew.in_hand.discard(name)
            return proof

        return Injection(
            lambda: _together(hit, names),
            lambda: _together(heal, names),
            targets=tuple(names),
            heal_always=isinstance(fault, faults.WorkerFreeze),
        )

    def _draw(self, count: int) -> list[str]:
        alive = [
            name for name in self._crew.names if name not in self._crew.in_hand and self._crew[name].alive
        ]
        if len(alive) < count:
            raise HarnessError(f"{count} workers should be hit, and only {len(alive)} are there")
        return sorted(self._victims.sample(alive, count))


def streams(stream: str) -> tuple[Stream, ...]:
    """The directions of Toxiproxy that a scenario's word for them means."""
    return ("upstream", "downstream") if stream == "both" else (cast("Stream", stream),)


async def _add(proxy: Proxy, toxics: Sequence[Toxic]) -> str:
    return [await proxy.add(toxic) for toxic in toxics][-1]  # what is read back tells of all


async def _remove(proxy: Proxy, toxics: Sequence[Toxic]) -> str:
    told = [await proxy.remove(toxic.name) for toxic in toxics if toxic.name in proxy.toxics]
    return told[-1] if told else f"proxy {proxy.name} does not have it"


async def _together(work: Callable[[str], Awaitable[str]], names: Sequence[str]) -> str:
    """Do it to all of them at once; the proofs of all."""
    told: dict[str, str] = {}

    async def one(name: str) -> None:
        told[name] = await work(name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    return "; ".join(f"{name}: {told[name]}" for name in names)
