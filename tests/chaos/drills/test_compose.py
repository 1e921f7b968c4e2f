"""What docker-compose.chaos.yml describes, started as processes of this machine, and the documented run against it."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from chaos.driving.toxiproxy import Api
from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.errors import HarnessError
from tests.chaos.compose import DOCUMENT, ROOT, Local, commands_in, load, variables
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


WORKERS = ["worker-1", "worker-2", "worker-3", "worker-4"]


def free_ports(count: int) -> list[str]:
    """Below those that outgoing connections get: a proxy that is down must get its own back."""
    found: list[str] = []
    choose = random.SystemRandom()
    while len(found) < count:
        port = choose.randrange(20_000, 32_000)
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(str(port))
    return list(dict.fromkeys(found)) if len(set(found)) == count else free_ports(count)


class Services:
    """The services, each a process, started when those it waits for are healthy."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        names = [name for name in variables() if name.endswith("_PORT")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.defaults = {variables()[name]: port for name, port in self.ports.items()}
        self.journals = folder / "journals"
        self.journals.mkdir()
        document = load(self.ports | {"CHAOS_JOURNALS": str(self.journals)})
        # Mounted as it is there; here its hosts and ports have to be those of this machine.
        (mount,) = document["services"]["toxiproxy"]["volumes"]
        source, mount["source"] = ROOT / mount["source"], str(folder / "toxiproxy.json")
        self.local = Local(document)
        (folder / "toxiproxy.json").write_text(self.local.text(source.read_text(), "toxiproxy"))
        self.processes: dict[str, trio.Process] = {}
        self._folder = folder
        self._nursery = nursery

    @property
    def toxiproxy(self) -> str:
        """Address of its API."""
        return f"http://127.0.0.1:{self.ports['CHAOS_TOXIPROXY_PORT']}"

    async def start_all(self) -> None:
        redis = shutil.which("redis-server")
        assert redis is not None
        port = self.ports["CHAOS_REDIS_PORT"]
        # An image's own: where it keeps its data, and the port that is published.
        own = ["--port", port, "--bind", "127.0.0.1", "--dir", str(self._folder)]
        await self._start("redis", [redis, *self.local.command("redis")[1:], *own])
        await self._healthy(["redis-cli", "-p", port, "ping"])
        await self._start("toxiproxy", [str(ensure_toxiproxy(print)), *self.local.command("toxiproxy")])
        api = f"http://127.0.0.1:{self.ports['CHAOS_TOXIPROXY_PORT']}/version"
        await self._healthy(
            [sys.executable, "-c", f"import urllib.request as u; u.urlopen({api!r}, timeout=2)"]
        )
        for name in WORKERS:
            python, *words = self.local.command(name)
            assert python == "python"
            await self._start(name, [sys.executable, *words], PYTHONPATH=str(ROOT))
        for name in WORKERS:
            _, python, *test = self.local.document["services"][name]["healthcheck"]["test"]
            assert python == "python"
            await self._healthy([sys.executable, *(self.local.text(word, name) for word in test)])

    async def _toxiproxy_answers(self) -> bool:
        try:
            await Api(self.toxiproxy).ping()
        except HarnessError:
            return False
        return True

    async def _start(self, name: str, command: list[str], **more: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("QUEUE_TRIO_")}
        process = await self._nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                cwd=self._folder,
                env=kept | self.local.environment(name) | more,
            )
        )
        self.processes[name] = process

    async def _healthy(self, test: list[str]) -> None:
        async def passes() -> bool:
            done = await trio.run_process(
                test, capture_stdout=True, capture_stderr=True, check=False, cwd=self._folder
            )
            return done.returncode == 0

        await eventually(passes, 40, what=" ".join(test))

    def documented(self) -> list[str]:
        """The command of the page, for the ports that we have."""
        (words,) = (words for words in commands_in(DOCUMENT) if "--journals" in words)
        told = "\0".join(words).replace("\0chaos-journals\0", f"\0{self.journals}\0")
        for default, port in self.defaults.items():
            told = told.replace(f":{default}", f":{port}")
        return [sys.executable, *told.split("\0")[1:]]

    async def end(self, name: str) -> int:
        """Its exit code after SIGTERM."""
        process = self.processes[name]
        process.terminate()
        with trio.fail_after(10):  # its stop_grace_period
            return await process.wait()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with running(tmp_path) as services:
        yield services


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Services]:
    async with trio.open_nursery() as nursery:
        services = Services(folder, nursery)
        await services.start_all()
        yield services
        nursery.cancel_scope.cancel()


async def run(command: list[str], folder: Path) -> dict[str, object]:
    """The result of a run that passes."""
    found = folder / "found.json"
    with trio.fail_after(100):
        done = await trio.run_process(
            [*command, "--json", str(found)], capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    result = json.loads(found.read_bytes())
    assert result["judgement"]["verdict"] == "PASS"
    assert isinstance(result, dict)
    return result


async def test_the_documented_run_passes_more_than_once_and_leaves_the_workers_alone(
    services: Services, tmp_path: Path
) -> None:
    pids = {name: process.pid for name, process in services.processes.items()}
    first = await run(services.documented(), tmp_path)
    other = ["redis-outage" if word == "short-outage" else word for word in services.documented()]
    second = await run(other, tmp_path)

    for result in (first, second):
        history = result["history"]
        assert isinstance(history, list)
        assert {event["worker"] for event in history if event["type"] == "run"} == set(WORKERS)
        untested = result["not_tested"]
        assert isinstance(untested, list)
        assert [line[:2] for line in untested[:2]] == ["P,", "C,"]
    told = await Api(services.toxiproxy).state()
    assert all(proxy["enabled"] and not proxy["toxics"] for proxy in told.values())
    assert {name: process.pid for name, process in services.processes.items()} == pids
    for name in WORKERS:
        assert await services.end(name) == 0
