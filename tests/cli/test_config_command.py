"""`queue-trio config check|show|schema|example`: what they tell of good, doubtful and bad settings, and keep quiet."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from queue_trio.cli.state import log_doubts, with_flags
from queue_trio.config.schema import sections
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError
from tests.cli.conftest import NOWHERE, SECRET, Invoke, on_terminal

if TYPE_CHECKING:
    from pathlib import Path

ALL = sum(len(model.model_fields) for model in sections().values())
"""Settings there are."""

FIVE_MISTAKES = f"""\
redis:
  url: redis://:{SECRET}@localhost:6379/0
worker:
  concurency: 8
  lease: 30s
  retry_base: 900
log:
  level: wraning
timeout: 3
"""

FIVE_LINES = """\
queue-trio: error: worker.concurency (queue-trio.yaml:4): there is no such setting: did you mean concurrency?
queue-trio: error: worker.lease (queue-trio.yaml:5): is '30s', should be a number from 0.3 to 86400
queue-trio: error: worker.retry_base (queue-trio.yaml:6): retry_base (900 s) must be no more than retry_cap (600 s)
queue-trio: error: log.level (queue-trio.yaml:8): is 'wraning', should be 'debug', 'info', 'warning' or 'error': did \
you mean warning?
queue-trio: error: timeout (queue-trio.yaml:9): there is no such section: did you mean worker.timeout or \
client.timeout or tracing.timeout?
"""


@pytest.fixture(autouse=True)
def _no_url(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test sets is set."""
    monkeypatch.delenv("QUEUE_TRIO_REDIS__URL")
    monkeypatch.delenv("QUEUE_TRIO_CONFIG")


def settings_file(project: Path, text: str) -> None:
    (project / "queue-trio.yaml").write_text(text)


# --- check ---------------------------------------------------------------------------------------------------------


def test_nothing_set_is_fine(invoke: Invoke) -> None:
    ended = invoke("config", "check")
    assert (ended.code, ended.out, ended.err) == (
        0,
        "ok: no file, no variable: every setting has its default\n",
        "",
    )


def test_good_settings_are_counted(invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(
        project, "worker: {lease: 60, threads: 3, weights: {high: 3}, dequeue_strategy: weighted}\n"
    )
    monkeypatch.setenv("QUEUE_TRIO_WORKER__THREADS", "4")
    ended = invoke("config", "check")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "ok: 3 settings from queue-trio.yaml, 1 from the environment\n"


def test_a_part_of_a_mapping_counts_as_its_setting(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_WORKER__WEIGHTS__HIGH", "3")
    ended = invoke("config", "check")
    assert ended.out == "ok: 1 from the environment; 1 warning\n"
    assert (
        "worker.weights (QUEUE_TRIO_WORKER__WEIGHTS__HIGH): has no effect with the strategy strict"
        in ended.error
    )
    assert invoke("config", "show").out.splitlines()[1].endswith("  QUEUE_TRIO_WORKER__WEIGHTS__HIGH")


def test_five_mistakes_are_told_at_once(invoke: Invoke, project: Path) -> None:
    settings_file(project, FIVE_MISTAKES)
    ended = invoke("config", "check")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == FIVE_LINES


def test_mistakes_as_json(invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(project, FIVE_MISTAKES)
    monkeypatch.setenv("QUEUE_TRIO_HTTP__TOKEN", f"{SECRET} {SECRET}")
    ended = invoke("config", "check", "--json")
    found = json.loads(ended.out)
    assert (ended.code, ended.err, found["ok"], found["file"]) == (3, "", False, "queue-trio.yaml")
    assert [error["key"] for error in found["errors"]] == [
        "worker.concurency",
        "worker.lease",
        "worker.retry_base",
        "log.level",
        "timeout",
        "http.token",
    ]
    assert found["errors"][3] == {
        "key": "log.level",
        "place": {"file": "queue-trio.yaml", "line": 8},
        "message": "is 'wraning', should be 'debug', 'info', 'warning' or 'error': did you mean warning?",
        "value": "'wraning'",
        "allowed": "'debug', 'info', 'warning' or 'error'",
        "did_you_mean": "warning",
    }
    assert found["errors"][5]["place"] == {"variable": "QUEUE_TRIO_HTTP__TOKEN"}
    assert found["errors"][5]["value"] is None
    assert SECRET not in ended.out


def test_doubts_warn_and_with_strict_fail(invoke: Invoke, project: Path) -> None:
    settings_file(project, "worker:\n  concurrency: 4\n  threads: 8\n")
    line = (
        "worker.threads (queue-trio.yaml:3), worker.concurrency (queue-trio.yaml:2): no more than 4 jobs run at once, "
        "so 4 of 8 threads are never used\n"
    )
    ended = invoke("config", "check")
    assert (ended.code, ended.err) == (0, f"queue-trio: warning: {line}")
    assert ended.out == "ok: 2 settings from queue-trio.yaml, 0 from the environment; 1 warning\n"
    ended = invoke("config", "check", "--strict")
    assert (ended.code, ended.out, ended.err) == (3, "", f"queue-trio: error: {line}")
    found = json.loads(invoke("config", "check", "--json").out)
    assert (found["ok"], found["errors"]) == (True, [])
    assert found["warnings"][0]["keys"] == ["worker.threads", "worker.concurrency"]
    assert found["warnings"][0]["places"][0] == {"file": "queue-trio.yaml", "line": 3}
    assert json.loads(invoke("config", "check", "--json", "--strict").out)["ok"] is False


def test_doubts_come_after_mistakes(invoke: Invoke, project: Path) -> None:
    settings_file(project, "worker: {lease: 9, threads: many}\n")
    first, second = invoke("config", "check").err.splitlines()
    assert first.startswith("queue-trio: error: worker.threads (")
    assert second.startswith(
        "queue-trio: warning: worker.lease (queue-trio.yaml:1): leases are renewed every 3 s"
    )


@pytest.mark.parametrize("command", [("config", "check"), ("config", "show"), ("admin", "stats")])
def test_a_file_that_is_not_there_is_one_line(invoke: Invoke, command: tuple[str, ...]) -> None:
    ended = invoke("--config", "no.yaml", *command)
    assert ended.code == 3
    assert ended.error == "queue-trio: error: no.yaml: cannot be read: No such file or directory"


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_tells_what_is_set_and_where(
    invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file(
        project,
        f"redis:\n  url: redis://bob:{SECRET}@localhost:6379/0\nworker:\n  lease: 60\n"
        f"tracing:\n  headers:\n    X-Key: {SECRET}\n    Tenant: {SECRET}\n",
    )
    monkeypatch.setenv("QUEUE_TRIO_HTTP__TOKEN", SECRET)
    monkeypatch.setenv("QUEUE_TRIO_TRACING__HEADERS__TENANT", SECRET)
    ended = invoke("config", "show")
    assert ended.code == 0
    assert [re.split("  +", line) for line in ended.out.splitlines()] == [
        ["", "setting", "value", "from"],
        ["*", "redis.url", "redis://bob:***@localhost:6379/0", "queue-trio.yaml:2"],
        ["*", "worker.lease", "60", "queue-trio.yaml:4"],
        ["*", "http.token", "***", "QUEUE_TRIO_HTTP__TOKEN"],
        [
            "*",
            "tracing.headers",
            '{"x-key": "***", "tenant": "***"}',
            "queue-trio.yaml:7, QUEUE_TRIO_TRACING__HEADERS__TENANT",
        ],
    ]
    assert ended.error == f"queue-trio: {ALL - 4} more have their default: --all shows them"
    assert SECRET not in ended.out + ended.err


def test_show_with_nothing_set_says_so(invoke: Invoke) -> None:
    ended = invoke("config", "show")
    assert (ended.code, ended.out) == (0, "")
    assert ended.error == "queue-trio: every setting has its default: --all shows them"


def test_show_all_marks_what_is_set(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_WORKER__LEASE", "60")
    lines = invoke("config", "show", "--all").out.splitlines()[1:]
    assert len(lines) == ALL
    assert [line.split() for line in lines if line.startswith("*")] == [
        ["*", "worker.lease", "60", "QUEUE_TRIO_WORKER__LEASE"]
    ]
    assert all(line.endswith("  default") for line in lines if not line.startswith("*"))


def test_show_as_json_has_every_setting(
    invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file(project, f"http: {{token: {SECRET}}}\n")
    monkeypatch.setenv("QUEUE_TRIO_LOG__LEVEL", "debug")
    ended = invoke("config", "show", "--json")
    found = json.loads(ended.out)["settings"]
    assert len(found) == ALL
    assert found["log.level"] == {
        "value": "debug",
        "default": "info",
        "from": [{"variable": "QUEUE_TRIO_LOG__LEVEL"}],
    }
    assert found["http.token"] == {
        "value": "***",
        "default": None,
        "from": [{"file": "queue-trio.yaml", "line": 1}],
    }
    assert found["worker.lease"] == {"value": 30, "default": 30, "from": []}
    assert SECRET not in ended.out


def test_show_fits_a_terminal_of_80_characters(project: Path) -> None:
    settings_file(project, "redis: {prefix: mine}\nworker: {lease: 60}\n")
    shown = on_terminal(project, NOWHERE, "config", "show", "--all").out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert [line.split()[1] for line in lines if line.strip().startswith("*")][:2] == [
        "redis.url",
        "redis.prefix",
    ]
    assert max(map(len, lines)) <= 80


def test_show_refuses_wrong_settings(invoke: Invoke, project: Path) -> None:
    settings_file(project, FIVE_MISTAKES)
    ended = invoke("config", "show", "--json")
    assert (ended.code, ended.out, ended.err) == (3, "", FIVE_LINES)


# --- schema and example --------------------------------------------------------------------------------------------


def test_schema_is_printed_as_json_even_if_the_settings_are_wrong(invoke: Invoke, project: Path) -> None:
    settings_file(project, FIVE_MISTAKES)
    ended = invoke("config", "schema")
    assert (ended.code, ended.err) == (0, "")
    assert set(json.loads(ended.out)["properties"]) == set(sections())


def test_example_becomes_the_settings_file(invoke: Invoke, project: Path) -> None:
    settings_file(project, invoke("config", "example").out)
    ended = invoke("config", "check")
    assert ended.out == "ok: 0 settings from queue-trio.yaml, 0 from the environment\n"


# --- what other commands do with it --------------------------------------------------------------------------------


def test_a_worker_can_log_the_doubts() -> None:
    with capture_logs() as logs:
        log_doubts(Settings.model_validate({"worker": {"lease": 9}}))
        log_doubts(Settings())
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("settings.doubtful", "warning")
    assert line["settings"].startswith("worker.lease, redis.read_timeout")
    assert line["reason"].startswith("leases are renewed every 3 s")


def test_flags_keep_what_else_was_set_known() -> None:
    changed = with_flags(Settings.model_validate({"worker": {"lease": 60}}), {"log.level": "debug"})
    assert changed.worker.model_fields_set == {"lease"}
    assert changed.model_fields_set == {"worker", "log"}


def test_a_wrong_secret_in_a_flag_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        with_flags(Settings(), {"http.token": f"{SECRET} {SECRET}"})
    assert str(caught.value).startswith("--http-token: use 1 or more visible ASCII characters")
    assert SECRET not in str(caught.value)
