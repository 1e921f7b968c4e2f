"""The pytest plugin as users have it: from the built wheel, in a pytest of its own; nothing is left when that ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from markdown_it import MarkdownIt

from chaos.driving.toxiproxy_binary import NAME, ensure_toxiproxy
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "chaos-in-your-tests.md"
RUN_S = 100


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    """Of a program that has the wheel, and Toxiproxy on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / NAME).symlink_to(ensure_toxiproxy(print))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "COLUMNS": "150"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder, with the files of the document."""
    folder = tmp_path / "project"
    folder.mkdir()
    for token in MarkdownIt().parse(DOCUMENT.read_text("utf-8")):
        language, _, name = token.info.partition(" ")
        if language == "python":
            (folder / name).write_text(token.content)
    assert {path.name for path in folder.iterdir()} == {"shop.py", "test_shop.py"}
    return folder


@pytest.fixture
def run(project: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run pytest there: options, and a test file's text instead of the document's."""

    def run(*options: str, code: str = "") -> subprocess.CompletedProcess[str]:
        if code:
            (project / "test_shop.py").write_text(code)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
        )

    return run


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """As the last line counts them, such as {"passed": 5}."""
    last = done.stdout.strip().splitlines()[-1]
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", last.partition(" in ")[0])}


def processes_about(folder: Path) -> list[str]:
    """The processes that have to do with a folder: workers run there, servers wrote their ids there."""
    pids = [int(pid) for path in folder.glob("pids*") for pid in path.read_text().split()]
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [str(process) for process in found if process.status() != psutil.STATUS_ZOMBIE]


# --- what is installed ---------------------------------------------------------------------------------------------


def test_the_documents_example_passes_as_it_stands_there(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run()
    assert outcomes(done) == {"passed": 5}, done.stdout


def test_the_wheel_has_the_harness_its_scenarios_and_its_types(
    site: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    assert (site / "chaos" / "py.typed").exists()
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for scenario in (ROOT / "chaos" / "scenarios").glob("*.yaml"):
        assert scenario.stem in done.stdout
        assert (site / "chaos" / "scenarios" / scenario.name).exists()


def test_loading_the_plugin_imports_nothing_else(environment: dict[str, str], tmp_path: Path) -> None:
    code = "import sys, json, pytest; old = {*sys.modules}; import chaos.pytest_plugin as it\n"
    code += "print(json.dumps([it.__file__, sorted({*sys.modules} - old)]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    file, imported = json.loads(done.stdout)
    assert file.startswith(environment["PYTHONPATH"])
    assert imported == ["chaos", "chaos.pytest_plugin"]


def test_a_pytest_that_uses_no_fixture_of_it_never_imports_the_product(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run(
        code="""
import sys

def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("queue_trio_chaos")
    assert not {"queue_trio", "requests", "toxiproxy", "chaos.testing"} & {*sys.modules}
"""
    )
    assert outcomes(done) == {"passed": 1}, done.stdout


def test_it_can_be_turned_off(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run("-p", "no:queue_trio_chaos", code="def test_it(private_redis): pass")
    assert outcomes(done) == {"error": 1}
    assert "fixture 'private_redis' not found" in done.stdout


def test_a_fixture_of_the_users_with_the_same_name_wins(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run(
        code="""
import pytest

@pytest.fixture
def private_redis():
    return "mine"

def test_it(private_redis):
    assert private_redis == "mine"
"""
    )
    assert outcomes(done) == {"passed": 1}, done.stdout


def test_without_the_extra_only_proxies_fail_and_say_what_to_install(
    run: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    (project / "conftest.py").write_text("import sys\nsys.modules['requests'] = None\n")
    done = run(
        code="""
from chaos.testing import ChaosProxy

def test_proxy(chaos_proxy): pass

def test_worker(private_redis, worker_process):
    assert worker_process("shop:app", url=private_redis.url).alive
"""
    )
    assert outcomes(done) == {"passed": 1, "error": 1}, done.stdout
    assert "\nthis fixture needs the package requests: pip install 'queue-trio[chaos]'\n" in done.stdout
    assert "Traceback" not in done.stdout
    assert "exception occurred" not in done.stdout


# --- tests of every kind -------------------------------------------------------------------------------------------


def test_a_trio_test_uses_the_same_fixtures(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run(
        code="""
import pytest
from queue_trio import Settings
from shop import app, price

@pytest.mark.trio
async def test_it(chaos_proxy, worker_process):
    app.configure(Settings.model_validate({"redis": {"url": chaos_proxy.url}}))
    async with app.client() as client:
        with chaos_proxy.down():
            worker = worker_process("shop:app", url=chaos_proxy.url, ready=False)
        assert await client.result(await client.enqueue(price.job("tea")), wait=10) == 3
        assert worker.terminate() == 0
"""
    )
    assert outcomes(done) == {"passed": 1}, done.stdout


def test_a_failing_test_shows_its_workers_logs_and_a_passing_one_does_not(
    run: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    (project / "shop.py").write_text((project / "shop.py").read_text() + "\n\nprint('shop', 'is', 'open')\n")
    done = run(
        code="""
def test_fails(private_redis, worker_process):
    worker_process("shop:app", url=private_redis.url).kill()
    assert False

def test_has_no_worker(private_redis, worker_process):
    worker_process("shopp:app", url=private_redis.url)

def test_passes(private_redis, worker_process):
    worker_process("shop:app", url=private_redis.url)
"""
    )
    assert outcomes(done) == {"passed": 1, "failed": 2}, done.stdout
    assert re.search(r"- log of worker-1 \(pid \d+\), exit code -9 -.*?\nshop is open\n", done.stdout, re.S)
    assert done.stdout.count("shop is open") == 1
    assert re.search(r"- log of worker-1 \(pid \d+\), exit code 4 -.*\nmodule 'shopp' not found", done.stdout)
    assert "HarnessError: worker-1 (pid" in done.stdout
    assert "portal" not in done.stdout  # where our own code was at that moment is nobody's business


# --- nothing is left -----------------------------------------------------------------------------------------------

MESS = """
import os, signal, threading
from pathlib import Path
import pytest

def mess(private_redis, toxiproxy, chaos_proxy, worker_process):
    worker = worker_process("shop:app", url=chaos_proxy.url)
    stopped = worker_process("shop:app", url=chaos_proxy.url)
    stopped.stop()
    chaos_proxy.timeout(0)
    chaos_proxy.down()
    toxiproxy.proxy("127.0.0.1:1").latency(10_000)
    private_redis.freeze()
    os.kill(toxiproxy.pid, signal.SIGSTOP)
    pids = [it.pid for it in (private_redis, toxiproxy, worker, stopped)]
    Path("pids").write_text(" ".join(map(str, pids)))
    return worker, threading.enumerate()
"""
ARGUMENTS = "private_redis, toxiproxy, chaos_proxy, worker_process"


def test_a_test_that_leaves_everything_broken_is_cleaned_up_before_the_next(
    run: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    done = run(
        "--durations=0",
        code=MESS
        + f"""
def test_mess({ARGUMENTS}):
    mess({ARGUMENTS})
    assert False

def test_next():
    import psutil
    # Trio keeps one that has done its work for ten seconds, for the next.
    assert [it.name for it in threading.enumerate() if "Trio thread" not in it.name] == ["MainThread"]
    assert psutil.Process().children(recursive=True) == []

def test_after_that(chaos_proxy):
    assert "no fault" in repr(chaos_proxy)
""",
    )
    assert outcomes(done) == {"passed": 2, "failed": 1}, done.stdout
    assert processes_about(project) == []


def test_ctrl_c_leaves_nothing(run: Callable[..., subprocess.CompletedProcess[str]], project: Path) -> None:
    done = run(
        code=MESS
        + f"""
def test_mess({ARGUMENTS}):
    worker, _ = mess({ARGUMENTS})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    worker.wait(within_s={RUN_S})
"""
    )
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "KeyboardInterrupt" in done.stdout
    assert processes_about(project) == []


async def test_kill_9_of_pytest_leaves_nothing(
    run: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    code = MESS + f"\ndef test_mess({ARGUMENTS}):\n    mess({ARGUMENTS})\n    os.kill(os.getpid(), 9)\n"
    done = await trio.to_thread.run_sync(lambda: run(code=code))
    assert done.returncode == -9, done.stdout
    await eventually(lambda: not processes_about(project), what="the end of every process")
