"""Runs many scenarios, one after the other, and says whether each came out as it is expected to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from chaos.result import shown_command
from chaos.runner import run_scenario
from chaos.scenario import Scenario, contradictions
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.result import Result
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
) -> list[Result]:
    """Every scenario with every seed. `say` hears how each goes; `done` of each as soon as it is judged."""
    results: list[Result] = []
    for seed in seeds:
        for scenario in scenarios:
            command = shown_command((*PROGRAM, "run", scenario.name, "--seed", str(seed)))
            result = await run_scenario(scenario, seed=seed, command=command, say=say, server=server)
            results.append(result)
            done(scenario, result)
    return results


def as_expected(scenario: Scenario, result: Result) -> bool:
    """Whether the verdict is the one that the scenario is there to get."""
    return result.judgement.verdict is scenario.expect.verdict


def resized(scenario: Scenario, *, jobs: int | None = None, workers: int | None = None) -> Scenario:
    """The scenario with so many jobs in all, each load keeping its share, and so many workers.

    Raises ConfigError if that does not fit the rest of the scenario.
    """
    told = scenario.model_dump(by_alias=True, exclude_unset=True)
    if jobs is not None:
        total = sum(load.jobs for load in scenario.loads)
        for step in told["steps"]:
            if step.get("load"):
                step["load"]["jobs"] = max(1, round(step["load"]["jobs"] * jobs / total))
    if workers is not None:
        told.setdefault("processes", {})["workers"] = workers
    try:
        changed = Scenario.model_validate(told)
    except ValidationError as error:
        raise ConfigError(f"{scenario.name}: {error.errors()[0]['msg']}") from None
    for _, reason, wrong, _ in contradictions(changed):
        raise ConfigError(f"{scenario.name}, with another size: {wrong or 'count'}: {reason}")
    return changed
