"""A flood of the same line becomes a few lines and a count, and the count is never lost."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from queue_trio.context import JobInScope, job_in_scope
from queue_trio.core.settings import LogSettings
from queue_trio.ops.logging import configure_logging, flush_suppressed
from queue_trio.ops.repeats import KINDS_MAX, RepeatLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "queue_trio.runtime.executor"


class Log:
    """A log with a clock that stands still unless told."""

    def __init__(self, **settings: Any) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        given = LogSettings.model_validate(
            {"repeat_limit": 2, "repeat_window": 10, "format": "json"} | settings
        )
        configure_logging(given, self.stream, clock=lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        """What was written since the last look, without time stamps."""
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        assert all(line.pop("timestamp") for line in found)
        return found

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]


@pytest.fixture
def log() -> Callable[..., Log]:
    return Log


@pytest.fixture(autouse=True)
def outside_of_any_job() -> Iterator[None]:
    token = job_in_scope.set(None)
    yield
    job_in_scope.reset(token)


def test_a_count_that_comes_in_late_from_another_thread_is_not_lost() -> None:
    """It saw the clock before a window ended, and counts after another thread has looked whether there is to tell."""
    said: list[dict[str, Any]] = []
    now = 0.0
    limit = RepeatLimit(1, 10.0, lambda event: said.append(dict(event)), lambda: now)
    kind = ("redis.unavailable", None)
    assert limit._counts(kind, "warning", 0.0)
    limit._tell(10.0)
    assert not limit._counts(kind, "warning", 9.9)
    assert limit._counts(kind, "warning", 10.0)
    limit.flush()
    assert [(event["count"], event["level"]) for event in said] == [(1, "warning")]


def test_what_is_more_than_the_limit_is_counted_and_told_with_the_next_line_of_any_kind(
    log: Callable[..., Log],
) -> None:
    written = log()
    ours = structlog.get_logger(NAME)
    for number in range(7):
        ours.warning("job.failed", task="a", number=number)
    assert [line["number"] for line in written.lines()] == [0, 1]
    written.now = 9.9
    ours.info("worker.stopped")
    assert written.events() == ["worker.stopped"], "the window has not ended"
    written.now = 10.0
    structlog.get_logger("a.handler").info("anything")
    told, other = written.lines()
    assert told == {
        "event": "log.suppressed", "level": "warning", "kind": "job.failed", "task": "a", "count": 5, "window_s": 10.0,
    }  # fmt: skip
    assert other["event"] == "anything"
    ours.warning("job.failed", task="a")
    assert written.events() == ["job.failed"], "a new window has begun"


def test_the_next_line_of_that_kind_tells_it_too_and_comes_after_it(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1)
    ours = structlog.get_logger(NAME)
    for now in (0, 1, 2, 11, 12):
        written.now = now
        ours.error("redis.unreachable")
    assert written.events() == ["redis.unreachable", "log.suppressed", "redis.unreachable"]
    flush_suppressed()
    assert [line["count"] for line in written.lines()] == [1]


def test_an_hour_of_outage_is_some_hundred_lines(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1, repeat_window=60)
    ours = structlog.get_logger(NAME)
    for tick in range(36_000):
        written.now = tick / 10
        ours.warning("redis.unreachable")
    flush_suppressed()
    lines = written.lines()
    assert len(lines) == 120
    assert sum(line.get("count", 1) for line in lines) == 36_000, "every one is written or counted"


def test_kinds_are_told_apart_by_event_and_task(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1)
    ours = structlog.get_logger(NAME)
    for event, task in (("job.failed", "a"), ("job.failed", "b"), ("job.dead", "a"), ("job.failed", "a")):
        ours.error(event, task=task)
    assert [(line["event"], line["task"]) for line in written.lines()] == [
        ("job.failed", "a"), ("job.failed", "b"), ("job.dead", "a"),
    ]  # fmt: skip


def test_the_task_may_come_from_the_job_that_runs(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1)
    for task in ("a", "b"):
        job_in_scope.set(JobInScope("1", task, "default", 1))
        structlog.get_logger(NAME).warning("job.lease_lost")
    assert [line["task"] for line in written.lines()] == ["a", "b"]


def test_what_handlers_log_is_never_limited(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1)
    for _ in range(5):
        structlog.get_logger("app.tasks").info("mine")
        structlog.get_logger().info("nameless")
        logging.getLogger("app.tasks").warning("the standard library's")
    assert len(written.lines()) == 15


def test_the_noise_of_our_libraries_is_limited_by_template(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=2)
    for number in range(5):
        logging.getLogger("urllib3.connectionpool").warning("Retrying (%s)", number)
        logging.getLogger("opentelemetry.sdk").warning("Transient error %s", number)
    lines = written.lines()
    assert [line["event"] for line in lines] == [
        "Retrying (0)", "Transient error 0", "Retrying (1)", "Transient error 1",
    ]  # fmt: skip
    flush_suppressed()
    assert [(line["kind"], line["count"]) for line in written.lines()] == [
        ("urllib3.connectionpool: Retrying (%s)", 3),
        ("opentelemetry.sdk: Transient error %s", 3),
    ]


def test_endless_task_names_take_no_endless_memory_and_no_endless_lines(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1, repeat_window=1000)
    ours = structlog.get_logger(NAME)
    for number in range(3 * KINDS_MAX):
        written.now += 0.001
        ours.warning("job.unknown_task", task=f"task-{number}")
    flush_suppressed()
    lines = written.lines()
    assert len(lines) == KINDS_MAX + 2
    assert lines[-1]["count"] == 2 * KINDS_MAX - 1
    assert "task" not in lines[-1]


def test_kinds_of_the_past_make_room(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=1, repeat_window=1)
    ours = structlog.get_logger(NAME)
    for number in range(2 * KINDS_MAX):
        written.now += 0.1
        ours.warning("job.unknown_task", task=f"task-{number}")
    assert len(written.lines()) == 2 * KINDS_MAX


def test_threads_lose_no_count(log: Callable[..., Log]) -> None:
    written = log(repeat_limit=10)

    def flood() -> None:
        for _ in range(500):
            structlog.get_logger(NAME).warning("job.failed", task="a")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flush_suppressed()
    lines = written.lines()
    assert sum(line.get("count", 1) for line in lines) == 2000
    assert len(lines) == 11


def test_the_end_of_the_program_tells_what_was_left() -> None:
    program = """
import structlog
from queue_trio.core.settings import LogSettings
from queue_trio.ops.logging import configure_logging
configure_logging(LogSettings(repeat_limit=1), final=True)
for n in range(5): structlog.get_logger("queue_trio.x").info("line", n=n)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    first, last = map(json.loads, done.stderr.splitlines())
    assert first["n"] == 0
    assert (last["event"], last["count"]) == ("log.suppressed", 4)
