"""From a fault of a scenario to what brings it about and heals it: which driver, on which proxies, servers, workers.

Knows the drivers and the models of faults; not when anything is done, nor for how long, nor what is written down.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast

import trio

from chaos.driving.toxiproxy import HEAL_S, Stream, Toxic
from chaos.errors import DidNotBite, HarnessError
from chaos.scenario import faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from chaos.actors.worker_main import Phase
    from chaos.driving.redis_faults import Fault as RedisFault
    from chaos.driving.redis_faults import RedisFaults
    from chaos.driving.toxiproxy import Proxy
    from chaos.playing.crew import Act, Crew
    from chaos.playing.stage import Toxiproxies
    from chaos.scenario.model import Scenario

    Doing = Callable[[], Awaitable[str]]

NOBODY: Final = "127.0.0.1:1"
"""Where nobody listens."""
PHASE_S: Final = 20.0
"""For a worker to come to the phase in which it is to be hit."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault, once. `begin` and `heal` return proofs and raise HarnessError; DidNotBite if nothing is there to hit.

    `targets`: processes, if chance has chosen them. `hold_s`: how long it lasts, where the driver decides that. Without
    `heal_always` it need not be healed when the run is given up.
    """

    begin: Doing
    heal: Doing
    targets: tuple[str, ...] = ()
    hold_s: float | None = None
    heal_always: bool = True
    routes: Mapping[str, Proxy] = field(default_factory=dict)
    """Those it is on, if it is a fault of the network, by the names that scenarios have for them."""
    jobs: dict[str, float] = field(default_factory=dict)
    """Filled by `begin`: jobs that victims had in hand when they died, to when that was."""
    exits: dict[str, int] = field(default_factory=dict)
    """Filled by both: workers that were told to end, to their exit codes."""


class Injector:
    """Makes an Injection of each fault of one run. Chance comes from the run's seed."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        toxiproxy: Toxiproxies,
        redis: RedisFaults | None,
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
                routes = fault.proxies or self._scenario.processes.proxies
                proxies = {route: self._toxiproxy.proxies[route] for route in routes}
                return replace(self._network(name, fault, list(proxies.values())), routes=proxies)
            case faults.RedisFault() if self._redis is not None:
                return self._server(fault, self._redis)
            case faults.WorkerFault():
                return self._worker(fault, calm)
            case faults.ToxiproxyStopped():
                return Injection(self._stop_toxiproxy, self._continue_toxiproxy)
        raise HarnessError(f"nobody can bring about {fault.kind}")

    # --- network ---------------------------------------------------------------------------------------------------

    def _network(self, name: str, fault: faults.NetworkFault, proxies: Sequence[Proxy]) -> Injection:
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
        draws = delays(fault.low, fault.high, self._delays)

        def late(late_ms: int) -> list[Toxic]:
            return [
                Toxic(f"{name}-{stream}", "latency", stream, {"latency": late_ms, "jitter": 0})
                for stream in streams(fault.stream)
            ]

        async def go_on(late_ms: int) -> None:
            with scope:
                while True:
                    # A change lets go at once whatever a toxic holds back: nobody would wait for longer than this.
                    await trio.sleep(max(fault.every, 2 * late_ms / 1000))
                    late_ms = next(draws)
                    for proxy in proxies:
                        for toxic in late(late_ms):
                            await proxy.update(toxic)
            done.set()

        first_ms = next(draws)
        first = late(first_ms)
        whole = self._on(proxies, lambda proxy: _add(proxy, first), lambda proxy: _remove(proxy, first))

        async def begin() -> str:
            proof = await whole.begin()
            self._background.start_soon(go_on, first_ms)
            return f"{proof}; drawn anew again and again, from {fault.low} to {fault.high} ms"

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

    def _server(self, fault: faults.RedisFault, redis: RedisFaults) -> Injection:
        if isinstance(fault, faults.RedisLoading):
            driver = redis.loading(fault.for_s or 1.5)
            return Injection(driver.begin, driver.heal, hold_s=0.0)  # it ends by itself, when all is loaded
        driver = self._driver(fault, redis)
        return Injection(driver.begin, driver.heal)

    def _driver(  # noqa: C901, one line for each fault
        self, fault: faults.RedisFault, redis: RedisFaults
    ) -> RedisFault:
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
        jobs: dict[str, float] = {}
        exits: dict[str, int] = {}

        async def end(name: str) -> str:
            proof = await crew[name].terminate(2 * crew.leaving_s)
            exits[name] = exits.get(name) or crew[name].exit_code or 0
            return proof

        async def hit(name: str) -> str:
            crew.in_hand.add(name)
            match fault:
                case faults.WorkerKill(phase="any"):
                    return await crew[name].kill()
                case faults.WorkerKill():
                    return await self._kill_at(name, cast("Phase", fault.phase), jobs)
                case faults.WorkerFreeze():
                    return await crew[name].stop()
                case faults.WorkerTerm():
                    return await end(name)
                case faults.WorkerClock():
                    await end(name)
                    return (
                        f"{await crew.start(name, clock_off_s=fault.ahead, ready=calm())}, {fault.ahead:+g} s"
                    )
            raise HarnessError(f"nobody can bring about {fault}")

        async def heal(name: str) -> str:
            if isinstance(fault, faults.WorkerFreeze):
                proof = crew[name].go_on()
            else:
                if crew[name].alive:
                    await end(name)
                proof = await crew.start(name, ready=calm())
            crew.in_hand.discard(name)
            return proof

        return Injection(
            lambda: _together(hit, names),
            lambda: _together(heal, names),
            targets=tuple(names),
            jobs=jobs,
            exits=exits,
            heal_always=isinstance(fault, faults.WorkerFreeze),
        )

    async def _kill_at(self, name: str, phase: Phase, jobs: dict[str, float]) -> str:
        victim = self._crew[name]
        try:
            proof = await victim.kill_at(phase, within_s=PHASE_S)
        except HarnessError:
            if victim.alive:
                raise DidNotBite(f"{victim} did not come to {phase!r} within {PHASE_S:g} s") from None
            raise DidNotBite(f"{victim} ended by itself before it came to {phase!r}") from None
        told = victim.said("at") or {}
        if "job" in told:
            jobs[told["job"]] = told["at_s"]
        return proof

    def _draw(self, count: int) -> list[str]:
        alive = [
            name for name in self._crew.names if name not in self._crew.in_hand and self._crew[name].alive
        ]
        if len(alive) < count:
            raise DidNotBite(f"{count} workers should be hit, and only {len(alive)} are there")
        return sorted(self._victims.sample(alive, count))


def delays(low_ms: int, high_ms: int, rng: random.Random) -> Iterator[int]:
    """Milliseconds between these, for ever. Of each four one is from every quarter: no run is without a long one."""
    quarter = (high_ms - low_ms) / 4
    while True:
        for number in rng.sample(range(4), 4):
            yield round(low_ms + quarter * (number + rng.random()))


def streams(stream: str) -> tuple[Stream, ...]:
    """The directions of Toxiproxy that a scenario's word for them means."""
    return ("upstream", "downstream") if stream == "both" else (cast("Stream", stream),)


async def _add(proxy: Proxy, toxics: Sequence[Toxic]) -> str:
    return [await proxy.add(toxic) for toxic in toxics][-1]  # what is read back tells of all


async def _remove(proxy: Proxy, toxics: Sequence[Toxic]) -> str:
    there = [toxic.name for toxic in toxics if toxic.name in proxy.toxics]
    return await proxy.remove(*there) if there else f"proxy {proxy.name} does not have it"


async def _together(work: Callable[[str], Awaitable[str]], names: Sequence[str]) -> str:
    """Do it to all of them at once; the proofs of all."""
    told: dict[str, str] = {}

    async def one(name: str) -> None:
        told[name] = await work(name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    return "; ".join(f"{name}: {told[name]}" for name in names)
