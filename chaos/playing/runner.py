"""Runs one scenario: opens what it needs, plays its steps, lets it come to rest, reads the history, and judges it.

All that is opened is private to the run, and gone after it, however it ends; what others run (`Stage`) is as it was.
What goes wrong in here gives the verdict ERROR with the reason, never PASS; and what was not done gives INVALID.
"""

from __future__ import annotations

import platform
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from pydantic import SecretStr

import queue_trio
from chaos.driving.processes import open_processes
from chaos.errors import HarnessError, leaves
from chaos.history import SUFFIX, Action, Enqueue, Journal, Run, read_history
from chaos.judging.bounds import bounds_of
from chaos.judging.checker import judge
from chaos.judging.expectations import expectations_of
from chaos.playing.at_rest import AtRestReader, sum_up, wait_until
from chaos.playing.crew import APP, Crew
from chaos.playing.environment import HERE
from chaos.playing.injection import Injector
from chaos.playing.load import Conditions, Producers, Tail
from chaos.playing.observer import open_observer
from chaos.playing.stage import open_stage
from chaos.playing.staging import worker_ids
from chaos.playing.steps import Player
from chaos.result import NOT_TESTED, PROMISES, Result, without_logins
from chaos.scenario.model import RUN_SETTINGS, Scenario
from chaos.verdict import Counts, Judgement, Verdict
from queue_trio.embedded import open_lifeline
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.driving.processes import Processes
    from chaos.history import Event
    from chaos.playing.environment import Environment
    from chaos.playing.observer import Observer
    from chaos.playing.stage import Stage
    from queue_trio.server_binary import ServerBinary

LOADED_S: Final = 60.0
"""For all to be handed over, beyond what the loads' own pace and their clients' patience allow."""
LOG_LINES: Final = 15
ELSEWHERE: Final = f"-elsewhere{SUFFIX}"
NOT_STRICT: Final = "which job comes next is not promised with this strategy"


class Trial:
    """One run of a scenario. `folder`: where journals and logs go."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        folder: Path,
        say: Callable[[str], None],
        server: ServerBinary | None,
        mutant: str,
        environment: Environment,
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
        self.unjudged: dict[str, str] = {}
        self._say = say
        self._server = server
        self._mutant = mutant
        self.environment = environment
        self._strict = scenario.all_settings().worker.dequeue_strategy == "strict"
        self._journal = Journal(folder / f"harness{SUFFIX}", clock=time.time)
        self._began_s = time.time()
        self._urls: dict[str, str] = {}
        self._prefix = ""

    async def run(self) -> None:
        """From the first process to the last. Raises HarnessError, QueueTrioError, or groups of them."""
        own = self.environment.own
        async with open_stage(self.environment, self.scenario, say=self._say, server=self._server) as stage:
            self.versions |= stage.versions
            self.redis_settings = stage.redis_settings
            self.unjudged = stage.unjudged | ({} if self._strict else {"P": NOT_STRICT})
            self._urls, self._prefix = stage.urls, stage.prefix
            for letter, why in self.unjudged.items():
                self._say(f"{letter}, {PROMISES[letter]}, is not judged: {why}")
            for name, journal in stage.journals.items():
                (self.folder / f"{name}{ELSEWHERE}").symlink_to(journal.absolute())
            started: Processes | None = None
            try:
                async with open_processes(self.folder, self._mutant, own) as started:
                    await self._with(stage, started)
            finally:
                self._tell(stage, started)

    def close(self) -> None:
        self._journal.close()

    def _tell(self, stage: Stage, processes: Processes | None) -> None:
        """The stage what the processes may have left there."""
        for child in [] if processes is None else processes.children:
            told = child.said("started") or {}
            stage.workers |= {told["worker"]} if "worker" in told else set()
            stage.sessions |= {told["session"]} if "session" in told else set()
        if self.environment.own is not None:
            stage.jobs |= {event.id for event in read_history(self.folder) if isinstance(event, Enqueue)}

    def _settings(self, process: str) -> dict[str, dict[str, Any]]:
        merged: dict[str, dict[str, Any]] = {}
        route = self.scenario.processes.route(process)
        redis = {"redis": {"url": self._urls[route], "prefix": self._prefix}}
        for layer in (RUN_SETTINGS, self.scenario.settings, redis):
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        return merged

    async def _with(self, stage: Stage, processes: Processes) -> None:
        async with (
            open_observer(self._journal, stage.redis.url, prefix=stage.prefix) as observer,
            trio.open_nursery() as background,
        ):
            crew = self._crew(stage, processes, observer)
            producers = Producers(self.scenario, processes, self._settings, self.seed)
            await crew.start_all()
            self._say(f"{len(crew.names or stage.journals)} workers are there")
            background.start_soon(crew.keep)
            injector = Injector(
                self.scenario,
                self.seed,
                toxiproxy=stage.toxiproxy,
                redis=stage.faults,
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
                await self._settle(AtRestReader(stage, crew.ids), producers, crew)
            finally:
                self.void += player.void
                self.names = crew.ids()
            background.cancel_scope.cancel()

    def _crew(self, stage: Stage, processes: Processes, observer: Observer) -> Crew:
        own = self.environment.own
        for name, url in stage.metrics.items():
            observer.watch(name, url)
        return Crew(
            self.scenario,
            processes,
            observer,
            self._settings,
            self._act,
            app=APP if own is None else own.app,
            elsewhere=stage.has_workers,
        )

    async def _settle(self, reader: AtRestReader, producers: Producers, crew: Crew) -> None:
        """Everything is healed: wait until nothing is left, send the workers home, and ask the queue."""
        settings = self.scenario.all_settings()
        for late in await producers.wait(self._loaded_s(settings.client.timeout)):
            self._act(f"{late} did not end, and was killed", True)
        within_s = self.scenario.settle.within
        self._say(f"all is healed and handed over: at most {within_s:g} s until nothing is left")
        drained = await wait_until(reader.empty, within_s)
        at_s = self._journal.clock()
        # As it is now, if it is not empty: workers that go home give back what they have.
        rest = None if drained else await reader.look(at_s, drained=False)
        left = await crew.send_home()
        strays = await reader.registered() & crew.ended_well()
        left += [f"{self._name(crew, id)} has ended, and is still registered" for id in sorted(strays)]
        left += [f"{self._name(crew, id)} has ended, and has connections" for id in await reader.connected()]
        rest = rest or await reader.look(at_s, drained=True)
        self._journal.append(await sum_up(reader, rest, strict=self._strict, leftovers=left))
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
        names = dict(self.names)
        for journal in self.folder.glob(f"*{ELSEWHERE}"):
            names |= dict.fromkeys(worker_ids(journal.read_bytes()), journal.name.removesuffix(ELSEWHERE))
        return [
            msgspec.structs.replace(event, worker=names.get(event.worker, event.worker))
            if isinstance(event, Run)
            else event
            for event in read_history(self.folder)
            if event.at_s >= self._began_s  # journals of workers elsewhere tell of earlier runs too
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
    mutant: str = "",
    environment: Environment = HERE,
) -> Result:
    """Run it and judge it. `command`: what runs it again. `say` hears how it goes. With `keep` its folder stays.
    `mutant`: what is wrong with the processes, to see whether that is found. `environment`: which the scenario fits.

    Raises ConfigError if the environment is not as it must be, before anything is changed there; and nothing that is
    about the run: what went wrong is in the result.
    """
    folder = Path(tempfile.mkdtemp(prefix="qt-chaos-run-"))
    # Who is killed with kill -9 removes nothing: a lifeline does it then, and otherwise too.
    async with nullcontext() if keep else open_lifeline(folder):
        trial = Trial(scenario, seed, folder, say, server, mutant, environment)
        result = await _tried(trial, command)
        if keep:
            say(f"journals and logs are in {folder}")
        return result


async def _tried(trial: Trial, command: str) -> Result:
    scenario = trial.scenario
    began_s = time.time()
    errors: list[BaseException] = []
    try:
        await trial.run()
    except* Exception as group:  # noqa: BLE001, whatever breaks the harness is an ERROR, and is told
        errors = leaves(group)
    finally:
        trial.close()
    for error in errors:
        if isinstance(error, ConfigError) and trial.environment.given is not None:
            raise ConfigError(without_logins(str(error)))
    ended_s = time.time()
    history, judgement = _judged(trial, [_words(error) for error in errors])
    return Result(
        scenario=scenario.name,
        title=scenario.title,
        promises=tuple(letter for letter in scenario.promises if letter not in trial.unjudged),
        seed=trial.seed,
        command=command,
        judgement=judgement,
        started_s=began_s,
        ended_s=ended_s,
        settings=_shown_settings(scenario),
        versions=trial.versions,
        redis_settings=trial.redis_settings,
        not_tested=(
            *(f"{letter}, {PROMISES[letter]}: {why}." for letter, why in trial.unjudged.items()),
            *NOT_TESTED,
        ),
        log_tail=() if judgement.verdict is Verdict.PASS else trial.log_tail(),
        history=history,
    )


def _judged(trial: Trial, errors: Sequence[str]) -> tuple[list[Event], Judgement]:
    errors = list(errors)
    history: list[Event] = []
    try:
        history = trial.history()
    except (OSError, ValueError) as error:
        errors.append(f"the history cannot be read: {error}")
    try:
        found = judge(history, expectations_of(trial.scenario), bounds_of(trial.scenario))
    except Exception as error:  # noqa: BLE001, a checker that stumbles has judged nothing, and the next run goes on
        found = Judgement(Verdict.ERROR, (), Counts(), (), (), ())
        errors.append(f"the checker failed: {_words(error)}")
    # "held" would be more than is known.
    judged = tuple(one for one in found.invariants if one.letter not in trial.unjudged)
    return history, overruled(msgspec.structs.replace(found, invariants=judged), errors, trial.void)


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


def _words(error: BaseException) -> str:
    if isinstance(error, HarnessError):
        return without_logins(str(error))
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = "" if last is None else f", {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    return without_logins(f"{type(error).__name__}: {error}{where}")


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
