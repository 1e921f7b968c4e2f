"""What type checkers make of a task: mypy reads this file with the others, and every expected error is named in it.

An error that does not come is one itself (`warn_unused_ignores`), so `just check` keeps these promises. Nothing here
runs; the one test only sees to it that the checker still looks.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

from queue_trio import App, Job, JobContext, JobId, Settings, Task

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from queue_trio import Nonsense  # type: ignore[attr-defined]  # noqa: F401

app = App("typing", settings=Settings())


@app.task
async def render(path: str, width: int = 640) -> float:
    return 1.0


@app.task(priority="high", run_in="thread")
def resize(job: JobContext, path: str) -> int:
    return 1


@app.task(name="odd")
async def observe(job: JobContext, *, path: str) -> None: ...


def jobs_are_checked() -> None:
    assert_type(render.job("a"), Job)
    render.job("a", 3)
    render.job("a", width=3)
    render.job(1)  # type: ignore[arg-type]
    render.job("a", "b")  # type: ignore[arg-type]
    render.job()  # type: ignore[call-arg]
    render.job("a", hight=3)  # type: ignore[call-arg]


def the_context_is_not_the_callers() -> None:
    resize.job("a")
    resize.job(path="a")
    observe.job(path="a")
    resize.job(1)  # type: ignore[arg-type]
    observe.job("a")  # type: ignore[call-arg]
    assert_type(resize("a"), int)


async def calls_and_enqueues_keep_their_types() -> None:
    assert_type(await render("a"), float)
    assert_type(await render.enqueue("a"), JobId)
    await render.enqueue(1)  # type: ignore[arg-type]
    job_id: str = await render.enqueue("a")
    assert_type((await render.enqueue(job_id)).created, bool)


async def clients_take_jobs() -> None:
    async with app.client() as client:
        assert_type(await client.enqueue(render.job("a")), JobId)
        assert_type(await client.enqueue_many([render.job("a")]), list[JobId])
        await client.enqueue("a")  # type: ignore[arg-type]
    with app.sync_client() as sync_client:
        assert_type(sync_client.enqueue(render.job("a")), JobId)
        sync_client.enqueue(render("a"))  # type: ignore[arg-type]
    async with app.asyncio_client() as asyncio_client:
        assert_type(await asyncio_client.enqueue_many([resize.job("a")]), list[JobId])


def options_are_checked() -> None:
    render.job("a").options(priority="high", delay=1)
    render.job("a").options(priority="hihg")  # type: ignore[arg-type]

    app.task(run_in="fork")  # type: ignore[call-overload]


def tasks_have_a_type() -> None:
    assert_type(render, Task[[str, int], Coroutine[Any, Any, float]])  # type: ignore[assert-type]  # names, defaults
    assert_type(resize, Task[[str], int])  # type: ignore[assert-type]


def test_the_type_checker_reads_this_file() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True  # which includes warn_unused_ignores
    assert "tests" in settings["files"]
