"""A real Prometheus that scrapes a real worker, both child processes of a test. It scrapes every second."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]
import trio
import yaml

from tests.cli.conftest import ROOT, command, environment
from tests.support import eventually
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

START_S = 30.0
END_S = 10.0
ANSWER_S = 10.0

# --- the worker ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running_worker(folder: Path, url: str) -> AsyncIterator[str]:
    """A worker process of `dashboard_app`, by the address of its HTTP server, "host:port". It must end well."""
    log = folder / "worker.log"
    arguments = ("worker", "tests.ops.dashboard_app:app", "--queues", "default,mails", "--http-port", "0")
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            command(*arguments, "--log-format", "json", "--shutdown-grace", "1"),
            cwd=ROOT,
            env=environment(QUEUE_TRIO_REDIS__URL=url, QUEUE_TRIO_METRICS__INTERVAL="0.5"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        await eventually(lambda: _listens_at(log), what=f"http.listening in {log}")
        yield _listens_at(log).removeprefix("http://")
        process.terminate()
        with trio.fail_after(10):
            assert await process.wait() == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _listens_at(log: Path) -> str:
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"http.listening"' in line]
    return str(lines[0]["url"]) if lines else ""


# --- Prometheus ----------------------------------------------------------------------------------------------------


def get(url: str) -> tuple[int, str]:
    """Status and body. Blocks."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, and the folder with its rules."""

    url: str

    async def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an API call that must succeed."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        status, body = await trio.to_thread.run_sync(get, url)
        answer = json.loads(body)
        assert status == 200, answer.get("error", body)
        return answer["data"]

    async def values(self, expr: str) -> dict[str, float]:
        """What an expression gives now, without NaN: a quotient of nothing and nothing is no data."""
        found = {
            json.dumps(series["metric"], sort_keys=True): float(series["value"][1])
            for series in (await self.ask("query", query=expr))["result"]
        }
        return {metric: value for metric, value in found.items() if not math.isnan(value)}

    async def label_values(self, metric: str, label: str) -> list[str]:
        """As Grafana asks for label_values(metric, label)."""
        found = await self.ask(f"label/{label}/values", **{"match[]": metric})
        return [str(value) for value in found]


@asynccontextmanager
async def running_prometheus(
    folder: Path, targets: Sequence[str], *, rules: Sequence[Path] = (), job: str = "queue-trio"
) -> AsyncIterator[Prometheus]:
    """Scrapes `targets` ("host:port") every second. Its data goes to `folder`. Gone at the end."""
    program = tool("prometheus")
    config = folder / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(path) for path in rules],
                "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
            }
        )
    )
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        port = await _port(process, log)
        found = Prometheus(f"http://127.0.0.1:{port}")
        await eventually(lambda: _is_ready(found), START_S, what=f"{found.url} ready; see {log}")
        yield found
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()


async def _port(process: trio.Process, log: Path) -> int:
    """The port it chose. It does not say so itself."""
    ports: list[int] = []

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        found = psutil.Process(process.pid).net_connections(kind="tcp")
        ports.extend(it.laddr.port for it in found if it.status == psutil.CONN_LISTEN)
        return bool(ports)

    await eventually(listens, START_S, what="a listening Prometheus")
    return ports[0]


async def _is_ready(prometheus: Prometheus) -> bool:
    status, _ = await trio.to_thread.run_sync(get, f"{prometheus.url}/-/ready")
    return status == 200
