"""Plays the steps of a scenario: loads, faults and their heals, waits; writes down when each fault comes and goes.

Whatever it has begun to inject is healed, though the run be given up: shielded, and within a deadline. Knows no driver
and no verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import trio

from chaos.errors import DidNotBite, HarnessError, leaves
from chaos.history import Fault as FaultEvent
from chaos.judging.bounds import bounds_of
from chaos.playing.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chaos.history import Journal
    from chaos.playing.crew import Crew
    from chaos.playing.injection import Injection, Injector
    from chaos.playing.load import Conditions, Producers
    from chaos.scenario.faults import Fault
    from chaos.scenario.model import Scenario, Step

HEAL_S: Final = 60.0
"""Longer than any driver's own deadline: whoever reaches this has no deadline."""

Phase = Literal["begin", "active", "heal", "healed"]


class Player:
    """Plays one scenario. `void`: why the run proves nothing, if it does not."""

    def __init__(
        self,
        scenario: Scenario,
        journal: Journal,
        *,
        producers: Producers,
        conditions: Conditions,
        crew: Crew,
        injector: Injector,
        say: Callable[[str], None],
    ) -> None:
        self._scenario = scenario
        self._journal = journal
        self._producers = producers
        self._conditions = conditions
        self._crew = crew
        self._injector = injector
        self._say = say
        self._rules = bounds_of(scenario).faults
        self._there: set[str] = set()
        self.void: list[str] = []

    async def play(self) -> None:
        """Every step but the last one, `settle`. Back when the last fault has healed. Raises HarnessError."""
        names = iter(self._scenario.faults)
        async with trio.open_nursery() as nursery:
            for step in self._scenario.steps:
                await self._play(step, names, nursery)
                if self.void:  # the steps after it would be about something else
                    break

    async def _play(self, step: Step, names: Iterator[str], nursery: trio.Nursery) -> None:
        if step.load is not None:
            self._say(f"load: {step.load.jobs} {step.load.kind} jobs")
            await self._producers.start(step.load)
        elif step.wait is not None:
            if not await self._conditions.wait(step.wait):
                self.void.append(
                    f"waited in vain for {step.wait.what}, {step.wait.within:g} s long; later steps were not taken"
                )
        elif step.start is not None:
            await (self._crew.hire_in_vain() if step.start.refuses else self._crew.hire())
        elif step.fault is not None:
            name = next(names)
            there = trio.Event()
            if step.fault.go_on:
                nursery.start_soon(self._inject, name, step.fault, there)
                await there.wait()
            else:
                await self._inject(name, step.fault, there)

    async def _inject(self, name: str, fault: Fault, there: trio.Event) -> None:
        """The fault, as often as it comes. `there` is set when it is for the first time, or never will be."""
        try:
            for time in range(fault.times):
                if time:
                    await trio.sleep(fault.pause)
                injection = self._injector.make(name, fault, calm=lambda: self._there <= {name})
                await self._once(name, fault, injection, there)
        except* DidNotBite as group:
            self.void += [f"fault {name} did not bite: {error}" for error in leaves(group)]
        there.set()

    async def _once(self, name: str, fault: Fault, injection: Injection, there: trio.Event) -> None:
        witness = Witness(name, injection.routes, self._rules[name].bite, self._journal)
        self._note(name, "begin", injection)
        self._there.add(name)
        whole = False
        try:
            await witness.before()
            proof = await injection.begin()
            self._note(name, "active", injection, proof)
            self._say(f"fault {name}: {proof}")
            there.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(witness.during)
                await self._hold(name, fault, injection)
                nursery.cancel_scope.cancel()
            whole = True
        except* DidNotBite:
            whole = True  # what it has begun to do to others is undone, and the run goes on to its end
            raise
        finally:
            if whole or injection.heal_always:
                await self._heal(name, injection)
            self._there.discard(name)
        await witness.after()

    async def _hold(self, name: str, fault: Fault, injection: Injection) -> None:
        if injection.hold_s is not None:
            await trio.sleep(injection.hold_s)
        elif fault.for_s is not None:
            await trio.sleep(fault.for_s)
        elif fault.until is not None and not await self._conditions.wait(fault.until):
            self.void.append(f"fault {name}: {fault.until.what} did not come within {fault.until.within:g} s")

    async def _heal(self, name: str, injection: Injection) -> None:
        self._note(name, "heal", injection)
        with trio.CancelScope(shield=True, relative_deadline=HEAL_S):
            proof = await injection.heal()
            self._note(name, "healed", injection, proof)
            self._say(f"fault {name} is healed: {proof}")
            return
        raise HarnessError(f"fault {name} was not healed within {HEAL_S:g} s")

    def _note(self, name: str, phase: Phase, injection: Injection, proof: str = "") -> None:
        self._journal.append(
            FaultEvent(
                self._journal.clock(),
                name,
                phase,
                proof,
                injection.targets,
                jobs=injection.jobs,
                exits=injection.exits,
            )
        )
