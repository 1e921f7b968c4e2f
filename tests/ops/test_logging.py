"""Log lines: their shape, what they hide, and that nobody reading them does no harm."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import structlog
import trio

from queue_trio.core.settings import LogSettings
from queue_trio.ops.logging import configure_logging, mask


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_no_terminal_is() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    structlog.get_logger().bind(worker="w1").info("job.done", id="a\nb", seconds=0.5, size=None)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job.done", "level": "info", "worker": "w1", "id": "a\nb", "seconds": 0.5, "size": None,
    }  # fmt: skip


def test_text_on_a_terminal_one_line_each() -> None:
    stream = Terminal()
    configure_logging(LogSettings(), stream)
    structlog.get_logger().info("job.done", id="a\nb")
    assert stream.getvalue().count("\n") == 1
    assert "job.done" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_format_can_be_chosen(form: str) -> None:
    stream = Terminal() if form == "json" else io.StringIO()
    configure_logging(LogSettings.model_validate({"format": form}), stream)
    structlog.get_logger().info("x")
    assert stream.getvalue().startswith("{") == (form == "json")


def test_levels() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="warning"), stream)
    log = structlog.get_logger()
    log.debug("no")
    log.info("no")
    log.warning("yes")
    configure_logging(LogSettings(level="debug"), stream)
    log.debug("now")
    assert [line["event"] for line in lines(stream)] == ["yes", "now"]


def test_exceptions_are_data_in_json_and_text_for_people() -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        configure_logging(LogSettings.model_validate({"format": form}), stream)
        try:
            raise ExceptionGroup("several", [ValueError("redis://me:hunter2@host is odd")])
        except ExceptionGroup:
            structlog.get_logger().exception("job.failed")
        assert "hunter2" not in stream.getvalue()
        if form == "json":
            (line,) = lines(stream)
            assert line["exception"][0]["is_group"] is True
            assert "locals" not in line["exception"][0]["frames"][0]
        else:
            assert "ValueError: redis://me:***@host is odd" in stream.getvalue()


def test_libraries_are_heard_from_warning_up() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="debug"), stream)
    library = logging.getLogger("some.library")
    library.info("quiet")
    library.warning("cannot reach %s", "redis://:hunter2@host")
    try:
        raise OSError("gone")
    except OSError:
        library.exception("broken")
    found = lines(stream)
    assert [line["event"] for line in found] == [
        "cannot reach redis://:***@host", "broken"
    ]  # fmt: skip
    assert {line["logger"] for line in found} == {"some.library"}
    assert found[-1]["exception"][0]["exc_type"] == "OSError"


def test_a_library_that_logs_wrongly_is_heard_all_the_same() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    handler = logging.getLogger().handlers[-1]
    handler.emit(logging.LogRecord("library", logging.ERROR, "file", 1, "%d arguments", ("x",), None))
    assert lines(stream)[0]["event"] == "%d arguments"


def test_python_warnings_are_log_lines() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(LogSettings(), stream)
        warnings.warn("old ways", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old ways" in line["event"]


def test_configuring_twice_does_not_double_lines() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(LogSettings(), first)
    configure_logging(LogSettings(), second)
    logging.getLogger("library").warning("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:hunter2@host:1/0", "redis://me:***@host:1/0"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("rediss://:hunt/er2@host and unix://a:hunter2@/s", "rediss://:***@host and unix://a:***@/s"),
        ("redis://:hunt@er2@host", "redis://:***@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://host:6379 mail me@home", "redis://host:6379 mail me@home"),
        ("?password=hunter2&db=3", "?password=***&db=3"),
        ("PGPASSWORD=hunter2 run", "PGPASSWORD=*** run"),
        ("{'password': 'hunt er2', 'a': 1}", "{'password': ***, 'a': 1}"),
        ("the password is wrong", "the password is wrong"),
    ],
)
def test_masking(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_secrets_are_masked_at_any_depth() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    url = "redis://:hunter2@host"
    structlog.get_logger().info(
        url,
        a=[url, {"b": (url,)}],
        error=ValueError(url),
        raw=url.encode(),
        password="hunter2",
        n={"secret": "hunter2"},
    )
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["a"] == ["redis://:***@host", {"b": ["redis://:***@host"]}]


def test_a_stream_that_cannot_take_a_character_gets_it_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    configure_logging(LogSettings(format="json"), stream)
    structlog.get_logger().info("grün", lone="\ud800")
    stream.flush()
    assert json.loads(raw.getvalue())["event"] == "grün"


def test_a_closed_stream_is_no_error() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    stream.close()
    structlog.get_logger().info("anyone?")
    configure_logging(LogSettings(), stream)
    logging.getLogger("library").warning("no one")


async def test_a_reader_that_goes_away_is_no_error() -> None:
    """`queue-trio worker 2>&1 | head -1`: the pipe breaks, the program goes on and ends well."""
    program = """
import sys, structlog
from queue_trio.core.settings import LogSettings
from queue_trio.ops.logging import configure_logging
configure_logging(LogSettings(), final=True)
sys.stdin.read()
for n in range(5): structlog.get_logger().info("line", n=n)
sys.exit(7)
"""
    read, write = os.pipe()
    run = functools.partial(
        trio.run_process,
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stderr=write,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        os.close(write)
        os.close(read)
        await process.stdin.aclose()
        assert await process.wait() == 7
