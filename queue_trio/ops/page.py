"""The page at /: how this worker and its queues are right now, for people. One document, nothing loaded from anywhere.

It asks for itself every two seconds and says so when nobody answers any more. Everything on it is escaped: task names
come from jobs.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import trio

import queue_trio
from queue_trio.core.dequeue import PRIORITIES
from queue_trio.runtime.counts import BOUNDS_S
from queue_trio.runtime.metrics_updater import oldest_ready_ages_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queue_trio.core.job import Lane
    from queue_trio.ops.health import Report
    from queue_trio.runtime.counts import Histogram
    from queue_trio.runtime.worker import Worker

STEP_S: Final = 1.0
STEPS: Final = 120
"""The chart goes back so many steps."""
TASKS_MAX: Final = 50

_STYLE: Final = """
:root{--bg:#fff;--fg:#1d2330;--soft:#667085;--line:#e4e7ec;--card:#f8f9fb;--good:#067647;--bad:#b42318;--mark:#3b5bdb}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e6e9ef;--soft:#98a2b3;--line:#2b303b;--card:#1a1e27;
--good:#47cd89;--bad:#f97066;--mark:#8da2fb}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px}header{display:flex;gap:12px;align-items:baseline;flex-wrap:wrap}
h1{font-size:22px;margin:0}h2{font-size:15px;margin:28px 0 8px;color:var(--soft);font-weight:600}
.badge{padding:2px 10px;border-radius:99px;font-weight:600;color:#fff;background:var(--good)}
.badge.bad{background:var(--bad)}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.badge,.badge.bad{color:var(--bg)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:18px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.card b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.card.wide{grid-column:1/-1}svg{display:block;width:100%;height:120px}
.bar{height:6px;background:var(--line);border-radius:3px;margin-top:6px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--mark)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child,td.text,th.text{text-align:left}
td.text{white-space:normal}a{color:var(--mark)}nav{margin-left:auto}nav a{margin-left:14px}
"""

_SCRIPT: Final = """
async function again(){try{const answer=await fetch(location.href,{cache:'no-store'});if(!answer.ok)throw 0;
const page=new DOMParser().parseFromString(await answer.text(),'text/html');
document.querySelector('main').replaceWith(page.querySelector('main'));window.lost=null;}
catch(e){document.querySelector('#alive').textContent='no answer since '+(window.lost=window.lost||
new Date().toLocaleTimeString());document.querySelector('#alive').className='bad';}
setTimeout(again,2000);}setTimeout(again,2000);
"""


_SCRIPT_HASH: Final = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; connect-src 'self'"
)


class Page:
    """Renders one worker. `run` takes a sample each second for the chart. `wall_clock`: seconds since the epoch."""

    def __init__(self, worker: Worker, *, started_s: float, wall_clock: Callable[[], float]) -> None:
        self._worker = worker
        self._started_s = started_s
        self._wall_clock = wall_clock
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=STEPS + 1)

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            counts = self._worker.counts
            self._samples.append((trio.current_time(), counts.completed, counts.retried + counts.dead))
            await trio.sleep(STEP_S)

    def render(self, report: Report) -> str:
        """The document."""
        worker = self._worker
        ready = '<span class="badge">ready</span>'
        badge = ready if report.ready else '<span class="badge bad">not ready</span>'
        name = escape(worker.app.name)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · queue_trio</title>'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<style>{_STYLE}</style></head><body><main><header><h1>{name}</h1>{badge}"
            f'<span class="soft">worker {escape(worker.id)} · up {_span(self._wall_clock() - self._started_s)} · '
            f'queue_trio {escape(queue_trio.__version__)}</span><span id="alive" class="soft"></span>'
            '<nav><a href="/healthz">/healthz</a><a href="/readyz">/readyz</a><a href="/metrics">/metrics</a></nav>'
            f"</header>{self._body(report)}</main>"
            f"<script>{_SCRIPT}</script></body></html>"
        )

    def _body(self, report: Report) -> str:
        numbers = self._cards() + self._queues() + self._tasks()
        # What is wrong comes first, when something is.
        return numbers + _checks(report) if report.ready else _checks(report) + numbers

    def _cards(self) -> str:
        worker, counts = self._worker, self._worker.counts
        capacity = worker.app.settings.worker.concurrency
        share = min(100, 100 * worker.in_flight // capacity)
        running = f'<div class="bar"><i style="width:{share}%"></i></div>'
        done, failed = self._rates()
        cards = [
            _card("running", f"{worker.in_flight} / {capacity}", running),
            _card("completed/s", f"{done[-1]:,.0f}" if done else "–"),
            _card("completed", f"{counts.completed:,}"),
            _card("failed attempts", f"{counts.retried + counts.dead:,}"),
            _card("dead-lettered", f"{counts.dead:,}"),
            _card("worst loop lag", f"{1000 * worker.watchdog.worst_lag_s:.0f} ms"),
        ]
        return f'<div class="cards">{"".join(cards)}{_chart(done, failed)}</div>'

    def _rates(self) -> tuple[list[float], list[float]]:
        """Completed and failed attempts per second, for each step."""
        steps = [
            (after[0] - before[0], before, after)
            for before, after in pairwise(self._samples)
            if after[0] > before[0]
        ]
        return (
            [(after[1] - before[1]) / seconds for seconds, before, after in steps],
            [(after[2] - before[2]) / seconds for seconds, before, after in steps],
        )

    def _queues(self) -> str:
        if self._worker.updater is None:
            return ""
        heads = ["queue", *map(str, PRIORITIES), "oldest", "scheduled", "leased", "dead", "workers"]
        return _table("Queues", heads, [self._queue(lane) for lane in self._worker.lanes])

    def _queue(self, lane: Lane) -> list[str]:
        lengths = self._worker.lengths(lane)
        if lengths is None:
            return [lane.queue, *["?"] * 9]
        oldest = max(oldest_ready_ages_s(lengths).values())
        name = f"{lane.queue} (paused)" if lengths.paused else lane.queue
        states = [lengths.scheduled, lengths.leased, lengths.dead, lengths.workers]
        ready = [f"{lengths.ready[priority]:,}" for priority in PRIORITIES]
        return [name, *ready, _span(oldest) if oldest else "–", *(f"{count:,}" for count in states)]

    def _tasks(self) -> str:
        rows: list[list[str]] = []
        for name, counts in self._worker.counts.labelled():
            ended = counts.completed + counts.retried + counts.dead
            if ended and len(rows) < TASKS_MAX:
                numbers = [counts.completed, counts.retried, counts.dead]
                times = [
                    _quantile(counts.run, 0.5),
                    _quantile(counts.run, 0.95),
                    _quantile(counts.wait, 0.95),
                ]
                rows.append([name, *(f"{number:,}" for number in numbers), *times])
        heads = ["task", "completed", "retried", "dead", "run p50", "run p95", "wait p95"]
        return _table("Tasks", heads, rows) if rows else ""


def _checks(report: Report) -> str:
    rows = []
    for name, check in report.checks.items():
        mark = '<span class="good">ok</span>' if check.ok else '<span class="bad">no</span>'
        since = escape(check.as_json()["since"])
        rows.append(
            f'<tr><td>{escape(name)}</td><td class="text">{mark}</td><td class="text">{escape(check.why)}</td>'
            f'<td class="text soft">{since}</td></tr>'
        )
    return (
        '<h2>Readiness</h2><div class="scroll"><table><tr><th>check</th><th class="text">state</th>'
        f'<th class="text">why</th><th class="text">since</th></tr>{"".join(rows)}</table></div>'
    )


def _card(title: str, value: str, more: str = "") -> str:
    return f'<div class="card"><span class="soft">{escape(title)}</span><b>{escape(value)}</b>{more}</div>'


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h2>{escape(title)}</h2><div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _chart(done: Sequence[float], failed: Sequence[float]) -> str:
    """Two lines over the last two minutes, newest at the right."""
    top = max([1.0, *done, *failed])

    def line(values: Sequence[float], color: str) -> str:
        first = STEPS - len(values)
        points = " ".join(
            f"{(first + at) * 1000 / (STEPS - 1):.1f},{118 - 100 * value / top:.1f}"
            for at, value in enumerate(values)
        )
        return (
            f'<polyline points="{points}" fill="none" stroke="var(--{color})" stroke-width="2" '
            'vector-effect="non-scaling-stroke"/>'
        )

    return (
        '<div class="card wide"><span class="soft">attempts per second, the last two minutes: '
        f'<span style="color:var(--mark)">completed</span>, <span class="bad">failed</span>; top {top:,.0f}/s</span>'
        f'<svg viewBox="0 0 1000 120" preserveAspectRatio="none" role="img" aria-label="attempts per second">'
        f"{line(done, 'mark')}{line(failed, 'bad')}</svg></div>"
    )


def _quantile(histogram: Histogram | None, share: float) -> str:
    """The bound of the bucket in which that share of the values is reached."""
    if histogram is None or not any(histogram.counts):
        return "–"
    left = share * sum(histogram.counts)
    for bound, count in zip(BOUNDS_S, histogram.counts, strict=False):
        left -= count
        if left <= 0:
            return f"≤ {_span(bound)}"
    return f"> {_span(BOUNDS_S[-1])}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
