"""A random schedule, for real: processes, a server, proxies, faults that meet, and a verdict; and its end by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import trio

from chaos.fuzz.draw import draw
from chaos.fuzz.fuzzing import Fuzzer
from chaos.playing.runner import run_scenario
from chaos.verdict import Verdict
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.fuzz.fuzzing import Tried
    from chaos.result import Result
    from chaos.scenario.model import Scenario
    from queue_trio.server_binary import ServerBinary

SEED = 188
"""Of a short schedule in which two faults meet."""


async def test_a_drawn_schedule_is_run_and_passes(server_binary: ServerBinary) -> None:
    done: list[Tried] = []
    fuzzer = Fuzzer(
        1,
        run=partial(run, server=server_binary),
        clock=trio.current_time,
        say=lambda _: None,
        done=done.append,
        keep=lambda name, text: name,
        command=lambda file, seed: f"{file} {seed}",
        shrink_s=0,
    )

    result = await fuzzer.run_one(SEED)

    assert result.judgement.verdict is Verdict.PASS, result.judgement.reasons
    assert fuzzer.found.passed
    assert done[0].counts.acknowledged > 100
    assert sum(done[0].faults.values()) == sum(fault.times for fault in draw(SEED).faults.values())
    assert len(result.judgement.proofs) == sum(done[0].faults.values())
    assert done[0].recoveries


async def run(scenario: Scenario, seed: int, *, server: ServerBinary) -> Result:
    return await run_scenario(scenario, seed=seed, command="again", say=lambda _: None, server=server)


async def test_who_is_interrupted_tells_what_was_found_so_far(tmp_path: Path) -> None:
    said, found = tmp_path / "said", tmp_path / "found.json"
    with said.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [
                sys.executable,
                "-m",
                "chaos",
                "fuzz",
                "--seed",
                "1",
                "--to",
                str(tmp_path),
                "--json",
                str(found),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
    children: list[int] = []

    def working() -> bool:
        children[:] = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        return len(children) > 3 or process.poll() is not None

    await eventually(working, 30)
    process.send_signal(signal.SIGINT)
    with trio.fail_after(20):
        assert await process.wait() == 130, said.read_text()
    assert "nothing ran" in said.read_text()
    assert json.loads(found.read_text()) == {"seed": 1, "tried": [], "findings": []}
    assert all(map(is_gone, children))
