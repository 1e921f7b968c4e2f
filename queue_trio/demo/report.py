"""Everything a demo run found, in one value: for the summary, for `--json`, and for the exit code."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.demo.check import Difference
    from queue_trio.demo.crash import Crash, Recovery
    from queue_trio.demo.results import Figures


@dataclass
class Report:
    """`interrupted`: the signal that ended the run, or 0. `checked`: files read directly, None if it did not come to
    that. `audit`: what the audit has to say against the queue, None if it was not asked."""

    title: str
    enqueued: int
    figures: Figures
    dead: int = 0
    skipped: int = 0
    interrupted: int = 0
    crash: Crash | None = None
    recovery: Recovery | None = None
    crash_missed: bool = False
    checked: int | None = None
    differences: list[Difference] = field(default_factory=list)
    changed: list[Difference] = field(default_factory=list)
    audit: list[str] | None = None
    manifest: Path | None = None
    kept: Path | None = None
    events: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if everything is as it should be; 128 and the signal's number if interrupted; else 1."""
        if self.interrupted:
            return 128 + self.interrupted
        wrong = self.differences or self.audit or self.dead or self.crash_missed
        lost = self.recovery is not None and self.recovery.recovered != self.recovery.orphans
        return 1 if wrong or lost else 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = msgspec.to_builtins(self.figures)
        found["jobs_per_second"] = round(self.figures.jobs_per_second, 1)
        return {
            "ok": self.exit_code == 0,
            "interrupted": signal.Signals(self.interrupted).name if self.interrupted else None,
            "enqueued": self.enqueued,
            "skipped": self.skipped,
            "dead": self.dead,
            "figures": found,
            "crash": self._crash_to_json(),
            "checked": self.checked,
            "differences": msgspec.to_builtins(self.differences),
            "changed": msgspec.to_builtins(self.changed),
            "audit": self.audit,
            "manifest": str(self.manifest) if self.manifest else None,
            "kept": str(self.kept) if self.kept else None,
            "events": self.events,
        }

    def _crash_to_json(self) -> dict[str, Any] | None:
        if self.crash is None or self.recovery is None:
            return None
        recovery = self.recovery
        return {
            "worker": self.crash.number,
            "pid": self.crash.pid,
            "orphans": recovery.orphans,
            "recovered": recovery.recovered,
            "ran_twice": recovery.twice,
            "recovery_seconds": round(recovery.seconds, 3),
        }
