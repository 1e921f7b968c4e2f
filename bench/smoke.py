"""Guards against gross slow-downs of queue_trio on whatever machine: `just perf-smoke`, which CI runs.

    python -m bench.smoke [--update] [--json FILE] [--seconds S] [--jobs N] [--baseline FILE]

A rate says more of the machine than of us. So each round also measures a calibration: work of the same kind with none
of our code. What counts is the ratio, our rate by that one, and whether it is less than half of what the baseline
holds. Both are the best of all rounds: noise only slows, and the best of ratios would be of the round whose calibration
was disturbed. Ends with 0 if all is well, 1 if a figure fell, 2 without a usable baseline. Who changes the calibration,
or what a figure measures, stores a new baseline, with nothing else running on the machine.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import hiredis
import msgspec
import structlog
import trio
from rich.console import Console
from rich.table import Table

from queue_trio.bench import ENQUEUERS, FEW_MIN, LABELS, open_bench
from queue_trio.embedded import open_embedded_redis
from queue_trio.errors import ConfigError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BASELINE: Final = Path(__file__).with_name("baseline.json")
SHARE_MIN: Final = 0.5
ROUNDS_MIN: Final = 3
RENEW: Final = "`./dev perf-smoke --update` stores a new one"

FIGURES: Final[Mapping[str, str]] = {
    "run_jobs_per_s": "calibration_mix",
    "enqueue_one_by_one_per_s": "calibration_trips",
    "enqueue_concurrent_per_s": "calibration_mix",
    "enqueue_bulk_per_s": "calibration_mix",
}
"""Each figure, and the calibration that a slow or noisy machine slows down as much."""

SCRIPT: Final = """for i, record in ipairs(ARGV) do redis.call('HSET', KEYS[1], i, record) end
return redis.call('DEL', KEYS[1])"""


class BaselineUnusable(Exception):
    """There is nothing to compare with."""


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ratios by figure, of rounds of `jobs` jobs. The rest is for the reader."""

    when: str
    python: str
    server: str
    jobs: int
    ratios: dict[str, Annotated[float, msgspec.Meta(gt=0)]]


def ratios_of(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each figure's best rate by its calibration's best."""
    return {name: round(max(samples[name]) / max(samples[kind]), 4) for name, kind in FIGURES.items()}


def complaints(ratios: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """A line for each figure below half of its baseline. Raises BaselineUnusable if the figures are not the same."""
    if unlike := sorted(ratios.keys() ^ baseline.keys()):
        raise BaselineUnusable(f"not both measured and in the baseline: {', '.join(unlike)}; {RENEW}")
    return [
        f"{LABELS[name]} fell to {ratio / baseline[name]:.0%} of its baseline, from ratio {baseline[name]:.2f} to "
        f"{ratio:.2f}: measure again, alone on the machine; if it stays, find the change that did it, or {RENEW}"
        for name, ratio in ratios.items()
        if ratio < SHARE_MIN * baseline[name]
    ]


def read_baseline(file: Path, jobs: int) -> Baseline:
    """Raises BaselineUnusable if it is not there, no baseline, or one of other figures or other rounds."""
    try:
        baseline = msgspec.json.decode(file.read_bytes(), type=Baseline)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BaselineUnusable(f"cannot read {file}: {error}; {RENEW}") from error
    complaints(dict.fromkeys(FIGURES, 0.0), baseline.ratios)  # before anyone waits for a measurement
    if baseline.jobs != jobs:
        # What a round costs once weighs more in a small one.
        raise BaselineUnusable(f"{file} is of {baseline.jobs} jobs a round, not {jobs}; {RENEW}")
    return baseline


# --- measuring ------------------------------------------------------------------------------------------------------


class Calibration:
    """Tasks, coding and a script that writes, over one bare connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader()
        # hiredis declares a tuple of one item; it means one of any length.
        self._pack = cast("Callable[[tuple[str | bytes | int, ...]], bytes]", hiredis.pack_command)

    async def rate(self, records: int, at_once: int) -> float:
        """Records per second, each made by a task under a deadline; `at_once` of them share a round trip."""
        script = await self._ask("SCRIPT", "LOAD", SCRIPT)
        began = trio.current_time()
        for first in range(0, records, at_once):
            batch: list[bytes] = []
            async with trio.open_nursery() as nursery:
                for number in range(first, min(first + at_once, records)):
                    nursery.start_soon(_make, number, batch)
            if await self._ask("EVALSHA", script, 1, "calibration", *batch) != 1:
                raise InternalError("the calibration's script did not write")
        return records / (trio.current_time() - began)

    async def _ask(self, *words: str | bytes | int) -> Any:
        await self._stream.send_all(self._pack(words))
        while (reply := self._reader.gets()) is False:
            if not (data := await self._stream.receive_some()):
                raise InternalError("the calibration's server is gone")
            self._reader.feed(bytes(data))
        return reply


async def _make(number: int, batch: list[bytes]) -> None:
    with trio.move_on_after(60):
        await trio.lowlevel.checkpoint()
        record = msgspec.json.encode({"id": f"{number:026}", "task": "calibration", "args": [number]})
        batch.append(msgspec.json.encode(msgspec.json.decode(record)))


async def measure(seconds: float, jobs: int) -> tuple[str, Mapping[str, list[float]]]:
    """The server's version, and the rates of every round, by figure and by calibration."""
    async with (
        open_bench() as bench,
        # Another server for the calibration: what we did to ours, and left there, must not slow it.
        open_embedded_redis(server=bench.server) as redis,
        await trio.open_unix_socket(redis.unix_socket) as stream,
    ):
        calibration = Calibration(stream)
        end = trio.current_time() + seconds
        while len(bench.figures.get("run_jobs_per_s", ())) < ROUNDS_MIN or trio.current_time() < end:
            bench.note("calibration_trips", await calibration.rate(max(jobs // 10, FEW_MIN), at_once=1))
            bench.note("calibration_mix", await calibration.rate(jobs, at_once=ENQUEUERS))
            await bench.round(jobs)
        return str(bench.server.version), bench.figures


# --- the command line -----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="perf-smoke", description="Has queue_trio become much slower?")
    parser.add_argument("--update", action="store_true", help="compare nothing, store what is measured")
    parser.add_argument("--json", type=Path, help="also write the rates of every round to this file")
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs per round (default %(default)s)")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs: give a whole number from 1 on")
    try:
        baseline = None if options.update else read_baseline(options.baseline, options.jobs)
        server, samples = trio.run(measure, options.seconds, options.jobs)
    except (BaselineUnusable, ConfigError) as error:
        sys.stderr.write(f"perf-smoke: {error}\n")
        return 2
    when, python = datetime.now(UTC).isoformat(timespec="seconds"), platform.python_version()
    measured = Baseline(when, python, server, options.jobs, ratios_of(samples))
    if options.json is not None:
        options.json.write_bytes(_pretty({**msgspec.to_builtins(measured), "samples": samples}))
    if baseline is None:
        baseline = measured
        options.baseline.write_bytes(_pretty(baseline))
    table = Table("figure", "ratio", "baseline", "share")
    for name, ratio in measured.ratios.items():
        was = baseline.ratios[name]
        table.add_row(LABELS[name], f"{ratio:.2f}", f"{was:.2f}", f"{ratio / was:.0%}")
    # A file or a pipe has no width of its own; a table that is cut off tells nothing.
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    fallen = complaints(measured.ratios, baseline.ratios)
    sys.stderr.writelines(f"perf-smoke: {line}\n" for line in fallen)
    return 1 if fallen else 0


def _pretty(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.exit(main())
