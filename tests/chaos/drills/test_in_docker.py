"""Toxiproxy in a container, with a `docker` that stands in for the real one: no engine is needed, and none is tried.

It does what the engine does as far as the harness can see: what it runs is no child of the client's, and lives on when
the client is killed. What it runs is a real Toxiproxy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from chaos.driving.toxiproxy_binary import IMAGE, ensure_toxiproxy
from chaos.driving.toxiproxy_server import open_toxiproxy
from chaos.errors import ApiHangs, NoToxiproxy
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from pathlib import Path

DOCKER = """#!{python}
import os, pathlib, signal, subprocess, sys
here, real, image = pathlib.Path({state!r}), {real!r}, {image!r}
words = sys.argv[1:]
(here / "said").open("a").write(" ".join(words) + "\\n")

def no_such(name):
    sys.exit(f"Error response from daemon: No such container: {{name}}")

match words:
    case ["image", "inspect", name]:
        sys.exit(not (here / "image").exists())
    case ["version"]:
        sys.exit({engine_is_off})
    case ["pull", "--quiet", name]:
        assert name == image
        (here / "image").touch()
    case ["run", "--name", name, "--network", "host", "--volume", volume, "--env", "LOG_LEVEL", what, *flags]:
        assert what == image and volume.endswith(":ro")
        if (here / name).exists():
            sys.exit(f"Conflict. The container name {{name}} is already in use")
        server = subprocess.Popen([real, *flags], start_new_session=True)
        (here / name).write_text(str(server.pid))
        sys.exit(server.wait())
    case ["rm", "--force", name]:
        if not (here / name).exists():
            no_such(name)
        try:
            os.kill(int((here / name).read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
        (here / name).unlink()
    case ["kill", "--signal", which, name]:
        os.kill(int((here / name).read_text()), signal.Signals["SIG" + which])
    case _:
        sys.exit(f"docker: what is {{words}}?")
"""


def put_docker(folder: Path, real: Path, *, engine_is_off: bool = False) -> Path:
    state = folder / "state"
    state.mkdir()
    docker = folder / "docker"
    docker.write_text(
        DOCKER.format(
            python=sys.executable,
            state=str(state),
            real=str(real),
            image=IMAGE,
            engine_is_off=int(engine_is_off),
        )
    )
    docker.chmod(0o755)
    return docker


def no_go(folder: Path) -> None:
    """A `go` that cannot reach anything."""
    go = folder / "go"
    go.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    go.chmod(0o755)


@pytest.fixture(scope="session")
def real() -> Path:
    return ensure_toxiproxy(print)


@pytest.fixture
def docker(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is found where there is no Toxiproxy and no way to install one, but Docker."""
    docker = put_docker(tmp_path, real)
    no_go(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    said: list[str] = []
    assert ensure_toxiproxy(said.append, tmp_path / "own") == docker
    assert said[-1] == f"fetching {IMAGE} with {docker}; this once"
    assert ensure_toxiproxy(said.append, tmp_path / "own") == docker
    assert len([line for line in said if line.startswith("fetching")]) == 1
    return docker


def containers(docker: Path) -> list[Path]:
    return [file for file in (docker.parent / "state").iterdir() if file.name.startswith("queue-trio-")]


def its_pid(docker: Path) -> int:
    (container,) = containers(docker)
    return int(container.read_text())


async def test_a_container_serves_hangs_is_replaced_and_is_gone_at_the_end(docker: Path) -> None:
    async with open_toxiproxy(docker) as server:
        proxy = await server.create("redis", "127.0.0.1:1")
        first = its_pid(docker)
        assert server.version == "2.12.0"
        server.freeze()
        with pytest.raises(ApiHangs):
            await proxy.disable()
        server.thaw()
        await eventually(lambda: answers(server.api.ping), what="it answers again")
        server.freeze()
        assert "restarted" in await server.heal(proxy)
        assert is_gone(first)
        assert (await proxy.told())["enabled"]
        second = its_pid(docker)
    assert is_gone(second)
    assert containers(docker) == []


async def answers(ask: object) -> bool:
    assert callable(ask)
    try:
        await ask()
    except ApiHangs:
        return False
    return True


async def test_a_container_does_not_outlive_a_harness_that_is_killed(docker: Path) -> None:
    program = (
        "import pathlib, sys, trio\n"
        "from chaos.driving.toxiproxy_server import open_toxiproxy\n"
        "async def main():\n"
        "    async with open_toxiproxy(pathlib.Path(sys.argv[1])):\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    async with trio.open_nursery() as nursery:
        harness = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-c", program, str(docker)],
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        assert harness.stdout is not None
        with trio.fail_after(20):
            assert (await harness.stdout.receive_some()).startswith(b"up")  # its line end may come later
        container = its_pid(docker)
        harness.send_signal(signal.SIGKILL)
    await eventually(lambda: is_gone(container), what="the container is gone")
    await eventually(lambda: containers(docker) == [], what="its name is free")


def test_three_ways_are_told_if_there_is_none(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_docker(tmp_path, real, engine_is_off=True)
    no_go(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(NoToxiproxy) as told:
        ensure_toxiproxy(lambda _: None, tmp_path / "own")
    line = str(told.value)
    assert "\n" not in line
    assert all(way in line for way in ("no network", "toxiproxy-server 2.12.0 on PATH", "Go", IMAGE))
