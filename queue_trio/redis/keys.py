"""Every key name, in one place. Nothing else in the project spells a key.

All keys of a lane share the hash tag `{queue.partition}`, so that a script may touch them together on a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from queue_trio.core.dequeue import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_trio.core.job import Lane

DEFAULT_PREFIX: Final = "qt"

LANE_KEYS: Final = (
    "job",  # hash    id -> record
    "lease",  # zset    id -> lease deadline, server ms
    "owner",  # hash    id -> "<rank> <token>"
    "scheduled",  # zset    "<rank>:<id>" -> due, server ms
    "dead",  # zset    id -> died at, server ms
    "error",  # hash    id -> history, one "<server ms> <failure JSON>" a line
    "tries",  # hash    id -> failures; only jobs that failed
    "crashes",  # hash    id -> tokens of the leases lost; only jobs whose lease expired
    "unique",  # zset    id -> taken until, server ms; only ids enqueued with unique_for
    "wake",  # list    tokens for blocked fetchers
    "workers",  # zset    incarnation -> last heartbeat, server ms
    "worker_info",  # hash    incarnation -> JSON
    "leases",  # zset    incarnation -> how long its leases are, ms
    "stats",  # hash    conservation counters
    "control",  # hash    paused, swept_ms, hold_until_ms, drain:<incarnation> since when that shall drain
)
READY_KEYS: Final = tuple(f"ready:{priority.name.lower()}" for priority in PRIORITIES)


class LaneKeys:
    """The key names of one lane, made once and reused for every call."""

    def __init__(self, lane: Lane, prefix: str = DEFAULT_PREFIX) -> None:
        self.lane = lane
        self._base = f"{prefix}:{{{lane}}}:"
        self._fixed = {name: self._base + name for name in (*LANE_KEYS, *READY_KEYS)}

    def __getitem__(self, name: str) -> str:
        return self._fixed[name]

    def pick(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._fixed[name] for name in names)

    def session(self, stream: str) -> str:
        """One caller's last call and its recorded reply. Expires a day after the last use."""
        return f"{self._base}session:{stream}"

    def inboxes(self, worker: str) -> tuple[str, ...]:
        """One list per priority, highest first: jobs on their way from a blocking move to a lease."""
        return tuple(f"{self._base}inbox:{worker}:{rank}" for rank in range(len(PRIORITIES)))

    def result(self, job_id: str) -> str:
        """A kept result. Expires."""
        return f"{self._base}result:{job_id}"


def trail_key(prefix: str = DEFAULT_PREFIX) -> str:
    """The audit trail, one list for the whole installation, the newest entry at the left."""
    return f"{prefix}:audit"


def trail_session(incarnation: str, prefix: str = DEFAULT_PREFIX) -> str:
    """One caller's last entry to the audit trail. On a cluster it must lie in the slot of the trail, hence the tag."""
    return f"{{{trail_key(prefix)}}}:session:{incarnation}"


def limit_key(name: str, mode: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The account of one rate limit. Expires."""
    return f"{prefix}:limit:{{{name}}}:{mode}"


def lanes_key(prefix: str = DEFAULT_PREFIX) -> str:
    """The set of all lanes, written when a client or worker first uses one."""
    return f"{prefix}:lanes"
