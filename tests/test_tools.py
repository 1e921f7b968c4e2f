"""A program that is missing: a failure where everything must run, a skip with its reason elsewhere."""

from __future__ import annotations

import pytest

from tests.tools import in_ci, tool


def test_a_program_that_is_here_is_found() -> None:
    assert tool("sh").endswith("/sh")


def test_a_missing_one_skips_its_test_on_somebodys_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "false")
    assert not in_ci()
    with pytest.raises(pytest.skip.Exception, match="promtool is not installed: apt-get install prometheus"):
        tool("promtool")


def test_a_missing_one_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed"):
        tool("promtool")


def test_a_missing_one_that_must_be_there_fails_on_somebodys_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.fail.Exception, match="chromium is not installed: apt-get install chromium"):
        tool("chromium", may_be_missing=False)
