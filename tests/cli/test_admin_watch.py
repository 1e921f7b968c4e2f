"""`queue-trio admin stats --watch`: rates, outages, and the ways to show them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.cli.admin.watch import Look, Rates, watch
from queue_trio.core.settings import Settings
from queue_trio.core.store import LaneStats
from queue_trio.errors import NotSent, UsageError
from tests.cli.admin_jobs import put
from tests.cli.conftest import Invoke, command, environment
from tests.support import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis

pytestmark = pytest.mark.leaves_keys("admin looks at jobs, and no worker runs them")


def stats_of(enqueued: int, completed: int, lane: str = "default.0") -> LaneStats:
    numbers = dict.fromkeys(("scheduled", "leased", "dead", "records", "cancelled", "purged", "adjusted"), 0)
    return LaneStats(
        lane=lane, ready={}, enqueued=enqueued, completed=completed, workers=0, paused=False, **numbers
    )


def test_rates_are_what_counters_did_between_two_looks() -> None:
    rates = Rates()
    assert rates.update([stats_of(5, 1)], 10.0) == {}
    assert rates.update([stats_of(25, 2), stats_of(9, 9, "new.0")], 14.0) == {"default.0": (5.0, 0.25)}
    # A server that came back empty has counters that went back.
    assert rates.update([stats_of(0, 0), stats_of(9, 9, "new.0")], 16.0) == {"new.0": (0.0, 0.0)}
    assert rates.update([stats_of(1, 0)], 16.0) == {}


def test_what_makes_no_sense(on_redis: Invoke) -> None:
    ended = on_redis("admin", "stats", "--interval", "1")
    assert ended.code == 2
    assert "--interval goes with --watch" in ended.error
    ended = on_redis("admin", "stats", "--watch", "--interval", "0")
    assert ended.code == 2
    assert "'--interval'" in ended.error
    ended = on_redis("admin", "stats", "nix", "--watch")
    assert ended.code == 2
    assert "queue 'nix' never had a job" in ended.error


def test_no_redis_at_the_beginning(invoke: Invoke) -> None:
    ended = invoke("admin", "stats", "--watch")
    assert ended.code == 5
    assert "correct redis.url" in ended.error


def test_one_json_object_for_each_look(on_redis: Invoke, redis_url: str, project: Path) -> None:
    put(on_redis, "a")
    env = environment(QUEUE_TRIO_REDIS__URL=redis_url)
    words = command("admin", "stats", "--watch", "--interval", "0.1", "--json")
    with subprocess.Popen(
        words, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        put(on_redis, "b")
        rates: list[float | None] = []
        while not any(rates):
            (queue,) = json.loads(process.stdout.readline())["queues"]
            rates.append(queue["enqueued_per_s"])
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == b""
        assert process.wait(timeout=20) == 130
    assert first["at"].endswith("Z")
    assert first["unreachable"] is None
    (queue,) = first["queues"]
    assert (queue["queue"], queue["ready_total"], queue["enqueued_per_s"]) == ("default", 1, None)


def test_one_block_for_each_look_in_a_pipe(on_redis: Invoke, redis_url: str, project: Path) -> None:
    put(on_redis, "a")
    env = environment(QUEUE_TRIO_REDIS__URL=redis_url)
    words = command("admin", "stats", "--watch", "--interval", "0.1")
    with subprocess.Popen(words, cwd=project, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while sum(line.startswith("20") for line in lines) < 3:
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        process.stdout.close()
        # Whoever reads no more ends it, as with `head`.
        assert process.wait(timeout=20) == 141
    blocks = "".join(lines).split("\n\n20")
    assert "enqueued/s  completed/s\n" in blocks[1]
    assert blocks[1].count("\ndefault ") == 2
    assert "default: no worker serves it" in blocks[1]


def test_on_a_terminal_it_stays_in_its_place(on_redis: Invoke, redis_url: str, project: Path) -> None:
    put(on_redis, "a")
    ours, theirs = pty.openpty()
    env = environment(QUEUE_TRIO_REDIS__URL=redis_url, TERM="xterm", NO_COLOR="1")
    words = command("admin", "stats", "--watch", "--interval", "0.1")
    shown = b""
    with subprocess.Popen(words, cwd=project, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while shown.count(b"Ctrl-C ends") < 3:
            shown += os.read(ours, 4096)  # raises if it ended
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # Linux says so where others end the file
            pass
        assert process.wait(timeout=20) == 130
    os.close(ours)
    up = b"\x1b[1A"
    assert shown.count(up) > 10
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1  # the cursor comes back
    assert b"Traceback" not in shown
    assert b"enqueued/s" in shown


async def test_it_goes_on_through_an_outage(private_redis: EmbeddedRedis) -> None:
    settings = Settings.model_validate({"redis": {"url": private_redis.url}})
    looks: list[Look] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, settings, None, 0.05, looks.append)
        await eventually(lambda: bool(looks) and looks[-1].reason is None)
        await private_redis.kill()
        await eventually(lambda: looks[-1].reason is not None)
        await private_redis.restart()
        await eventually(lambda: looks[-1].reason is None)
        nursery.cancel_scope.cancel()
    reasons = {look.reason for look in looks} - {None}
    assert any("cannot connect" in str(reason) or "closed" in str(reason) for reason in reasons)


async def test_what_the_first_look_finds_wrong_is_raised(private_redis: EmbeddedRedis) -> None:
    settings = Settings.model_validate({"redis": {"url": private_redis.url}})
    looks: list[Look] = []
    with pytest.raises(UsageError, match="never had a job"):
        await watch(settings, "nix", 0.05, looks.append)
    await private_redis.kill()
    with pytest.raises(NotSent):
        await watch(settings, None, 0.05, looks.append)
    assert looks == []
