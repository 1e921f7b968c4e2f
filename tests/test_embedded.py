"""The embedded server is real, comes back with its data, and leaves nothing behind however its owner ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import redis
import trio

from queue_trio import server_binary as finding
from queue_trio.embedded import open_embedded_redis
from queue_trio.errors import ConfigError, InfrastructureError, UsageError
from queue_trio.server_binary import ServerBinary, ServerVersion, find_server, parse_version
from tests.support import connect, eventually, is_gone

if TYPE_CHECKING:
    from queue_trio.embedded import EmbeddedRedis


# --- which binary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version", "supported"),
    [
        (
            "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=a3fdef44459b3ad6",
            ServerVersion("redis", 6, 0, 16),
            False,
        ),
        (
            "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64 build=1be3b9a1b2b9d1f5\n",
            ServerVersion("redis", 6, 2, 14),
            True,
        ),
        (
            "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0",
            ServerVersion("redis", 7, 0, 15),
            True,
        ),
        (
            "Redis server v=10.0.0 sha=00000000:0 malloc=libc bits=64 build=0",
            ServerVersion("redis", 10, 0, 0),
            True,
        ),
        (
            "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150",
            ServerVersion("valkey", 9, 1, 2),
            True,
        ),
    ],
)
def test_version_texts(text: str, version: ServerVersion, supported: bool) -> None:
    assert parse_version(text) == version
    assert version.supported is supported


@pytest.mark.parametrize("text", ["", "nginx version: nginx/1.22.1", "Redis server v=seven", "v=7.0.15"])
def test_other_programs_are_not_servers(text: str) -> None:
    with pytest.raises(ConfigError, match="not the --version"):
        parse_version(text)


def test_version_names() -> None:
    version = ServerVersion("valkey", 9, 1, 2)
    assert (str(version), version.label) == ("Valkey 9.1.2", "valkey-9.1")


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any server; returns the one folder on its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(finding.SERVER_VARIABLE, raising=False)
    monkeypatch.setattr(finding, "packaged_servers", list)
    return tmp_path


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def server_saying(path: Path, product: str, version: str) -> Path:
    return program(path, f"echo '{product} server v={version} sha=0:0 malloc=libc bits=64 build=0'")


def refusal(path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        find_server(path)
    return str(caught.value)


def test_no_server_is_one_line_with_the_remedy(bare_machine: Path) -> None:
    message = refusal()
    assert "\n" not in message
    assert "pip install 'queue-trio[embedded]'" in message
    assert finding.SERVER_VARIABLE in message


def test_a_server_too_old_is_passed_over_and_named(bare_machine: Path) -> None:
    server_saying(bare_machine / "redis-server", "Redis", "6.0.16")
    message = refusal()
    assert "\n" not in message
    assert "is Redis 6.0.16" in message
    usable = server_saying(bare_machine / "valkey-server", "Valkey", "8.0.1")
    assert find_server() == ServerBinary(usable, ServerVersion("valkey", 8, 0, 1))


def test_path_comes_before_the_package(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = server_saying(bare_machine / "packaged", "Valkey", "9.1.2")
    monkeypatch.setattr(finding, "packaged_servers", lambda: [packaged])
    assert find_server().path == packaged
    installed = server_saying(bare_machine / "redis-server", "Redis", "7.0.15")
    assert find_server().path == installed


def test_a_named_binary_is_used_or_refused_but_not_replaced(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_saying(bare_machine / "redis-server", "Redis", "7.0.15")
    named = server_saying(bare_machine / "mine", "Valkey", "9.1.2")
    assert find_server(named).path == named
    assert "cannot be run" in refusal(bare_machine / "absent")
    assert "cannot be run" in refusal(program(bare_machine / "failing", "exit 3"))
    assert "is not usable" in refusal(program(bare_machine / "other", "echo hello"))

    monkeypatch.setenv(finding.SERVER_VARIABLE, str(named))
    assert find_server().path == named
    monkeypatch.setenv(finding.SERVER_VARIABLE, str(bare_machine / "absent"))
    assert "cannot be run" in refusal()


async def test_no_binary_is_the_callers_mistake(bare_machine: Path) -> None:
    with pytest.raises(ConfigError, match="no Redis server to run"):
        async with open_embedded_redis():
            pytest.fail("there is nothing to run")


# --- life ----------------------------------------------------------------------------------------------------------


async def test_listens_on_a_socket_of_its_own(server_binary: ServerBinary) -> None:
    async with open_embedded_redis(server=server_binary) as server:
        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
        assert len(os.fsencode(server.unix_socket)) <= 100
        assert server.url == f"unix://{server.unix_socket}"
        assert server.port is None
        assert server.running
        assert os.getpgid(server.pid) != os.getpgid(0), "Ctrl-C would reach it"
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.config_get("appendonly")["appendonly"] == "yes"
            assert client.config_get("appendfsync")["appendfsync"] == "everysec"
            assert client.config_get("save")["save"] == ""
            assert client.info("server")["process_id"] == server.pid
    assert is_gone(server.pid)
    assert not server.folder.exists()


async def test_listens_on_loopback_when_asked(server_binary: ServerBinary) -> None:
    async with open_embedded_redis(server=server_binary, port=True) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(server.url) as client:
            assert client.info("server")["process_id"] == server.pid
        assert server.unix_socket.exists()


async def test_a_taken_port_is_left_for_another(
    server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as spare:
        free = spare.getsockname()[1]
        spare.close()
        ports = iter([taken.getsockname()[1]] * 3 + [free])
        monkeypatch.setattr(random.SystemRandom, "choice", lambda dice, among: next(ports))
        async with open_embedded_redis(server=server_binary, port=True) as server:
            assert server.port == free
            assert server.log.read_text().count("Address already in use") >= 3


async def test_killed_and_restarted_it_has_its_data(private_redis: EmbeddedRedis) -> None:
    first, url = private_redis.pid, private_redis.url
    for index in range(5):
        with connect(private_redis.unix_socket) as client:
            client.set("key", index)
        await private_redis.kill()
        assert is_gone(private_redis.pid)
        with connect(private_redis.unix_socket) as client, pytest.raises(redis.ConnectionError):
            client.ping()
        await private_redis.restart()
    assert private_redis.pid != first
    assert private_redis.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("key") == b"4"


async def test_restart_of_a_running_server_loses_nothing(server_binary: ServerBinary) -> None:
    async with open_embedded_redis(server=server_binary, appendfsync="no") as server:
        with connect(server.unix_socket) as client:
            client.set("key", "value")
        first = server.pid
        await server.restart()
        assert is_gone(first)
        with connect(server.unix_socket) as client:
            assert client.get("key") == b"value"


async def test_restart_waits_for_its_port(private_redis: EmbeddedRedis) -> None:
    port = private_redis.port
    assert port is not None
    await private_redis.terminate()
    # The address may still be in TIME_WAIT, which create_server overrides as the server does.
    squatter = socket.create_server(("127.0.0.1", port))

    async def leave_when_it_has_hurt() -> None:
        await eventually(lambda: "Address already in use" in private_redis.log.read_text())
        squatter.close()

    with squatter:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_when_it_has_hurt)
            await private_redis.restart()
    assert private_redis.port == port
    with redis.Redis.from_url(private_redis.url) as client:
        assert client.ping()


async def test_stopping_what_is_down_does_nothing(private_redis: EmbeddedRedis) -> None:
    await private_redis.terminate()
    await private_redis.terminate()
    await private_redis.kill()
    assert not private_redis.running
    with pytest.raises(UsageError, match=r"restart\(\) it first"):
        await private_redis.freeze()
    with pytest.raises(UsageError, match=r"restart\(\) it first"):
        private_redis.thaw()


async def test_a_frozen_server_answers_after_the_thaw(private_redis: EmbeddedRedis) -> None:
    async with await trio.open_unix_socket(private_redis.unix_socket) as stream:
        await private_redis.freeze()
        await stream.send_all(b"PING\r\n")
        with trio.move_on_after(0.05) as waiting:
            await stream.receive_some()
        assert waiting.cancelled_caught, "frozen, and it answered"
        private_redis.thaw()
        assert await stream.receive_some() == b"+PONG\r\n"


async def test_a_frozen_server_is_stopped_all_the_same(server_binary: ServerBinary) -> None:
    with trio.fail_after(10):
        async with open_embedded_redis(server=server_binary, stop_seconds_max=0.05) as server:
            await server.freeze()
            with pytest.raises(InfrastructureError, match=r"still up 0\.05 s after SIGTERM"):
                await server.terminate()
            await server.restart()
            assert server.running
            await server.freeze()
    assert is_gone(server.pid)
    assert not server.folder.exists()


async def test_a_server_frozen_by_others_gets_sigkill_at_the_end(server_binary: ServerBinary) -> None:
    async with open_embedded_redis(server=server_binary, stop_seconds_max=0.05) as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert is_gone(server.pid)
    assert not server.folder.exists()


async def test_cancellation_leaves_nothing(server_binary: ServerBinary) -> None:
    with trio.CancelScope() as scope:
        async with open_embedded_redis(server=server_binary) as server:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert is_gone(server.pid)
    assert not server.folder.exists()


async def test_a_setting_it_refuses_is_told_in_its_own_words(server_binary: ServerBinary) -> None:
    with pytest.raises(InfrastructureError, match="ended with exit code 1") as caught:
        async with open_embedded_redis(server=server_binary, settings={"maxmemory": "plenty"}):
            pytest.fail("it cannot have started")
    assert "argument must be a memory value" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    mute = program(tmp_path / "mute-server", "echo thinking about it; exec sleep 1000")
    binary = ServerBinary(mute, ServerVersion("valkey", 9, 1, 2))
    with pytest.raises(InfrastructureError, match=r"Valkey 9\.1\.2 did not answer within 0\.3 s") as caught:
        async with open_embedded_redis(server=binary, start_seconds_max=0.3):
            pytest.fail("it does not answer")
    assert "thinking about it" in str(caught.value)


async def test_a_long_temporary_folder_is_not_used(
    server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / ("deep" * 25)))
    async with open_embedded_redis(server=server_binary) as server:
        assert server.folder.parent == Path("/tmp")


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
async def test_the_server_dies_with_a_killed_parent(server_binary: ServerBinary, frozen: bool) -> None:
    script = f"""
        import trio
        from pathlib import Path
        from queue_trio.embedded import open_embedded_redis
        from queue_trio.server_binary import find_server

        async def main():
            async with open_embedded_redis(server=find_server({str(server_binary.path)!r})) as server:
                if {frozen}:
                    await server.freeze()
                print(server.pid, server.folder, flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """
    # lowlevel: trio.run_process would take the kill below for a failure.
    parent = await trio.lowlevel.open_process([sys.executable, "-c", dedent(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    async with parent.stdout as stdout:
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                chunk = await stdout.receive_some()
                assert chunk, "the script ended early"
                line += chunk
        pid, folder = int(line.split()[0]), Path(line.split()[1].decode())
        assert not is_gone(pid)
        parent.kill()
        await parent.wait()
    await eventually(lambda: is_gone(pid), what=f"the end of server {pid}")
    await eventually(lambda: not folder.exists(), what=f"the end of {folder}")
