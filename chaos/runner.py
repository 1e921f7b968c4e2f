"""Runs one scenario: opens what it needs, plays its steps, lets it come to rest, reads the history, and judges it.

All that is opened is private to the run, and gone after it, however it ends. What goes wrong in here gives the verdict
ERROR with the reason, never PASS; and what was not done gives INVALID.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from pydantic import SecretStr

import queue_trio
from chaos.at_rest import AtRestReader, sum_up, wait_until
from chaos.bounds import bounds_of
from chaos.checker import judge
from chaos.crew import Crew
from chaos.errors import HarnessError
from chaos.expectations import expectations_of
from chaos.history import SUFFIX, Action, Journal, Run, read_history
from chaos.injection import Injector
from chaos.load import Conditions, Producers, Tail
from chaos.observer import open_observer
from chaos.processes import open_processes
from chaos.redis_faults import RedisFaults
from chaos.redis_server import open_chaos_redis
from chaos.result import Result
from chaos.scenario import DIRECT, RUN_SETTINGS, Scenario
from chaos.steps import Player
from chaos.toxiproxy_binary import ensure_toxiproxy
from chaos.toxiproxy_server import open_toxiproxy
from chaos.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.history import Event
    from chaos.processes import Processes
    from chaos.redis_server import ChaosRedis
    from chaos.toxiproxy_server import ToxiproxyServer
    from queue_trio.server_binary import ServerBinary

LOADED_S: Final = 60.0
"""For all to be handed over, beyond what the loads' own pace and their clients' patience allow."""
LOG_LINES: Final = 15
_SHOWN: Final = ("appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write", "save")


class Trial:
    """One run of a scenario. `folder`: where journals and logs go."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        folder: Path,
        say: Callable[[str], None],
        server: ServerBinary | None,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.folder = folder
        self.void: list[str] = []
        self.names: dict[str, str] = {}
        self.versions: dict[str, str] = {
            "queue_trio": queue_trio.__version__,
            "python": platform.python_version(),
        }
        self.redis_settings: dict[str, str] = {}
        self._say = say
        self._server = server
        self._journal = Journal(folder / f"harness{SUFFIX}", clock=time.time)
        self._urls: dict[str, str] = {}

    async def run(self) -> None:
        """From the first process to the last. Raises HarnessError, QueueTrioError, or groups of them."""
        binary = await trio.to_thread.run_sync(ensure_toxiproxy, self._say)
        async with AsyncExitStack() as stack:
            redis = await stack.enter_async_context(
                open_chaos_redis(server=self._server, appendfsync=self.scenario.redis.appendfsync)
            )
            self.versions |= {
                "server": redis.server.binary.version.label,
                "toxiproxy": binary.name.rpartition("-")[2],
            }
            toxiproxy = await stack.enter_async_context(open_toxiproxy(binary))
            await self._route(redis, toxiproxy)
            processes = await stack.enter_async_context(open_processes(self.folder))
            await self._with(redis, toxiproxy, processes)

    def close(self) -> None:
        self._journal.close()

    async def _route(self, redis: ChaosRedis, toxiproxy: ToxiproxyServer) -> None:
        """A proxy for each route that anybody takes."""
        told = await redis.command("CONFIG", "GET", "*")
        self.redis_settings = {name: str(told[name]) for name in _SHOWN if name in told}
        self._urls[DIRECT] = f"redis://{redis.address}/0"
        for name in self.scenario.processes.proxies:
            host, port = (await toxiproxy.create(name, redis.address)).address
            self._urls[name] = f"redis://{host}:{port}/0"

    def _settings(self, process: str) -> dict[str, dict[str, Any]]:
        merged: dict[str, dict[str, Any]] = {}
        url = {"redis": {"url": self._urls[self.scenario.processes.route(process)]}}
        for layer in (RUN_SETTINGS, self.scenario.settings, url):
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        return merged

    async def _with(self, redis: ChaosRedis, toxiproxy: ToxiproxyServer, processes: Processes) -> None:
        async with open_observer(self._journal, redis.url) as observer, trio.open_nursery() as background:
            crew = Crew(self.scenario, processes, observer, self._settings, self._act)
            producers = Producers(self.scenario, processes, self._settings, self.seed)
            await crew.start_all()
            self._say(f"{len(crew.names)} workers are there")
            background.start_soon(crew.keep)
            injector = Injector(
                self.scenario,
                self.seed,
                toxiproxy=toxiproxy,
                redis=RedisFaults(redis),
                crew=crew,
                background=background,
                act=self._act,
            )
            player = Player(
                self.scenario,
                self._journal,
                producers=producers,
                conditions=Conditions(Tail(self.folder), observer, producers),
                crew=crew,
                injector=injector,
                say=self._say,
            )
            try:
                await player.play()
                await self._settle(AtRestReader(redis), producers, crew)
            finally:
                self.void += player.void
                self.names = crew.ids()
            background.cancel_scope.cancel()

    async def _settle(self, reader: AtRestReader, producers: Producers, crew: Crew) -> None:
        """Everything is healed: wait until nothing is left, send the workers home, and ask the queue."""
        settings = self.scenario.all_settings()
        for late in await producers.wait(self._loaded_s(settings.client.timeout)):
            self._act(f"{late} did not end, and was killed", True)
        within_s = self.scenario.settle.within
        self._say(f"all is healed and handed over: at most {within_s:g} s until nothing is left")
        drained = await wait_until(reader.empty, within_s)
        at_s = self._journal.clock()
        strict = settings.worker.dequeue_strategy == "strict"
        # As it is now, if it is not empty: workers that go home give back what they have.
        rest = None if drained else await reader.look(at_s, drained=False)
        left = await crew.send_home()
        strays = await reader.registered() & crew.ended_well()
        left += [f"{self._name(crew, id)} has ended, and is still registered" for id in sorted(strays)]
        rest = rest or await reader.look(at_s, drained=True)
        self._journal.append(await sum_up(reader, rest, strict=strict, leftovers=left))
        self._say("at rest" if drained else "the drain did not finish")

    def _loaded_s(self, patience_s: float) -> float:
        paces = [0.0 if load.rate is None else load.jobs / load.rate for load in self.scenario.loads]
        return max(paces, default=0.0) + patience_s + LOADED_S

    @staticmethod
    def _name(crew: Crew, id: str) -> str:
        return crew.ids().get(id, id)

    def _act(self, what: str, manual: bool) -> None:
        self._journal.append(Action(self._journal.clock(), what, manual))
        self._say(what)

    def history(self) -> list[Event]:
        """All journals; workers have the names of their processes."""
        return [
            msgspec.structs.replace(event, worker=self.names.get(event.worker, event.worker))
            if isinstance(event, Run)
            else event
            for event in read_history(self.folder)
        ]

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of each worker's and producer's log."""
        lines: list[str] = []
        for log in sorted(self.folder.glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            lines += [f"{log.stem}: {line}" for line in tail]
        return tuple(lines)


async def run_scenario(
    scenario: Scenario,
    *,
    seed: int,
    command: str,
    say: Callable[[str], None],
    server: ServerBinary | None = None,
    keep: bool = False,
) -> Result:
    """Run it and judge it. `command`: what runs it again. `say` hears how it goes. With `keep` its folder stays.

    Raises nothing that is about the run: what went wrong is in the result.
    """
    folder = Path(tempfile.mkdtemp(prefix="qt-chaos-run-"))
    trial = Trial(scenario, seed, folder, say, server)
    began_s = time.time()
    errors: list[str] = []
    try:
        try:
            await trial.run()
        except* Exception as group:  # noqa: BLE001, whatever breaks the harness is an ERROR, and is told
            errors = [_words(error) for error in leaves(group)]
        finally:
            trial.close()
        ended_s = time.time()
        history, judgement = _judged(trial, errors)
        return Result(
            scenario=scenario.name,
            title=scenario.title,
            promises=tuple(scenario.promises),
            seed=seed,
            command=command,
            judgement=judgement,
            started_s=began_s,
            ended_s=ended_s,
            settings=_shown_settings(scenario),
            versions=trial.versions,
            redis_settings=trial.redis_settings,
            log_tail=() if judgement.verdict is Verdict.PASS else trial.log_tail(),
            history=history,
        )
    finally:
        if keep:
            say(f"journals and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _judged(trial: Trial, errors: Sequence[str]) -> tuple[list[Event], Judgement]:
    errors = list(errors)
    history: list[Event] = []
    try:
        history = trial.history()
    except (OSError, ValueError) as error:
        errors.append(f"the history cannot be read: {error}")
    found = judge(history, expectations_of(trial.scenario), bounds_of(trial.scenario))
    return history, overruled(found, errors, trial.void)


def overruled(judgement: Judgement, errors: Sequence[str], void: Sequence[str]) -> Judgement:
    """The judgement on a run in which the harness failed (`errors`), or could not do what it should (`void`)."""
    verdict, reasons = judgement.verdict, judgement.reasons
    if errors:
        return msgspec.structs.replace(judgement, verdict=Verdict.ERROR, reasons=(*errors, *void, *reasons))
    if void:
        weak = verdict is Verdict.PASS or verdict is Verdict.INVALID
        return msgspec.structs.replace(
            judgement,
            verdict=Verdict.INVALID if weak else verdict,
            reasons=(*void, *reasons) if weak else (*reasons, *void),
        )
    return judgement


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, however deep; or the one that it is."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def _words(error: BaseException) -> str:
    if isinstance(error, HarnessError):
        return str(error)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = "" if last is None else f", {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    return f"{type(error).__name__}: {error}{where}"


def _shown_settings(scenario: Scenario) -> dict[str, Any]:
    settings = scenario.all_settings(redis={"url": SecretStr("redis://localhost")})
    redis, worker = settings.redis, settings.worker
    return {
        "lease": worker.lease,
        "sweep_interval": worker.sweep_interval,
        "read_timeout": redis.read_timeout,
        "backoff_cap": redis.backoff_cap,
        "breaker_open_wait": redis.breaker_open_wait,
        "concurrency": worker.concurrency,
        "shutdown_grace": worker.shutdown_grace,
        "workers": scenario.processes.workers,
        "producers": scenario.processes.producers,
        "jobs": sum(load.jobs for load in scenario.loads),
    }
