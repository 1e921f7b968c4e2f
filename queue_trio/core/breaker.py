"""A circuit breaker: stop calling a server that keeps failing, then ask it gently whether it is back.

It knows nothing of Redis, sockets, errors or clocks. Only the caller knows which errors are connection-class: it
reports those as `failure`, and every answer of the server, error replies included, as `success`. A call that ended
for a reason of its own (cancelled, never sent) is `cancelled` and counts as neither. Times are monotonic seconds.

                    too many failures
        ┌────────┐    in the window     ┌──────┐
        │ CLOSED │ ───────────────────> │ OPEN │ <──────────┐
        └────────┘                      └──────┘            │
             ^                             │ open_wait      │
             │                             v is over        │
             │      a probe succeeds  ┌───────────┐         │
             └─────────────────────── │ HALF_OPEN │ ────────┘
                                      └───────────┘  a probe fails

    ┌───────────┬────────────────────────┬─────────────────┬──────────────────┬──────────────────┐
    │ state     │ acquire                │ success         │ failure          │ cancelled        │
    ├───────────┼────────────────────────┼─────────────────┼──────────────────┼──────────────────┤
    │ CLOSED    │ permit                 │ count it        │ count it; at     │ nothing          │
    │           │                        │                 │ the ratio → OPEN │                  │
    │ OPEN      │ CircuitOpen; once      │ late: ignored   │ late: ignored    │ late: ignored    │
    │           │ waited → HALF_OPEN     │                 │                  │                  │
    │ HALF_OPEN │ probe, or CircuitOpen  │ of a probe:     │ of a probe:      │ of a probe:      │
    │           │ if `probes` are out    │ → CLOSED        │ → OPEN           │ may be had again │
    └───────────┴────────────────────────┴─────────────────┴──────────────────┴──────────────────┘

One success closes: a connection-class error means that the server was out of reach, and one answer disproves that.
Closing starts an empty window.

A result is late when its call began before the last change of state. Generations are told apart by identity, not by
number: each closed period has its own permit, which carries its window, and only the probes now out are in `_probing`.
A late result so finds a window nobody reads, or no probe to settle, and changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from queue_trio.core.backoff import Rng
from queue_trio.errors import CircuitOpen

BUCKETS = 10
"""Buckets per window. The oldest falls out whole, so counts cover between 9/10 of the window and all of it."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, for the caller to log. `at` is the `now` it was given, `reason` is for people."""

    old: State
    new: State
    at: float
    reason: str


class Permit(Protocol):
    """Leave to make one call. Report its end once, with one of these, whatever happens: use `finally`.

    A probe that never reports holds its place, and with every place held the breaker stays half open.
    """

    def success(self, now: float) -> None:
        """The server answered."""

    def failure(self, now: float) -> None:
        """A connection-class error: the server could not be reached, or went away."""

    def cancelled(self, now: float) -> None:
        """The call ended without telling anything about the server."""


class _Bucket:
    __slots__ = ("failures", "index", "successes")

    def __init__(self, index: int) -> None:
        self.index = index
        self.successes = 0
        self.failures = 0


class _ClosedPermit:
    """One closed period: the window of its counts, and the permit that all calls begun in it share."""

    __slots__ = ("_breaker", "_bucket", "_bucket_end", "_bucket_width", "_buckets")

    def __init__(self, breaker: Breaker, bucket_width: float) -> None:
        self._breaker = breaker
        self._bucket_width = bucket_width
        self._bucket_end = -math.inf
        self._bucket = _Bucket(0)
        self._buckets: deque[_Bucket] = deque(maxlen=BUCKETS)

    def success(self, now: float) -> None:
        # On the way of every command: no sums here, and so a breaker opens on failures only.
        if now >= self._bucket_end:
            self._turn(now)
        self._bucket.successes += 1

    def failure(self, now: float) -> None:
        if now >= self._bucket_end:
            self._turn(now)
        self._bucket.failures += 1
        oldest = self._bucket.index - BUCKETS + 1
        recent = [bucket for bucket in self._buckets if bucket.index >= oldest]
        failures = sum(bucket.failures for bucket in recent)
        samples = failures + sum(bucket.successes for bucket in recent)
        self._breaker._judge(self, failures, samples, now)

    def cancelled(self, now: float) -> None:
        pass

    def _turn(self, now: float) -> None:
        index = int(now // self._bucket_width)
        self._bucket = _Bucket(index)
        self._bucket_end = (index + 1) * self._bucket_width
        self._buckets.append(self._bucket)


class _Probe:
    """One call let through while half open."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def success(self, now: float) -> None:
        if self in self._breaker._probing:
            self._breaker._close(now)

    def failure(self, now: float) -> None:
        if self in self._breaker._probing:
            self._breaker._open(now, "a probe failed")

    def cancelled(self, now: float) -> None:
        self._breaker._probing.discard(self)


class Breaker:
    """Opens when, within `window` seconds, `min_samples` calls or more ended and `failure_ratio` of them failed.

    The ratio is judged whenever a failure is counted. Once open, it refuses for `open_wait` seconds plus a random
    part of up to `open_jitter` times that, drawn from `rng`; then `probes` calls at once may try.
    `on_change` hears of every change after it was made; it must neither raise nor call back.
    Raises ValueError for bad settings.
    """

    def __init__(
        self,
        rng: Rng,
        *,
        window: float = 10.0,
        min_samples: int = 10,
        failure_ratio: float = 0.5,
        open_wait: float = 1.0,
        open_jitter: float = 0.5,
        probes: int = 1,
        on_change: Callable[[Transition], None] | None = None,
    ) -> None:
        if not 0 < window < math.inf:
            raise ValueError(f"breaker window is {window!r}: it must be a number of seconds above 0")
        if min_samples < 1:
            raise ValueError(f"breaker min_samples is {min_samples!r}: it must be 1 or more")
        if not 0 < failure_ratio <= 1:
            raise ValueError(f"breaker failure_ratio is {failure_ratio!r}: it must be above 0, and 1 at most")
        if not 0 < open_wait < math.inf:
            raise ValueError(f"breaker open_wait is {open_wait!r}: it must be a number of seconds above 0")
        if not 0 <= open_jitter < math.inf:
            raise ValueError(f"breaker open_jitter is {open_jitter!r}: it must be a number, 0 or more")
        if probes < 1:
            raise ValueError(f"breaker probes is {probes!r}: it must be 1 or more")
        self._rng = rng
        self._window = window
        self._min_samples = min_samples
        self._failure_ratio = failure_ratio
        self._open_wait = open_wait
        self._open_jitter = open_jitter
        self._probes = probes
        self._on_change = on_change

        self._state = State.CLOSED
        self._closed: _ClosedPermit | None = self._new_period()  # None unless the state is CLOSED
        self._probing: set[_Probe] = set()  # empty unless the state is HALF_OPEN
        self._probe_at = 0.0  # seconds; means something only while the state is OPEN
        self._opened_at: float | None = None

    @property
    def opened_at(self) -> float | None:
        """When it last left CLOSED, in the caller's seconds; failed probes do not move it. None while closed."""
        return self._opened_at

    def state(self, now: float) -> State:
        """The state at `now`: like `acquire`, it turns OPEN into HALF_OPEN when the wait is over."""
        if self._state is State.OPEN and now >= self._probe_at:
            self._change(State.HALF_OPEN, now, "the wait is over")
        return self._state

    def acquire(self, now: float) -> Permit:
        """Leave to make one call. Raises CircuitOpen, with `retry_after` seconds, instead of waiting.

        While probes are out nobody knows how they will end; `retry_after` is `open_wait` then.
        """
        return self._closed or self._acquire_probe(now)

    def _acquire_probe(self, now: float) -> Permit:
        if self.state(now) is State.OPEN:
            wait = self._probe_at - now
            raise CircuitOpen(f"the circuit breaker is open for another {wait:.3g} s", wait)
        if len(self._probing) >= self._probes:
            raise CircuitOpen("the circuit breaker is half open and awaits its probes", self._open_wait)
        probe = _Probe(self)
        self._probing.add(probe)
        return probe

    def _judge(self, period: _ClosedPermit, failures: int, samples: int, now: float) -> None:
        late = period is not self._closed
        if not late and samples >= self._min_samples and failures / samples >= self._failure_ratio:
            self._open(now, f"{failures} of {samples} calls failed within {self._window:g} s")

    def _open(self, now: float, reason: str) -> None:
        self._closed = None
        self._probing.clear()
        self._probe_at = now + self._open_wait * (1 + self._rng.uniform(0.0, self._open_jitter))
        if self._opened_at is None:
            self._opened_at = now
        self._change(State.OPEN, now, reason)

    def _close(self, now: float) -> None:
        self._closed = self._new_period()
        self._probing.clear()
        self._opened_at = None
        self._change(State.CLOSED, now, "a probe succeeded")

    def _new_period(self) -> _ClosedPermit:
        return _ClosedPermit(self, self._window / BUCKETS)

    def _change(self, new: State, now: float, reason: str) -> None:
        old, self._state = self._state, new
        if self._on_change is not None:
            self._on_change(Transition(old, new, now, reason))
