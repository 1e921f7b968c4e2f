"""The README's code runs as it stands there, against a real server; its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import trio
from markdown_it import MarkdownIt
from redis import Redis

from queue_trio import App
from queue_trio.core.job import Lane
from queue_trio.runtime.worker import Worker
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "runbooks").glob("*.md")),
]


def code_blocks(document: Path, language: str) -> Iterator[str]:
    for token in MarkdownIt().parse(document.read_text("utf-8")):
        if token.type == "fence" and token.info.strip() == language:
            yield token.content


async def test_the_readmes_code_enqueues_and_its_jobs_run(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUEUE_TRIO_REDIS__URL", redis_url)
    module = ModuleType("myapp")
    for block in code_blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), module.__dict__)  # noqa: S102  # it is what the test is about
    app = module.app
    assert isinstance(app, App)
    assert set(app.tasks) == {"myapp.render", "myapp.shrink", "myapp.fetch", "myapp.call_api"}

    worker = Worker(app)
    async with app.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await module.enqueue_some(["a.png", "b.png"])
        await module.enqueue_in_a_web_request("c.png")

        async def five_done_and_one_delayed() -> bool:
            stats = await client.store.stats(Lane())
            return (stats.completed, stats.scheduled) == (5, 1)

        await eventually(five_done_and_one_delayed)
        worker.drain()
    assert f"{len('https://example.org/cat.png')}\n" in capsys.readouterr().out
    with Redis.from_url(redis_url) as client:
        client.flushall()  # the job that the README delays by five seconds, and the result it keeps


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
