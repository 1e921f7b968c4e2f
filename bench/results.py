"""Everything one benchmark run measured, as one JSON document, and what is told from it: medians, spread, ratios.

Knows neither how it was measured nor how it is shown.
"""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from bench.catalogue import OURS, PEERS, WORKLOADS
from bench.figures import Spread, ratios_to_best, round_ratios
from bench.setup import REQUIREMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.catalogue import Queue
    from bench.driver import Sample


@dataclass(frozen=True, slots=True)
class Run:
    """One valid run. `cpu_s` and `peak_bytes` by process: worker, enqueuer, redis."""

    round: int
    workload: str
    queue: str
    jobs: int
    figures: dict[str, float]
    cpu_s: dict[str, float]
    peak_bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """A queue that cannot do a workload, or (`round` given) failed at it once."""

    workload: str
    queue: str
    why: str
    round: int | None = None


@dataclass(slots=True)
class Results:
    """What was measured so far. `began`: date and time, ISO 8601."""

    began: str
    server: str
    rounds: int
    versions: dict[str, str]
    python: str = field(default_factory=platform.python_version)
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    load_before: float = 0.0
    load_after: float = 0.0
    seconds: float = 0.0
    runs: list[Run] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def add(self, number: int, workload: str, queue: str, sample: Sample) -> None:
        """Keep a valid run of round `number`."""
        cpu_s = {process: use.cpu_s for process, use in sample.uses.items()}
        peaks = {process: use.peak_bytes for process, use in sample.uses.items()}
        self.runs.append(Run(number, workload, queue, sample.jobs, sample.figures, cpu_s, peaks))

    @property
    def failures(self) -> list[Gap]:
        """Runs that were not valid."""
        return [gap for gap in self.gaps if gap.round is not None]

    @property
    def queues(self) -> list[str]:
        """Whatever has a valid run, ours first, in the order of the catalogue."""
        seen = {run.queue for run in self.runs}
        return [queue.name for queue in (OURS, *PEERS) if queue.name in seen]

    @property
    def workloads(self) -> list[str]:
        """Whatever has a valid run, in the order of the catalogue."""
        seen = {run.workload for run in self.runs}
        return [name for name in WORKLOADS if name in seen]

    def of(self, workload: str, queue: str) -> list[Run]:
        """The runs of one queue at one workload."""
        return [run for run in self.runs if (run.workload, run.queue) == (workload, queue)]

    def samples(self, workload: str, figure: str) -> dict[str, dict[int, float]]:
        """By queue, then by round."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for run in self.runs:
            if run.workload == workload and figure in run.figures:
                found[run.queue][run.round] = run.figures[figure]
        return dict(found)

    def spread(self, workload: str, queue: str, figure: str) -> Spread | None:
        """None without a valid run."""
        samples = self.samples(workload, figure).get(queue)
        return Spread.of(list(samples.values())) if samples else None

    def ratios(self, workload: str, queue: str, figure: str) -> list[float]:
        """How many times better ours was than that queue, round by round."""
        samples = self.samples(workload, figure)
        return round_ratios(figure, samples.get(OURS.name, {}), samples.get(queue, {}))

    def ratios_to_best(self, workload: str, figure: str) -> list[float]:
        """How many times better ours was than whichever peer was best, round by round."""
        samples = self.samples(workload, figure)
        return ratios_to_best(figure, samples.pop(OURS.name, {}), samples)

    # --- as JSON ---------------------------------------------------------------------------------------------------

    def to_json(self) -> bytes:
        """All runs, and a summary of them for whoever does not want to compute."""
        document = {**msgspec.to_builtins(self), "summary": self._summary()}
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Results:
        """Raises msgspec.DecodeError if it is no such document."""
        return msgspec.json.decode(text, type=cls)

    def _summary(self) -> dict[str, Any]:
        return {
            workload: {
                figure: {
                    "queues": {queue: self._told(workload, queue, figure) for queue in self.queues},
                    "ratios_to_best_peer": self.ratios_to_best(workload, figure),
                }
                for figure in WORKLOADS[workload].figures
            }
            for workload in self.workloads
        }

    def _told(self, workload: str, queue: str, figure: str) -> dict[str, Any] | None:
        spread = self.spread(workload, queue, figure)
        if spread is None:
            return None
        told: dict[str, Any] = spread._asdict()
        if queue != OURS.name:
            told["ratios"] = self.ratios(workload, queue, figure)
        return told


def write_results(results: Results, file: Path) -> None:
    """Whole or not at all: it is written again after every round."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.write_bytes(results.to_json())
    draft.replace(file)


def versions_of(queues: Iterable[Queue]) -> dict[str, str]:
    """What is measured, by queue: the version in its pins, for ours the one installed."""
    found = {}
    for queue in queues:
        if queue.environment is None:
            found[queue.name] = version(queue.package)
        else:
            pins = (REQUIREMENTS / f"{queue.environment}.txt").read_text()
            match = re.search(rf"^{re.escape(queue.package)}==(\S+)", pins, re.MULTILINE)
            found[queue.name] = match[1] if match else "?"
    return found
