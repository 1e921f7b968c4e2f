"""Runs drawn schedules one after the other while there is time, and makes those smaller that break a promise or bound.

Knows no terminal: what is run, told and kept is handed in. What was found is complete at every moment, so that whoever
is interrupted can still tell it.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from chaos.fuzz.complaint import complaints, is_violation, why_not_drained
from chaos.fuzz.draw import draw
from chaos.fuzz.shrink import shrink
from chaos.scenario.writing import plain, to_yaml
from chaos.verdict import Counts, Recovery, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from chaos.fuzz.shrink import Shrunk
    from chaos.result import Result
    from chaos.scenario.model import Scenario

    Runner = Callable[[Scenario, int], Awaitable[Result]]
    """Runs a schedule with the seed of its chance."""
    Keep = Callable[[str, str], str]
    """Keeps the YAML of a schedule under its name, in place of what was there, and says where."""

SEED_MAX: Final = 10**9


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule and what it came to."""

    seed: int
    verdict: Verdict
    complaints: tuple[str, ...]
    reasons: tuple[str, ...]
    faults: dict[str, int]
    """Kinds, and how often each came."""
    counts: Counts
    recoveries: tuple[Recovery, ...]
    seconds: float
    schedule: dict[str, Any]


class Finding(msgspec.Struct, kw_only=True):
    """A schedule that did not pass, as small as it could be made."""

    seed: int
    complaint: str
    why: str
    kept: str
    """Where it is."""
    command: str
    """What runs it again."""
    failed: int = 1
    tries: int = 1
    """How often the smallest failed, and of how many tries."""
    faults: int = 0
    jobs: int = 0
    shrinking_runs: int = 0


class Found(msgspec.Struct, kw_only=True):
    """All that a run of fuzz has found so far."""

    seed: int
    tried: list[Tried] = []
    findings: list[Finding] = []

    @property
    def passed(self) -> bool:
        """Whether there was something, and all of it passed."""
        return bool(self.tried) and all(tried.verdict is Verdict.PASS for tried in self.tried)

    def verdicts(self) -> Counter[Verdict]:
        return Counter(tried.verdict for tried in self.tried)

    def faults(self) -> Counter[str]:
        """Each kind, and how often it came."""
        return sum((Counter(tried.faults) for tried in self.tried), Counter())

    def nearest(self) -> dict[str, Recovery]:
        """Of each bound the recovery that came nearest to it, or broke it worst."""
        worst: dict[str, Recovery] = {}
        for recovery in (recovery for tried in self.tried for recovery in tried.recoveries):
            known = worst.get(recovery.formula)
            if known is None or strain(recovery) > strain(known):
                worst[recovery.formula] = recovery
        return worst


def strain(recovery: Recovery) -> float:
    """What share of its bound it took; infinite if it never came."""
    return (
        float("inf") if recovery.measured_s is None else recovery.measured_s / max(recovery.allowed_s, 1e-9)
    )


def schedule_seeds(seed: int) -> Iterator[int]:
    """A seed for each schedule, without end."""
    rng = Random(f"fuzz {seed}")
    while True:
        yield rng.randrange(SEED_MAX)


class Fuzzer:
    """`found` is what there is so far. `shrink_s`: for making one schedule smaller; 0 for not at all."""

    def __init__(
        self,
        seed: int,
        *,
        run: Runner,
        clock: Callable[[], float],
        say: Callable[[str], None],
        done: Callable[[Tried], None],
        keep: Keep,
        command: Callable[[str, int], str],
        shrink_s: float,
    ) -> None:
        self.found = Found(seed=seed)
        self._run = run
        self._clock = clock
        self._say = say
        self._done = done
        self._keep = keep
        self._command = command
        self._shrink_s = shrink_s

    async def run_for(self, seconds: float) -> None:
        """Draw and run until the time is over; what has begun by then is ended."""
        until_s = self._clock() + seconds
        for seed in schedule_seeds(self.found.seed):
            await self.run_one(seed)
            if self._clock() >= until_s:
                return

    async def run_one(self, seed: int) -> Result:
        """The schedule of that seed."""
        scenario = draw(seed)
        result = await self._run(scenario, seed)
        wrong = complaints(scenario, result.judgement)
        tried = _tried(seed, scenario, result, wrong)
        self.found.tried.append(tried)
        self._done(tried)
        if wrong:
            await self._follow_up(seed, scenario, result, wrong)
        return result

    async def _follow_up(self, seed: int, scenario: Scenario, result: Result, wrong: tuple[str, ...]) -> None:
        known = {finding.complaint for finding in self.found.findings}
        why = "; ".join(filter(None, [result.judgement.reasons[0], why_not_drained(result)]))
        finding = Finding(
            seed=seed,
            complaint=wrong[0],
            why=why,
            kept=self._write(seed, scenario, why),
            command="",
            faults=sum(fault.times for fault in scenario.faults.values()),
            jobs=sum(load.jobs for load in scenario.loads),
        )
        finding.command = self._command(finding.kept, seed)
        self.found.findings.append(finding)
        # Of what fails alike the first is enough: time is better spent on other schedules.
        if is_violation(wrong) and wrong[0] not in known and self._shrink_s:
            await self._shrink(finding, scenario)

    async def _shrink(self, finding: Finding, scenario: Scenario) -> None:
        until_s = self._clock() + self._shrink_s

        async def judge(candidate: Scenario) -> tuple[str, ...]:
            self._say(
                f"trying {len(candidate.faults)} faults, {sum(load.jobs for load in candidate.loads)} jobs"
            )
            return complaints(candidate, (await self._run(candidate, finding.seed)).judgement)

        def better(smaller: Scenario) -> None:
            self._write(finding.seed, smaller, finding.why)
            finding.faults = sum(fault.times for fault in smaller.faults.values())
            finding.jobs = sum(load.jobs for load in smaller.loads)

        shrunk: Shrunk = await shrink(
            scenario,
            finding.complaint,
            judge,
            time_left=lambda: self._clock() < until_s,
            better=better,
        )
        finding.failed, finding.tries, finding.shrinking_runs = shrunk.failed, shrunk.tries, shrunk.runs

    def _write(self, seed: int, scenario: Scenario, why: str) -> str:
        return self._keep(scenario.name, to_yaml(scenario, f"Drawn from seed {seed}, which found: {why}"))


def _tried(seed: int, scenario: Scenario, result: Result, wrong: tuple[str, ...]) -> Tried:
    faults: Counter[str] = Counter()
    for fault in scenario.faults.values():
        faults[fault.kind] += fault.times
    return Tried(
        seed=seed,
        verdict=result.judgement.verdict,
        complaints=wrong,
        reasons=result.judgement.reasons,
        faults=dict(faults),
        counts=result.judgement.counts,
        recoveries=result.judgement.recoveries,
        seconds=result.seconds,
        schedule=plain(scenario),
    )


def in_short(scenario: Scenario) -> str:
    """The faults of a schedule in one line: "+" behind one that the next may meet."""
    words: list[str] = []
    for fault in scenario.faults.values():
        lasts = "" if fault.for_s is None else f" {fault.for_s:g}"
        often = f" ×{fault.times}" if fault.times > 1 else ""
        words.append(f"{fault.kind}{lasts}{often}{' +' if fault.go_on else ','}")
    return " ".join(words).rstrip("+, ")
