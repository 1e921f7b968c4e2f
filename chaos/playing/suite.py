"""Runs many scenarios, one after the other, and says whether each came out as it is expected to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.playing.environment import HERE
from chaos.playing.runner import run_scenario
from chaos.result import shown_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.playing.environment import Environment
    from chaos.result import Result
    from chaos.scenario.model import Scenario
    from queue_trio.server_binary import ServerBinary

PROGRAM = ("python", "-m", "chaos")


def chosen(scenarios: Iterable[Scenario], *, smoke: bool) -> list[Scenario]:
    """Those of the short suite, or all."""
    return [scenario for scenario in scenarios if scenario.smoke or not smoke]


async def run_suite(
    scenarios: Sequence[Scenario],
    *,
    seeds: Sequence[int],
    say: Callable[[str], None],
    done: Callable[[Scenario, Result], None],
    server: ServerBinary | None = None,
    environment: Environment = HERE,
) -> list[Result]:
    """Every scenario with every seed. `say` hears how each goes; `done` of each as soon as it is judged."""
    results: list[Result] = []
    for seed in seeds:
        for scenario in scenarios:
            words = (*PROGRAM, "run", scenario.name, "--seed", str(seed), *environment.words)
            result = await run_scenario(
                scenario,
                seed=seed,
                command=shown_command(words),
                say=say,
                server=server,
                environment=environment,
            )
            results.append(result)
            done(scenario, result)
    return results


def as_expected(scenario: Scenario, result: Result) -> bool:
    """Whether the verdict is the one that the scenario is there to get, and for the reason that it names."""
    expected, judgement = scenario.expect, result.judgement
    if judgement.verdict is not expected.verdict:
        return False
    return expected.reason is None or expected.reason in " ".join(judgement.reasons[:1])
