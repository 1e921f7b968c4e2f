"""What must be seen of each kind of fault to prove that it bit, beside its driver's word that it is there. Only data.

Two things: that the routes it is on were what it makes of them, as the harness's own questions on them found; and that
somebody was touched, with trouble or work of their own meanwhile. A fault that hit nobody has proven nothing.
Faults on workers need neither: a process that is gone, or stopped, is proof. What was seen is judged by `proofs`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from chaos.scenario import faults

Route = Literal["", "refused", "cut", "silent", "late", "late at times", "sliced", "slow to close"]
"""refused: nobody listens. cut: the stream ends before the answer is whole. silent: neither comes.

late: most answers are. sliced: they come in several pieces. slow to close: the end of the stream is late.
"""
Touched = Literal["", "trouble", "closes", "work"]
"""trouble: errors or new connections of those it hits, at a time when no other fault explains them, if there was one.

closes: some connection of theirs ended. work: enqueues answered to them, or handlers begun by them.
"""

PAYLOAD_BYTES: Final = 64
PAYLOAD_BYTES_MAX: Final = 64 * 1024
PATIENCE_S: Final = 0.25
"""A sound route answers in a thousandth of it."""
SLOW_MS: Final = 100
"""On a thin link a probe is to take so long, which is enough to tell it from a sound one."""


class Bite(msgspec.Struct, frozen=True):
    """What must be seen. `late_ms`: how late at least, for the routes that are. Probes carry `payload` bytes."""

    touched: Touched = ""
    route: Route = ""
    late_ms: float = 0.0
    payload: int = PAYLOAD_BYTES
    patience_s: float = PATIENCE_S
    drops: Literal["", "upstream", "downstream", "both"] = ""
    """Where a proxy drops what it gets. Bytes of somebody's that it dropped touched somebody."""


def bite_of(fault: faults.Fault, *, disrupts: bool) -> Bite:
    """What must be seen of `fault`. `disrupts`: whether calls of those it hits fail (`bounds`)."""
    touched: Touched = "trouble" if disrupts else "work"
    match fault:
        case faults.ProxyDown():
            return Bite(touched, "refused")
        case faults.UpstreamGone() | faults.ResetPeer():
            return Bite(touched, "cut")
        case faults.Timeout():
            return Bite(touched, "silent", drops=fault.stream)
        case faults.Latency():
            return _late(touched, "late", _ways(fault.stream) * fault.latency)
        case faults.JitterScript():
            # Drawn anew many times: a quarter of the range is passed by some draw.
            some_ms = fault.low + (fault.high - fault.low) / 4
            return _late(touched, "late at times", _ways(fault.stream) * some_ms)
        case faults.LimitData() if fault.bytes >= PAYLOAD_BYTES_MAX:
            return Bite(touched)  # more than a probe can carry: whoever did tells
        case faults.LimitData():
            return Bite(touched, "cut", payload=fault.bytes + 1)
        case faults.Slicer():
            return Bite(touched, "sliced", payload=_within(512, 4 * fault.average_size), patience_s=2.0)
        case faults.SlowClose():
            return _late("closes", "slow to close", fault.delay)
        case faults.Bandwidth():
            return _thin(fault)
    # Bad records: the driver has seen whose they were. An eviction policy: a worker refuses to start.
    enough = not isinstance(fault, faults.RedisFault) or isinstance(
        fault, faults.BadRecord | faults.EvictionPolicy
    )
    return Bite() if enough else Bite(touched)


def _late(touched: Touched, route: Route, late_ms: float) -> Bite:
    return Bite(touched, route, late_ms, patience_s=2 * late_ms / 1000 + 1.0)


def _thin(fault: faults.Bandwidth) -> Bite:
    """It delays, and may break nothing. KB a second are bytes a millisecond."""
    payload = _within(PAYLOAD_BYTES, fault.rate * SLOW_MS)
    late = _late("work", "late", _ways(fault.stream) * payload / fault.rate)
    return msgspec.structs.replace(late, payload=payload)


def _ways(stream: str) -> int:
    return 2 if stream == "both" else 1


def _within(least: int, wanted: int) -> int:
    return max(least, min(wanted, PAYLOAD_BYTES_MAX))
