"""`queue-trio enqueue`: one job from words, many from lines, and nothing lost where a line is bad."""

from __future__ import annotations

import io
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trio

from queue_trio.cli import lines
from queue_trio.cli.lines import RawLine, read_batches
from tests.cli.conftest import Invoke, command, environment, on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis

pytestmark = pytest.mark.leaves_keys("queueing jobs is what is tested, and no worker runs")


def peeked(invoke: Invoke, state: str = "ready", queue: str = "default") -> list[dict[str, Any]]:
    ended = invoke("admin", "peek", queue, "--state", state, "--json", "-n", "1000")
    assert ended.code == 0, ended.err
    jobs = json.loads(ended.out)["jobs"]
    assert isinstance(jobs, list)
    return jobs


def arguments_of(invoke: Invoke, *words: str) -> Any:
    ended = invoke("enqueue", "tasks:app", "touch", *words)
    assert ended.code == 0, ended.err
    (job,) = peeked(invoke)
    assert job["id"] == ended.out.strip()
    return job["record"]["args"]


# --- one job -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (("path=a b=c",), {"path": "a b=c"}),
        (("path=x", "times=3"), {"path": "x", "times": 3}),
        (('path="3"',), {"path": "3"}),
        (("path=",), {"path": ""}),
        (("path={open",), {"path": "{open"}),
        (('{"path": "x", "times": 2}',), {"path": "x", "times": 2}),
        (('["x", 2]',), {"path": "x", "times": 2}),
    ],
)
def test_arguments(on_redis: Invoke, words: tuple[str, ...], arguments: dict[str, Any]) -> None:
    assert arguments_of(on_redis, *words) == arguments


def test_options(on_redis: Invoke) -> None:
    options = ("--id", "mine", "--priority", "low", "--delay", "60", "--timeout", "5", "--max-retries", "1")
    ended = on_redis("enqueue", "tasks:app", "tasks.touch", "path=x", *options)
    assert ended.out == "mine\n"
    (job,) = peeked(on_redis, "scheduled")
    assert (job["id"], job["priority"], job["record"]["timeout_ms"], job["record"]["max_retries"]) == (
        "mine",
        "low",
        5000,
        1,
    )
    again = on_redis("enqueue", "tasks:app", "touch", "path=x", "--id", "mine")
    assert (again.code, again.out) == (0, "mine\n")
    assert "there already" in again.error


def test_json_and_another_queue(on_redis: Invoke) -> None:
    ended = on_redis("enqueue", "tasks:app", "send", "to=me", "--json", "--id=1")
    assert json.loads(ended.out) == {"id": "1", "task": "send", "queue": "emails", "created": True}
    assert [job["id"] for job in peeked(on_redis, queue="emails")] == ["1"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("touch", "x.txt"), 7, "argument 'x.txt' has no name: write path=x.txt"),
        (("touch", "path=1", "path=2"), 7, "'path' is given twice"),
        (("touch", "path=123"), 7, "quote it: name='\"123\"'"),
        (("touch", '{"path": }'), 7, "the arguments are not JSON"),
        (("touch", "path=x", "--priority", "urgent"), 2, "choose one of critical, high, normal, low"),
        (("touch", "path=x", "--delay", "-1"), 2, "delay=-1.0"),
        (("touch", "path=x", "--delay", "soon"), 2, "'--delay'"),
        (("touch", "path=x", "--id", "a b"), 2, "no spaces"),
        (("frobnicate",), 2, "choose one of send, tasks.fail, tasks.hang, tasks.touch"),
        ((), 2, "name a task, or use --stdin"),
        (("touch", "--stdin", "path=x"), 2, "belong into its line"),
        (("touch", "path=x", "--skip-bad"), 2, "--skip-bad goes with --stdin"),
    ],
)
def test_words_that_are_wrong(invoke: Invoke, words: tuple[str, ...], code: int, message: str) -> None:
    ended = invoke("enqueue", "tasks:app", *words)
    assert ended.code == code
    assert message in ended.error


def test_a_short_name_that_two_tasks_have(invoke: Invoke, project: Any) -> None:
    (project / "more.py").write_text(
        "from tasks import app\n@app.task(name='b.touch')\ndef f() -> None: ...\n"
    )
    ended = invoke("enqueue", "more:app", "touch")
    assert ended.code == 2
    assert "could be b.touch or tasks.touch" in ended.error


def test_a_full_queue(on_redis: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__MAX_LENGTH", "1")
    assert on_redis("enqueue", "tasks:app", "touch", "path=a").code == 0
    ended = on_redis("enqueue", "tasks:app", "touch", "path=b")
    assert ended.code == 1
    assert "client.max_length (1)" in ended.error


# --- standard input ------------------------------------------------------------------------------------------------


def ndjson(*values: Any) -> str:
    return "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)


def test_lines(on_redis: Invoke) -> None:
    given = ndjson(
        {"task": "touch", "args": {"path": "a"}, "id": "1"},
        "",
        {"task": "tasks.touch", "args": ["b", 2], "id": "2", "priority": "critical"},
        {"task": "send", "args": ["me"], "id": "3", "delay": 60},
    ).rstrip("\n")
    ended = on_redis("enqueue", "tasks:app", "-", stdin=given)
    assert (ended.code, ended.out, ended.err) == (0, "3 jobs queued\n", "")
    assert [(job["id"], job["record"]["args"]) for job in peeked(on_redis)] == [
        ("2", {"path": "b", "times": 2}),
        ("1", {"path": "a"}),
    ]
    assert [job["id"] for job in peeked(on_redis, "scheduled", "emails")] == ["3"]
    assert (
        on_redis("enqueue", "tasks:app", "--stdin", stdin=given).out
        == "0 jobs queued, 3 were there already\n"
    )


def test_a_task_for_all_lines_and_json(on_redis: Invoke) -> None:
    ended = on_redis(
        "enqueue", "tasks:app", "touch", "--stdin", "--json", stdin=ndjson({"args": ["a"], "id": "1"})
    )
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"id": "1", "task": "tasks.touch", "queue": "default", "created": True},
        {"summary": {"created": 1, "duplicates": 0, "bad": 0}},
    ]


def test_no_lines_at_all(on_redis: Invoke) -> None:
    assert on_redis("enqueue", "tasks:app", "-").out == "0 jobs queued\n"


GOOD = {"task": "touch", "args": {"path": "a"}}


@pytest.mark.parametrize(
    ("bad", "code", "message"),
    [
        ("{", 7, "not a job"),
        ("[]", 7, "not a job: Expected `object`, got `array`"),
        ('{"task": "touch", "arg": {}}', 7, "unknown field `arg`"),
        ('{"args": {}}', 7, "no task"),
        ('{"task": "touch", "args": {"pth": 1}}', 7, "'pth' is not a parameter"),
        ('{"task": "tuch"}', 2, "did you mean tasks.touch?"),
        ('{"task": "touch", "args": ["a"], "priority": "urgent"}', 2, "choose one of critical"),
        ('{"task": "touch", "args": ["a"], "id": ""}', 2, "job id ''"),
        ('{"task": "touch", "args": ["%s"]}' % ("x" * 3000), 7, "client.max_payload (2048)"),
    ],
)
def test_a_bad_line(
    on_redis: Invoke, monkeypatch: pytest.MonkeyPatch, bad: str, code: int, message: str
) -> None:
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__MAX_PAYLOAD", "2048")
    given = ndjson(GOOD, bad, GOOD)
    ended = on_redis("enqueue", "tasks:app", "-", stdin=given)
    assert ended.code == code
    assert "standard input, line 2: " in ended.error
    assert message in ended.error
    assert on_redis("admin", "stats", "--json").out == '{\n  "queues": []\n}\n'
    # The same, skipping it.
    ended = on_redis("enqueue", "tasks:app", "-", "--skip-bad", stdin=given)
    assert (ended.code, ended.out) == (7, "2 jobs queued, 1 bad line skipped\n")
    (skipped,) = [json.loads(line) for line in ended.err.splitlines()]
    assert skipped["line"] == 2
    assert message in skipped["reason"]
    assert skipped["text"] == bad


def test_a_line_without_end(on_redis: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__MAX_PAYLOAD", "1024")
    ended = on_redis("enqueue", "tasks:app", "-", "--skip-bad", stdin=ndjson(GOOD, "x" * 500_000, GOOD))
    assert (ended.code, ended.out) == (7, "2 jobs queued, 1 bad line skipped\n")
    skipped = json.loads(ended.err)
    assert (skipped["line"], skipped["reason"][:12]) == (2, "longer than ")
    assert len(skipped["text"]) < 100_000


def test_a_bad_line_says_what_is_queued_already(on_redis: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH", 2)
    ended = on_redis("enqueue", "tasks:app", "-", stdin=ndjson(GOOD, GOOD, GOOD, "{", GOOD))
    assert ended.code == 7
    assert "line 4" in ended.error
    assert "2 jobs queued, up to line 2, nothing from line 3 on" in ended.error
    assert len(peeked(on_redis)) == 2


def test_a_queue_that_fills_up_on_the_way(on_redis: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH", 2)
    monkeypatch.setenv("QUEUE_TRIO_CLIENT__MAX_LENGTH", "3")
    ended = on_redis("enqueue", "tasks:app", "-", stdin=ndjson(*[GOOD] * 6))
    assert ended.code == 1
    assert "client.max_length (3)" in ended.error
    assert "2 jobs queued, up to line 2" in ended.error


async def test_redis_goes_away_on_the_way(project: Path, private_redis: EmbeddedRedis) -> None:
    env = environment(QUEUE_TRIO_REDIS__URL=private_redis.url, QUEUE_TRIO_CLIENT__TIMEOUT="0.3")
    process = await trio.lowlevel.open_process(
        command("enqueue", "tasks:app", "-", "--json"),
        cwd=project,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdin.send_all(ndjson(GOOD).encode())
    assert b'"created": true' in await process.stdout.receive_some()
    await private_redis.kill()
    await process.stdin.send_all(ndjson(GOOD).encode())
    said = b"".join([data async for data in process.stderr]).decode().splitlines()
    assert await process.wait() == 5
    for stream in (process.stdin, process.stdout, process.stderr):
        await stream.aclose()
    assert said[-1].startswith("queue-trio: error: ")
    assert "1 job queued, up to line 1; those from line 2 on may or may not be" in said[-1]
    assert all("redis.unavailable" in line or "breaker" in line for line in said[:-1])


def test_progress_on_a_terminal(project: Path, redis_url: str) -> None:
    arguments = ("enqueue", "tasks:app", "touch", "--stdin")
    ended = on_terminal(project, redis_url, *arguments, typed='{"args": ["x"]}\n\x04')
    assert ended.code == 0
    assert "⠋ 1 job queued\n" in ended.out
    assert ended.out.endswith("1 job queued\n")


# --- reading -------------------------------------------------------------------------------------------------------


class Trickle(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(3)


@pytest.mark.parametrize("source", [io.BytesIO, Trickle])
def test_batches(source: type[io.BytesIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH", 2)
    given = source(b"a\n\n  \nb\nc\n" + b"long" * 3 + b"\nd")
    batches = list(read_batches(given, line_max=5))
    assert max(map(len, batches)) <= 2
    assert [line for batch in batches for line in batch] == [
        RawLine(1, b"a"),
        RawLine(4, b"b"),
        RawLine(5, b"c"),
        RawLine(6, b"longl", too_long=True),
        RawLine(7, b"d"),
    ]
