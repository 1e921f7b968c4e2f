"""A ledger outside Redis, and what it says of a run. Written as things happen, judged when all is over.

Four words, as in Jepsen's total-queue checker: lost, unexpected, duplicated, recovered. An enqueue that ended in doubt
is neither ok nor failed: its job may run or not, and both are right.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Ledger:
    """Append-only lines, each one write call, so that a line is whole or absent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, event: str, job: str, **details: Any) -> None:
        os.write(self._file, json.dumps({"event": event, "job": job, **details}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def judge(self, *, dead: set[str]) -> Judgement:
        """Read everything back. `dead`: the ids among the dead letters at the end."""
        lines = [json.loads(line) for line in self._path.read_bytes().splitlines()]
        by_event: dict[str, set[str]] = defaultdict(set)
        ends: Counter[str] = Counter()
        starts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        failures: Counter[str] = Counter()
        judgement = Judgement(jobs=0)
        for line in lines:
            job = line["job"]
            by_event[line["event"]].add(job)
            match line["event"]:
                case "start":
                    if line["attempt"] > failures[job] + 1:
                        judgement.burned.add(job)
                    if starts[job] and starts[job][-1]["fence"] >= line["fence"]:
                        judgement.unfenced.add(job)
                    starts[job].append(line)
                case "done":
                    ends[job] += 1
                case "failed":
                    failures[job] += 1
        acknowledged, tried = by_event["ok"], by_event["ok"] | by_event["doubt"]
        judgement.jobs = len(tried)
        judgement.lost = acknowledged - set(ends) - dead
        judgement.unexpected = set(starts) - tried
        judgement.duplicated = {job for job, count in ends.items() if count > 1}
        judgement.recovered = (set(ends) | dead) & by_event["doubt"]
        return judgement


@dataclass
class Judgement:
    """`burned`: an attempt number that no failure accounts for. `unfenced`: a fencing token that did not grow."""

    jobs: int
    lost: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    duplicated: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)
    burned: set[str] = field(default_factory=set)
    unfenced: set[str] = field(default_factory=set)
