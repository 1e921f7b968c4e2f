"""Makes a schedule that fails smaller, as long as it fails alike. Which schedules are smaller is pure; the rest asks.

Chance takes part in every run, so a smaller schedule that passes once may still have the flaw: each gets several tries.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from chaos.fuzz.draw import unfit
from chaos.fuzz.expected import with_expectations
from chaos.fuzz.timing import load_outlasts_faults
from chaos.scenario.model import Scenario
from chaos.scenario.writing import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Told = dict[str, Any]
    Judge = Callable[[Scenario], Awaitable[tuple[str, ...]]]
    """Runs a schedule and says what is wrong with it, as `complaints` does."""

TRIES: Final = 3
FOR_S_MIN: Final = 0.3
JOBS_MIN: Final = 5


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest schedule that was found to fail alike, and how often it did, of how many tries."""

    scenario: Scenario
    failed: int
    tries: int
    runs: int
    """That all of it took."""


async def shrink(
    scenario: Scenario,
    wanted: str,
    judge: Judge,
    *,
    time_left: Callable[[], bool],
    better: Callable[[Scenario], None] = lambda _: None,
) -> Shrunk:
    """The smallest schedule found that still has the complaint `wanted`, while there is time.

    First it is tried again as it is: what does not fail again in TRIES tries cannot be made smaller, and is given back.
    """
    search = _Search(wanted, judge, time_left)
    failed, tries = await search.try_often(scenario, TRIES)
    if not failed:
        return Shrunk(scenario, failed, tries, search.runs)
    while time_left():
        found = await search.first_smaller(scenario)
        if found is None:
            break
        scenario, failed, tries = found
        better(scenario)
    if time_left() and tries < TRIES:
        again, more = await search.try_often(scenario, TRIES - tries, every=True)
        failed, tries = failed + again, tries + more
    return Shrunk(scenario, failed, tries, search.runs)


class _Search:
    def __init__(self, wanted: str, judge: Judge, time_left: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._judge = judge
        self._time_left = time_left
        self._passed: list[Scenario] = []
        self._at = 0
        self.runs = 0

    async def first_smaller(self, scenario: Scenario) -> tuple[Scenario, int, int] | None:
        """The next candidate that fails alike, with how often it did; None if none does, or the time is over.

        It goes on where the last one was found: what passed with more in it will hardly fail now.
        """
        every = [*enumerate(candidates(scenario))]
        for number, candidate in every[self._at :] + every[: self._at]:
            if not self._time_left():
                return None
            if candidate in self._passed:
                continue
            failed, tries = await self.try_often(candidate, TRIES - 1)
            if failed:
                self._at = number
                return candidate, failed, tries
            self._passed.append(candidate)
        return None

    async def try_often(self, scenario: Scenario, tries: int, *, every: bool = False) -> tuple[int, int]:
        """How often it failed alike, of how many tries. Without `every` the first failure is enough."""
        failed, done = 0, 0
        while done < tries and (not done or self._time_left()) and (every or not failed):
            self.runs += 1
            done += 1
            failed += self._wanted in await self._judge(scenario)
        return failed, done


# --- smaller schedules ---------------------------------------------------------------------------------------------


def candidates(scenario: Scenario) -> Iterator[Scenario]:
    """Smaller schedules, the boldest first; each can be run and judged, and none is there twice."""
    seen = [scenario]
    for told in _smaller(plain(scenario)):
        try:
            candidate = with_expectations(Scenario.model_validate(told))
        except ValidationError:
            continue  # such as a worker that its routes still name
        if candidate not in seen and load_outlasts_faults(candidate) and not unfit(candidate):
            seen.append(candidate)
            yield candidate


def _smaller(told: Told) -> Iterator[Told]:
    # First what makes every later try quicker: fewer processes.
    yield from (_plain_loads(_plain_world(told)), _plain_world(told), _plain_loads(told))
    yield from _fewer_faults(told)
    yield from _fewer_loads(told)
    yield from _simpler_world(told)
    yield from _simpler_faults(told)
    yield from _simpler_loads(told)
    yield from _shorter_waits(told)


def _at(told: Told, kind: str) -> list[int]:
    return [number for number, step in enumerate(told["steps"]) if kind in step]


def _dropped(told: Told, numbers: set[int]) -> Told:
    return told | {"steps": [step for number, step in enumerate(told["steps"]) if number not in numbers]}


def _changed(told: Told, number: int, kind: str, **changes: Any) -> Told:
    """With other values in one step; None takes a key away."""
    steps = copy.deepcopy(told["steps"])
    step = steps[number][kind]
    for key, value in changes.items():
        if value is None:
            step.pop(key, None)
        else:
            step[key] = value
    return told | {"steps": steps}


def _fewer_faults(told: Told) -> Iterator[Told]:
    there = _at(told, "fault")
    for kept in there if len(there) > 2 else ():  # only one of them
        yield _dropped(told, set(there) - {kept})
    for number in there:
        yield _dropped(told, {number})


def _fewer_loads(told: Told) -> Iterator[Told]:
    for number in _at(told, "load"):
        yield _dropped(told, {number})


def _plain_world(told: Told) -> Told:
    """With defaults for all that is not load or fault, and the fewest processes."""
    less = {key: value for key, value in told.items() if key not in ("settings", "redis", "processes")}
    names = {name for step in told["steps"] for name in step.get("fault", {}).get("names", ())}
    workers = min(told.get("processes", {}).get("workers", 2), max(3, len(names) + 1))
    renamed = {name: f"worker-{number}" for number, name in enumerate(sorted(names), 1)}
    less["processes"] = {"workers": workers}
    for number in _at(less, "fault"):
        fault = less["steps"][number]["fault"]
        new = [renamed[name] for name in fault.get("names", ())]
        less = _changed(less, number, "fault", proxies=None, names=new or None)
    return less


def _plain_loads(told: Told) -> Told:
    """Each load without what it may be without."""
    for number in _at(told, "load"):
        told = _changed(told, number, "load", priorities=None, payload=None)
    return told


def _simpler_world(told: Told) -> Iterator[Told]:
    for name in ("settings", "redis"):
        if name in told:
            yield {key: value for key, value in told.items() if key != name}
    for section, values in told.get("settings", {}).items():
        for name in values:
            less = {key: value for key, value in values.items() if key != name}
            yield told | {"settings": {**told["settings"], section: less}}
    processes = told.get("processes", {})
    for name, least in (("producers", 1), ("workers", 2)):
        count = processes.get(name, least)
        for fewer in sorted({least, count - 1}):
            if least <= fewer < count:
                yield _resized(told, name, fewer)
    if "routes" in processes:
        everywhere = told | {"processes": {key: processes[key] for key in processes if key != "routes"}}
        yield everywhere
        for number in _at(told, "fault"):  # their proxies may be gone now
            everywhere = _changed(everywhere, number, "fault", proxies=None)
        yield everywhere


def _resized(told: Told, name: str, count: int) -> Told:
    """With so many processes of a group, and without what is said of those that are not there any more."""
    processes = {**told["processes"], name: count}
    gone = {f"{name[:-1]}-{number}" for number in range(count + 1, told["processes"][name] + 1)}
    if "routes" in processes:
        processes["routes"] = {who: way for who, way in processes["routes"].items() if who not in gone}
    less = told | {"processes": processes}
    for number in _at(told, "fault"):
        left = [who for who in told["steps"][number]["fault"].get("names", []) if who not in gone]
        less = _changed(less, number, "fault", names=left or None)
    return less


def _simpler_faults(told: Told) -> Iterator[Told]:
    for number in _at(told, "fault"):
        fault = told["steps"][number]["fault"]
        for key in ("times", "go_on", "proxies", "count"):
            if key in fault:
                yield _changed(told, number, "fault", **{key: None})
        if len(fault.get("names", ())) > 1:
            yield _changed(told, number, "fault", names=fault["names"][:1])
        if fault.get("for", 0.0) / 2 >= FOR_S_MIN:
            yield _changed(told, number, "fault", **{"for": round(fault["for"] / 2, 1)})


def _simpler_loads(told: Told) -> Iterator[Told]:
    for number in _at(told, "load"):
        load = told["steps"][number]["load"]
        if load["jobs"] // 2 >= JOBS_MIN:
            yield _changed(told, number, "load", jobs=load["jobs"] // 2)
        for key in ("priorities", "payload", "delay"):
            if key in load:
                yield _changed(told, number, "load", **{key: None})
        if load.get("seconds", 0.0) > 0.2:
            yield _changed(told, number, "load", seconds=round(load["seconds"] / 2, 2))


def _shorter_waits(told: Told) -> Iterator[Told]:
    for number in _at(told, "wait"):
        yield _dropped(told, {number})
        seconds = told["steps"][number]["wait"].get("seconds", 0.0)  # a condition has none
        if seconds > 0.4:
            yield _changed(told, number, "wait", seconds=round(seconds / 2, 1))
