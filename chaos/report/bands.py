"""Where things are on the drawing of a timeline, and what spans several of its panels: faults, breakers, actions.

Plain shapes with classes; the page's style sheet gives them their colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from chaos.judging.timeline import worst_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.judging.timeline import Bin, Stretch, Timeline, Window

WIDTH: Final = 1080
LEFT: Final = 96
RIGHT: Final = WIDTH - 12
LETTER: Final = 6.4
"""Width of a character of the labels, about, to see whether a name fits: SVG cannot ask."""
LEGEND: Final = 17
"""From the top of a panel to the line of its title and legend."""
BREAKER_ROWS_MAX: Final = 12
NAME_MAX: Final = 13
"""Letters of a process's name that fit left of the drawing."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One series of a stacked panel. None is a gap: nothing is known, which is not zero."""

    name: str
    style: str
    value: Callable[[Bin], float | None]


def x_of(drawn: Timeline, at_s: float) -> float:
    """Where a moment is, in units of the drawing."""
    return LEFT + (RIGHT - LEFT) * at_s / drawn.end_s


def legend(y: float, title: str, layers: Sequence[Layer]) -> str:
    """A panel's title at the left and what its colours mean at the right."""
    keys = "".join(
        # The browser lays the line out: only it knows how wide its letters are.
        f'<tspan class="key {layer.style}" dx="{14 if at else 0}">{"━" if layer.style == "line" else "■"}</tspan>'
        f'<tspan dx="4">{escape(layer.name)}</tspan>'
        for at, layer in enumerate(layers)
    )
    return (
        f'<text class="title" x="{LEFT}" y="{y:.1f}">{escape(title)}</text>'
        f'<text class="tick" x="{RIGHT}" y="{y:.1f}" text-anchor="end">{keys}</text>'
    )


def fault_rows(drawn: Timeline, top: float) -> tuple[str, float]:
    """A row for each fault by name, above the panels: its windows, and the name beside or within them."""
    rows: dict[str, list[Window]] = {}
    for window in drawn.windows:
        rows.setdefault(window.name, []).append(window)
    parts: list[str] = []
    for at, (name, windows) in enumerate(rows.items()):
        y = top + 18 * at
        for window in windows:
            from_x, to_x = x_of(drawn, window.begin_s), x_of(drawn, window.until_s(drawn.end_s))
            parts.append(
                f'<rect class="window" x="{from_x:.1f}" y="{y:.1f}" width="{max(2.0, to_x - from_x):.1f}" '
                f'height="15" rx="2"><title>{escape(_window_words(window))}</title></rect>'
            )
        first = x_of(drawn, windows[0].begin_s), x_of(drawn, windows[0].until_s(drawn.end_s))
        x, anchor = _beside(first, x_of(drawn, windows[-1].until_s(drawn.end_s)), LETTER * len(name))
        parts.append(
            f'<text class="fault" x="{x:.1f}" y="{y + 11.5:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    return "".join(parts), top + 18 * len(rows)


def _beside(first: tuple[float, float], last_x: float, width: float) -> tuple[float, str]:
    """Where a name fits: in the first window, right of the last, or left of the first."""
    if first[1] - first[0] > width + 10:
        return first[0] + 5, "start"
    if last_x + 5 + width < RIGHT:
        return last_x + 5, "start"
    return first[0] - 5, "end"


def _window_words(window: Window) -> str:
    moments = {
        "asked for": window.begin_s,
        "there": window.active_s,
        "asked to heal": window.heal_s,
        "gone": window.healed_s,
    }
    times = ", ".join(
        f"{name} {'never' if at_s is None else f'at {at_s:.2f} s'}" for name, at_s in moments.items()
    )
    return f"{window.name}: {times}" + (f" ({window.proof})" if window.proof else "")


def shade(drawn: Timeline, window: Window, top: float, bottom: float) -> str:
    """The window's shadow over all panels."""
    from_x, to_x = x_of(drawn, window.begin_s), x_of(drawn, window.until_s(drawn.end_s))
    return (
        f'<rect class="shade" x="{from_x:.1f}" y="{top:.1f}" width="{max(1.0, to_x - from_x):.1f}" '
        f'height="{bottom - top:.1f}"/>'
    )


def breaker_rows(drawn: Timeline, top: float) -> tuple[str, float]:
    """A band for each process that has a breaker; one for all, its worst, if they are many."""
    rows = drawn.breakers
    if not rows:
        return "", top
    if len(rows) > BREAKER_ROWS_MAX:
        rows = {f"all {len(rows)}": worst_of(rows, drawn.end_s)}
    keys = [Layer(name.replace("_", " "), name, lambda _: None) for name in ("closed", "half_open", "open")]
    parts = [legend(top + LEGEND, "circuit breakers", keys)]
    y = top + 24
    for who, stretches in rows.items():
        # The gutter is narrow: what tells processes apart is mostly at the end of their names.
        name = who if len(who) <= NAME_MAX else f"…{who[1 - NAME_MAX :]}"
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 9:.1f}" text-anchor="end">{escape(name)}</text>'
            + "".join(_band(drawn, who, stretch, y) for stretch in stretches)
        )
        y += 14
    return "".join(parts), y + 4


def _band(drawn: Timeline, who: str, stretch: Stretch, y: float) -> str:
    from_x, to_x = x_of(drawn, stretch.from_s), x_of(drawn, stretch.to_s)
    style = stretch.state if stretch.state in {"open", "half_open", "closed"} else "odd"
    return (
        f'<rect class="band {style}" x="{from_x:.1f}" y="{y:.1f}" width="{max(1.0, to_x - from_x):.1f}" height="10">'
        f"<title>{escape(who)}: {escape(stretch.state)} from {stretch.from_s:.2f} to {stretch.to_s:.2f} s</title>"
        "</rect>"
    )


def marks(drawn: Timeline, top: float, bottom: float) -> str:
    """A thin line where something was done, and where the queue was drained."""
    moments = [
        (action.at_s, "manual" if action.manual else "action", action.what) for action in drawn.actions
    ]
    if drawn.drained_s is not None:
        moments.append((drawn.drained_s, "drained", "drained"))
    return "".join(
        f'<path class="mark {style}" d="M{x_of(drawn, at_s):.1f} {top:.1f}V{bottom:.1f}"/>'
        f'<circle class="mark {style}" cx="{x_of(drawn, at_s):.1f}" cy="{bottom:.1f}" r="4">'
        f"<title>{at_s:.2f} s: {escape(what)}</title></circle>"
        for at_s, style, what in moments
    )
