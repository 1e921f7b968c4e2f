"""Declaring tasks, making jobs of them, and what is refused."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from pydantic import BaseModel

from queue_trio import App, JobContext, JobId, Priority, Settings
from queue_trio.core.job import Enqueued, decode_record
from queue_trio.errors import ConfigError, InvalidArguments, NoClient, PayloadTooLarge, QueueFull, UsageError
from queue_trio.submission import conclude, job_id, prepare, prepare_many

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app() -> App:
    return App("tests", settings=Settings())


def record_of(job: Any) -> Any:
    _, new = prepare(job, now_ms=7, max_payload=1 << 20)
    return decode_record(new.record)


# --- declaring -----------------------------------------------------------------------------------------------------


def test_with_and_without_parentheses(app: App) -> None:
    @app.task
    async def plain(path: str) -> None:
        """What it does."""

    @app.task(queue="mail", priority="high", name="send")
    def send(to: str) -> None: ...

    @app.task()
    def bare() -> None: ...

    assert set(app.tasks) == {plain.name, "send", bare.name}
    assert plain.name == f"{__name__}.test_with_and_without_parentheses.<locals>.plain"
    assert (plain.queue, plain.run_in, plain.__doc__, plain.__name__) == (
        "default", "trio", "What it does.", "plain",
    )  # fmt: skip
    assert (send.queue, send.run_in, send.defaults.priority) == ("mail", "thread", Priority.HIGH)
    assert repr(send) == "<Task send>"
    assert repr(app) == "<App tests: 3 tasks>"


def test_a_name_can_be_taken_once(app: App) -> None:
    app.task(name="a")(lambda: None)
    with pytest.raises(UsageError, match="task a is declared twice in app tests; give one another name="):
        app.task(name="a")(lambda: None)


def test_where_it_runs_must_fit_what_it_is(app: App) -> None:
    async def coroutine() -> None: ...
    def function() -> None: ...
    def generator() -> Any:
        yield

    async def stream() -> Any:
        yield

    wrong: list[Any] = ["thread", "process"]
    for where in wrong:
        with pytest.raises(UsageError, match="an async function runs in trio"):
            app.task(run_in=where)(coroutine)
    with pytest.raises(UsageError, match="an async function runs in trio"):
        app.task(run_in="trio")(function)
    with pytest.raises(UsageError, match="choose one of trio, thread, process"):
        app.task(run_in="fork")(function)  # type: ignore[call-overload]
    for yields in (generator, stream):
        with pytest.raises(UsageError, match="it has a yield"):
            app.task(yields)
    assert app.task(run_in="process")(function).run_in == "process"


def test_what_is_not_a_function_is_refused(app: App) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    task = app.task(add)
    odd_things: list[Any] = [functools.partial(add, 1), print, int, 3]
    for odd in odd_things:
        with pytest.raises(UsageError, match=r"cannot be a task|has no name a record|annotation"):
            app.task(odd)
    with pytest.raises(UsageError, match="is a task already"):
        app.task(task)
    with pytest.raises(UsageError, match="has no name a record could store it under"):
        app.task(lambda *args: None)


def test_options_are_checked_when_declaring(app: App) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"priority": "hihg"}, "choose one of critical, high, normal, low"),
        ({"timeout": 0}, "timeout=0: give seconds"),
        ({"timeout": "5"}, "timeout='5': give seconds"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_retries": 1.5}, "max_retries=1.5: give a whole number"),
        ({"max_retries": True}, "max_retries=True"),
        ({"keep_result": float("nan")}, "keep_result=nan"),
        ({"retry_base": -1}, "retry_base=-1: give seconds"),
        ({"queue": "a b"}, "queue 'a b'"),
    ]
    for options, what in wrong:
        with pytest.raises(UsageError, match=what):
            app.task(**options)(lambda: None)
    assert app.tasks == {}


def test_types_defined_in_a_function_can_be_used(app: App) -> None:
    class Picture(BaseModel):
        path: str

    @app.task
    def without(picture: Picture) -> None: ...

    @app.task(name="with")
    def with_(picture: Picture) -> None: ...

    for task in (without, with_):
        assert task.job(Picture(path="a")).arguments == b'{"picture":{"path":"a"}}'


def test_the_programs_own_file_is_called_by_its_name(tmp_path: Path) -> None:
    """Run as a program, a module is `__main__`; the worker imports it by its name, and must know the same tasks."""
    import subprocess

    program = "from queue_trio import App\napp = App('x')\n@app.task\ndef f() -> None: ...\nprint(f.name)\n"
    (tmp_path / "jobs.py").write_text(program)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}
    for arguments in (["jobs.py"], ["-m", "jobs"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "jobs.f\n"


# --- calling -------------------------------------------------------------------------------------------------------


async def test_calling_runs_it(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    def triple(n: int) -> int:
        return 3 * n

    assert await double(2) == 4
    assert triple(2) == 6


def test_calling_fills_in_the_context(app: App) -> None:
    @app.task
    def first(job: JobContext, a: int, b: int = 0) -> tuple[str, int, int]:
        return job.id, a, b

    @app.task
    def middle(a: int, job: JobContext, b: int = 0) -> tuple[str, int, int]:
        return job.id, a, b

    @app.task
    def only_by_name(a: int, *, job: JobContext) -> tuple[str, int]:
        return job.id, a

    assert first(1, 2) == first(1, b=2) == first(a=1, b=2) == ("local", 1, 2)
    assert middle.function(1, JobContext("x", "t", "q", 1, 0, 0.0), 2) == ("x", 1, 2)
    call: Any = middle
    assert call(1, 2) == call(1, b=2) == call(b=2, a=1) == ("local", 1, 2)
    call = only_by_name
    assert call(1) == ("local", 1)
    given = JobContext("mine", "t", "q", 1, 0, 0.0)
    assert call(1, job=given) == ("mine", 1)


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_a_job_holds_what_was_given_and_nothing_more(app: App) -> None:
    @app.task(timeout=30, max_retries=5, keep_result=60, priority="low")
    def render(path: str, width: int = 640) -> None: ...

    job = render.job("cat.png")
    assert job.arguments == b'{"path":"cat.png"}'
    record = record_of(job)
    assert bytes(record.args) == job.arguments
    assert (record.task, record.timeout_ms, record.max_retries, record.keep_result_ms, record.enqueued_ms) == (
        render.name, 30_000, 5, 60_000, 7,
    )  # fmt: skip
    with pytest.raises(InvalidArguments, match="'width': input should be a valid integer"):
        render.job("cat.png", "wide")  # type: ignore[arg-type]


def test_every_job_has_an_id_of_its_own_that_sorts_by_time(app: App) -> None:
    task = app.task(name="t")(lambda: None)
    ids = [task.job().id for _ in range(100)]
    assert len(set(ids)) == 100
    assert [job_id[:13] for job_id in ids] == sorted(job_id[:13] for job_id in ids)


def test_options_make_another_job(app: App) -> None:
    task = app.task(name="t", timeout=9)(lambda: None)
    job = task.job()
    other = job.options(
        id="mine", priority="critical", delay=1.5, timeout=2, max_retries=0, keep_result=3, unique_for=4,
        headers={"trace": "x"},
    )  # fmt: skip
    lane, new = prepare(other, now_ms=0, max_payload=1024)
    assert (str(lane), new.id, new.priority, new.delay_ms, new.unique_ms) == (
        "default.0", "mine", Priority.CRITICAL, 1500, 4000,
    )  # fmt: skip
    record = decode_record(new.record)
    assert (record.timeout_ms, record.max_retries, record.keep_result_ms, record.headers) == (
        2000, 0, 3000, {"trace": "x"},
    )  # fmt: skip
    assert job.chosen == task.defaults
    assert job.options().id == job.id
    assert job.options(priority=Priority.HIGH).chosen.priority is Priority.HIGH


@pytest.mark.parametrize(
    "options",
    [
        {"id": ""},
        {"id": "a b"},
        {"id": "x" * 201},
        {"priority": "top"},
        {"delay": -1},
        {"delay": float("inf")},
        {"timeout": 0},
        {"max_retries": -1},
        {"headers": {"a": 1}},
        {"headers": {"a": "\ud800"}},
        {"headers": {2: "a"}},
    ],
)
def test_options_that_make_no_sense(app: App, options: dict[str, Any]) -> None:
    job = app.task(name="t")(lambda: None).job()
    with pytest.raises(UsageError):
        job.options(**options)


def test_too_large_a_record_is_refused(app: App) -> None:
    @app.task(name="t")
    def t(text: str) -> None: ...

    with pytest.raises(PayloadTooLarge, match=r"more than client.max_payload \(1024\)"):
        prepare_many([t.job("small"), t.job("x" * 2000)], now_ms=0, max_payload=1024)


def test_answers_become_ids_or_an_error(app: App) -> None:
    task = app.task(name="t")(lambda: None)
    jobs = [task.job() for _ in range(3)]
    texts = [job.id for job in jobs]
    ids = conclude(texts, [Enqueued.CREATED, Enqueued.DUPLICATE, Enqueued.CREATED], 0)
    assert ids == texts
    assert [job_id.created for job_id in ids] == [True, False, True]
    with pytest.raises(QueueFull, match="1 of 3 jobs refused") as caught:
        conclude(texts, [Enqueued.CREATED, Enqueued.REFUSED, Enqueued.DUPLICATE], 2)
    assert caught.value.accepted == (jobs[0].id, jobs[2].id)


def test_a_job_id_is_a_text() -> None:
    for answer, created in ((Enqueued.CREATED, True), (Enqueued.DUPLICATE, False)):
        found = job_id("x", answer)
        assert isinstance(found, JobId)
        assert found == "x"
        assert hash(found) == hash("x")
        assert found.created is created


# --- clients -------------------------------------------------------------------------------------------------------


async def test_enqueueing_needs_an_open_client(app: App) -> None:
    task = app.task(name="t")(lambda: None)
    with pytest.raises(NoClient, match=r"inside `async with app.client\(\):` of app 'tests'"):
        await task.enqueue()


@pytest.mark.leaves_keys("nobody runs what is enqueued")
async def test_the_client_opened_last_is_used(redis_url: str) -> None:
    app = App("tests", settings=Settings.model_validate({"redis": {"url": redis_url}}))

    @app.task(name="t")
    async def t(n: int) -> None: ...

    async with app.client() as client:
        job_id = await t.enqueue(1)
        assert job_id.created
        assert app.open_client is client
        job = t.job(2)
        assert (await client.enqueue(job)).created
        assert not (await client.enqueue(job)).created
        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(t.enqueue, n)
    with pytest.raises(NoClient):
        await t.enqueue(1)
    with pytest.raises(UsageError, match="not open"):
        await client.enqueue(t.job(1))


def test_settings_are_read_when_first_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = App("tests")
    (tmp_path / "queue-trio.yaml").write_text("worker: {concurrency: 3}\n")
    assert app.settings.worker.concurrency == 3
    (tmp_path / "queue-trio.yaml").write_text("worker: {concurrency: 0}\n")
    assert app.settings.worker.concurrency == 3
    with pytest.raises(ConfigError, match="concurrency"):
        _ = App("other").settings
