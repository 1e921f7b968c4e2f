"""The program as a whole: version, help, exit codes, output that nobody reads, Ctrl-C, and our own bugs."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

import queue_trio
from queue_trio.cli.admin import reaching
from queue_trio.cli.errors import EXIT_CODES, mask, report
from queue_trio.errors import ConfigError, NotSent
from tests.cli.conftest import SECRET, Invoke, command, environment, run_process

if TYPE_CHECKING:
    from pathlib import Path


def test_version(project: Path) -> None:
    ended = run_process(project, "--version")
    assert (ended.code, ended.out, ended.err) == (0, f"queue-trio {queue_trio.__version__}\n", "")


def test_the_version_needs_no_runtime(project: Path) -> None:
    """What makes `--version` and `--help` fast: nothing of the runtime is imported for them."""
    code = "import sys, queue_trio.cli.main; print({'pydantic', 'redis', 'rich', 'structlog', 'trio'} & {*sys.modules})"
    done = subprocess.run(
        [command()[0], "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "set()\n"


def test_help_names_every_exit_code(invoke: Invoke) -> None:
    for arguments, code in ((("--help",), 0), ((), 2)):
        ended = invoke(*arguments)
        assert ended.code == code
        words = " ".join(ended.out.split())
        for number, meaning in EXIT_CODES.items():
            assert f"{number}: {meaning}" in words
        for name in ("worker", "producer", "all", "enqueue", "admin", "demo"):
            assert name in words


@pytest.mark.parametrize(
    "name",
    ["worker", "producer", "all", "demo", "enqueue", "admin", "admin stats", "admin peek", "admin audit"],
)
def test_every_command_has_help(invoke: Invoke, name: str) -> None:
    ended = invoke(*name.split(), "--help")
    assert ended.code == 0
    assert f"queue-trio {name}" in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("enqeue",), ("No such command 'enqeue'", "Did you mean 'enqueue'?", "`queue-trio --help`")),
        (("worker",), ("Missing argument 'MODULE:APP'", "`queue-trio worker --help`")),
        (("worker", "tasks", "--concurency", "3"), ("No such option: --concurency", "--concurrency")),
        (("worker", "tasks", "--lease", "long"), ("'--lease'", "valid number")),
        (("--config",), ("--config",)),
        (("admin",), ("Missing command",)),
    ],
)
def test_a_command_line_that_is_wrong(
    invoke: Invoke, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ended = invoke(*arguments)
    assert ended.code == 2
    for word in words:
        assert word in ended.error


def test_global_options_may_come_last_and_stop_at_a_double_dash(invoke: Invoke) -> None:
    assert "gone.yaml" in invoke("admin", "stats", "--config", "gone.yaml").error
    assert "gone.yaml" in invoke("admin", "stats", "--config=gone.yaml").error
    assert "argument '--debug' has no name" in invoke("enqueue", "tasks", "touch", "--", "--debug").error


def test_output_that_nobody_reads(project: Path, redis_url: str) -> None:
    process = subprocess.Popen(
        command("admin", "peek"),
        cwd=project,
        env=environment(QUEUE_TRIO_REDIS__URL=redis_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 141


@pytest.mark.parametrize(
    "module", ["queue_trio.cli.main", "typer", "queue_trio.cli.worker", "importlib.metadata"]
)
def test_ctrl_c_while_it_starts(project: Path, module: str) -> None:
    """The interpreter itself sends the signal, at the moment that counts: when this module is about to be imported."""
    (project / "sitecustomize.py").write_text(f"""\
import os, signal, sys

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r} and os.path.basename(sys.orig_argv[-1]) == "--version":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
""")
    done = subprocess.run(
        command("--version"),
        cwd=project,
        env=environment(PYTHONPATH=os.pathsep.join((str(project), environment()["PYTHONPATH"]))),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.leaves_keys("the job it queued is not run")
def test_ctrl_c_while_reading(project: Path, redis_url: str) -> None:
    process = subprocess.Popen(
        command("enqueue", "tasks:app", "touch", "--stdin", "--json"),
        cwd=project,
        env=environment(QUEUE_TRIO_REDIS__URL=redis_url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"args": ["x"], "delay": 1000, "id": "1"}\n')
    process.stdin.flush()
    assert b'"created": true' in process.stdout.readline()  # it is reading now, or about to
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert err == b"queue-trio: interrupted: 1 job queued, up to line 1\n"


# --- what is said of an error --------------------------------------------------------------------------------------


def test_a_bug_is_one_line_and_a_traceback_with_debug(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("of\nall things")

    monkeypatch.setattr(reaching, "read_settings", broken)
    ended = invoke("admin", "stats")
    assert ended.code == 70
    assert "this is a bug in queue_trio, please report it: RuntimeError: of all things" in ended.error
    assert "--debug" in ended.error
    ended = invoke("--debug", "admin", "stats")
    assert ended.code == 70
    assert "Traceback (most recent call last)" in ended.err


def test_a_group_is_told_by_its_first_cause_unless_there_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    outage = NotSent("Redis is gone")
    group = ExceptionGroup("", [ExceptionGroup("", [outage]), NotSent("the same")])
    assert report(group) == 5
    assert capsys.readouterr().err == "queue-trio: error: Redis is gone\n"
    assert report(ExceptionGroup("", [outage, KeyError("k")])) == 70
    assert "KeyError: 'k'" in capsys.readouterr().err
    assert report(BaseExceptionGroup("", [outage, KeyboardInterrupt()])) == 130
    assert report(BrokenPipeError()) == 141
    assert capsys.readouterr().err == ""


def test_notes_and_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotSent("gone")
    error.add_note("start it")
    report(error)
    report(ConfigError("a: wrong\nb: wrong"))
    report(ConfigError())
    assert capsys.readouterr().err.splitlines() == [
        "queue-trio: error: gone; start it",
        "queue-trio: error: a: wrong",
        "queue-trio: error: b: wrong",
        "queue-trio: error: ConfigError",
    ]


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", f"redis://u:{SECRET}%21@h/0")
    assert mask(f"at redis://u:{SECRET}@h: no") == "at redis://u:***@h: no"
    assert mask(f"AUTH {SECRET}! failed, {SECRET}%21") == "AUTH *** failed, ***"
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", "redis://u:a@h/0")
    assert mask("a cat") == "a cat"  # too short to be worth hiding
