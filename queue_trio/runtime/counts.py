"""What a worker has done, as plain integers: the hot path increments them, whoever exports them reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Jobs since the worker started. `stale`: outcomes refused by the fence. `lost`: handlers cancelled for that."""

    claimed: int = 0
    completed: int = 0
    retried: int = 0
    dead: int = 0
    released: int = 0
    stale: int = 0
    lost: int = 0
    unknown: int = 0
    abandoned: int = 0
    reclaimed: int = 0
    poisoned: int = 0
