"""Runs against a Redis and a Toxiproxy that others run; the Redis has a password, and its user few permissions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import trio

from chaos.driving.toxiproxy import Toxic
from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.driving.toxiproxy_server import ToxiproxyServer, open_toxiproxy
from queue_trio.embedded import open_embedded_redis
from tests.support import connect, eventually, is_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from queue_trio.server_binary import ServerBinary

PASSWORD = "s3cret-of-staging"
# Neither CONFIG nor KEYS, and no key but those of a run. A worker does not start without INFO.
USER = ("on", f">{PASSWORD}", "~qt-chaos:*", "+@all", "-@admin", "-@dangerous", "+info")


@dataclass(frozen=True)
class Place:
    """What others run. `theirs`: a key that is none of the harness's business."""

    url: str
    unix_socket: Path
    toxiproxy: ToxiproxyServer
    server: ServerBinary

    @property
    def options(self) -> list[str]:
        api = self.toxiproxy.api.url
        proxies = ["--proxy", "workers=one", "--proxy", "clients=other"]
        return ["--toxiproxy", api, *proxies, "--redis", self.url, "--i-own-this-redis"]

    def keys(self) -> list[str]:
        with connect(self.unix_socket) as client:
            return sorted(bytes(key).decode() for key in client.scan_iter())

    async def is_as_it_was(self) -> bool:
        state = await self.toxiproxy.api.state()
        sound = all(told["enabled"] and not told["toxics"] for told in state.values())
        upstream = {told["upstream"] for told in state.values()} == {self.url.partition("@")[2][:-2]}
        return sound and upstream and self.keys() == ["theirs"]


@asynccontextmanager
async def open_place(binary: ServerBinary) -> AsyncIterator[Place]:
    async with (
        open_embedded_redis(server=binary, port=True) as redis,
        open_toxiproxy(ensure_toxiproxy(print)) as toxiproxy,
    ):
        with connect(redis.unix_socket) as client:
            client.set("theirs", "precious")
            client.execute_command("ACL", "SETUSER", "chaos", *USER)  # type: ignore[no-untyped-call]
        address = f"127.0.0.1:{redis.port}"
        for name in ("one", "other"):
            await toxiproxy.create(name, address)
        yield Place(f"redis://chaos:{PASSWORD}@{address}/0", redis.unix_socket, toxiproxy, binary)


@pytest.fixture
async def place(server_binary: ServerBinary) -> AsyncIterator[Place]:
    async with open_place(server_binary) as place:
        yield place
        assert await place.is_as_it_was()


async def chaos(*arguments: str, folder: Path, within_s: float = 100) -> subprocess.CompletedProcess[str]:
    """`python -m chaos`, its temporary files in `folder`."""
    with trio.fail_after(within_s):
        done = await trio.run_process(
            [sys.executable, "-m", "chaos", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=os.environ | {"TMPDIR": str(folder)},
        )
    return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.decode(), done.stderr.decode())


def holding(folder: Path, text: str) -> list[str]:
    """Files below `folder` that hold `text`."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if text.encode() in file.read_bytes()]


async def test_a_network_scenario_passes_and_says_what_it_could_not_judge(
    place: Place, tmp_path: Path
) -> None:
    found, page = tmp_path / "found.json", tmp_path / "page.html"
    reports = ["--json", str(found), "--report", str(page), "--keep"]

    done = await chaos("run", "slow-close", *place.options, *reports, folder=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_bytes())
    assert result["judgement"]["verdict"] == "PASS"
    letters = [invariant["letter"] for invariant in result["judgement"]["invariants"]]
    assert letters == ["N", "U", "S", "F", "A", "D", "Z", "C"]
    assert result["not_tested"][0].startswith("P, priority is exact: ")
    assert result["versions"]["server"].startswith(place.server.version.label)
    assert set(result["redis_settings"].values()) == {"unknown"}
    assert "redis://***@" in result["command"]
    assert PASSWORD not in done.stdout + done.stderr
    assert holding(tmp_path, '"phase":"invoke"') != []  # the journals are there
    assert holding(tmp_path, PASSWORD) == []
    assert await place.is_as_it_was()


async def test_a_worker_that_is_killed_leaves_nothing_there_either(place: Place, tmp_path: Path) -> None:
    done = await chaos("run", "worker-killed-settled", "--jobs", "200", *place.options, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.keys() == ["theirs"]


async def test_ctrl_c_in_the_middle_of_a_fault_leaves_it_as_it_was(place: Place, tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "chaos", "run", "redis-outage", *place.options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        # A shell that puts us into the background makes its children deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    async def is_cut() -> bool:
        return not any(told["enabled"] for told in (await place.toxiproxy.api.state()).values())

    await eventually(is_cut, 60, what="the fault is there")
    children = [child.pid for child in psutil.Process(process.pid).children()]
    process.send_signal(signal.SIGINT)
    with trio.fail_after(30):
        assert await process.wait() == 130
    assert all(map(is_gone, children))
    assert await place.is_as_it_was()


async def test_what_is_not_as_it_must_be_is_refused_and_not_changed(place: Place, tmp_path: Path) -> None:
    """Each in one line, with the exit code for a wrong configuration."""

    async def refused(*options: str) -> str:
        done = await chaos("run", "short-outage", *options, folder=tmp_path)
        assert done.returncode == 3, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert PASSWORD not in done.stderr
        return done.stderr

    one = await place.toxiproxy.api.adopt("one")
    await one.add(Toxic("theirs", "latency", "upstream", {"latency": 1}))
    assert "has toxics" in await refused(*place.options)
    assert [toxic["name"] for toxic in (await one.told())["toxics"]] == ["theirs"]
    await one.remove("theirs")
    await one.disable()
    assert "is down" in await refused(*place.options)
    assert not (await one.told())["enabled"]
    await one.enable()

    assert "it has one, other" in await refused(*place.options[:2], "--proxy", "two", *place.options[6:])

    async with open_place(place.server) as elsewhere:
        other = [*elsewhere.options[:6], *place.options[6:]]
        assert "leads to another Redis" in await refused(*other)
        assert await elsewhere.is_as_it_was()

    with connect(place.unix_socket) as client:
        client.hset("qt-chaos:{default.0}:job", "theirs", "a job")
        assert "is there already" in await refused(*place.options)
        assert client.hgetall("qt-chaos:{default.0}:job") == {b"theirs": b"a job"}
        client.delete("qt-chaos:{default.0}:job")

    wrong = place.url.replace(PASSWORD, "wrong")
    assert "Redis at 127.0.0.1" in await refused(*place.options[:6], "--redis", wrong, "--i-own-this-redis")
