"""Two mutants for real, one in Python and one in a script; and what becomes of a run whose mutant cannot be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.mutants import MUTANTS
from chaos.mutants.hunt import Attempt, hunt, killers_of
from chaos.playing.runner import run_scenario
from chaos.scenario.loading import find_scenario, load_all
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from queue_trio.server_binary import ServerBinary


@pytest.mark.parametrize(
    ("name", "killer", "letters"),
    [("dropped-record", "bad-record", "NS"), ("unfenced-settle", "worker-frozen", "FS")],
)
async def test_a_mutant_lives_while_all_is_calm_and_is_killed_under_fault(
    server_binary: ServerBinary, name: str, killer: str, letters: str
) -> None:
    mutant = MUTANTS[name]
    heard: list[tuple[str, str]] = []

    def done(mutant: str, attempt: Attempt) -> None:
        heard.append((mutant, attempt.scenario))

    found = await hunt(
        mutant,
        killers_of(mutant, load_all()),
        seed=1,
        say=lambda _: None,
        done=done,
        server=server_binary,
    )

    assert found.calm.verdict is Verdict.PASS, found.calm.reason
    assert found.kill is not None, found.attempts
    assert found.kill.scenario == killer
    assert found.kill.reason[0] in letters
    assert found.sound
    assert heard == [(name, "calm"), (name, killer)]


async def test_a_run_whose_mutant_cannot_be_made_is_an_error(server_binary: ServerBinary) -> None:
    result = await run_scenario(
        find_scenario("calm"),
        seed=1,
        command="again",
        say=lambda _: None,
        server=server_binary,
        mutant="unheard-of",
    )

    assert result.judgement.verdict is Verdict.ERROR
    assert "unheard-of: there is no such mutant" in result.judgement.reasons[0]
