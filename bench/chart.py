"""Draws results as one SVG for the docs: a bar per queue with its spread, a panel per figure. No script, no fonts.

It follows the reader's light or dark preference.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.catalogue import OURS, WORKLOADS
from bench.report import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Spread
    from bench.results import Results


class Panel(NamedTuple):
    """What is drawn: one figure of one workload, where more is better."""

    title: str
    workload: str
    figure: str


PANELS: Final = (
    Panel("Run jobs that do nothing, jobs/s in one process", "noop", "run_per_s"),
    Panel("Enqueue one by one, awaited, jobs/s", "enqueue-one", "enqueue_per_s"),
    Panel("Enqueue from 32 tasks or threads, jobs/s", "enqueue-concurrent", "enqueue_per_s"),
    Panel("Enqueue in bulk, jobs/s", "noop", "enqueue_per_s"),
)
DRAWN: Final = frozenset(panel.workload for panel in PANELS)

WIDTH: Final = 760
_NAME_WIDTH: Final = 190
_VALUE_WIDTH: Final = 80
_ROW: Final = 22
_BAR: Final = 14
_HEAD: Final = 34
_GAP: Final = 16

_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.note { font-size: 11px; fill: #59636e }
.bar { fill: #8c959f }
.ours { fill: #0969da }
.spread { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
  .spread { stroke: #e6edf3 }
}
"""


def draw(results: Results) -> str:
    """The SVG's text. Raises ValueError if nothing that is drawn was measured."""
    panels = [(panel, rows) for panel in PANELS if (rows := _rows(results, panel))]
    if not panels:
        raise ValueError(f"nothing to draw: run at least one of {', '.join(sorted(DRAWN))}")
    parts, top = [], 0
    for panel, rows in panels:
        parts.append(draw_panel(panel.title, rows, top))
        top += _HEAD + len(rows) * _ROW + _GAP
    note = (
        f"{results.server}, Python {results.python}, {results.cores} cores, {results.began[:10]}. "
        f"Bars: median of {results.rounds} rounds; lines: lowest to highest."
    )
    parts.append(f'<text class="note" x="0" y="{top + 8}">{escape(note)}</text>')
    height = top + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(_words(panels))}">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _rows(results: Results, panel: Panel) -> list[tuple[str, Spread]]:
    """Best first."""
    assert panel.figure in WORKLOADS[panel.workload].figures
    rows = [
        (queue, spread)
        for queue in results.queues
        if (spread := results.spread(panel.workload, queue, panel.figure)) is not None
    ]
    return sorted(rows, key=lambda row: -row[1].median)


def draw_panel(title: str, rows: Sequence[tuple[str, Spread]], top: int) -> str:
    """One titled group of bars, from `top` down."""
    scale = (WIDTH - _NAME_WIDTH - _VALUE_WIDTH) / max(spread.high for _, spread in rows)
    parts = [f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>']
    for index, (queue, spread) in enumerate(rows):
        y = top + _HEAD + index * _ROW
        middle = y + _BAR / 2
        low, high = (_NAME_WIDTH + value * scale for value in (spread.low, spread.high))
        kind = "bar ours" if queue == OURS.name else "bar"
        parts += [
            f'<text x="{_NAME_WIDTH - 8}" y="{y + 11}" text-anchor="end">{escape(queue)}</text>',
            f'<rect class="{kind}" x="{_NAME_WIDTH}" y="{y}" width="{spread.median * scale:.1f}" height="{_BAR}"/>',
            f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{high + 6:.1f}" y="{y + 11}">{number(spread.median)}</text>',
        ]
    return "\n".join(parts)


def _words(panels: Sequence[tuple[Panel, Sequence[tuple[str, Spread]]]]) -> str:
    return ". ".join(
        f"{panel.title}: " + ", ".join(f"{queue} {number(spread.median)}" for queue, spread in rows)
        for panel, rows in panels
    )
