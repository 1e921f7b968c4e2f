"""A result as one HTML page that stands alone: no network, no script, light and dark.

Everything that comes from the run is escaped: ids, errors and log lines come from jobs.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final

from chaos.judging.timeline import busiest_job, story, timeline
from chaos.report.chart import chart
from chaos.report.style import STYLE
from chaos.result import COUNTS, MUST_BE_ZERO, promise_words, recovery_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from chaos.judging.timeline import Timeline
    from chaos.result import Result
    from chaos.verdict import Counts, Invariant, Offender, Proof, Recovery

CONTENT_SECURITY_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
BOUND_AT: Final = 75
"""Per cent of a recovery's bar at which its bound is marked; what is beyond is over it."""

LINES_MAX: Final = 20
"""Of what was found wrong at rest; the JSON document has the others."""


def render_page(result: Result) -> str:
    """The document."""
    drawn = timeline(result.history, result.started_s, result.ended_s)
    title = f"{result.judgement.verdict}: {result.scenario}, seed {result.seed}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"{_top(result)}{_counts(result.judgement.counts)}{_timeline(drawn)}"
        f"{_recoveries(result.judgement.recoveries)}{_invariants(result)}{_at_rest(result)}{_faults(result, drawn)}"
        f"{_interventions(result)}{_again(result)}{_circumstances(result)}{_not_tested(result)}{_log(result)}"
        "</main></body></html>\n"
    )


# --- verdict and numbers -------------------------------------------------------------------------------------------


def _top(result: Result) -> str:
    verdict = result.judgement.verdict
    began = datetime.fromtimestamp(result.started_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result.judgement.reasons)
    return (
        f'<header><span class="badge {verdict}">{verdict}</span><h1>{escape(result.title)}</h1></header>'
        f"<p>Promises under test: <b>{escape(' · '.join(promise_words(result.promises)))}</b></p>"
        f'<p class="soft">{escape(result.scenario)} · seed {result.seed} · {began} · {result.seconds:.1f} s</p>'
        + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")
    )


def _counts(counts: Counts) -> str:
    groups = "".join(
        f'<section class="group"><h3>{escape(group)}</h3><table>'
        + "".join(_count(label, getattr(counts, name), bad=group == MUST_BE_ZERO) for name, label in fields)
        + "</table></section>"
        for group, fields in COUNTS.items()
    )
    return f'<h2>Jobs</h2><div class="groups">{groups}</div>'


def _count(label: str, value: int, *, bad: bool) -> str:
    style = "zero" if value == 0 else "bad" if bad else ""
    return f'<tr><td>{escape(label)}</td><td class="n {style}">{value:,}</td></tr>'


def _timeline(drawn: Timeline) -> str:
    return (
        f'<h2>Timeline</h2><p class="soft">Shaded: a fault was asked for and not yet proven gone. '
        f"One step is {drawn.bin_width_s:g} s; hover over one for its numbers. A gap means nobody could see.</p>"
        f'<div class="scroll">{chart(drawn)}</div>'
    )


def _recoveries(recoveries: Sequence[Recovery]) -> str:
    if not recoveries:
        return "<h2>Recovery</h2><p>This scenario has no bound to keep.</p>"
    rows = "".join(
        f'<tr><td class="what">{escape(recovery.name)}</td><td class="nowrap {"good" if recovery.kept else "bad"}">'
        f"{'kept' if recovery.kept else 'broken'}</td>"
        f'<td class="n">{recovery_words(recovery)}</td><td>{_bullet(recovery)}</td>'
        f'<td class="text soft">{escape(recovery.formula)}</td></tr>'
        for recovery in recoveries
    )
    return (
        '<h2>Recovery against bounds</h2><div class="scroll"><table><tr><th>what</th><th></th>'
        '<th class="n">measured</th><th>the mark is the bound</th><th>how it is computed</th></tr>'
        f"{rows}</table></div>"
    )


def _bullet(recovery: Recovery) -> str:
    share = 0.0 if recovery.kept else 100.0
    if recovery.measured_s is not None and recovery.allowed_s:
        share = min(100.0, BOUND_AT * recovery.measured_s / recovery.allowed_s)
    style = "" if recovery.kept else ' class="over"'
    return f'<div class="bullet"><i{style} style="width:{share:.1f}%"></i><b></b></div>'


# --- invariants ----------------------------------------------------------------------------------------------------


def _invariants(result: Result) -> str:
    rows = "".join(
        f"<tr><td><b>{escape(invariant.letter)}</b></td><td>{escape(invariant.name)}</td>"
        f'<td class="{"good" if invariant.held else "bad"}">{"held" if invariant.held else "broken"}</td>'
        f'<td class="n">{invariant.count:,}</td></tr>'
        for invariant in result.judgement.invariants
    )
    return (
        '<h2>Invariants</h2><div class="scroll"><table class="narrow"><tr><th></th><th>promise</th><th></th>'
        f'<th class="n">jobs that broke it</th></tr>{rows}</table></div>{_offenders(result)}'
    )


def _offenders(result: Result) -> str:
    """Those of broken promises, the first with its history open. If there is none, the job that ran most often."""
    parts: list[str] = []
    for invariant in result.judgement.invariants:
        for offender in invariant.offenders:
            parts.append(_offender(result, invariant, offender, first=not parts))
    if parts:
        return f"<h2>Worst offenders</h2>{''.join(parts)}"
    job_id = busiest_job(result.history)
    if job_id is None:
        return ""
    lines = "\n".join(story(result.history, job_id, result.started_s))
    return (
        f"<details><summary>No offenders. The job that was started most often: <code>{escape(job_id)}</code></summary>"
        f"<pre>{escape(lines)}</pre></details>"
    )


def _offender(result: Result, invariant: Invariant, offender: Offender, *, first: bool) -> str:
    lines = offender.history or story(result.history, offender.id, result.started_s)
    return (
        f"<details{' open' if first else ''}><summary><b>{escape(invariant.letter)}</b> "
        f"<code>{escape(offender.id)}</code>: {escape(offender.why)}</summary>"
        f"<pre>{escape(chr(10).join(lines))}</pre></details>"
    )


def _at_rest(result: Result) -> str:
    """What the queue says of itself at the end, and what was found wrong then."""
    rest = result.at_rest()
    if rest is None:
        return "<h2>At rest</h2><p>The run did not come that far.</p>"
    head = (
        f"<h2>At rest</h2><p>{'Drained' if rest.drained else '<b class=bad>Not drained</b>'} after "
        f"{rest.at_s - result.started_s:.1f} s. By the queue's own count: {rest.enqueued:,} enqueued, "
        f"{rest.completed:,} completed, {rest.cancelled:,} cancelled, {rest.purged:,} purged, "
        f"{len(rest.places):,} still there.</p>"
    )
    parts = [head]
    for title, lines in (
        ("Its audit and its append-only file found", rest.violations),
        ("Not by priority", rest.inversions),
        ("Outlived its runtime", rest.leftovers),
    ):
        if lines:
            parts.append(f"<h3>{title}</h3>{_list(lines[:LINES_MAX])}")
        if len(lines) > LINES_MAX:
            parts.append(f"<p class=soft>and {len(lines) - LINES_MAX:,} more</p>")
    return "".join(parts)


# --- what was done, and how to do it again -------------------------------------------------------------------------


def _faults(result: Result, drawn: Timeline) -> str:
    """Each time that one was there: when, and what proves it."""
    if not drawn.windows:
        return "<h2>Faults</h2><p>None was injected.</p>"
    proofs: dict[str, list[Proof]] = {}
    for proof in result.judgement.proofs:
        proofs.setdefault(proof.fault, []).append(proof)
    rows = "".join(
        f'<tr><td class="nowrap">{escape(window.name)}</td>'
        + "".join(
            f'<td class="n">{_moment(at_s)}</td>'
            for at_s in (window.begin_s, window.active_s, window.heal_s, window.healed_s)
        )
        + f'<td class="text">{_proof(mine.pop(0) if (mine := proofs.get(window.name)) else None)}</td></tr>'
        for window in drawn.windows
    )
    return (
        '<h2>Faults</h2><div class="scroll"><table><tr><th>fault</th><th class="n">asked for</th>'
        '<th class="n">there</th><th class="n">asked to heal</th><th class="n">gone</th>'
        f"<th>what proves that it bit</th></tr>{rows}</table></div>"
    )


def _proof(proof: Proof | None) -> str:
    if proof is None:
        return '<span class="bad">nothing</span>'
    missing = f'<li class="bad">{escape(proof.missing)}</li>' if proof.missing else ""
    return f'<ul class="proof">{"".join(f"<li>{escape(seen)}</li>" for seen in proof.seen if seen)}{missing}</ul>'


def _moment(at_s: float | None) -> str:
    return '<span class="bad">never</span>' if at_s is None else f"{at_s:.2f} s"


def _interventions(result: Result) -> str:
    manual = result.judgement.counts.manual_interventions
    rows = "".join(
        f'<tr><td class="n">{action.at_s - result.started_s:.2f} s</td><td>{escape(action.what)}</td>'
        + (
            '<td class="bad">by hand</td></tr>'
            if action.manual
            else '<td class="soft">by the scenario</td></tr>'
        )
        for action in result.actions()
    )
    table = (
        f'<div class="scroll"><table><tr><th class="n">at</th><th>what</th><th></th></tr>{rows}</table></div>'
    )
    return (
        f'<h2>Interventions</h2><p class="{"bad" if manual else ""}">Manual interventions: <b>{manual}</b></p>'
        + (f"<details{' open' if manual else ''}><summary>Actions</summary>{table}</details>" if rows else "")
    )


def _again(result: Result) -> str:
    return (
        f'<h2>Run it again</h2><pre class="command">{escape(result.command)}</pre><p>Seed {result.seed}.</p>'
    )


def _circumstances(result: Result) -> str:
    tables = (
        ("Versions", result.versions),
        ("Settings", result.settings),
        ("Redis settings", result.redis_settings),
    )
    return (
        '<h2>Circumstances</h2><div class="two">'
        + "".join(_pairs(title, values) for title, values in tables if values)
        + "</div>"
    )


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td class="soft">{escape(name)}</td><td class="text">{escape(_plain(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<section><h3>{escape(title)}</h3><table>{rows}</table></section>"


def _plain(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _not_tested(result: Result) -> str:
    return f"<h2>What was not tested</h2>{_list(result.not_tested)}"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _log(result: Result) -> str:
    if not result.log_tail:
        return ""
    lines = escape("\n".join(result.log_tail))
    return f"<h2>Last lines of the log</h2><pre>{lines}</pre>"
