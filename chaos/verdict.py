"""What a run comes to: the words and numbers that the checker finds and the report shows."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """Only PASS is a pass."""

    PASS = "PASS"
    FAIL = "FAIL"
    """An invariant or a bound was broken."""
    INVALID = "INVALID"
    """The fault is not proven to have bitten, there was no load, or the drain did not finish."""
    ERROR = "ERROR"
    """The harness itself failed."""


class Offender(msgspec.Struct, frozen=True):
    """A job that broke an invariant, and its whole history as lines for people."""

    id: str
    why: str
    history: tuple[str, ...] = ()


class Invariant(msgspec.Struct, frozen=True):
    """One promise (N U S F A D P Z C), whether it held, and the worst offenders if it did not."""

    letter: str
    name: str
    held: bool
    count: int = 0
    """How many broke it."""
    offenders: tuple[Offender, ...] = ()


class Recovery(msgspec.Struct, frozen=True):
    """One bound: measured against allowed, in seconds. `measured_s` is None if it never came."""

    name: str
    measured_s: float | None
    allowed_s: float
    formula: str
    """How `allowed_s` comes from the settings, such as "C = T + B + O"."""

    @property
    def kept(self) -> bool:
        return self.measured_s is not None and self.measured_s <= self.allowed_s


class Proof(msgspec.Struct, frozen=True):
    """What is known of one occurrence of a fault, in words. `missing`: why it is not proven to have bitten, or ""."""

    fault: str
    seen: tuple[str, ...]
    missing: str = ""


class Counts(msgspec.Struct, frozen=True):
    """Jobs, as in Jepsen's total-queue checker."""

    attempted: int = 0
    acknowledged: int = 0
    failed: int = 0
    unknown: int = 0
    refused: int = 0
    completed: int = 0
    dead: int = 0
    cancelled: int = 0
    purged: int = 0
    still_queued: int = 0
    lost: int = 0
    unexpected: int = 0
    duplicated: int = 0
    """Completed more than once, with leave: the lease overlapped a fault."""
    duplicated_without_cause: int = 0
    recovered: int = 0
    reclaimed: int = 0
    """Leases that ended with nobody renewing them, and were taken back."""
    poisoned: int = 0
    stale_refused: int = 0
    stale_accepted: int = 0
    inverted: int = 0
    stuck: int = 0
    manual_interventions: int = 0
    in_flight: int = 0
    """Handlers that were under way when a fault came that let nobody reach Redis; of several such, the most."""
    deepest: int = 0
    """Most jobs that were seen waiting at once, ready or scheduled."""


class Judgement(msgspec.Struct, frozen=True):
    """The verdict on one run. `reasons`: why it is not PASS, the weightiest first."""

    verdict: Verdict
    reasons: tuple[str, ...]
    counts: Counts
    invariants: tuple[Invariant, ...]
    recoveries: tuple[Recovery, ...]
    proofs: tuple[Proof, ...] = ()
    """How each fault is known to have bitten: one for each time it was there, in the order of their beginnings."""
