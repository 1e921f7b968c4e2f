"""The demo as people run it: a real server, real worker processes, real files, and nothing left at the end."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from rich.console import Console

import queue_trio
from queue_trio.demo import fleet
from queue_trio.demo.fleet import WorkersFail
from queue_trio.demo.run import Options, run_demo
from queue_trio.errors import UsageError
from tests.support import eventually, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queue_trio.demo.report import Report

ROOT = Path(queue_trio.__file__).parents[1]
FILES = 60
START_S = 30.0  # worker processes import a lot, and the machine may be busy

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with every kind of file there is."""
    folder = tmp_path / "files"
    (folder / "sub" / "deeper").mkdir(parents=True)
    for n in range(FILES):
        (folder / "sub" / f"{n}{('.py', '.txt', '.toml', '')[n % 4]}").write_text("line\n" * n)
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)) * 5000)
    (folder / "no newline at the end").write_bytes(b"a\nb")
    (folder / "käse 寿司 🧀.txt").write_text("x")
    (folder / "with\nline break").write_text("x")
    (folder / os.fsdecode(b"caf\xe9 100%.py")).write_text("not UTF-8")
    (folder / "sub" / "deeper" / "far").write_text("x")
    (folder / "link").symlink_to("binary")
    (folder / "loop").symlink_to(folder)
    return folder


EXTRA = 8


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, so that a test sees what is left there. Short: sockets go there too."""
    folder = Path(tempfile.mkdtemp(prefix="qtd-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)
    tempfile.tempdir = None


async def run(options: Options) -> tuple[Report, str]:
    console = Console(file=io.StringIO(), width=120)
    assert isinstance(console.file, io.StringIO)
    report = await run_demo(options, console)
    return report, console.file.getvalue()


async def test_everything_comes_out_right(files: Path, temporary: Path, tmp_path: Path) -> None:
    report, text = await run(Options(folder=files, manifest=tmp_path / "manifest.json"))
    assert report.exit_code == 0, report
    assert (report.enqueued, report.checked, report.figures.jobs) == (FILES + EXTRA,) * 3
    assert (report.dead, report.skipped, report.figures.retries, report.figures.ran_twice) == (0, 0, 0, 0)
    assert report.audit == []
    assert {str(priority) for priority in report.figures.by_priority} == {"critical", "high", "normal", "low"}
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    by_path = {entry.get("path", entry.get("path_uri")): entry for entry in manifest["entries"]}
    assert by_path["no newline at the end"]["lines"] == 2
    assert by_path["caf%E9%20100%25.py"]["size"] == 9
    assert by_path["link"] == by_path["binary"] | {"path": "link"}
    assert "2 worker processes" in text
    assert left_in(temporary) == []


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with good and bad ones in it."""
    for name in ("file", "caches/__pycache__/a.pyc", "good/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("folder", "manifest", "problem"),
    [
        ("none", None, "none: no such folder"),
        ("file", None, "file is a file: give a folder"),
        ("file/below", None, "file/below cannot be read: Not a directory"),
        ("empty", None, "empty: there is no file to take in this folder; give another one"),
        ("caches", None, "there is no file to take"),
        ("good", "none/m.json", "the manifest cannot be written to none/m.json: No such file or directory"),
        ("good", "good", "the manifest cannot be written to good: it is a folder; give a file"),
    ],
)
async def test_what_cannot_be_done_is_said_before_a_server_starts(
    places: None, monkeypatch: pytest.MonkeyPatch, folder: str, manifest: str | None, problem: str
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("the server was started")

    monkeypatch.setattr("queue_trio.demo.run.open_embedded_redis", started)
    with pytest.raises(UsageError) as caught:
        await run(Options(folder=Path(folder), manifest=Path(manifest) if manifest else None))
    assert problem in str(caught.value)


async def test_a_folder_that_is_emptied_meanwhile_proves_nothing(
    files: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*_: object) -> None:
        shutil.rmtree(files)
        files.mkdir()

    monkeypatch.setattr("queue_trio.demo.run.check_places", empty)
    with pytest.RaisesGroup(
        pytest.RaisesExc(UsageError, match="there is no file to take"), flatten_subgroups=True
    ):
        await run(Options(folder=files, workers=1))
    assert left_in(temporary) == []


async def test_a_wrong_result_is_found(files: Path, temporary: Path) -> None:
    def tamper(folder: Path) -> None:
        file = next(folder.glob("*.results"))
        line, _, rest = file.read_bytes().partition(b"\n")
        changed = json.loads(line)
        changed["measured"] = {"size": 1, "lines": 2, "sha256": "3"}
        file.write_bytes(json.dumps(changed).encode() + b"\n" + rest)

    report, _ = await run(Options(folder=files, workers=1, before_check=tamper))
    assert report.exit_code == 1
    (difference,) = report.differences
    assert "in truth" in difference.problem


async def test_a_lost_result_is_found(files: Path, temporary: Path) -> None:
    def lose(folder: Path) -> None:
        file = next(folder.glob("*.results"))
        file.write_bytes(file.read_bytes().partition(b"\n")[2])

    report, _ = await run(Options(folder=files, workers=1, before_check=lose))
    assert report.exit_code == 1
    assert [it.problem for it in report.differences if "was lost" in it.problem]


async def test_a_changed_file_is_not_our_fault(files: Path, temporary: Path) -> None:
    def change(folder: Path) -> None:
        (files / "empty").write_text("no longer")
        (files / "binary").unlink()  # and the link to it dangles

    report, _ = await run(Options(folder=files, workers=1, before_check=change))
    assert report.exit_code == 0
    assert {it.path for it in report.changed} == {"empty", "binary", "link"}


async def test_crash(files: Path, temporary: Path) -> None:
    report, text = await run(Options(folder=files, crash=True, concurrency=4, slow_ms=60))
    assert report.exit_code == 0, report
    assert report.crash is not None
    assert report.recovery is not None
    assert report.recovery.recovered == report.recovery.orphans >= 1
    assert report.figures.ran_twice >= report.recovery.twice
    assert report.figures.jobs == FILES + EXTRA
    assert f"worker {report.crash.number} (pid {report.crash.pid}) killed with SIGKILL" in text
    assert f"worker {report.crash.number} is started again" in text
    assert is_gone(report.crash.pid)


async def test_workers_that_do_not_start(
    files: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "COMMAND", (sys.executable, "-c", "raise SystemExit('no worker today')"))
    with pytest.RaisesGroup(WorkersFail, flatten_subgroups=True, allow_unwrapped=True) as caught:
        await run(Options(folder=files, workers=1))
    assert "no worker today" in "".join(traceback.format_exception(caught.value))
    assert left_in(temporary) == []


def test_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_WORKER__LEASE", "77")
    monkeypatch.setenv("OTHER", "kept")
    environment = fleet.worker_environment({"QUEUE_TRIO_REDIS__URL": "here"})
    assert "QUEUE_TRIO_WORKER__LEASE" not in environment
    assert (environment["OTHER"], environment["QUEUE_TRIO_REDIS__URL"]) == ("kept", "here")


# --- as a process --------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "queue_trio", "demo", *map(str, arguments)]


def environment(temporary: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def children_of(process: trio.Process) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def left_in(folder: Path) -> list[str]:
    return os.listdir(folder)


def logs_in(folder: str) -> str:
    return "".join(file.read_text() for file in Path(folder).glob("*.log"))


def busy(folder: Path) -> bool:
    """Whether a worker has written down something."""
    return any(file.stat().st_size for file in folder.glob("queue-trio-demo-*/*.results"))


async def test_json(files: Path, temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "queue-trio.yaml").write_text(
        "worker: {concurrency: nonsense}"
    )  # is none of the demo's business
    process = await trio.run_process(
        command(files, "--json", "--workers", "1", "--manifest", tmp_path / "m.json"),
        capture_stdout=True,
        capture_stderr=True,
        env=environment(temporary),
        cwd=tmp_path,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout)
    assert summary["ok"]
    assert (summary["enqueued"], summary["checked"], summary["differences"]) == (
        FILES + EXTRA,
        FILES + EXTRA,
        [],
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_nothing(
    files: Path, temporary: Path, nursery: trio.Nursery, number: int
) -> None:
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            command(files, "--slow", "300"),
            stdout=subprocess.DEVNULL,
            env=environment(temporary),
            check=False,
        )
    )
    await eventually(lambda: busy(temporary), START_S)
    pids = children_of(process)
    assert len(pids) >= 4  # a server, two lifelines, workers
    process.send_signal(number)
    assert await process.wait() == 128 + number
    assert all(map(is_gone, pids))
    assert left_in(temporary) == []


async def test_a_drained_worker_finishes_what_it_began(
    files: Path, temporary: Path, nursery: trio.Nursery
) -> None:
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            command(files, "--slow", "300", "--json", "--keep"),
            stdout=subprocess.PIPE,
            env=environment(temporary),
            check=False,
        )
    )
    await eventually(lambda: busy(temporary), START_S)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    summary = json.loads(b"".join([chunk async for chunk in process.stdout]))
    assert await process.wait() == 130
    assert summary["interrupted"] == "SIGINT"
    assert 0 < summary["figures"]["jobs"] < summary["enqueued"]
    logs = logs_in(summary["kept"])
    # The second one may not have come to its start yet.
    assert logs.count('"worker.stopped"') == logs.count('"worker.started"') >= 1


async def test_even_sigkill_leaves_nothing(files: Path, temporary: Path) -> None:
    process = await trio.lowlevel.open_process(
        command(files, "--slow", "300"), stdout=subprocess.DEVNULL, env=environment(temporary)
    )
    await eventually(lambda: busy(temporary), START_S)
    pids = children_of(process)
    process.kill()
    await process.wait()
    await eventually(lambda: all(map(is_gone, pids)))
    await eventually(lambda: not left_in(temporary))
