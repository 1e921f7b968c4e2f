"""`queue-trio check` asks a real worker, and its exit code is what an exec probe needs."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.cli.main import main
from tests.ops.web import Web, serving, web_app
from tests.support import eventually

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def check(web: Web, *arguments: str) -> int:
    port = web.http.url.rpartition(":")[2]
    return await trio.to_thread.run_sync(main, ["check", "--port", port, *arguments])


async def test_it_says_what_readyz_says(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    gate = trio.Event()
    app = web_app(redis_url)

    @app.task
    async def wait() -> None:
        await gate.wait()

    async with serving(app) as web, app.client():
        assert await check(web) == 0
        assert "ready\n  redis       ok  answers\n" in capsys.readouterr().out
        await wait.enqueue()
        await eventually(lambda: web.worker.in_flight == 1)
        web.worker.drain()
        await eventually(web.is_not_ready)
        assert await check(web) == 1
        out = capsys.readouterr().out
        assert out.startswith("not ready\n")
        assert "draining    no  draining, 1 job still running (since 20" in out
        assert await check(web, "--alive") == 0
        assert capsys.readouterr().out == "alive\n  the event loop turns\n"
        assert await check(web, "--json") == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["ok"], found["status"], found["answer"]["checks"]["draining"]["ok"]) == (
            False,
            503,
            False,
        )
        gate.set()


async def test_it_brings_the_token_and_never_shows_it(
    redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(web_app(redis_url, http={"token": "tok-123"}), wait_ready=False) as web:
        assert await check(web, "--alive") == 1
        assert "send the token" in capsys.readouterr().out
        monkeypatch.setenv("QUEUE_TRIO_HTTP__TOKEN", "tok-123")
        assert await check(web, "--alive", "--json") == 0
        assert "tok-123" not in capsys.readouterr().out


def test_nobody_there_is_not_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("QUEUE_TRIO_HTTP__PORT", str(port))
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"not ready\n  no answer from http://127.0.0.1:{port}/readyz: ")
    assert "refused" in out


def test_somebody_who_never_answers_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["check", "--port", str(silent.getsockname()[1]), "--timeout", "0.2"]) == 1
    assert "timed out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"SSH-2.0-hello\r\n\r\n", "no answer from"),
        (
            b'HTTP/1.0 503 No\r\n\r\n{"checks":{"disk":{"status":"DOWN"},"net":[1]}}',
            "disk: {'status': 'DOWN'}",
        ),
    ],
)
def test_somebody_else_who_answers_is_not_ready(
    capsys: pytest.CaptureFixture[str], sent: bytes, shown: str
) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["check", "--port", str(other.getsockname()[1])]) == 1
        thread.join()
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(("port", "why"), [("null", "is not set"), ("0", "is 0, any free port")])
def test_without_a_port_it_says_what_to_do(
    port: str, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_TRIO_HTTP__PORT", port)
    assert main(["check"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert why in err
