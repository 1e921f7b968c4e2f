"""What a demo worker does: reads one file and writes down its size, its lines and its SHA-256, outside Redis.

One line of JSON for each run of a job, in a file of the worker's own in the demo's folder. A line is one `write` to a
file opened for appending, so a worker that is killed leaves whole lines, and what it wrote is never lost with it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from queue_trio.app import App, Task
from queue_trio.context import JobContext
from queue_trio.core.dequeue import Priority
from queue_trio.runtime.folder import path_from_text

FOLDER_VARIABLE: Final = "QUEUE_TRIO_DEMO_FOLDER"
"""Where the workers' results go."""
SLOW_VARIABLE: Final = "QUEUE_TRIO_DEMO_SLOW_MS"
"""How long every job takes at least."""

RESULTS_SUFFIX: Final = ".results"
CHUNK = 256 * 1024

PRIORITIES: Final = {
    **dict.fromkeys((".toml", ".cfg", ".ini", ".json", ".yaml", ".yml"), Priority.CRITICAL),
    **dict.fromkeys((".py", ".pyi", ".c", ".h", ".rs", ".go", ".js", ".ts"), Priority.HIGH),
    **dict.fromkeys(
        (".txt", ".log", ".csv", ".decTest", ".xml", ".html", ".gz", ".zip", ".bz2"), Priority.LOW
    ),
}
"""Settings before sources before everything else before bulk: so that all four are seen at work."""


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a file holds, or why that cannot be said. A last line without a line break is a line too."""

    size: int = 0
    lines: int = 0
    sha256: str = ""
    error: str = ""


class Result(msgspec.Struct, frozen=True):
    """One run of one job. Times are milliseconds since the epoch."""

    id: str
    path: str
    measured: Measurement
    attempt: int
    pid: int
    enqueued_ms: float
    started_ms: float
    finished_ms: float

    @property
    def wait_ms(self) -> float:
        return max(0.0, self.started_ms - self.enqueued_ms)

    @property
    def run_ms(self) -> float:
        return self.finished_ms - self.started_ms


def measure_file(path: str) -> Measurement:
    """Read the file at `path`, a piece at a time. One that cannot be read is a finding like any other."""
    digest = hashlib.sha256()
    size = lines = 0
    last = ord("\n")
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                lines += buffer.count(b"\n", 0, count)
                size += count
                last = buffer[count - 1]
    except OSError as error:
        return Measurement(error=describe(error))
    return Measurement(size, lines + (last != ord("\n")), digest.hexdigest())


def describe(error: OSError) -> str:
    """The same words for the same trouble, whoever meets it."""
    return f"{type(error).__name__}: {error.strerror or error}"


def declare(app: App) -> Task[..., Any]:
    """Declare the demo's task in `app`."""
    return app.task(name="demo.measure", run_in="thread")(measure)


def measure(context: JobContext, path: str) -> None:
    """Measure one file and write down what was found."""
    started_ms = _now_ms()
    measured = measure_file(path_from_text(path))
    _take_time(started_ms)
    result = Result(
        id=context.id,
        path=path,
        measured=measured,
        attempt=context.attempt,
        pid=os.getpid(),
        enqueued_ms=float(context.enqueued_ms),
        started_ms=started_ms,
        finished_ms=_now_ms(),
    )
    _notebook.write(msgspec.json.encode(result) + b"\n")


def _now_ms() -> float:
    return time.time_ns() / 1e6


def _take_time(started_ms: float) -> None:
    slow_ms = float(os.environ.get(SLOW_VARIABLE, "0"))
    left_ms = started_ms + slow_ms - _now_ms()
    if slow_ms and left_ms > 0:
        time.sleep(left_ms / 1000)


class _Notebook:
    """This process's file of results, made with the first line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def write(self, line: bytes) -> None:
        with self._lock:
            if self._descriptor is None:
                path = Path(os.environ[FOLDER_VARIABLE]) / f"{os.getpid()}{RESULTS_SUFFIX}"
                self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        written = os.write(self._descriptor, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a result could be written")


_notebook = _Notebook()

app = App("queue-trio-demo")
declare(app)
