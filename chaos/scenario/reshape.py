"""Makes a scenario into another one: other sizes, other jobs, other routes. What does not fit together is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chaos.scenario.model import Scenario, contradictions
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def told(scenario: Scenario) -> dict[str, Any]:
    """The scenario as its file has it, to be changed."""
    return scenario.model_dump(by_alias=True, exclude_unset=True)


def changed(told: Mapping[str, Any], what: str) -> Scenario:
    """The scenario that `told` describes. Raises ConfigError, which begins with `what`, if it does not fit together."""
    try:
        scenario = Scenario.model_validate(told)
    except ValidationError as error:
        raise ConfigError(f"{what}: {error.errors()[0]['msg']}") from None
    for _, reason, wrong, _ in contradictions(scenario):
        raise ConfigError(f"{what}: {wrong or 'count'}: {reason}")
    return scenario


def resized(scenario: Scenario, *, jobs: int | None = None, workers: int | None = None) -> Scenario:
    """The scenario with so many jobs in all, each load keeping its share, and so many workers.

    Raises ConfigError if that does not fit the rest of the scenario.
    """
    other = told(scenario)
    if jobs is not None:
        total = sum(load.jobs for load in scenario.loads)
        for step in other["steps"]:
            if step.get("load"):
                step["load"]["jobs"] = max(1, round(step["load"]["jobs"] * jobs / total))
    if workers is not None:
        other.setdefault("processes", {})["workers"] = workers
    return changed(other, f"{scenario.name}, with another size")
