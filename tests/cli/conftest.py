"""A project folder with an app, and two ways to call the command line on it: as a process, and in this one.

`process` is for what only a process can show: exit codes, what is on standard error, signals. `invoke` is faster.
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

import queue_trio
from queue_trio.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(queue_trio.__file__).parent.parent
NOWHERE = "redis://127.0.0.1:1/0"
SECRET = "s3cret-pass"

TASKS = """\
from pathlib import Path

import trio

from queue_trio import App

app = App("shop")


@app.task(priority="high")
async def touch(path: str, times: int = 1) -> None:
    Path(path).write_text("done" * times)


@app.task(max_retries=0)
async def fail(reason: str) -> None:
    raise ValueError(reason)


@app.task
async def hang(path: str) -> None:
    Path(path).write_text("started")
    await trio.sleep_forever()


@app.task(queue="emails", name="send")
def send_mail(to: str) -> None: ...
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("queue-trio: "), self.err
        return self.err.rstrip("\n")


class Invoke(Protocol):
    """Calls the command line."""

    def __call__(self, *arguments: str, stdin: str = "") -> Ended: ...


def environment(**more: str) -> dict[str, str]:
    """This process's environment without queue_trio's settings, and with its code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_TRIO_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


def command(*arguments: str) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "queue_trio", *arguments]


def run_process(
    folder: Path, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None
) -> Ended:
    """Run the command line in `folder` to its end."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**(env or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def on_terminal(folder: Path, url: str, *arguments: str, typed: str = "") -> Ended:
    """Run the command line on a terminal of its own, with `typed` on the keyboard."""
    ours, theirs = pty.openpty()
    env = environment(QUEUE_TRIO_REDIS__URL=url, TERM="xterm", NO_COLOR="1")
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # Linux says so where others end the file
                break
            if not data:
                break
            shown += data
        code = process.wait(timeout=30)
    os.close(ours)
    return Ended(code, shown.decode().replace("\r\n", "\n"), "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with tasks.py."""
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def invoke(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Invoke]:
    """Calls the command line in this process, in the project's folder; Redis is nowhere unless a test says where."""
    for name in list(os.environ):
        if name.startswith("QUEUE_TRIO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", NOWHERE)
    monkeypatch.setenv("QUEUE_TRIO_CONFIG", "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    modules = set(sys.modules)

    def call(*arguments: str, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    yield call
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(project) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def on_redis(invoke: Invoke, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`invoke`, on an empty Redis."""
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", redis_url)
    return invoke
