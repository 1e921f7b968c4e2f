"""Bad input as people give it: one line that says where and what to do, an exit code, no traceback, no secret."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from queue_trio.cli.errors import EXIT_CODES
from queue_trio.errors import QueueTrioError
from tests.cli.conftest import SECRET, Ended, Invoke, run_process

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis

LOGIN_NOWHERE = f"redis://shop:{SECRET}@127.0.0.1:1/0"


def check(ended: Ended, code: int, *words: str) -> None:
    """One line with `words`, that code, and nothing that should not be seen."""
    for word in words:
        assert word in ended.error
    assert ended.code == code
    assert "Traceback" not in ended.err
    assert SECRET not in ended.err + ended.out


# --- settings ------------------------------------------------------------------------------------------------------


def test_an_unknown_setting_in_the_file(project: Path) -> None:
    (project / "queue-trio.yaml").write_text("worker:\n  concurency: 3\n")
    check(run_process(project, "worker", "tasks:app"), 3, "queue-trio.yaml:2", "did you mean concurrency?")


def test_an_unknown_setting_in_the_environment(project: Path) -> None:
    ended = run_process(project, "admin", "stats", env={"QUEUE_TRIO_WORKER__LEESE": "3"})
    check(ended, 3, "did you mean QUEUE_TRIO_WORKER__LEASE?")


def test_a_setting_of_the_wrong_type(project: Path) -> None:
    (project / "other.yaml").write_text("worker: {concurrency: many}\n")
    ended = run_process(project, "worker", "tasks:app", "--config", "other.yaml")
    check(ended, 3, "worker.concurrency (other.yaml:1)", "many", "whole number")


def test_every_wrong_setting_has_its_line(invoke: Invoke, project: Path) -> None:
    (project / "queue-trio.yaml").write_text("worker:\n  concurency: 3\n  lease: soon\n")
    ended = invoke("worker", "tasks:app")
    assert ended.code == 3
    lines = ended.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("queue-trio: error: worker.") for line in lines)


def test_a_url_that_is_none(project: Path) -> None:
    url = f"http://shop:{SECRET}@example.org"
    check(
        run_process(project, "admin", "stats", env={"QUEUE_TRIO_REDIS__URL": url}),
        3,
        "redis.url",
        "rediss://",
    )


# --- Redis ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("admin", "stats", "--json"),
        ("enqueue", "tasks:app", "fail", "reason=x"),
    ],
)
def test_a_one_shot_command_without_redis(project: Path, arguments: tuple[str, ...]) -> None:
    ended = run_process(project, *arguments, env={"QUEUE_TRIO_REDIS__URL": LOGIN_NOWHERE})
    check(ended, 5, "cannot connect to redis://shop:***@127.0.0.1:1/0", "QUEUE_TRIO_REDIS__URL")
    assert ended.out == ""


@pytest.mark.parametrize("arguments", [("admin", "peek"), ("admin", "audit"), ("enqueue", "tasks:app", "-")])
def test_other_one_shot_commands_without_redis(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    check(invoke(*arguments), 5, "cannot connect to redis://127.0.0.1:1/0")


@pytest.mark.parametrize("arguments", [("admin", "stats"), ("worker", "tasks:app")])
def test_a_wrong_password(project: Path, redis_url: str, arguments: tuple[str, ...]) -> None:
    url = redis_url.replace("://", f"://shop:{SECRET}@")
    ended = run_process(project, *arguments, env={"QUEUE_TRIO_REDIS__URL": url})
    check(ended, 6, "user 'shop'", "password is wrong", "correct them in the URL")


@pytest.mark.parametrize("arguments", [("admin", "stats"), ("worker", "tasks:app")])
async def test_a_server_that_would_evict_jobs(
    project: Path, private_redis: EmbeddedRedis, arguments: tuple[str, ...]
) -> None:
    async with await trio.open_unix_socket(private_redis.unix_socket) as stream:
        await stream.send_all(b"CONFIG SET maxmemory-policy allkeys-lru\r\n")
        assert await stream.receive_some() == b"+OK\r\n"
    env = {"QUEUE_TRIO_REDIS__URL": private_redis.url}
    ended = await trio.to_thread.run_sync(partial(run_process, project, *arguments, env=env))
    check(ended, 6, "allkeys-lru", "set it to noeviction")


async def answer_as_redis_5(stream: trio.SocketStream) -> None:
    info = b"# Server\r\nredis_version:5.0.14\r\n"
    async for data in stream:
        if b"INFO" in data:
            await stream.send_all(b"$%d\r\n%s\r\n" % (len(info), info))
        else:
            await stream.send_all(b"+OK\r\n" if b"CLIENT" in data else b"-ERR unknown command `HELLO`\r\n")


@pytest.mark.parametrize("arguments", [("admin", "stats"), ("worker", "tasks:app")])
async def test_a_server_that_is_too_old(project: Path, arguments: tuple[str, ...]) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer_as_redis_5, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        host, port = listener.socket.getsockname()
        env = {"QUEUE_TRIO_REDIS__URL": f"redis://{host}:{port}/0"}
        ended = await trio.to_thread.run_sync(partial(run_process, project, *arguments, env=env))
        nursery.cancel_scope.cancel()
    check(ended, 6, "Redis 5.0.14", "needs Redis 6.2")


# --- the app -------------------------------------------------------------------------------------------------------


def test_an_unknown_module(project: Path) -> None:
    check(run_process(project, "worker", "task:app"), 4, "module 'task' not found", "did you mean tasks?")


def test_an_unknown_name(project: Path) -> None:
    check(run_process(project, "worker", "tasks:application"), 4, "'application'", "did you mean tasks:app?")


def test_a_module_that_fails_on_import(project: Path) -> None:
    (project / "broken.py").write_text("import helper\n")
    (project / "helper.py").write_text("def load():\n    return {}['key']\n\nload()\n")
    ended = run_process(project, "worker", "broken")
    check(ended, 4, "module 'broken' fails on import", "KeyError: 'key'", "(helper.py:2)")


def test_a_traceback_only_with_debug(project: Path) -> None:
    (project / "broken.py").write_text(f"raise RuntimeError('{LOGIN_NOWHERE} is down')\n")
    check(run_process(project, "worker", "broken"), 4, "shop:***@", "(broken.py:1)")
    ended = run_process(project, "worker", "broken", "--debug")
    assert ended.code == 4
    assert "Traceback" in ended.err
    assert "RuntimeError" in ended.err
    assert SECRET not in ended.err


# --- a job ---------------------------------------------------------------------------------------------------------


def test_an_unknown_task(project: Path) -> None:
    check(
        run_process(project, "enqueue", "tasks:app", "tuch"), 2, "no task 'tuch'", "did you mean tasks.touch?"
    )


def test_arguments_that_do_not_fit(project: Path) -> None:
    ended = run_process(project, "enqueue", "tasks:app", "touch", "times=often", "pth=x")
    check(ended, 7, "'path' is missing", "'times'", "valid integer", "'pth' is not a parameter")


def test_a_job_that_is_too_large(project: Path, redis_url: str) -> None:
    env = {"QUEUE_TRIO_REDIS__URL": redis_url, "QUEUE_TRIO_CLIENT__MAX_PAYLOAD": "1024"}
    ended = run_process(project, "enqueue", "tasks:app", "fail", f"reason={'x' * 2000}", env=env)
    check(ended, 7, "client.max_payload (1024)")


def test_every_exit_code_of_an_error_is_documented() -> None:
    def tree(error: type[QueueTrioError]) -> list[type[QueueTrioError]]:
        return [error, *(below for child in error.__subclasses__() for below in tree(child))]

    assert {error.exit_code for error in tree(QueueTrioError)} <= set(EXIT_CODES)
