"""The alerts: promtool finds nothing wrong, each was seen firing and not firing, each leads to a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from queue_trio.ops.metrics import CATALOGUE
from tests.ops.scraping import running_prometheus, running_worker
from tests.support import eventually
from tests.tools import tool

if TYPE_CHECKING:
    from queue_trio.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
SCRAPED_S = 60.0
SEVERITIES = {"page", "ticket", "info"}


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


RULES = [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
UNIT_TESTS = ("alerts_test.yml", "alerts_days_test.yml")
CASES = [case for name in UNIT_TESTS for group in load(name)["tests"] for case in group["alert_rule_test"]]
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
NAMES = sorted(ALERTS)


def promtool(*arguments: str) -> str:
    """What promtool says when it is content."""
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")


def test_promtool_accepts_the_example_configuration() -> None:
    assert "valid prometheus config" in promtool("check", "config", "prometheus.example.yml")


def test_the_rules_pass_their_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", *UNIT_TESTS)


def test_no_alert_has_the_name_of_another() -> None:
    assert len(ALERTS) + len(RECORDS) == len(RULES)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_unit_tested_firing_and_not_firing(name: str) -> None:
    fired = {bool(case["exp_alerts"]) for case in CASES if case["alertname"] == name}
    assert fired == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_says_how_bad_it_is_what_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert name.startswith("QueueTrio")
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert "{{" in alert["annotations"]["description"], "a description without a value or a name helps nobody"


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_leads_to_its_runbook_and_the_runbook_knows_it(name: str) -> None:
    runbook = ALERTS[name]["annotations"]["runbook"]
    assert re.fullmatch(r"runbooks/[a-z-]+\.md", runbook)
    assert f"`{name}`" in (ROOT / runbook).read_text("utf-8")


def test_each_runbook_is_some_alerts() -> None:
    linked = {alert["annotations"]["runbook"] for alert in ALERTS.values()}
    files = {f"runbooks/{path.name}" for path in (ROOT / "runbooks").glob("*.md")}
    assert files - {"runbooks/README.md"} == linked


def test_the_index_lists_every_alert_with_its_severity_and_runbook() -> None:
    text = (ROOT / "runbooks" / "README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(QueueTrio\w+)` \| (\w+) \| [^|]+ \| \[[^\]]+\]\(([a-z-]+\.md)\) \|$", text, re.MULTILINE
    )
    assert sorted(rows) == [
        (name, alert["labels"]["severity"], alert["annotations"]["runbook"].removeprefix("runbooks/"))
        for name, alert in sorted(ALERTS.items())
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    known = {metric.full_name for metric in CATALOGUE.values()} | RECORDS | {"up"}
    without_labels = re.sub(r"\{[^}]*\}|\b(?:by|on) \([^)]*\)|\[\w+\]", "", rule["expr"])
    asked = set(re.findall(r"\bup\b|\bqueue_trio[:\w]+", without_labels))
    assert asked
    assert asked <= known


async def test_they_work_on_a_real_prometheus_and_say_when_redis_goes(
    private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    async with (
        running_worker(tmp_path, private_redis.url) as target,
        running_prometheus(tmp_path, [target], rules=[FOLDER / "alerts.yml"]) as prometheus,
    ):

        async def all_evaluated() -> bool:
            groups = (await prometheus.ask("rules"))["groups"]
            found = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
            assert found.keys() == ALERTS.keys() | RECORDS
            assert "err" not in found.values(), groups
            return set(found.values()) == {"ok"}

        async def alerts() -> set[str]:
            return {alert["labels"]["alertname"] for alert in (await prometheus.ask("alerts"))["alerts"]}

        async def tells_of_the_queues() -> bool:
            return len(await prometheus.values("queue_trio:workers == 1")) == 2

        await eventually(tells_of_the_queues, SCRAPED_S)
        await eventually(all_evaluated, SCRAPED_S)

        async def nothing_is_wrong() -> bool:
            return not await alerts()

        await eventually(nothing_is_wrong, SCRAPED_S)

        await private_redis.kill()

        async def they_say_so() -> bool:
            return "QueueTrioRedisDown" in await alerts()

        await eventually(they_say_so, SCRAPED_S)
        assert await alerts() <= {"QueueTrioRedisDown", "QueueTrioBreakerOpen"}
        await eventually(all_evaluated, SCRAPED_S)
