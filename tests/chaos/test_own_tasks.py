"""The user's own tasks as the load of a run: what is said of them, what is checked, and which jobs come of it."""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING

import pytest

from chaos.actors.own_tasks import Call, OwnTasks, read_own_tasks, with_own_tasks
from chaos.judging.expectations import expectations_of
from chaos.scenario.loading import find_scenario
from queue_trio.core.job import Lane
from queue_trio.errors import ConfigError
from queue_trio.submission import prepare

if TYPE_CHECKING:
    from pathlib import Path

SHOP = '''
from queue_trio import App

app = App("shop")

@app.task(queue="emails")
async def send_mail(to: str, copies: int = 1) -> None:
    """Nothing is sent."""

@app.task(name="orders.close", priority="high")
def close() -> None:
    """Nothing is closed."""

@app.task(run_in="process")
def resize(path: str) -> None:
    """Nothing is resized."""
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a user stands, with an app."""
    (tmp_path / "shop_of_own_tasks.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop_of_own_tasks", raising=False)
    return "shop_of_own_tasks:app"


def test_tasks_arguments_and_shares_are_read(shop: str) -> None:
    found = read_own_tasks(shop, ['2*send_mail={"to": "a=b"}', "orders.close"], seconds=0.5)
    assert found == OwnTasks(
        shop,
        os.getcwd(),
        (Call("shop_of_own_tasks.send_mail", {"to": "a=b"}, 2), Call("orders.close", {}, 1)),
        0.5,
    )


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ('send_mal={"to": "x"}', "did you mean shop_of_own_tasks.send_mail"),
        ("send_mail", "'to' is missing"),
        ('send_mail={"to": "x", "copies": "many"}', "'copies'"),
        ("send_mail={to: x}", "not JSON"),
        ("send_mail=x", "the arguments must be JSON"),
        ("*send_mail", "three times as many"),
        ('resize={"path": "x"}', "process of its own"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_in_one_line(shop: str, job: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as told:
        read_own_tasks(shop, [job], seconds=1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("app", "why"), [("no_such_shop:app", "not found"), ("shop_of_own_tasks:ap", "did you mean")]
)
def test_an_app_that_is_not_there_is_told(shop: str, app: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_own_tasks(app, ["close"], seconds=1)


def test_an_app_needs_jobs(shop: str) -> None:
    with pytest.raises(ConfigError, match="--app needs --job"):
        read_own_tasks(shop, [], seconds=1)


def test_jobs_come_by_their_shares_and_go_to_the_one_queue_of_a_run(shop: str) -> None:
    own = read_own_tasks(shop, ['2*send_mail={"to": "x"}', "orders.close"], seconds=1)
    jobs = list(itertools.islice(own.jobs(), 6))
    assert [job.task.name.rpartition(".")[2] for job in jobs] == ["send_mail", "send_mail", "close"] * 2
    assert {prepare(job, now_ms=0, max_payload=1000)[0] for job in jobs} == {Lane("default")}
    assert jobs[0].arguments == b'{"to":"x"}'
    assert len({job.id for job in jobs}) == 6


def test_a_scenario_keeps_all_but_its_jobs(shop: str) -> None:
    own = read_own_tasks(shop, ["orders.close"], seconds=0.25)
    whole = find_scenario("redis-outage")
    theirs = with_own_tasks(whole, own)
    assert {(load.kind, load.seconds) for load in theirs.loads} == {("slow", 0.25)}
    assert [load.jobs for load in theirs.loads] == [load.jobs for load in whole.loads]
    assert theirs.faults == whole.faults


def test_any_number_of_dead_letters_may_be_theirs_and_nothing_else_is_relaxed(shop: str) -> None:
    own = read_own_tasks(shop, ["orders.close"], seconds=1)
    expected = expectations_of(with_own_tasks(find_scenario("bad-record"), own))
    assert str(expected.amount("dead")) == ">= 5"
    assert str(expected.amount("duplicated")) == "== 0"
    assert str(expected.amount("manual_interventions")) == "== 0"


@pytest.mark.parametrize("name", ["crash", "poison", "handler-hangs", "handler-uncancellable"])
def test_a_scenario_about_its_own_jobs_is_refused(shop: str, name: str) -> None:
    own = read_own_tasks(shop, ["orders.close"], seconds=1)
    with pytest.raises(ConfigError, match="not for --app"):
        with_own_tasks(find_scenario(name), own)
