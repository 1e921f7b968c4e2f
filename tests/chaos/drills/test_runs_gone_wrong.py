"""What the short suite does not show: runs that must not pass, and one that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import trio

from chaos.playing.runner import run_scenario
from chaos.playing.suite import as_expected
from chaos.scenario.loading import find_scenario
from chaos.scenario.reshape import resized
from chaos.verdict import Verdict
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.server_binary import ServerBinary


async def test_when_toxiproxy_hangs_the_verdict_is_error(server_binary: ServerBinary) -> None:
    scenario = resized(find_scenario("toxiproxy-hangs"), jobs=40)

    result = await run_scenario(scenario, seed=1, command="again", say=lambda _: None, server=server_binary)

    assert result.judgement.verdict is Verdict.ERROR
    assert "did not answer in time" in result.judgement.reasons[0]
    assert as_expected(scenario, result)


async def test_a_worker_that_ends_by_itself_is_replaced_and_counts_as_an_intervention(
    server_binary: ServerBinary,
) -> None:
    def say(text: str) -> None:
        if text.startswith("load"):
            children = psutil.Process().children()
            next(child for child in children if "chaos.actors.worker_main" in child.cmdline()).kill()

    result = await run_scenario(
        find_scenario("scripts-gone"),
        seed=1,
        command="again",
        say=say,
        server=server_binary,
    )

    assert result.judgement.verdict is Verdict.FAIL
    assert result.judgement.counts.manual_interventions == 1
    assert result.judgement.counts.lost == 0
    assert "manual interventions: 1, expected == 0" in result.judgement.reasons
    assert [action.what for action in result.actions() if "exit code -9" in action.what]


async def test_who_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    said, folder = tmp_path / "said", tmp_path / "t"
    folder.mkdir()
    with said.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "chaos", "run", "redis-outage"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(folder)},
        )
    await eventually(lambda: b"proxy_down" in said.read_bytes() or process.poll() is not None, 30)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    with trio.fail_after(15):
        assert await process.wait() == 130, said.read_text()
    assert len(children) > 5
    assert all(map(is_gone, children))
    assert list(folder.iterdir()) == []
