"""`enqueue --wait-if-full` and `producer --rate`: from the command line to what happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

pytestmark = pytest.mark.leaves_keys("queueing jobs is what is tested, and no worker runs")


def test_a_full_queue_is_waited_for(on_redis: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__MAX_LENGTH", "1")
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__TIMEOUT", "0.5")
    assert on_redis("enqueue", "tasks:app", "touch", "path=x").code == 0
    began = time.monotonic()
    refused = on_redis("enqueue", "tasks:app", "touch", "path=y", "--wait-if-full")
    assert refused.code == 1
    assert "the queue holds client.max_length (1) jobs" in refused.error
    assert time.monotonic() - began > 0.5


def test_a_producer_takes_its_time(on_redis: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.txt").write_text("x")
    began = time.monotonic()
    ended = on_redis("producer", "tasks:app", "touch", str(folder), "--rate", "10")
    assert "6 files enqueued" in ended.out
    assert time.monotonic() - began > 0.35


@pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan"])
def test_a_rate_that_is_none(on_redis: Invoke, tmp_path: Path, rate: str) -> None:
    ended = on_redis("producer", "tasks:app", "touch", str(tmp_path), f"--rate={rate}")
    assert ended.code == 2
    assert "give files per second, 0.001 or more" in ended.error
