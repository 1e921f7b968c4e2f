"""A worker with its HTTP server under test, in this process, and a plain HTTP client to ask it."""

from __future__ import annotations

import http.client
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio
from prometheus_client.parser import text_string_to_metric_families

from queue_trio.app import App
from queue_trio.core.settings import HttpSettings, MetricsSettings, RedisSettings, Settings, WorkerSettings
from queue_trio.ops.service import open_http, run_service
from queue_trio.runtime.worker import Worker
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.ops.http import HttpServer

QUICK = {"read_timeout": 0.5, "connect_timeout": 0.5, "backoff_cap": 0.2, "breaker_open_wait": 0.2}
"""So that an outage is noticed and over soon."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    timeout_s: float = 10.0,
) -> Answer:
    """One request. Blocks."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read().decode()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
    finally:
        connection.close()


@dataclass
class Web:
    """A worker that serves, and how to ask it."""

    worker: Worker
    http: HttpServer

    async def get(self, path: str, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        return await trio.to_thread.run_sync(lambda: ask(self.http.url, path, headers, **options))

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        answer = await self.get("/readyz")
        found = answer.json()
        assert answer.status == (200 if found["ready"] else 503)
        return found["ready"], found["checks"]

    async def is_ready(self) -> bool:
        return (await self.ready())[0]

    async def is_not_ready(self) -> bool:
        return not (await self.ready())[0]

    async def samples(self) -> dict[str, float]:
        """The scrape: `name{label="value"}` without the prefix, labels sorted, to value."""
        answer = await self.get("/metrics")
        assert answer.status == 200
        return parse(answer.body)


def parse(text: str) -> dict[str, float]:
    """An exposition as `name{a="b"}` to value, without our prefix."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("queue_trio_")
            found[f"{name}{{{labels}}}" if labels else name] = float(sample.value)
    return found


def web_app(
    url: str, *, http: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None, **worker: Any
) -> App:
    """An app whose worker will serve on a port of its own."""
    settings = Settings(
        redis=RedisSettings(url=url, **QUICK),  # type: ignore[arg-type]
        worker=WorkerSettings(**{"poll_interval": 0.2, "sweep_interval": 0.2} | worker),
        http=HttpSettings(**{"port": 0} | (http or {})),
        metrics=MetricsSettings(**{"interval": 0.1} | (metrics or {})),
    )
    return App("web", settings=settings)


@asynccontextmanager
async def serving(app: App, *, wait_ready: bool = True) -> AsyncIterator[Web]:
    """Run a worker and its server inside the block; the worker is drained at the end."""
    worker = Worker(app, rng=random.Random(0))
    http = open_http(worker)
    assert http is not None
    web = Web(worker, http)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_service, worker, http)
        try:
            if wait_ready:
                await eventually(web.is_ready, 10)
            yield web
        except BaseException:
            worker.cancel()
            raise
        worker.drain()
