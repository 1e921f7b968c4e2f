"""The load of a run: producer processes that hand it over, and what became of it so far, read from the journals.

Knows nothing of faults. What the journals say in full is judged later, by `checker`; here they are only counted, for
steps that wait until something has come about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from chaos.actors.producer_main import Load as ProducerLoad
from chaos.errors import HarnessError
from chaos.history import SUFFIX, Enqueue, Event, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from chaos.driving.processes import Child, Processes
    from chaos.playing.observer import Observer
    from chaos.scenario.faults import Condition
    from chaos.scenario.model import Load, Scenario

POLL_S: Final = 0.02
SEEDS: Final = 10_000
"""The seed of a run leaves room for so many producers."""

_decode: Final = msgspec.json.Decoder(Event).decode


class Tail:
    """Counts what is added to the journals of a folder. `read` takes in what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.acknowledged: set[str] = set()
        self.returned: set[str] = set()
        self.refused = 0

    def read(self) -> None:
        for file in self._folder.glob(f"*{SUFFIX}"):
            with file.open("rb") as journal:
                journal.seek(self._read.get(file, 0))
                lines, _, _unfinished = journal.read().rpartition(b"\n")
            if lines:
                self._read[file] = self._read.get(file, 0) + len(lines) + 1
                for line in lines.split(b"\n"):
                    self._count(_decode(line))

    def _count(self, event: Event) -> None:
        match event:
            case Enqueue(phase="ok"):
                self.acknowledged.add(event.id)
            case Enqueue(phase="refused"):
                self.refused += 1
            case Run(outcome="returned"):
                self.returned.add(event.id)
            case _:
                pass

    @property
    def completed(self) -> float:
        """Share of the acknowledged jobs whose handler has returned."""
        if not self.acknowledged:
            return 0.0
        return len(self.acknowledged & self.returned) / len(self.acknowledged)


class Producers:
    """The producers of a run. `settings`: of a process, by its name."""

    def __init__(
        self,
        scenario: Scenario,
        processes: Processes,
        settings: Callable[[str], Mapping[str, Mapping[str, Any]]],
        seed: int,
    ) -> None:
        self._names = scenario.processes.producer_names
        self._processes = processes
        self._settings = settings
        self._seed = seed
        self._children: list[Child] = []

    async def start(self, load: Load) -> None:
        """Hand over `load`, each producer its part of it. Back when they have started."""
        async with trio.open_nursery() as nursery:
            for number, (name, part) in enumerate(
                zip(self._names, parts(load, len(self._names)), strict=True)
            ):
                if part.jobs:
                    seed = self._seed * SEEDS + len(self._children) + number
                    nursery.start_soon(self._start_one, name, part, seed)

    async def _start_one(self, name: str, part: ProducerLoad, seed: int) -> None:
        child = await self._processes.start_producer(name, self._settings(name), part, seed=seed)
        self._children.append(child)

    @property
    def loaded(self) -> bool:
        """Whether every load so far has been handed over, or has failed to be. Raises HarnessError if one failed."""
        for child in self._children:
            if child.said("loaded") is None and not child.alive:
                raise HarnessError(
                    f"{child} ended with exit code {child.exit_code} before all was handed over: {child.last_words()}"
                )
        return all(child.said("loaded") for child in self._children)

    async def wait(self, within_s: float) -> list[str]:
        """Wait until all is handed over. Those who have not done so by then are killed, and named."""
        with trio.move_on_after(within_s):
            while not self.loaded:  # noqa: ASYNC110, another process is looked at
                await trio.sleep(POLL_S)
        late = [child for child in self._children if child.said("loaded") is None]
        for child in late:
            await child.kill()
        return [str(child) for child in late]


def parts(load: Load, producers: int) -> list[ProducerLoad]:
    """What each of so many producers hands over; together it is all of `load`."""
    return [
        ProducerLoad(
            jobs=(load.jobs + producers - 1 - number) // producers,
            rate=None if load.rate is None else load.rate / producers,
            kinds={load.kind: 1},
            priorities={str(priority): share for priority, share in load.priorities.items()},
            seconds=load.seconds,
            payload=load.payload,
            delay_ms=load.delay,
        )
        for number in range(producers)
    ]


class Conditions:
    """Waits for what a scenario's steps wait for."""

    def __init__(self, tail: Tail, observer: Observer, producers: Producers) -> None:
        self._tail = tail
        self._observer = observer
        self._producers = producers

    async def wait(self, condition: Condition) -> bool:
        """Whether it came within its time."""
        if condition.seconds is not None:
            await trio.sleep(condition.seconds)
            return True
        with trio.move_on_after(condition.within):
            while not self.holds(condition):  # noqa: ASYNC110, other processes are looked at
                await trio.sleep(POLL_S)
            return True
        return False

    def holds(self, condition: Condition) -> bool:
        """Whether it is so now, as far as can be seen."""
        seen = self._observer.last
        self._tail.read()
        ready = sum(seen.ready.values()) if seen.leased is not None else None
        match condition.what:
            case "completed":
                return self._tail.completed >= (condition.completed or 0)
            case "loaded":
                return self._producers.loaded
            case "ready_above":
                return ready is not None and ready > (condition.ready_above or 0)
            case "ready_below":
                return ready is not None and ready < (condition.ready_below or 0)
            case "running":
                return sum(seen.in_flight.values()) >= (condition.running or 0)
            case "dead":
                return (seen.dead or 0) >= (condition.dead or 0)
            case "refused":
                return self._tail.refused >= (condition.refused or 0)
            case "breaker" if condition.breaker == "closed":
                return bool(seen.breaker) and set(seen.breaker.values()) == {"closed"}
            case "breaker":
                return condition.breaker in seen.breaker.values()
        raise HarnessError(f"nobody can wait for {condition.what!r}")
