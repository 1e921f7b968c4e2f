"""A timeline as one SVG drawing: panels over one time axis, fault windows shaded through all of them.

Plain shapes with classes; the page's style sheet gives them their colours. Hovering a moment tells its numbers in
words, by `<title>`: nothing here needs a script.
"""

from __future__ import annotations

from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from chaos.judging.timeline import PRIORITIES
from chaos.report.bands import (
    LEFT,
    LEGEND,
    RIGHT,
    WIDTH,
    Layer,
    breaker_rows,
    fault_rows,
    legend,
    marks,
    shade,
    x_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.judging.timeline import Bin, Timeline

STEPS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TICKS_MAX: Final = 16


def chart(drawn: Timeline) -> str:
    """The drawing, as an `<svg>` element."""
    # Placing is from top to bottom. Drawing is from back to front: text comes last, so that no line strikes it through.
    faults, y = fault_rows(drawn, 4.0)
    parts: list[str] = []
    legends: list[str] = []
    top = y
    for title, height, layers, line in _panels(drawn):
        legends.append(legend(y + LEGEND, title, [*layers, *([line] if line else [])]))
        panel, y = _panel(drawn, y, height, layers, line)
        parts.append(panel)
    rows, y = breaker_rows(drawn, y)
    axis = _axis(drawn, top, y)
    shades = "".join(shade(drawn, window, top, y) for window in drawn.windows)
    hits = "".join(_hit(drawn, bin_, top, y) for bin_ in drawn.bins)
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {y + 34:.0f}" role="img" '
        f'aria-label="What happened over {drawn.end_s:.1f} seconds">'
        f"{shades}{axis}{faults}{''.join(parts)}<g>{hits}</g>{marks(drawn, top, y)}"
        f"{rows}{''.join(legends)}</svg>"
    )


def _panels(drawn: Timeline) -> list[tuple[str, float, list[Layer], Layer | None]]:
    width = drawn.bin_width_s
    return [
        (
            "runs ended per second",
            110,
            [
                Layer("returned", "ok", lambda bin_: bin_.returned / width),
                Layer("cancelled", "warn", lambda bin_: bin_.cancelled / width),
                Layer("raised", "bad", lambda bin_: bin_.raised / width),
            ],
            None,
        ),
        (
            "enqueues per second",
            90,
            [
                Layer("acknowledged", "ok", lambda bin_: bin_.acknowledged / width),
                Layer("unknown", "warn", lambda bin_: bin_.unknown / width),
                Layer("failed", "bad", lambda bin_: bin_.failed / width),
                Layer("refused", "odd", lambda bin_: bin_.refused / width),
            ],
            None,
        ),
        (
            "jobs waiting",
            120,
            [
                *(Layer(name, f"p{rank}", _depth(name)) for rank, name in enumerate(PRIORITIES)),
                Layer("scheduled", "odd", lambda bin_: bin_.scheduled),
            ],
            None,
        ),
        (
            "jobs running",
            80,
            [Layer("in flight, as workers say", "ok", lambda bin_: bin_.in_flight)],
            Layer("leased, as the queue says", "line", lambda bin_: bin_.leased),
        ),
        (
            "connection errors per second",
            60,
            [
                Layer("of workers", "bad", lambda bin_: bin_.errors / width),
                Layer("of clients", "warn", lambda bin_: bin_.client_errors / width),
            ],
            None,
        ),
    ]


def _depth(priority: str) -> Callable[[Bin], float | None]:
    return lambda bin_: None if bin_.ready is None else bin_.ready.get(priority, 0)


# --- one panel -----------------------------------------------------------------------------------------------------


def _panel(
    drawn: Timeline, top: float, height: float, layers: Sequence[Layer], line: Layer | None
) -> tuple[str, float]:
    """One panel, below the line for its title and legend, and where the next one begins."""
    base = top + 26 + height
    stacks = [_stack([layer.value(bin_) for layer in layers]) for bin_ in drawn.bins]
    lines = [] if line is None else [line.value(bin_) for bin_ in drawn.bins]
    most = _nice(
        max([1.0, *(stack[-1] for stack in stacks if stack), *(one for one in lines if one is not None)])
    )

    def y_of(value: float) -> float:
        return base - height * value / most

    parts: list[str] = []
    for value in (0, most / 2, most):
        y = y_of(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    # The tallest first: each lower one is drawn over it.
    for at in reversed(range(len(layers))):
        tops = [None if stack is None else stack[at] for stack in stacks]
        if any(tops):
            path = _area(drawn, tops, y_of, base)
            parts.append(
                f'<path class="area {layers[at].style}" data-series="{layers[at].name}" d="{path}"/>'
            )
    if line is not None:
        path = _steps(drawn, lines, y_of)
        parts.append(f'<path class="stroke {line.style}" data-series="{line.name}" d="{path}"/>')
    return "".join(parts), base + 6


def _stack(values: Sequence[float | None]) -> list[float] | None:
    if all(value is None for value in values):
        return None
    return list(accumulate(value or 0.0 for value in values))


def _area(drawn: Timeline, tops: Sequence[float | None], y_of: Callable[[float], float], base: float) -> str:
    """Steps from bin to bin, down to `base` wherever nothing is known."""
    parts: list[str] = []
    for bin_, value in zip(drawn.bins, tops, strict=True):
        if value:
            from_x, to_x = x_of(drawn, bin_.from_s), x_of(drawn, bin_.to_s)
            parts.append(f"M{from_x:.1f} {base:.1f}V{y_of(value):.1f}H{to_x:.1f}V{base:.1f}Z")
    return "".join(parts)


def _steps(drawn: Timeline, values: Sequence[float | None], y_of: Callable[[float], float]) -> str:
    parts: list[str] = []
    pen_down = False
    for bin_, value in zip(drawn.bins, values, strict=True):
        if value is not None:
            start = (
                f"V{y_of(value):.1f}" if pen_down else f"M{x_of(drawn, bin_.from_s):.1f} {y_of(value):.1f}"
            )
            parts.append(f"{start}H{x_of(drawn, bin_.to_s):.1f}")
        pen_down = value is not None
    return "".join(parts)


# --- time ----------------------------------------------------------------------------------------------------------


def _axis(drawn: Timeline, top: float, bottom: float) -> str:
    step = next((step for step in STEPS_S if drawn.end_s / step <= TICKS_MAX), drawn.end_s / TICKS_MAX)
    parts: list[str] = []
    for at in range(int(drawn.end_s / step + 1e-9) + 1):
        x = x_of(drawn, at * step)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{at * step:g}</text>'
        )
    parts.append(
        f'<text class="tick" x="{RIGHT}" y="{bottom + 31:.1f}" text-anchor="end">seconds since the start</text>'
    )
    return "".join(parts)


def _hit(drawn: Timeline, bin_: Bin, top: float, bottom: float) -> str:
    from_x, to_x = x_of(drawn, bin_.from_s), x_of(drawn, bin_.to_s)
    return (
        f'<rect class="hit" x="{from_x:.1f}" y="{top:.1f}" width="{to_x - from_x:.1f}" height="{bottom - top:.1f}">'
        f"<title>{escape(_bin_words(drawn, bin_))}</title></rect>"
    )


def _bin_words(drawn: Timeline, bin_: Bin) -> str:
    lines = [
        f"{bin_.from_s:.2f} to {bin_.to_s:.2f} s",
        f"runs ended: {bin_.returned} returned, {bin_.raised} raised, {bin_.cancelled} cancelled",
    ]
    outcomes = ("acknowledged", "unknown", "failed", "refused")
    lines.append("enqueues: " + ", ".join(f"{getattr(bin_, outcome)} {outcome}" for outcome in outcomes))
    if bin_.ready is not None:
        lines.append("waiting: " + ", ".join(f"{bin_.ready.get(name, 0)} {name}" for name in PRIORITIES))
    else:
        lines.append("waiting: not seen")
    lines += [
        f"{name}: {value}"
        for name, value in (
            ("scheduled", bin_.scheduled),
            ("in flight", bin_.in_flight),
            ("leased", bin_.leased),
            ("errors of workers' connections", bin_.errors or None),
            ("errors of clients' connections", bin_.client_errors or None),
        )
        if value is not None
    ]
    for window in drawn.windows:
        if window.begin_s < bin_.to_s and window.until_s(drawn.end_s) > bin_.from_s:
            lines.append(f"fault: {window.name}")
    return "\n".join(lines)


def _nice(value: float) -> float:
    """The next of 1, 2, 4, 5, 10, 20 ... that is not less: its half makes a good label too."""
    scale = 1.0
    while True:
        for step in (1, 2, 4, 5, 6, 8):
            if step * scale >= value:
                return step * scale
        scale *= 10
