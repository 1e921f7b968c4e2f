"""The report's page, opened by a real browser."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from chaos.judging.timeline import timeline
from chaos.report.page import render_page
from tests.chaos.sample import LOST, made_up_result
from tests.chaos.tags import Tags
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path


def test_a_browser_shows_the_verdict_a_chart_with_data_the_offender_and_the_command(
    tmp_path: Path,
) -> None:
    result = made_up_result()
    page = tmp_path / "report.html"
    page.write_text(render_page(result), encoding="utf-8")
    seen = Tags()
    seen.feed(dom_of(page, tmp_path / "profile"))
    assert seen.text_of("span", "badge FAIL") == ["FAIL"]
    assert seen.text_of("h1", "") == [result.title]
    assert seen.text_of("pre", "command") == [result.command]
    assert any("enqueue acknowledged" in text for text in seen.text_of("pre", ""))
    assert LOST in seen.text_of("code", "")
    series = {name: len(re.findall("[MHV]", path)) for name, path in seen.series.items()}
    # The outage is a third of the run, so what needs Redis has points in the other two thirds at least.
    for name in ("returned", "acknowledged", "critical", "low", "in flight, as workers say"):
        assert series[name] > 100, f"{name} has {series[name]} points: {series}"
    assert series["unknown"] > 5
    assert len(seen.classes["window"]) == len(seen.classes["shade"]) == 2
    assert len(seen.classes["band open"]) > 4
    assert len(seen.classes["hit"]) == len(timeline(result.history, result.started_s, result.ended_s).bins)
    assert "Its audit and its append-only file found" in seen.text_of("h3", "")
    assert seen.outside == []


def dom_of(page: Path, profile: Path) -> str:
    """The page as Chromium made of it, scripts and styles run."""
    command = [
        tool("chromium", may_be_missing=False),
        "--headless",
        "--no-sandbox",  # in containers there is none to be had; the page is our own
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
