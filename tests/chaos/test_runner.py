"""The parts of a run: its load, what is waited for, what is left, and what the harness's own failures come to."""

from __future__ import annotations

import random
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from chaos.cli.main import main
from chaos.errors import ApiHangs, DidNotBite, HarnessError, leaves
from chaos.history import SUFFIX, Enqueue, Journal, Observation, Run
from chaos.history import Fault as FaultEvent
from chaos.playing.injection import Injection, delays, streams
from chaos.playing.load import Conditions, Tail, parts
from chaos.playing.runner import overruled
from chaos.playing.steps import Player
from chaos.playing.suite import chosen
from chaos.scenario.faults import Condition
from chaos.scenario.loading import find_scenario, load_all
from chaos.scenario.model import Load
from chaos.scenario.reshape import resized
from chaos.verdict import Counts, Judgement, Verdict
from queue_trio.errors import ConfigError
from tests.chaos.histories import OUTAGE, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.scenario.model import Scenario


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / f"harness{SUFFIX}", clock=time.time)
    yield journal
    journal.close()


# --- load ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("producers", [1, 2, 3, 7])
def test_the_parts_of_a_load_are_the_whole_load(producers: int) -> None:
    load = Load(jobs=5, rate=60.0, kind="slow", seconds=0.3, payload=7, delay=20)
    found = parts(load, producers)
    assert len(found) == producers
    assert sum(part.jobs for part in found) == 5
    assert sum(part.rate or 0 for part in found) == pytest.approx(60)
    assert {(*part.kinds, part.seconds, part.payload, part.delay_ms) for part in found} == {
        ("slow", 0.3, 7, 20)
    }


def test_the_tail_counts_what_is_added_and_waits_for_whole_lines(tmp_path: Path, journal: Journal) -> None:
    tail = Tail(tmp_path)
    tail.read()
    assert tail.completed == 0
    for id in ("a", "b"):
        journal.append(Enqueue(1.0, id, "ok"))
    journal.append(Enqueue(1.0, "c", "refused"))
    journal.append(Run(2.0, "a", "end", "w", 1, 1, 1, "returned"))
    tail.read()
    assert (tail.completed, tail.refused) == (0.5, 1)
    journal.append(Run(2.0, "b", "end", "w", 1, 1, 1, "raised"))
    with (tmp_path / f"other{SUFFIX}").open("ab") as other:
        other.write(b'{"type":"run","at_s":1')
    tail.read()
    tail.read()
    assert tail.completed == 0.5


class Seen:
    """Stands where an observer would: what it has seen last."""

    def __init__(self, **seen: Any) -> None:
        self.last = Observation(at_s=1.0, **seen)
        self.loaded = True


@pytest.mark.parametrize(
    ("condition", "seen", "holds"),
    [
        ({"ready_above": 3}, {"ready": {"high": 2, "low": 2}, "leased": 0}, True),
        ({"ready_above": 4}, {"ready": {"high": 2, "low": 2}, "leased": 0}, False),
        ({"ready_below": 5}, {"ready": {"high": 4}, "leased": 0}, True),
        ({"ready_below": 5}, {}, False),  # Redis did not answer: nobody knows
        ({"running": 3}, {"in_flight": {"a": 1, "b": 2}}, True),
        ({"dead": 2}, {"dead": 1}, False),
        ({"breaker": "open"}, {"breaker": {"a": "closed", "b": "open"}}, True),
        ({"breaker": "closed"}, {"breaker": {"a": "closed", "b": "open"}}, False),
        ({"breaker": "closed"}, {"breaker": {}}, False),
        ({"loaded": True}, {}, True),
        ({"completed": 0.5}, {}, False),
        ({"refused": 1}, {}, False),
    ],
)
def test_what_is_waited_for(
    tmp_path: Path, condition: dict[str, Any], seen: dict[str, Any], holds: bool
) -> None:
    there = cast("Any", Seen(**seen))
    conditions = Conditions(Tail(tmp_path), there, there)
    assert conditions.holds(Condition.model_validate(condition)) is holds


async def test_a_wait_ends_with_its_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    there = cast("Any", Seen())
    conditions = Conditions(Tail(tmp_path), there, there)
    assert not await conditions.wait(Condition(dead=1, within=3.0))
    assert trio.current_time() == pytest.approx(3, abs=0.1)
    assert await conditions.wait(Condition(seconds=0.5))


# --- steps -----------------------------------------------------------------------------------------------------------


class Injectors:
    """Hands out injections that only take note, or fail."""

    def __init__(self, *, begin: Exception | None = None) -> None:
        self.done: list[str] = []
        self._begin = begin

    def make(self, name: str, fault: object, *, calm: object) -> Injection:
        async def begin() -> str:
            await trio.lowlevel.checkpoint()
            self.done.append(f"begin {name}")
            if self._begin:
                raise self._begin
            return "it bites"

        async def heal() -> str:
            await trio.sleep(0.01)
            self.done.append(f"heal {name}")
            return "it is gone"

        return Injection(begin, heal)


def player(scenario: Scenario, journal: Journal, injectors: Injectors, tmp_path: Path) -> Player:
    there = cast("Any", Seen())
    conditions = Conditions(Tail(tmp_path), there, there)

    class Producers:
        async def start(self, load: Load) -> None:
            await trio.lowlevel.checkpoint()

    return Player(
        scenario,
        journal,
        producers=cast("Any", Producers()),
        conditions=conditions,
        crew=cast("Any", None),
        injector=cast("Any", injectors),
        say=lambda _: None,
    )


def phases(tmp_path: Path) -> list[tuple[str, str, str]]:
    from chaos.history import read_history

    return [(e.name, e.phase, e.proof) for e in read_history(tmp_path) if isinstance(e, FaultEvent)]


async def test_every_fault_is_written_down_with_its_proofs(
    tmp_path: Path, journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    told = scenario(OUTAGE | {"times": 2})
    await player(told, journal, Injectors(), tmp_path).play()
    once = [
        ("outage", "begin", ""),
        ("outage", "active", "it bites"),
        ("outage", "heal", ""),
        ("outage", "healed", "it is gone"),
    ]
    assert phases(tmp_path) == once * 2
    assert trio.current_time() > 2 * 2.0 + 1.0


async def test_a_fault_that_goes_on_does_not_hold_up_the_next(
    tmp_path: Path, journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    injectors = Injectors()
    other = OUTAGE | {"name": "other", "for": 0.5}
    await player(scenario(OUTAGE | {"go_on": True}, other), journal, injectors, tmp_path).play()
    assert injectors.done == ["begin outage", "begin other", "heal other", "heal outage"]


async def test_a_fault_is_healed_though_the_run_is_given_up(tmp_path: Path, journal: Journal) -> None:
    injectors = Injectors()
    with trio.move_on_after(0.1):
        await player(scenario(OUTAGE), journal, injectors, tmp_path).play()
    assert injectors.done == ["begin outage", "heal outage"]


async def test_what_cannot_be_injected_ends_the_run_and_is_healed(tmp_path: Path, journal: Journal) -> None:
    injectors = Injectors(begin=ApiHangs("Toxiproxy did not answer"))
    with pytest.RaisesGroup(ApiHangs):
        await player(scenario(OUTAGE), journal, injectors, tmp_path).play()
    assert injectors.done == ["begin outage", "heal outage"]


@pytest.mark.parametrize("go_on", [False, True])
async def test_what_there_is_nothing_to_hit_with_makes_the_run_void_and_is_healed(
    tmp_path: Path, journal: Journal, go_on: bool
) -> None:
    injectors = Injectors(begin=DidNotBite("worker-1 did not come to 'sweeping'"))
    one = player(
        scenario(OUTAGE | {"go_on": go_on}, OUTAGE | {"name": "later"}), journal, injectors, tmp_path
    )
    await one.play()
    assert one.void == ["fault outage did not bite: worker-1 did not come to 'sweeping'"]
    assert injectors.done == ["begin outage", "heal outage"]


def test_of_each_four_delays_one_is_from_every_quarter() -> None:
    drawn = list(islice(delays(100, 500, random.Random(1)), 40))
    for at in range(0, 40, 4):
        assert sorted((late_ms - 100) // 100 for late_ms in drawn[at : at + 4]) == [0, 1, 2, 3]
    assert drawn == list(islice(delays(100, 500, random.Random(1)), 40))


async def test_a_condition_that_never_comes_makes_the_run_void(
    tmp_path: Path, journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    until = {"kind": "proxy_down", "until": {"dead": 1, "within": 2.0}}
    one = player(scenario(until, OUTAGE), journal, (injectors := Injectors()), tmp_path)
    await one.play()
    assert one.void == ["fault proxy_down: dead did not come within 2 s"]
    assert injectors.done == ["begin proxy_down", "heal proxy_down"]


def test_both_ways_are_two_directions() -> None:
    assert streams("both") == ("upstream", "downstream")
    assert streams("upstream") == ("upstream",)


# --- verdict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "errors", "void", "comes_to"),
    [
        (Verdict.PASS, [], [], Verdict.PASS),
        (Verdict.PASS, ["the harness broke"], [], Verdict.ERROR),
        (Verdict.FAIL, ["the harness broke"], ["nothing came"], Verdict.ERROR),
        (Verdict.PASS, [], ["nothing came"], Verdict.INVALID),
        (Verdict.FAIL, [], ["nothing came"], Verdict.FAIL),
    ],
)
def test_what_the_harness_failed_to_do_is_never_a_pass(
    verdict: Verdict, errors: list[str], void: list[str], comes_to: Verdict
) -> None:
    reasons = ("broken",) if verdict is Verdict.FAIL else ()
    judgement = overruled(Judgement(verdict, reasons, Counts(), (), ()), errors, void)
    assert judgement.verdict is comes_to
    assert set(judgement.reasons) == {*errors, *void, *reasons}


def test_errors_are_found_in_groups_of_groups() -> None:
    one, two = HarnessError("one"), ValueError("two")
    assert leaves(ExceptionGroup("", [one, ExceptionGroup("", [two])])) == [one, two]


# --- suite and command line ------------------------------------------------------------------------------------------


def test_the_short_suite_is_part_of_the_long_one() -> None:
    everything = load_all()
    short = chosen(everything, smoke=True)
    assert chosen(everything, smoke=False) == everything
    assert 5 < len(short) < len(everything)


def test_a_scenario_of_another_size_keeps_its_shape() -> None:
    whole = find_scenario("redis-outage")
    small = resized(whole, jobs=106, workers=3)
    assert [load.jobs for load in small.loads] == [6, 100]
    assert small.processes.workers == 3
    assert small.faults == whole.faults
    assert resized(whole) == whole


def test_a_size_that_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match="many-reapers"):
        resized(find_scenario("many-reapers"), workers=1)


def test_the_list_has_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert all(scenario.name in told for scenario in load_all())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "short-outag"], 3, "short-outage"),
        (["run"], 2, "NAME"),
        (["suite", "huge"], 2, "huge"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert main(arguments) == code
    assert says in capsys.readouterr().err
