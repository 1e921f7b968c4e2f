"""What the plugin's fixtures give, used as a plain test uses it: real servers, real workers, and each fault felt."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.errors import HarnessError
from chaos.testing.driver import open_driver
from chaos.testing.private_redis import open_private_redis
from chaos.testing.proxies import ChaosProxy, open_toxiproxy
from chaos.testing.workers import open_workers
from queue_trio import App, Settings
from queue_trio.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chaos.testing import Fault, PrivateRedis, StartWorker, Toxiproxy
    from chaos.testing.driver import Driver

QUICK = {"lease": 0.5, "sweep_interval": 0.1, "poll_interval": 0.1}
IMPATIENT = {"read_timeout": 0.4, "backoff_cap": 0.1, "breaker_open_wait": 0.1}

SHOP = """
import os
from pathlib import Path
from queue_trio import App, Settings

app = App("shop", settings=Settings.model_validate({"redis": {"url": "redis://127.0.0.1:1/0"}}))

@app.task(name="price", keep_result=60)
def price(item: str) -> str:
    print(f"the price of {item}")
    return f"{Path.cwd().name} {app.settings.worker.concurrency}"
"""

app = App("shop")


@app.task(name="price", keep_result=60)
def price(item: str) -> str:
    return item


@pytest.fixture
def driver() -> Iterator[Driver]:
    with open_driver() as driver:
        yield driver


@pytest.fixture
def server(driver: Driver) -> Iterator[PrivateRedis]:
    with open_private_redis(driver) as server:
        yield server


@pytest.fixture
def toxiproxy(driver: Driver) -> Iterator[Toxiproxy]:
    with open_toxiproxy(driver, ensure_toxiproxy(print)) as toxiproxy:
        yield toxiproxy


@pytest.fixture
def proxy(server: PrivateRedis, toxiproxy: Toxiproxy) -> ChaosProxy:
    return toxiproxy.proxy(server.address)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with their app and their settings."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "shop.py").write_text(SHOP)
    (folder / "queue-trio.yaml").write_text("worker: {concurrency: 3, lease: 60}\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def start(driver: Driver, tmp_path: Path, project: Path) -> Iterator[StartWorker]:
    with open_workers(driver, tmp_path) as start:
        yield start


def ask(url: str, *command: str, timeout_s: float = 0.5) -> object:
    """One command on a connection of its own, tried once."""
    with closing(connect(url, timeout_s)) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


def connect(url: str, timeout_s: float = 0.5) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), retries=0))


def pings(url: str) -> bool:
    try:
        return ask(url, "PING") is True
    except redis.RedisError:
        return False


def order(url: str, item: str = "tea") -> object:
    app.configure(Settings.model_validate({"redis": {"url": url}}))
    with app.sync_client() as client:
        return client.result(client.enqueue(price.job(item)), wait=10)


# --- Redis ---------------------------------------------------------------------------------------------------------


def test_what_redis_has_acknowledged_is_there_after_a_kill_and_a_start(server: PrivateRedis) -> None:
    ask(server.url, "SET", "tea", "3")
    pid = server.pid
    server.kill()
    server.kill()
    assert (server.running, pings(server.url)) == (False, False)
    server.start()
    server.start()
    assert ask(server.url, "GET", "tea") == b"3"
    assert server.pid != pid


def test_a_frozen_redis_answers_when_it_is_thawed(server: PrivateRedis) -> None:
    server.freeze()
    assert server.running
    assert not pings(server.url)
    server.thaw()
    assert pings(server.url)


def test_an_error_is_told_where_the_test_is_and_not_where_it_was_found(server: PrivateRedis) -> None:
    server.kill()
    with pytest.raises(UsageError, match="down and cannot get SIGSTOP") as told:
        server.freeze()
    files = [entry.path for entry in told.traceback]
    assert not any("embedded" in str(file) or "anyio" in str(file) for file in files), files
    assert told.value.__suppress_context__


# --- the network ---------------------------------------------------------------------------------------------------


def test_a_proxy_is_down_as_long_as_the_block(server: PrivateRedis, proxy: ChaosProxy) -> None:
    with proxy.down() as fault:
        assert "is down" in fault.proof
        assert not pings(proxy.url)
        assert pings(server.url)
    assert pings(proxy.url)
    proxy.down()
    assert "down" in repr(proxy)
    proxy.up()
    proxy.up()
    assert pings(proxy.url)


def took_s(proxy: ChaosProxy) -> float:
    began = time.perf_counter()
    ask(proxy.url, "PING", timeout_s=5)
    return time.perf_counter() - began


def late(proxy: ChaosProxy) -> bool:
    return took_s(proxy) > 0.2


def unanswered(proxy: ChaosProxy) -> bool:
    return not pings(proxy.url)


def closed_late(proxy: ChaosProxy) -> bool:
    """Whether the server's end of a connection comes late."""
    parts = urlsplit(proxy.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as connection:
        connection.sendall(b"QUIT\r\n")
        assert connection.recv(64) == b"+OK\r\n"
        began = time.perf_counter()
        assert connection.recv(64) == b""
    return time.perf_counter() - began > 0.2


FAULTS: dict[str, tuple[Callable[[ChaosProxy], Fault], Callable[[ChaosProxy], bool]]] = {
    "latency": (lambda proxy: proxy.latency(150), late),
    "latency-upstream": (lambda proxy: proxy.latency(250, stream="upstream"), late),
    "timeout": (lambda proxy: proxy.timeout(0), unanswered),
    "bandwidth": (lambda proxy: proxy.bandwidth(0), unanswered),
    "reset": (lambda proxy: proxy.reset(), unanswered),
    "cut_after": (lambda proxy: proxy.cut_after(3), unanswered),
    "slices": (lambda proxy: proxy.slices(1, delay_us=15_000), late),
    "slow_close": (lambda proxy: proxy.slow_close(400), closed_late),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_felt_until_it_is_healed(name: str, proxy: ChaosProxy) -> None:
    begin, felt = FAULTS[name]
    assert not felt(proxy)
    with begin(proxy) as fault:
        assert "read back: proxy proxy-1 is up, " in fault.proof
        assert felt(proxy)
    assert not felt(proxy)
    fault.heal()
    assert "no fault" in repr(proxy)


def test_faults_add_up_and_are_healed_one_by_one_or_all_at_once(proxy: ChaosProxy) -> None:
    slow, slower = proxy.latency(150), proxy.latency(150)
    assert took_s(proxy) > 0.3
    slow.heal()
    assert repr(proxy).count("latency") == 2  # the toxic, and its attribute
    assert took_s(proxy) > 0.15
    with proxy.timeout(0), proxy.down():
        proxy.heal()
        assert pings(proxy.url)
    slower.heal()
    assert pings(proxy.url)


def test_a_value_that_toxiproxy_would_take_and_ignore_is_refused(proxy: ChaosProxy) -> None:
    with pytest.raises(HarnessError, match="give a whole number"):
        proxy.latency(-1)
    assert pings(proxy.url)


def test_a_toxiproxy_that_hangs_is_replaced_when_it_is_to_heal(
    toxiproxy: Toxiproxy, server: PrivateRedis
) -> None:
    one, two = toxiproxy.proxy(server.address), toxiproxy.proxy(server.address)
    fault = one.timeout(0)
    two.latency(1)
    old = toxiproxy.pid
    os.kill(old, signal.SIGSTOP)
    fault.heal()
    assert toxiproxy.pid != old
    assert pings(one.url)
    assert pings(two.url)
    assert "latency" in repr(two)


# --- workers -------------------------------------------------------------------------------------------------------


def test_a_worker_runs_in_the_folder_with_its_file_and_what_the_test_says_wins(
    start: StartWorker, server: PrivateRedis
) -> None:
    worker = start("shop:app", url=server.url, worker=QUICK)
    assert order(server.url) == "project 3"
    assert "the price of tea" in worker.log.read_text()
    assert worker.terminate() == 0
    assert not worker.alive


def test_a_stopped_worker_takes_jobs_when_it_goes_on(start: StartWorker, server: PrivateRedis) -> None:
    worker = start("shop:app", url=server.url, worker=QUICK | {"lease": 30})
    worker.stop()
    app.configure(Settings.model_validate({"redis": {"url": server.url}}))
    with app.sync_client() as client:
        job = client.enqueue(price.job("tea"))
        worker.go_on()
        assert client.result(job, wait=10) == "project 3"
    worker.kill()
    assert worker.exit_code == -signal.SIGKILL
    worker.kill()
    with pytest.raises(HarnessError, match="is gone and cannot get SIGCONT"):
        worker.go_on()


def test_a_worker_can_start_during_an_outage(start: StartWorker, proxy: ChaosProxy) -> None:
    with proxy.down():
        worker = start("shop:app", url=proxy.url, ready=False, worker=QUICK, redis=IMPATIENT)
        assert worker.alive
    assert order(proxy.url) == "project 3"


def test_a_worker_that_cannot_start_says_why(start: StartWorker, server: PrivateRedis) -> None:
    with pytest.raises(HarnessError, match=r"ended with exit code 4 .* module 'shopp' not found"):
        start("shopp:app", url=server.url)
    (log,) = start.logs()
    assert "log of worker-1 (pid " in log[0]
    assert "exit code 4" in log[0]
    assert "did you mean shop?" in log[1]


def test_a_wrong_setting_is_refused_before_anything_starts(start: StartWorker, server: PrivateRedis) -> None:
    with pytest.raises(ConfigError, match=r"WORKER__LEESE.*did you mean QUEUE_TRIO_WORKER__LEASE"):
        start("shop:app", url=server.url, worker={"leese": 1})
    assert list(start.logs()) == []


def test_the_end_of_a_long_log_says_how_much_went_before(start: StartWorker, server: PrivateRedis) -> None:
    worker = start("shop:app", url=server.url)
    with worker.log.open("a") as log:
        log.writelines(json.dumps({"line": number}) + "\n" for number in range(1000))
    ((_, text),) = start.logs()
    first, *lines = text.splitlines()
    assert first.startswith("(8")
    assert (len(lines), lines[-1]) == (200, '{"line": 999}')


def test_a_wait_that_is_interrupted_is_over_at_once(start: StartWorker, server: PrivateRedis) -> None:
    worker = start("shop:app", url=server.url)

    def interrupt(*_: object) -> None:
        raise TimeoutError("enough")

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        began = time.perf_counter()
        with pytest.raises(TimeoutError, match="enough"):
            worker.wait()
        assert time.perf_counter() - began < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert worker.alive
