"""docs/operations.md keeps in step with the code: events, examples, permissions, exit codes, limits of time."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import trio
import yaml
from markdown_it import MarkdownIt
from pydantic import SecretStr
from redis import Redis

from queue_trio import App
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.runtime.worker import Worker
from tests.ops.test_runbooks import own_arguments, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "docs" / "operations.md", ROOT / "docs" / "tuning.md"]
OPERATIONS = DOCUMENTS[0].read_text("utf-8")
PACKAGE = ROOT / "queue_trio"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def blocks(text: str, language: str) -> list[str]:
    return [
        token.content
        for token in MarkdownIt().parse(text)
        if token.type == "fence" and token.info.strip() == language
    ]


def logged_events() -> set[str]:
    """Every event that a logger in the package is given, also through a method that was picked before."""
    found = {"log.suppressed"}  # written past structlog, by ops/repeats.py
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
                continue
            event, function = call.args[0].value, call.func
            logs = isinstance(function, ast.Attribute) and function.attr in LEVELS
            picked = isinstance(function, ast.Name) and function.id in {"level", "tell"}
            if (logs or picked) and isinstance(event, str) and EVENT.fullmatch(event):
                found.add(event)
    return found


def events_told() -> list[str]:
    return re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)` \| (?:info|warning|error|as theirs) \|", OPERATIONS, re.MULTILINE
    )


def test_every_event_that_is_logged_stands_in_the_table_and_no_other() -> None:
    told = events_told()
    assert len(told) == len(set(told))
    assert set(told) == logged_events()


def test_events_logged_through_a_picked_method_are_found_too() -> None:
    assert {"breaker.changed", "rate_limit.no_answer", "redis.back", "admin.acted"} <= logged_events()


def test_the_event_of_suppressed_lines_is_called_so() -> None:
    assert '"log.suppressed"' in (PACKAGE / "ops" / "repeats.py").read_text("utf-8")


def test_the_systemd_unit_waits_longer_than_the_grace_and_does_not_restart_mistakes() -> None:
    (text,) = blocks(OPERATIONS, "ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
    unit.read_string(text)
    service = unit["Service"]
    settings = Settings()
    assert service["KillSignal"] == "SIGTERM"
    assert (
        float(service["TimeoutStopSec"]) > settings.worker.shutdown_grace + settings.tracing.shutdown_timeout
    )
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "4", "6"]
    arguments = own_arguments(service["ExecStart"].replace("/opt/shop/bin/", ""))
    assert arguments is not None
    parse(arguments)


def test_the_kubernetes_example_waits_longer_than_the_grace_and_asks_what_there_is() -> None:
    (text,) = blocks(OPERATIONS, "yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = Settings()
    ends_within = settings.worker.shutdown_grace + settings.tracing.shutdown_timeout
    assert pod["terminationGracePeriodSeconds"] > ends_within
    assert "lifecycle" not in container
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    liveness = container["livenessProbe"]
    # What /healthz says of a stall that is over lasts up to 30 s: no restart for that alone.
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > settings.http.stall_limit + 30
    assert container["command"][0] == "queue-trio"
    parse(container["command"][1:])


def test_the_permissions_hold_every_command_of_the_scripts() -> None:
    granted = set(re.findall(r"\+([a-z|]+)", OPERATIONS))
    for path in (PACKAGE / "redis" / "lua").rglob("*.lua"):
        for command in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", path.read_text("utf-8")):
            assert command.lower() in granted, f"{path.name} calls {command}"


def permissions() -> list[str]:
    """The rules of the documented user, without its name and password."""
    (block,) = [text for text in blocks(OPERATIONS, "") if text.startswith("user queue")]
    return block.split()[4:]


def test_the_permissions_hold_every_command_that_is_sent(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        commands = {name.upper() for name in client.command()}
    granted = {
        rule.removeprefix("+").partition("|")[0].upper() for rule in permissions() if rule.startswith("+")
    }
    sent = set()
    for path in (PACKAGE / "redis").rglob("*.py"):
        sent |= commands & set(re.findall(r'[(,]\s*"([A-Z]{3,})"', path.read_text("utf-8")))
    assert {"EVALSHA", "BLPOP", "LMOVE", "SMEMBERS"} <= sent
    assert sent - granted == NOT_COMMANDS & sent


NOT_COMMANDS = {"READONLY"}
"""Answers of Redis that happen to be called like a command."""


@pytest.mark.parametrize("strategy", ["strict", "weighted", "looped"])
async def test_a_user_with_these_permissions_enqueues_works_and_looks(
    redis_url: str, strategy: Literal["strict", "weighted", "looped"]
) -> None:
    with Redis.from_url(redis_url) as admin:
        rules = permissions()
        admin.execute_command("ACL", "SETUSER", "queue", "reset", "on", ">longrandom", *rules)
        admin.execute_command("ACL", "LOG", "RESET")
        try:
            await _use_everything(_with_user(redis_url, "queue:longrandom"), strategy)
            assert admin.execute_command("ACL", "LOG") == []
        finally:
            admin.execute_command("ACL", "DELUSER", "queue")
            admin.flushall()


def _with_user(url: str, login: str) -> str:
    return re.sub(r"://([^@/]*@)?", f"://{login}@", url, count=1)


async def _use_everything(url: str, strategy: Literal["strict", "weighted", "looped"]) -> None:
    settings = Settings(
        redis=RedisSettings(url=SecretStr(url)),
        worker=WorkerSettings(dequeue_strategy=strategy, poll_interval=0.1),
    )
    app = App("permitted", settings=settings)
    window = app.rate_limit("window", 100, per=1)
    smooth = app.rate_limit("smooth", 100, per=1, mode="smooth")

    @app.task(name="work", keep_result=60, max_retries=0)
    async def work(good: bool) -> int:
        if not good:
            raise ValueError("no good")
        return 7

    worker = Worker(app)
    async with app.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await client.acquire(window)
        await client.acquire(smooth)
        await client.enqueue(work.job(False).options(id="bad"))
        await client.enqueue(work.job(True).options(id="later", delay=60, unique_for=60))
        await client.enqueue_many([work.job(True) for _ in range(20)])
        assert await client.result(await client.enqueue(work.job(True)), wait=10) == 7
        environment = {**os.environ, "QUEUE_TRIO_REDIS__URL": url}
        done = await trio.run_process(
            [sys.executable, "-c", ALL_COMMANDS, *LOOKING], env=environment, capture_stdout=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode()
        worker.drain()


ALL_COMMANDS = """
import shlex, sys
from queue_trio.cli.main import main
for line in sys.argv[1:]:
    if code := main(["admin", *shlex.split(line)]):
        sys.exit(f"{line}: exit code {code}")
"""
"""In one process: to start one costs more than any of the commands."""


LOOKING = (
    "stats",
    "inspect later",
    "inspect bad",
    "peek dead",
    "workers",
    "audit",
    "replay-dlq --dry-run",
    "cancel later --yes",
    "pause default",
    "resume default",
    "purge-dlq --yes --no-export",
    "trail",
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_command_line_is_one_that_the_program_understands(document: Path) -> None:
    for line in command_lines(document):
        arguments = own_arguments(line)
        if arguments is not None:
            parse(arguments)


def command_lines(document: Path) -> Iterator[str]:
    text = document.read_text("utf-8")
    for block in blocks(text, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield shlex.join(shlex.split(line.removeprefix("$ "), comments=True))
    yield from re.findall(r"`(queue-trio [^`]+)`", text)


def test_documents_name_only_settings_that_exist() -> None:
    known = {
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }
    sections = "|".join(Settings.model_fields)
    events = logged_events()
    for document in DOCUMENTS:
        for name in re.findall(rf"`((?:{sections})\.[a-z_]+)[`:]", document.read_text("utf-8")):
            assert name in known or name in events, f"{document.name}: {name}"


def test_the_exit_codes_told_are_those_of_the_error_tree() -> None:
    from queue_trio import errors

    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.QueueTrioError)
    }
    section = OPERATIONS[OPERATIONS.index("## Exit codes") :]
    told = {
        int(code)
        for cell in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
        for code in cell.split(",")
    }
    assert codes <= told


def test_the_runbooks_that_the_table_names_exist() -> None:
    targets = dict(re.findall(r"^\[([a-z-]+)\]: (\S+)$", OPERATIONS, re.MULTILINE))
    assert targets
    assert all((ROOT / "docs" / target).is_file() for target in targets.values())
    rows = [line for line in OPERATIONS.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"\[([a-z-]+)\] \|$", row)} <= set(targets)
