"""Rate limits as users meet them: declared on an app, asked for through each client, and as their document shows."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
import trio
from pydantic import SecretStr

from queue_trio import App, Permit, RateLimit, Settings
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import DeadlineExceeded, UsageError
from queue_trio.runtime.plan import make_plan
from queue_trio.runtime.worker import Worker
from tests.runtime.rig import memory_store
from tests.support import eventually
from tests.test_readme import ROOT, code_blocks

expires = pytest.mark.leaves_keys("the account of a limit expires by itself")


def test_a_limit_is_declared_once_and_reaches_the_plan_of_its_task() -> None:
    app = App("a", settings=Settings())
    mail = app.rate_limit("mail", 100, per=60)
    assert mail == RateLimit("mail", 100, 60, "window")
    assert app.rate_limit("mail", 100, per=60) is mail
    with pytest.raises(UsageError, match="rate limit mail is declared twice in app a, and not the same"):
        app.rate_limit("mail", 100, per=61)
    with pytest.raises(UsageError, match="rate limit x: limit=0"):
        app.rate_limit("x", 0, per=1)
    assert set(app.rate_limits) == {"mail"}

    @app.task(rate_limit=mail)
    async def send() -> None: ...

    @app.task
    async def free() -> None: ...

    assert make_plan(send, app.settings.worker).rate_limit is mail
    assert make_plan(free, app.settings.worker).rate_limit is None


def test_a_task_takes_a_limit_and_nothing_else() -> None:
    app = App("a", settings=Settings())
    wrong: Any = "mail"
    with pytest.raises(UsageError, match=r"rate_limit='mail': give what app.rate_limit\(...\) returned"):
        app.task(rate_limit=wrong)


@expires
async def test_the_three_clients_share_a_limit(redis_url: str) -> None:
    app = App("a", settings=Settings(redis=RedisSettings(url=SecretStr(redis_url))))
    limit = app.rate_limit("shared", 3, per=30 * 86400)

    def in_a_thread() -> Permit:
        with app.sync_client() as client:
            return client.acquire(limit)

    async def on_asyncio() -> Permit:
        async with app.asyncio_client() as client:
            return await client.acquire(limit)

    permits = [
        await trio.to_thread.run_sync(in_a_thread),
        await trio.to_thread.run_sync(lambda: asyncio.run(on_asyncio())),
    ]
    async with app.client() as client:
        with pytest.raises(DeadlineExceeded, match="rate limit shared: no permit before"):
            await client.acquire(limit, 2, wait=5)
        permits.append(await client.acquire(limit, wait=0))
        with pytest.raises(DeadlineExceeded):
            await client.acquire(limit, wait=0)
    assert [permit.counted for permit in permits] == [True] * 3
    assert [permit.at_us for permit in permits] == sorted(permit.at_us for permit in permits)


async def test_on_a_store_in_memory_limits_work_too(autojump_clock: trio.testing.MockClock) -> None:
    app = App("a", settings=Settings())
    limit = app.rate_limit("m", 1, per=2, jitter=0)
    worker = Worker(app, store=memory_store())
    async with worker._client as client:
        for _ in range(3):
            await client.acquire(limit)
    # Two windows further; the clock of a store in memory is rounded to milliseconds.
    assert 3.999 <= trio.current_time() < 4.01


@expires
async def test_the_documents_code_paces_jobs_and_callers(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", redis_url)
    module = ModuleType("mailer")
    blocks = list(code_blocks(ROOT / "docs" / "rate-limits.md", "python"))
    assert blocks
    for block in blocks:
        exec(compile(block, "rate-limits.md", "exec"), module.__dict__)  # noqa: S102  # it is what the test is about
    app = module.app
    assert isinstance(app, App)
    assert set(app.rate_limits) == {"mail", "api"}
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await module.ask_the_api()
        await eventually(lambda: worker.counts.completed == 1)
        worker.drain()
    assert "to a@example.org\n" in capsys.readouterr().out
