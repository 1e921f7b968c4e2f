"""Fixtures for tests that want a real Redis to break: `private_redis`, `toxiproxy`, `chaos_proxy`, `worker_process`.

docs/chaos-in-your-tests.md shows how to use them; `chaos.testing` has what they give. All of it is one test's own, and
gone after it, though the test fail, be interrupted, or pytest itself be killed.

Every pytest of an environment with queue-trio in it loads this module, so it imports nothing before a fixture is used.
`-p no:queue_trio_chaos` turns it off.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from chaos.testing import ChaosProxy, PrivateRedis, StartWorker, Toxiproxy
    from chaos.testing.driver import Driver

_WORKERS = pytest.StashKey["StartWorker"]()
_OF_THE_EXTRA = frozenset({"requests", "toxiproxy"})


@pytest.fixture
def private_redis(_chaos_driver: Driver) -> Iterator[PrivateRedis]:
    """A real, empty Redis or Valkey of this test's own, to kill, start, freeze and thaw."""
    with ExitStack() as stack:
        with _told_in_one_line():
            from chaos.testing.private_redis import open_private_redis

            redis = stack.enter_context(open_private_redis(_chaos_driver))
        yield redis


@pytest.fixture
def toxiproxy(_chaos_driver: Driver, _toxiproxy_binary: Path) -> Iterator[Toxiproxy]:
    """A real Toxiproxy of this test's own: `toxiproxy.proxy("HOST:PORT")` makes a proxy in front of what is there."""
    with ExitStack() as stack:
        with _told_in_one_line():
            from chaos.testing.proxies import open_toxiproxy

            server = stack.enter_context(open_toxiproxy(_chaos_driver, _toxiproxy_binary))
        yield server


@pytest.fixture
def chaos_proxy(private_redis: PrivateRedis, toxiproxy: Toxiproxy) -> ChaosProxy:
    """A proxy in front of `private_redis`: give its `url` to clients and workers, then break it."""
    return toxiproxy.proxy(private_redis.address)


@pytest.fixture
def worker_process(
    _chaos_driver: Driver, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartWorker]:
    """Starts real worker processes: `worker_process("module:app", url=chaos_proxy.url, worker={"lease": 1})`.

    They are killed at the end of the test. If it fails, their logs are in its report.
    """
    with ExitStack() as stack:
        with _told_in_one_line():
            from chaos.testing.workers import open_workers

            workers = stack.enter_context(open_workers(_chaos_driver, tmp_path_factory.mktemp("workers")))
        request.node.stash[_WORKERS] = workers
        yield workers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _WORKERS in item.stash:
        report.sections += item.stash[_WORKERS].logs()
    return report


# --- what the others stand on --------------------------------------------------------------------------------------


@pytest.fixture
def _chaos_driver() -> Iterator[Driver]:
    """The thread in which everything above is driven. Set up first, so that it ends last."""
    from chaos.testing.driver import open_driver

    with open_driver() as driver:
        yield driver


@pytest.fixture(scope="session")
def _toxiproxy_binary(pytestconfig: pytest.Config) -> Path:
    with _told_in_one_line():
        import chaos.driving.toxiproxy  # noqa: F401  # what needs the extra: say so before anything is installed
        from chaos.driving.toxiproxy_binary import ensure_toxiproxy

        return ensure_toxiproxy(lambda text: _say(pytestconfig, text))


def _say(config: pytest.Config, text: str) -> None:
    """At once, on the terminal: whoever waits for a minute must know for what."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None:  # a worker of pytest-xdist has no terminal
        return
    with ExitStack() as stack:
        if capture is not None:
            stack.enter_context(capture.global_and_fixture_disabled())
        reporter.ensure_newline()
        reporter.write_line(text)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """What is missing here is told as it is, without the way through our code."""
    from queue_trio.errors import QueueTrioError

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_EXTRA:
            raise
        why = f"this fixture needs the package {error.name}: pip install 'queue-trio[chaos]'"
    except QueueTrioError as error:
        why = str(error)
    else:
        return
    raise pytest.fail.Exception(why, pytrace=False) from None
