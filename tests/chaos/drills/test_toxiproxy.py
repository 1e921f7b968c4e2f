"""Toxiproxy as the harness drives it: a real server, a real upstream, and every change read back."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from chaos.driving.toxiproxy import Toxic
from chaos.driving.toxiproxy_binary import NAME, ensure_toxiproxy, find_toxiproxy
from chaos.driving.toxiproxy_server import open_toxiproxy
from chaos.errors import ApiHangs, HarnessError, NoToxiproxy
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chaos.driving.toxiproxy import Proxy
    from chaos.driving.toxiproxy_server import ToxiproxyServer


@pytest.fixture(scope="session")
def binary() -> Path:
    return ensure_toxiproxy(print)


@pytest.fixture
async def server(binary: Path) -> AsyncIterator[ToxiproxyServer]:
    async with open_toxiproxy(binary) as server:
        yield server


@pytest.fixture
async def proxy(server: ToxiproxyServer) -> AsyncIterator[Proxy]:
    """A proxy before something that sends back what it gets."""
    async with echo() as port:
        yield await server.create("redis", f"127.0.0.1:{port}")


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ask(proxy: Proxy, text: bytes = b"hello") -> bytes:
    """What comes back until all is there, or the connection is closed."""
    got = b""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream(*proxy.address) as stream:
            await stream.send_all(text)
            while len(got) < len(text) and (data := await stream.receive_some()):
                got += data
    return got


async def test_what_goes_through_is_counted(server: ToxiproxyServer, proxy: Proxy) -> None:
    assert await ask(proxy) == b"hello"

    async def counted() -> bool:
        traffic = await proxy.traffic()
        return traffic.received == traffic.sent == {"upstream": 5, "downstream": 5}

    await eventually(counted)
    assert await server.connections("redis") == (1, 0)


async def test_a_proxy_that_is_down_refuses_until_it_is_up_again(proxy: Proxy) -> None:
    assert await proxy.disable() == "read back: proxy redis is down, no toxics"
    with pytest.raises(OSError, match="all attempts to connect"):
        await ask(proxy)
    assert await proxy.enable() == "read back: proxy redis is up, no toxics"
    assert await ask(proxy) == b"hello"


async def test_a_toxic_bites_and_is_read_back(proxy: Proxy) -> None:
    proof = await proxy.add(Toxic("slow", "latency", "downstream", {"latency": 200}))
    assert proof == "read back: proxy redis is up, latency downstream latency=200"
    began = trio.current_time()
    assert await ask(proxy) == b"hello"
    assert trio.current_time() - began >= 0.2
    assert "no toxics" in await proxy.remove("slow")


async def test_dropped_bytes_prove_that_a_reply_was_lost(proxy: Proxy) -> None:
    await proxy.add(Toxic("lost", "timeout", "downstream", {"timeout": 100}))
    assert await ask(proxy, b"12345678") == b""

    async def dropped() -> bool:
        return (await proxy.traffic()).dropped["downstream"] == 8

    await eventually(dropped)


@pytest.mark.parametrize(
    ("toxic", "said"),
    [
        (Toxic("x", "latency", "upstream", {"latencey": 1}), "no attribute 'latencey'"),
        (Toxic("x", "bandwidth", "upstream", {"rate": -1}), "rate=-1"),
        (Toxic("x", "loss", "upstream", {}), "toxic 'loss': there are latency"),
    ],
)
async def test_what_the_server_would_ignore_or_die_of_is_refused(
    proxy: Proxy, toxic: Toxic, said: str
) -> None:
    with pytest.raises(HarnessError, match=said):
        await proxy.add(toxic)
    assert proxy.toxics == {}


async def test_a_change_that_the_server_did_not_make_is_an_error(
    server: ToxiproxyServer, proxy: Proxy
) -> None:
    await server.api.call("behind its back", lambda api: api.delete("/proxies/redis"))
    with pytest.raises(HarnessError, match="no proxy redis"):
        await proxy.disable()


async def test_read_back_sees_a_toxic_that_somebody_else_put_there(
    server: ToxiproxyServer, proxy: Proxy
) -> None:
    other = await server.api.adopt("redis")
    await other.add(Toxic("theirs", "latency", "upstream", {"latency": 1}))
    with pytest.raises(HarnessError, match="says otherwise after disable on redis"):
        await proxy.disable()
    assert await server.heal(proxy) == "read back: proxy redis is up, no toxics"


async def test_an_api_that_hangs_is_an_error_and_the_heal_replaces_the_server(
    server: ToxiproxyServer, proxy: Proxy
) -> None:
    await proxy.add(Toxic("slow", "latency", "downstream", {"latency": 200}))
    old = server.pid
    server.freeze()
    with pytest.raises(ApiHangs):
        await proxy.disable()
    with trio.CancelScope() as scope:
        scope.cancel()  # healing is not to be cancelled
        assert "restarted" in await server.heal(proxy)
    assert is_gone(old)
    assert server.restarts == 1
    assert await ask(proxy) == b"hello"


async def test_a_restart_puts_back_what_was_wanted(server: ToxiproxyServer, proxy: Proxy) -> None:
    await proxy.add(Toxic("slow", "latency", "downstream", {"latency": 1}))
    await proxy.disable()
    await server.restart()
    told = await proxy.told()
    assert not told["enabled"]
    assert [toxic["name"] for toxic in told["toxics"]] == ["slow"]


async def test_reset_cleans_every_proxy(server: ToxiproxyServer, proxy: Proxy) -> None:
    await proxy.disable()
    await server.api.reset()
    assert await ask(proxy) == b"hello"


async def test_a_port_that_is_taken_is_left_for_the_next_at_once(
    binary: Path, server: ToxiproxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Toxiproxy that cannot listen does not end: waiting for its answer, or for its end, is waiting in vain."""

    def draw(*ports: int) -> None:
        turns = iter(ports)
        drawn = SimpleNamespace(choice=lambda _: next(turns), randrange=lambda _: len(ports))
        monkeypatch.setattr("chaos.driving.toxiproxy_server.random.SystemRandom", lambda: drawn)

    taken = server.api.port
    free = next(port for port in range(31_999, 20_000, -1) if port != taken and is_free(port))
    with trio.fail_after(8):  # less than one that starts may take to answer
        draw(taken, taken, free)
        async with open_toxiproxy(binary) as second:
            assert second.api.port == free
        draw(*[taken] * 20)
        with pytest.raises(HarnessError, match="found no free port in 20 tries"):
            await open_toxiproxy(binary).__aenter__()
    await server.api.ping()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_nothing_is_left_when_the_block_ends(binary: Path) -> None:
    async with open_toxiproxy(binary) as server:
        pid, folder = server.pid, server.log.parent
    assert is_gone(pid)
    assert not folder.exists()


def test_a_copy_that_is_there_is_not_installed_again(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).symlink_to(binary)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    said: list[str] = []
    assert ensure_toxiproxy(said.append, tmp_path / "own") == tmp_path / NAME
    assert said == []


def test_one_clear_line_if_it_cannot_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho first >&2\necho no network >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    said: list[str] = []
    with pytest.raises(NoToxiproxy, match=r"go install .* did not work, no network: put toxiproxy-server"):
        ensure_toxiproxy(said.append, tmp_path / "own")
    assert [line.partition(" in ")[0] for line in said] == ["installing Toxiproxy 2.12.0"]
    assert not [path for path in (tmp_path / "own").iterdir() if path.name.startswith(".installing")]


def test_a_program_that_does_not_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / NAME).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert subprocess.run([tmp_path / NAME], check=False).returncode == 3
    assert find_toxiproxy(tmp_path / "own") is None
