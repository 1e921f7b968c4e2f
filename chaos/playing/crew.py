"""The workers of a run: started, started again when they end, sent home at the end. Knows nothing of faults.

A worker that ends although nobody told it to is started again, as a service manager would do. Unless a task of the
scenario kills workers, that is an intervention: a person would have had to look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from chaos.driving.processes import START_S
from chaos.errors import HarnessError
from chaos.judging.bounds import leaving
from chaos.judging.expectations import KILLERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chaos.driving.processes import Child, Processes
    from chaos.playing.observer import Observer
    from chaos.scenario.model import Scenario

    Act = Callable[[str, bool], None]
    """Writes down what was done, and whether that is a person's work."""

APP: Final = "chaos.actors.tasks:app"
POLL_S: Final = 0.05
PATIENCE_S: Final = 2.0
"""Beyond the bound for leaving: what takes longer is told by the bound, not by us."""


class Crew:
    """`names`: of all workers that there should be. `in_hand`: those that a fault has, so that nobody else acts.

    `app`: what they run. With `elsewhere` others have started the workers, so there is nobody to start or send home.
    """

    def __init__(
        self,
        scenario: Scenario,
        processes: Processes,
        observer: Observer,
        settings: Callable[[str], Mapping[str, Mapping[str, Any]]],
        act: Act,
        *,
        app: str = APP,
        elsewhere: bool = False,
    ) -> None:
        self.names = [] if elsewhere else list(scenario.processes.worker_names)
        self.in_hand: set[str] = set()
        self.leaving_s = leaving(scenario.all_settings()).seconds + PATIENCE_S
        self._processes = processes
        self._observer = observer
        self._settings = settings
        self._act = act
        self._app = app
        self._keeping = trio.CancelScope()
        self._killers = any(load.kind in KILLERS for load in scenario.loads)

    def __getitem__(self, name: str) -> Child:
        return self._processes.named(name)

    async def start(self, name: str, *, clock_off_s: float = 0.0, ready: bool = True) -> str:
        """A new process of that name; with `ready`, back when it is registered. Returns the proof."""
        child = await self._processes.start_worker(
            name, self._settings(name), app=self._app, clock_off_s=clock_off_s, ready=ready
        )
        told = child.said("started")
        assert told is not None
        self._observer.watch(name, told["url"])
        return f"pid {child.pid} is {'registered' if ready else 'started'}"

    async def start_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self.names:
                nursery.start_soon(self.start, name)

    async def hire(self) -> None:
        """One more worker."""
        name = self._next_name()
        self.in_hand.add(name)
        self.names.append(name)
        await self.start(name)
        self.in_hand.discard(name)
        self._act(f"{name} was started", False)

    async def hire_in_vain(self) -> None:
        """One more worker, which must end by itself, and say why."""
        name = self._next_name()
        try:
            child = await self._processes.start_worker(name, self._settings(name), app=self._app, ready=False)
        except HarnessError:
            child = self._processes.named(name)  # it has ended even before it could say who it is
        try:
            said = await child.wait_said("refused", within_s=START_S)
            code = await child.wait(START_S)
        except HarnessError as error:
            self._act(f"{name} should have refused to start: {error}", False)
            await child.kill()
            return
        self._act(f"{name} refused to start, exit code {code}: {said['why']}", False)

    def _next_name(self) -> str:
        return f"worker-{len(self.names) + 1}"

    async def keep(self) -> None:
        """Start again who ends by itself, until all are sent home."""
        with self._keeping:
            while True:
                for name in self.names:
                    if name not in self.in_hand and not self[name].alive:
                        await self._replace(name)
                await trio.sleep(POLL_S)

    async def _replace(self, name: str) -> None:
        gone = self[name]
        self._observer.unwatch(name)
        said = gone.last_words() if (gone.exit_code or 0) >= 0 else "killed by a signal"
        self._act(f"{gone} ended with exit code {gone.exit_code} ({said}); started again", not self._killers)
        await self.start(name, ready=False)

    async def send_home(self) -> list[str]:
        """SIGTERM to all, and wait. What is left of them then, or went wrong, as lines for people."""
        self._keeping.cancel()
        left: list[str] = []

        async def end(child: Child) -> None:
            try:
                # Before that it does not hear SIGTERM, which would kill it.
                await child.wait_said("started", within_s=START_S)
                await child.terminate(self.leaving_s)
            except HarnessError as error:
                left.append(f"after SIGTERM to all: {error}")
                return
            if child.exit_code:
                left.append(
                    f"{child} ended with exit code {child.exit_code} after SIGTERM: {child.last_words()}"
                )

        async with trio.open_nursery() as nursery:
            for name in self.names:
                self._observer.unwatch(name)
                if self[name].alive:
                    nursery.start_soon(end, self[name])
        return left

    def ids(self) -> dict[str, str]:
        """What every worker that ever was calls itself, to the name of its process."""
        return {
            told["worker"]: child.name
            for child in self._processes.children
            if (told := child.said("started")) is not None and "worker" in told
        }

    def ended_well(self) -> set[str]:
        """What those call themselves that ended with exit code 0."""
        return {
            told["worker"]
            for child in self._processes.children
            if child.exit_code == 0 and (told := child.said("started")) is not None and "worker" in told
        }
