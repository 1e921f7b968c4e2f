"""A run is judged from its server's append-only file too: the whole of it, and a bug that only that shows is found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chaos.history import Run
from chaos.playing.runner import run_scenario
from chaos.scenario.loading import find_scenario
from chaos.scenario.model import Scenario

if TYPE_CHECKING:
    from chaos.result import Result
    from queue_trio.server_binary import ServerBinary

ORPHANS = Scenario.model_validate(
    {
        "name": "orphans",
        "title": "Workers are killed, and living ones take their jobs back",
        "promises": "SP",
        "processes": {"workers": 3},
        "steps": [
            {"load": {"jobs": 90, "rate": 40, "kind": "slow", "seconds": 0.4, "priorities": {"high": 1, "low": 2}}},
            {"wait": {"seconds": 0.8}},
            {"fault": {"kind": "worker_kill", "phase": "running", "for": 3}},
            {"settle": {"within": 30}},
        ],
    }
)  # fmt: skip


async def ran(scenario: Scenario, server: ServerBinary, mutant: str = "") -> Result:
    return await run_scenario(scenario, seed=0, command="", say=print, server=server, mutant=mutant)


async def test_the_file_tells_of_every_run_and_of_no_breach(server_binary: ServerBinary) -> None:
    result = await ran(ORPHANS, server_binary)
    rest = result.at_rest()
    assert rest is not None, result.judgement.reasons
    assert (rest.violations, rest.inversions) == ((), ())
    assert rest.transactions is not None
    assert rest.leases is not None
    runs = {(event.id, event.fence) for event in result.history if isinstance(event, Run)}
    assert rest.transactions > rest.leases >= len(runs) > 90, "each run had a lease, and some jobs had two"


async def test_a_reap_in_two_steps_is_found_though_nothing_is_lost(server_binary: ServerBinary) -> None:
    result = await ran(ORPHANS, server_binary, "two-step-reap")
    rest = result.at_rest()
    assert rest is not None, result.judgement.reasons
    told = re.compile(
        r"\S+: nowhere, though it has a record \(was in lease\), after transaction \d+ of \d+, until"
    )
    assert rest.violations
    assert all(told.match(line) for line in rest.violations), rest.violations
    assert "S" in {one.letter for one in result.judgement.invariants if not one.held}


async def test_looped_is_judged_by_its_places_and_not_by_priority(server_binary: ServerBinary) -> None:
    scenario = find_scenario("calm")
    looped = scenario.model_copy(update={"settings": {"worker": {"dequeue_strategy": "looped"}}})
    result = await ran(looped, server_binary)
    rest = result.at_rest()
    assert rest is not None, result.judgement.reasons
    assert (rest.violations, rest.inversions) == ((), ())
    assert rest.leases is not None
    assert rest.leases >= sum(load.jobs for load in looped.loads)
