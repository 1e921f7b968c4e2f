"""`python -m chaos suite smoke`, a test for each of its scenarios: each gets the verdict that it is there to get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from chaos.playing.suite import as_expected, chosen, run_suite
from chaos.report.page import render_page
from chaos.report.terminal import full, line
from chaos.result import from_json, to_json
from chaos.scenario.loading import load_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.scenario.model import Scenario
    from queue_trio.server_binary import ServerBinary

SEED = 0  # the suite's own


@pytest.mark.parametrize("scenario", chosen(load_all(), smoke=True), ids=lambda scenario: scenario.name)
async def test_every_promise_is_kept(
    server_binary: ServerBinary, scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    (result,) = await run_suite(
        [scenario], seeds=[SEED], say=print, done=lambda *_: None, server=server_binary
    )

    record_property("chaos", line(result).plain)
    record_property("seconds", result.seconds)
    Console(width=120).print(full(result))  # pytest shows it if the test fails
    assert as_expected(scenario, result), result.judgement.reasons
    assert result.judgement.counts.acknowledged == sum(load.jobs for load in scenario.loads)
    assert len(result.judgement.proofs) == sum(fault.times for fault in scenario.faults.values())
    assert all(proof.seen and not proof.missing for proof in result.judgement.proofs)
    assert from_json(to_json(result)) == result
    assert scenario.title in render_page(result)
