"""The loop: seeds, time, what is kept and told. Runs are judged by what a schedule holds, so nothing is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from rich.console import Console

from chaos.cli.main import main
from chaos.fuzz.complaint import why_not_drained
from chaos.fuzz.draw import draw
from chaos.fuzz.fuzzing import Found, Fuzzer, Tried, in_short, schedule_seeds
from chaos.fuzz.tables import line, summary
from chaos.history import AtRest, Observation, Run
from chaos.result import Result
from chaos.scenario.loading import load_scenario, parse_scenario
from chaos.scenario.writing import plain
from chaos.verdict import Counts, Invariant, Judgement, Recovery, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.scenario.model import Scenario

Shows = Callable[["Scenario"], bool]


def kills_redis(scenario: Scenario) -> bool:
    return any(fault.kind == "redis_kill" for fault in scenario.faults.values())


def never(scenario: Scenario) -> bool:
    return False


class Bench:
    """A fuzzer whose runs take 10 s of a clock of their own, and fail if the schedule `shows`."""

    def __init__(
        self, shows: Shows, folder: Path, *, verdict: Verdict = Verdict.FAIL, shrink_s: float = 1000
    ) -> None:
        self.now_s = 0.0
        self.runs: list[tuple[Scenario, int]] = []
        self.done: list[Tried] = []
        self._shows = shows
        self._verdict = verdict
        self._folder = folder
        self.fuzzer = Fuzzer(
            7,
            run=self.run,
            clock=lambda: self.now_s,
            say=lambda _: None,
            done=self.done.append,
            keep=self.keep,
            command=lambda file, seed: f"again {file} {seed}",
            shrink_s=shrink_s,
        )

    async def run(self, scenario: Scenario, seed: int) -> Result:
        await trio.lowlevel.checkpoint()
        self.runs.append((scenario, seed))
        self.now_s += 10
        if not self._shows(scenario):
            return result(scenario, Judgement(Verdict.PASS, (), Counts(acknowledged=9), (), ()))
        broken = Invariant("D", "duplicates", held=self._verdict is not Verdict.FAIL)
        return result(
            scenario, Judgement(self._verdict, ("D: a: twice",), Counts(acknowledged=9), (broken,), ())
        )

    def keep(self, name: str, text: str) -> str:
        file = self._folder / f"{name}.yaml"
        file.write_text(text)
        return str(file)


def result(scenario: Scenario, judgement: Judgement, history: list[object] | None = None) -> Result:
    return msgspec.structs.replace(
        Result(
            scenario=scenario.name,
            title=scenario.title,
            promises=("N",),
            seed=1,
            command="again",
            judgement=judgement,
            started_s=0.0,
            ended_s=10.0,
        ),
        history=history or [],
    )


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- the loop ------------------------------------------------------------------------------------------------------


def test_every_schedule_has_a_seed_of_its_own() -> None:
    one, other = (list(islice(schedule_seeds(seed), 50)) for seed in (1, 2))
    assert one == list(islice(schedule_seeds(1), 50))
    assert len({*one, *other}) == 100


async def test_it_goes_on_as_long_as_there_is_time(tmp_path: Path) -> None:
    bench = Bench(never, tmp_path)
    await bench.fuzzer.run_for(35)
    seeds = list(islice(schedule_seeds(7), 4))
    assert [seed for _, seed in bench.runs] == seeds
    assert [scenario for scenario, _ in bench.runs] == [draw(seed) for seed in seeds]
    assert bench.fuzzer.found.passed
    assert bench.fuzzer.found.tried == bench.done
    assert kept(tmp_path) == []


async def test_what_fails_is_made_smaller_and_kept_so_that_it_can_be_run_again(tmp_path: Path) -> None:
    bench = Bench(kills_redis, tmp_path)
    seed = next(seed for seed in range(500) if kills_redis(draw(seed)) and len(draw(seed).faults) > 2)

    await bench.fuzzer.run_one(seed)

    (finding,) = bench.fuzzer.found.findings
    kept = tmp_path / f"fuzz-{seed}.yaml"
    assert (finding.complaint, finding.seed, finding.kept) == ("D", seed, str(kept))
    assert finding.command == f"again {kept} {seed}"
    assert (finding.failed, finding.tries, finding.faults) == (3, 3, 1)
    assert finding.shrinking_runs == len(bench.runs) - 1
    smallest = load_scenario(kept)
    assert [fault.kind for fault in smallest.faults.values()] == ["redis_kill"]
    assert smallest in [scenario for scenario, _ in bench.runs]
    assert {used for _, used in bench.runs} == {seed}
    assert kept.read_text().startswith(f"# Drawn from seed {seed}, which found: D: a: twice")
    assert not bench.fuzzer.found.passed


async def test_of_what_fails_alike_only_the_first_is_made_smaller(tmp_path: Path) -> None:
    bench = Bench(lambda scenario: True, tmp_path, shrink_s=50)
    await bench.fuzzer.run_for(100)
    findings = bench.fuzzer.found.findings
    assert len(findings) > 2
    assert [finding.shrinking_runs > 0 for finding in findings] == [True] + [False] * (len(findings) - 1)
    assert len(kept(tmp_path)) == len(findings)


@pytest.mark.parametrize("verdict", [Verdict.INVALID, Verdict.ERROR])
async def test_a_run_that_proves_nothing_is_no_pass_and_is_kept_as_it_is(
    tmp_path: Path, verdict: Verdict
) -> None:
    bench = Bench(lambda scenario: True, tmp_path, verdict=verdict)
    await bench.fuzzer.run_one(3)
    assert len(bench.runs) == 1
    assert not bench.fuzzer.found.passed
    assert load_scenario(tmp_path / "fuzz-3.yaml") == draw(3)


# --- what is told --------------------------------------------------------------------------------------------------


def shown(*what: object) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*what)
    return captured.get()


async def test_the_summary_tells_what_was_done_and_found(tmp_path: Path) -> None:
    bench = Bench(kills_redis, tmp_path)
    for seed in range(12):
        await bench.fuzzer.run_one(seed)
    found = bench.fuzzer.found
    found.tried[0] = msgspec.structs.replace(
        found.tried[0],
        recoveries=(
            Recovery("first success of clients", 1.0, 1.1, "C"),
            Recovery("drained", None, 40, "settle"),
        ),
    )
    told = shown(summary(found))
    verdicts = found.verdicts()
    assert f"{verdicts[Verdict.FAIL]} FAIL" in told
    assert f"{verdicts[Verdict.PASS]} PASS" in told
    assert "108 acknowledged" in told
    assert f"redis_kill×{found.faults()['redis_kill']}" in told
    assert "1.00 of 1.10 s" in told
    assert "never of 40.00 s" in told
    assert all(finding.command in told for finding in found.findings)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Found) == found


def test_a_summary_of_nothing() -> None:
    assert "nothing ran" in shown(summary(Found(seed=1)))
    assert not Found(seed=1).passed


async def test_a_line_tells_a_schedule(tmp_path: Path) -> None:
    bench = Bench(lambda scenario: True, tmp_path, shrink_s=0)
    await bench.fuzzer.run_one(5)
    told = shown(line(3, bench.done[0]))
    assert told.startswith("   3          5  FAIL")
    assert in_short(draw(5)) in told.replace("\n", " ")
    assert "D: a: twice" in told


def test_why_it_did_not_come_to_rest() -> None:
    history = [
        Observation(1.0, ready={"high": 2}, breaker={"worker-1": "open"}, in_flight={"worker-1": 0}),
        Run(2.0, "a", "end", "worker-1", 1, 1, 1, "returned"),
        AtRest(12.0, drained=False, places={"a": "dead", "b": "leased", "c": "ready", "d": "ready"}),
    ]
    judgement = Judgement(Verdict.INVALID, (), Counts(), (), ())
    told = why_not_drained(result(draw(1), judgement, [*history]))
    assert told.startswith("1 leased, 2 ready; breaker {'worker-1': 'open'}")
    assert told.endswith("the last handler ended 10.0 s before")
    assert why_not_drained(result(draw(1), judgement)) == ""


# --- command line --------------------------------------------------------------------------------------------------


def test_a_schedule_can_be_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["fuzz", "--only", "5", "--show"]) == 0
    assert parse_scenario(capsys.readouterr().out, tmp_path / "fuzz-5.yaml") == draw(5)
    assert json.loads(json.dumps(plain(draw(5))))["name"] == "fuzz-5"


def test_a_wrong_command_line_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--minutes", "-1"]) == 2
    assert "minutes" in capsys.readouterr().err
