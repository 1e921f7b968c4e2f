"""The history of a run as numbers over time, ready to draw: bins of equal width, fault windows, breaker states.

Knows no colours and no coordinates: that is `report_chart`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from chaos.history import Action, AtRest, Enqueue, Fault, Observation, Run, Settle
from queue_trio import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chaos.history import Event

PRIORITIES: Final = tuple(str(priority) for priority in Priority)
BIN_WIDTHS_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
BINS_MAX: Final = 400
FRESH_S: Final = 0.75
"""What was seen longer ago is no longer drawn (or two bins ago, if those are wider)."""
WORKER: Final = "worker"
"""How the names of workers begin; others are clients."""
WORST_FIRST: Final = ("open", "half_open", "closed")


@dataclass(slots=True)
class Bin:
    """What happened in one stretch of time, and what was last seen of the queue in it or before.

    `ready`, `scheduled`, `in_flight` and `leased` are None until something was observed.
    """

    from_s: float
    to_s: float
    returned: int = 0
    raised: int = 0
    cancelled: int = 0
    acknowledged: int = 0
    refused: int = 0
    failed: int = 0
    unknown: int = 0
    errors: int = 0
    """Errors of workers' connections."""
    client_errors: int = 0
    ready: dict[str, int] | None = None
    scheduled: int | None = None
    in_flight: int | None = None
    leased: int | None = None

    @property
    def ended(self) -> int:
        return self.returned + self.raised + self.cancelled

    @property
    def not_acknowledged(self) -> int:
        return self.refused + self.failed + self.unknown


@dataclass(frozen=True, slots=True)
class Window:
    """One fault: asked for, proven to be there, asked to heal, proven gone. None: that never came."""

    name: str
    begin_s: float
    active_s: float | None
    heal_s: float | None
    healed_s: float | None
    proof: str = ""

    def until_s(self, end_s: float) -> float:
        """When it was over, or `end_s` if it never was."""
        return end_s if self.healed_s is None else self.healed_s


@dataclass(frozen=True, slots=True)
class Stretch:
    """One state of a breaker, without a change."""

    from_s: float
    to_s: float
    state: str


@dataclass(slots=True)
class Timeline:
    """Everything in seconds since `started_s` of the run, where it is 0."""

    end_s: float
    bin_width_s: float
    bins: list[Bin]
    windows: list[Window] = field(default_factory=list)
    breakers: dict[str, list[Stretch]] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    """With `at_s` since the start, like everything here."""
    drained_s: float | None = None


def timeline(history: Sequence[Event], started_s: float, ended_s: float) -> Timeline:
    """The run from `started_s` to `ended_s`, both in seconds since the epoch. Events outside are drawn at its edges."""
    end_s = max(ended_s - started_s, BIN_WIDTHS_S[0])
    width = next((width for width in BIN_WIDTHS_S if end_s / width <= BINS_MAX), end_s / BINS_MAX)
    number = max(1, -int(-end_s // width))
    bins = [Bin(at * width, min(end_s, (at + 1) * width)) for at in range(number)]

    def since_start(event: Event) -> float:
        return min(max(event.at_s - started_s, 0.0), end_s)

    drawn = Timeline(end_s, width, bins)
    seen: list[tuple[float, Observation]] = []
    for event in history:
        at_s = since_start(event)
        bin_ = bins[min(int(at_s / width), number - 1)]
        match event:
            case Run(phase="end"):
                _count_run(bin_, event)
            case Enqueue():
                _count_enqueue(bin_, event)
            case Observation():
                seen.append((at_s, event))
            case Action():
                drawn.actions.append(Action(at_s, event.what, event.manual))
            case AtRest(drained=True):
                drawn.drained_s = at_s
            case _:
                pass
    _carry(bins, seen)
    _count_errors(bins, seen)
    drawn.windows = _windows((since_start(event), event) for event in history if isinstance(event, Fault))
    drawn.breakers = _breakers(seen, end_s)
    return drawn


def worst_of(breakers: dict[str, list[Stretch]], end_s: float) -> list[Stretch]:
    """All breakers as one: at each moment the state of the worst. For runs with more processes than rows."""
    stretches = [stretch for row in breakers.values() for stretch in row]
    edges = sorted({edge for stretch in stretches for edge in (stretch.from_s, stretch.to_s)} | {end_s})
    merged: list[Stretch] = []
    for from_s, to_s in pairwise(edges):
        states = [stretch.state for stretch in stretches if stretch.from_s <= from_s < stretch.to_s]
        if states:
            _extend(merged, from_s, to_s, min(states, key=_badness))
    return merged


def story(history: Iterable[Event], job_id: str, started_s: float) -> tuple[str, ...]:
    """Everything that is known of one job, as lines for people."""
    lines: list[str] = []
    for event in history:
        match event:
            case Enqueue(id=id) if id == job_id:
                lines.append(f"{event.at_s - started_s:9.3f} s  {_enqueue_words(event)}")
            case Run(id=id) if id == job_id:
                outcome = f" {event.outcome}" if event.outcome else ""
                lines.append(
                    f"{event.at_s - started_s:9.3f} s  run {event.phase}{outcome}: attempt {event.attempt}, "
                    f"worker {event.worker}, pid {event.pid}, fence {event.fence}"
                )
            case Settle(id=id) if id == job_id:
                answer = "accepted" if event.accepted else "refused: the lease is not its any more"
                lines.append(
                    f"{event.at_s - started_s:9.3f} s  settle {event.verdict}, fence {event.fence}: {answer}"
                )
            case AtRest():
                place = event.places.get(job_id, "nowhere in the queue (ended, or lost)")
                lines.append(f"{event.at_s - started_s:9.3f} s  at rest: {place}")
            case _:
                pass
    return tuple(lines)


def busiest_job(history: Iterable[Event]) -> str | None:
    """The job that was started most often: the one worth reading when nothing went wrong. The earliest of equals."""
    starts: dict[str, int] = {}
    for event in history:
        if isinstance(event, Run) and event.phase == "start":
            starts[event.id] = starts.get(event.id, 0) + 1
    return max(starts, key=lambda id: starts[id], default=None)


# --- parts ---------------------------------------------------------------------------------------------------------


def _enqueue_words(event: Enqueue) -> str:
    meaning = {
        "invoke": "enqueue goes out",
        "ok": "enqueue acknowledged",
        "fail": "enqueue failed: certainly not queued",
        "info": "enqueue: nobody knows the outcome",
        "refused": "enqueue refused: queue full",
    }[event.phase]
    about = f": {event.task or 'job'}, {event.priority}" if event.phase == "invoke" else ""
    delay = f", in {event.delay_ms} ms" if event.delay_ms else ""
    return f"{meaning}{about}{delay}" + (f" ({event.error})" if event.error else "")


def _count_run(bin_: Bin, event: Run) -> None:
    match event.outcome:
        case "raised":
            bin_.raised += 1
        case "cancelled":
            bin_.cancelled += 1
        case _:
            bin_.returned += 1


def _count_enqueue(bin_: Bin, event: Enqueue) -> None:
    match event.phase:
        case "ok":
            bin_.acknowledged += 1
        case "refused":
            bin_.refused += 1
        case "fail":
            bin_.failed += 1
        case "info":
            bin_.unknown += 1
        case "invoke":
            pass


def _carry(bins: list[Bin], seen: Sequence[tuple[float, Observation]]) -> None:
    """Each bin shows what was last seen by its end, for as long as that can be called fresh: a gap is not a zero."""
    fresh_s = max(FRESH_S, 2 * (bins[0].to_s - bins[0].from_s))
    times = [at_s for at_s, _ in seen]
    lengths: tuple[float, Observation] | None = None
    running: tuple[float, int] | None = None
    done = 0
    for bin_ in bins:
        upto = bisect_right(times, bin_.to_s)
        for at_s, observation in seen[done:upto]:
            # An observation that reached the queue tells all its lengths: without any, it did not.
            if observation.ready or observation.leased is not None:
                lengths = at_s, observation
            if observation.in_flight:
                running = at_s, sum(observation.in_flight.values())
        done = upto
        if lengths is not None and lengths[0] >= bin_.from_s - fresh_s:
            bin_.ready = lengths[1].ready
            bin_.scheduled, bin_.leased = lengths[1].scheduled, lengths[1].leased
        if running is not None and running[0] >= bin_.from_s - fresh_s:
            bin_.in_flight = running[1]


def _count_errors(bins: list[Bin], seen: Sequence[tuple[float, Observation]]) -> None:
    """Errors are told as totals so far, per process. A process that starts anew counts from 0 again."""
    last: dict[str, int] = {}
    width = bins[0].to_s - bins[0].from_s
    for at_s, observation in seen:
        for who, total in observation.errors.items():
            before = last.get(who, 0)
            more = total - before if total >= before else total
            bin_ = bins[min(int(at_s / width), len(bins) - 1)]
            if who.startswith(WORKER):
                bin_.errors += more
            else:
                bin_.client_errors += more
            last[who] = total


def _windows(faults: Iterable[tuple[float, Fault]]) -> list[Window]:
    """Faults of one name can come again: each `begin` opens a window, and the phases after it belong to that one."""
    windows: list[dict[str, float]] = []
    names: list[tuple[str, str]] = []
    current: dict[str, int] = {}
    for at_s, fault in faults:
        if fault.phase == "begin" or fault.name not in current:
            current[fault.name] = len(windows)
            windows.append({"begin": at_s})
            names.append((fault.name, ""))
        here = current[fault.name]
        windows[here].setdefault(fault.phase, at_s)
        if fault.phase == "active":
            names[here] = (fault.name, fault.proof)
    return [
        Window(name, at["begin"], at.get("active"), at.get("heal"), at.get("healed"), proof)
        for (name, proof), at in zip(names, windows, strict=True)
    ]


def _breakers(seen: Sequence[tuple[float, Observation]], end_s: float) -> dict[str, list[Stretch]]:
    """One row per process; a state lasts until that process is next seen, or until that is overdue: it is gone."""
    rows: dict[str, list[Stretch]] = {}
    last: dict[str, tuple[float, str]] = {}

    def draw(who: str, to_s: float) -> None:
        from_s, state = last[who]
        _extend(rows.setdefault(who, []), from_s, min(to_s, from_s + FRESH_S), state)

    for at_s, observation in seen:
        for who, state in observation.breaker.items():
            if who in last:
                draw(who, at_s)
            last[who] = (at_s, state)
    for who in last:
        draw(who, end_s)
    # Workers first: who does the work is looked for at the top.
    return dict(sorted(rows.items(), key=lambda row: (not row[0].startswith(WORKER), row[0])))


def _extend(row: list[Stretch], from_s: float, to_s: float, state: str) -> None:
    if row and row[-1].state == state and row[-1].to_s == from_s:
        from_s = row.pop().from_s
    if to_s > from_s:
        row.append(Stretch(from_s, to_s, state))


def _badness(state: str) -> int:
    return WORST_FIRST.index(state) if state in WORST_FIRST else -1
