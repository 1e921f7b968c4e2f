"""The audit trail: who changed what, when, and what became of it. Written to Redis and to the log.

An act has two entries of one id. The first is written before anything changes: a crash half way must leave a trace of
who began it, and nobody can write one then. The second says what was done, which only the end knows. An act whose
second entry is missing was cut off, or is still under way, and `admin trail` shows it as such.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from queue_trio.cli.errors import leaves, mask, one_line
from queue_trio.errors import InfrastructureError, ServerRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.cli.admin.reaching import Reach

LAST_ENTRY_S: Final = 1.0
"""How long the entry of an act that failed or was interrupted may take."""


@dataclass(slots=True)
class Act:
    """One change that an operator asks for. `counts` and `outcome` are filled in while it is done.

    `details`: what it is about, such as filters or a worker. `who`: given with --as; by default user@host.
    """

    what: str
    queue: str | None = None
    who: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outcome: str = ""
    id: str = field(default_factory=lambda: os.urandom(6).hex())

    def entry(self, phase: str, at_ms: int) -> dict[str, Any]:
        """What is written down. Without passwords, which may stand in a filter or an error."""
        found: dict[str, Any] = {
            "at": utc_text(at_ms),
            "act": self.id,
            "phase": phase,
            "who": self.who or login(),
            "login": login() if self.who else None,
            "pid": os.getpid(),
            "what": self.what,
            "queue": self.queue,
            **self.details,
            "counts": self.counts or None,
            "outcome": self.outcome or None,
        }
        return {key: _masked(value) for key, value in found.items() if value is not None}


@asynccontextmanager
async def written_down(redis: Reach, act: Act) -> AsyncIterator[Act]:
    """Notes `act` before and after what is done inside, with how that ended. Raises what is raised inside."""
    import trio

    await _note(redis, act, "begun")
    try:
        yield act
    except BaseException as error:
        act.outcome = _how_it_failed(error)
        _log(act)
        # Redis may be what failed, and we may be cancelled: the last entry gets a moment of its own, not more.
        with trio.move_on_after(LAST_ENTRY_S, shield=True), suppress(InfrastructureError):
            await _note(redis, act, "ended")
        raise
    act.outcome = act.outcome or "done"
    _log(act)
    await _note(redis, act, "ended")


async def _note(redis: Reach, act: Act, phase: str) -> None:
    entry = act.entry(phase, await redis.now_ms())
    try:
        await redis.operations.note(json.dumps(entry).encode())
    except ServerRefused as error:
        # Memory is full: that is when dead jobs must be purged most. The log has it all the same.
        import structlog

        structlog.get_logger(__name__).warning("admin.not_in_trail", reason=str(error), act=act.id)


def _log(act: Act) -> None:
    import structlog

    entry = act.entry("ended", 0)
    known = {key: value for key, value in entry.items() if key not in ("at", "phase", "pid")}
    structlog.get_logger(__name__).info("admin.acted", **known)


def _how_it_failed(error: BaseException) -> str:
    import trio

    causes = list(leaves(error))
    if all(isinstance(cause, KeyboardInterrupt | trio.Cancelled) for cause in causes):
        return "interrupted"
    first = next(cause for cause in causes if not isinstance(cause, trio.Cancelled))
    return f"failed: {one_line(f'{type(first).__name__}: {first}')}"


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    return value


def login() -> str:
    """Who runs this program: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def utc_text(at_ms: int) -> str:
    """ISO 8601, in UTC, to the second; for what no calendar has, the number."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
