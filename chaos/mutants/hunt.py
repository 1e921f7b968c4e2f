"""Runs mutants against the scenarios that are there to find them, and says of each whether it was found, and by what.

A mutant is killed by a run that FAILs for a reason which its bug explains. ERROR and INVALID kill nobody, nor does a
FAIL for another reason; and a mutant that does not even pass `calm`, where nothing goes wrong, proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from chaos.mutants.mutant import Mutant
from chaos.playing.runner import run_scenario
from chaos.playing.suite import PROGRAM, as_expected
from chaos.result import shown_command
from chaos.scenario.loading import find_scenario
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.result import Result
    from chaos.scenario.model import Scenario
    from queue_trio.server_binary import ServerBinary

CALM: Final = "calm"
"""The scenario without a fault."""


class Attempt(msgspec.Struct, frozen=True):
    """One run, with or without a mutant in it. `reason`: why it did not pass, the one that tells of the bug first."""

    scenario: str
    verdict: Verdict
    reason: str
    found: bool
    """It failed as the bug makes it fail."""
    seconds: float


class Hunt(msgspec.Struct, frozen=True):
    """Everything that was run for one mutant. `baseline`: the same scenarios without it, if that was asked for."""

    mutant: Mutant
    seed: int
    calm: Attempt
    attempts: tuple[Attempt, ...]
    baseline: tuple[Attempt, ...] = ()

    @property
    def kill(self) -> Attempt | None:
        """The first run that found it."""
        return next((attempt for attempt in self.attempts if attempt.found), None)

    @property
    def survives_calm(self) -> bool:
        return self.calm.verdict is Verdict.PASS

    @property
    def sound(self) -> bool:
        """Whether its kill counts: it shows under the fault, and neither without the fault nor without the bug."""
        without = all(attempt.verdict is Verdict.PASS for attempt in self.baseline)
        return self.kill is not None and self.survives_calm and without

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in (self.calm, *self.attempts, *self.baseline))


def killers_of(mutant: Mutant, scenarios: Iterable[Scenario]) -> list[Scenario]:
    """The scenarios that name it in `kills`."""
    return [scenario for scenario in scenarios if mutant.name in scenario.kills]


async def hunt(
    mutant: Mutant,
    scenarios: Sequence[Scenario],
    *,
    seed: int,
    say: Callable[[str], None],
    done: Callable[[str, Attempt], None],
    every: bool = False,
    baseline: bool = False,
    server: ServerBinary | None = None,
) -> Hunt:
    """Run it against `calm`, then against `scenarios` until one has found it, or `every` one of them.

    `baseline`: run each of those without it, too. `done` hears of each run: the mutant's name ("" without it), and what
    came out.
    """

    async def run(scenario: Scenario, name: str) -> Attempt:
        words = (*PROGRAM, "mutants", mutant.name, "--seed", str(seed))
        result = await run_scenario(
            scenario,
            seed=seed,
            command=shown_command(words),
            say=lambda text: say(f"{name or 'no mutant'}, {scenario.name}: {text}"),
            server=server,
            mutant=name,
        )
        attempt = judged(mutant, scenario, result)
        done(name, attempt)
        return attempt

    calm = await run(find_scenario(CALM), mutant.name)
    attempts: list[Attempt] = []
    without: list[Attempt] = []
    for scenario in scenarios:
        if baseline:
            without.append(await run(scenario, ""))
        attempts.append(await run(scenario, mutant.name))
        if attempts[-1].found and not every:
            break
    return Hunt(mutant, seed, calm, tuple(attempts), tuple(without))


def judged(mutant: Mutant, scenario: Scenario, result: Result) -> Attempt:
    """What a run says of a mutant."""
    judgement = result.judgement
    sign = mutant.sign_of(result) if judgement.verdict is Verdict.FAIL else None
    first = judgement.reasons[0] if judgement.reasons and not as_expected(scenario, result) else ""
    return Attempt(
        scenario=scenario.name,
        verdict=judgement.verdict,
        reason=_words(sign or first, result),
        found=sign is not None,
        seconds=round(result.seconds, 1),
    )


def _words(reason: str, result: Result) -> str:
    """The reason; of a broken promise its first offender's, without a name, and how many there are."""
    letter, _, rest = reason.partition(": ")
    for invariant in result.judgement.invariants:
        if invariant.letter == letter and invariant.offenders:
            worst = next((one for one in invariant.offenders if one.why in rest), invariant.offenders[0])
            more = f" (and {invariant.count - 1} more)" if invariant.count > 1 else ""
            return f"{letter}: {worst.why}{more}"
    return reason
