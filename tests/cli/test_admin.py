"""`queue-trio admin stats|peek|audit`: what they show in every state, as text and as JSON, and what audit repairs."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

import pytest

from queue_trio.cli.admin import reaching
from queue_trio.core.settings import Settings
from queue_trio.errors import NotSent
from queue_trio.redis.keys import LaneKeys
from tests.cli.admin_jobs import LANE, claim_all, kill_many, kill_one, put, table, with_store
from tests.cli.conftest import SECRET, Invoke, on_terminal
from tests.support import connect

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis
    from tests.support import SharedRedis

pytestmark = pytest.mark.leaves_keys("admin looks at jobs, and no worker runs them")


@pytest.fixture
def break_it(redis_server: SharedRedis, on_redis: Invoke) -> None:
    """Two jobs; one has lost its place, and one of the two is in two places."""
    put(on_redis, "nowhere")
    put(on_redis, "twice")
    keys = LaneKeys(LANE)
    with connect(redis_server.unix_socket) as client:
        client.lrem(keys["ready:high"], 0, "nowhere")
        client.zadd(keys["dead"], {"twice": 1})


# --- empty states --------------------------------------------------------------------------------------------------


def test_nothing_was_ever_queued(on_redis: Invoke, redis_url: str) -> None:
    for name in ("stats", "audit"):
        ended = on_redis("admin", name)
        assert (ended.code, ended.out) == (0, "")
        assert f"no queues yet: no job or worker ever came to {redis_url} with the prefix 'qt'" in ended.error
    assert on_redis("admin", "peek").out == "no ready jobs\n"
    assert json.loads(on_redis("admin", "stats", "--json").out) == {"queues": []}
    assert json.loads(on_redis("admin", "peek", "--json").out) == {"state": "ready", "jobs": []}
    assert json.loads(on_redis("admin", "audit", "--json").out) == {"ok": True, "queues": []}


def test_a_queue_that_is_not_there(on_redis: Invoke) -> None:
    ended = on_redis("admin", "stats", "emails")
    assert ended.code == 2
    assert "queue 'emails' never had a job or a worker: there are no queues yet" in ended.error
    put(on_redis, "1")
    assert "did you mean default?" in on_redis("admin", "peek", "defualt").error
    assert "there are default" in on_redis("admin", "audit", "xyz").error
    assert on_redis("admin", "peek", "default", "--state", "dead").out == "no dead jobs in queue default\n"


# --- stats ---------------------------------------------------------------------------------------------------------


def test_stats(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "1")
    put(on_redis, "2", "--delay", "60")
    on_redis("enqueue", "tasks:app", "send", "to=me")
    where, ended, remarks = on_redis("admin", "stats").out.split("\n\n")
    (first, second) = table(where)
    assert (first["queue"], first["high"], first["scheduled"], first["dead"]) == ("default", "1", "1", "0")
    assert (second["queue"], second["normal"]) == ("emails", "1")
    assert [(row["queue"], row["enqueued"], row["completed"]) for row in table(ended)] == [
        ("default", "2", "0"),
        ("emails", "1", "0"),
    ]
    assert remarks == "default: no worker serves it\nemails: no worker serves it\n"
    assert "default" not in on_redis("admin", "stats", "emails").out

    with_store(redis_url, kill_one)
    with_store(redis_url, lambda store: store.pause(LANE, True))
    remarks = on_redis("admin", "stats", "default").out.split("\n\n")[2]
    assert "default: paused" in remarks
    assert "default: 1 dead job: see `queue-trio admin peek default --state dead`" in remarks
    (found,) = json.loads(on_redis("admin", "stats", "default", "--json").out)["queues"]
    assert (found["queue"], found["partition"], found["paused"]) == ("default", 0, True)
    assert (found["ready_total"], found["dead"], found["scheduled"], found["imbalance"]) == (0, 1, 1, 0)
    assert found["ready"] == {"critical": 0, "high": 0, "normal": 0, "low": 0}


# --- peek ----------------------------------------------------------------------------------------------------------


def test_peek_shows_what_comes_next(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "a")
    put(on_redis, "b", "--priority", "critical")
    put(on_redis, "c", "--delay", "90")
    rows = table(on_redis("admin", "peek", "-n", "5").out)
    assert [(row["job"], row["priority"], row["task"]) for row in rows] == [
        ("b", "critical", "tasks.touch"),
        ("a", "high", "tasks.touch"),
    ]
    assert '{"path":"b.txt"}' in rows[0][""]
    assert [row["job"] for row in table(on_redis("admin", "peek", "-n", "1").out)] == ["b"]
    (row,) = table(on_redis("admin", "peek", "--state", "scheduled").out)
    assert "in 1.5 min" in row[""]
    with_store(redis_url, claim_all)
    (leased, _) = json.loads(on_redis("admin", "peek", "--state", "leased", "--json").out)["jobs"]
    assert leased["owner"].startswith("w1")
    assert "lease ends" in on_redis("admin", "peek", "--state", "leased").out


def test_peek_over_several_queues(on_redis: Invoke) -> None:
    put(on_redis, "a")
    on_redis("enqueue", "tasks:app", "send", "to=me")
    assert [row["queue"] for row in table(on_redis("admin", "peek").out)] == ["default", "emails"]


def test_peek_shows_why_a_job_died(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "a")
    with_store(redis_url, kill_one)
    ended = on_redis("admin", "peek", "--state", "dead")
    assert "ago" in ended.out
    assert re.search(r"a:\n  [\d.]+ s ago, attempt 1: ValueError: ", ended.out)
    assert "no \\x1b[31mred\\x1b[0m please (worker w1)\n" in ended.out
    assert "Traceback" not in ended.out
    assert (
        '      File "tasks.py", line 9\n' in on_redis("admin", "peek", "--state", "dead", "--tracebacks").out
    )
    (job,) = json.loads(on_redis("admin", "peek", "--state", "dead", "--json").out)["jobs"]
    assert (job["id"], job["task"], job["record"]["args"]) == ("a", "tasks.touch", {"path": "a.txt"})
    assert (job["errors"][0]["type"], job["errors"][0]["attempt"]) == ("ValueError", 1)


def test_peek_counts_retries(on_redis: Invoke, redis_server: SharedRedis) -> None:
    put(on_redis, "a")
    with connect(redis_server.unix_socket) as client:
        client.hset(LaneKeys(LANE)["tries"], "a", 2)
    (row,) = table(on_redis("admin", "peek").out)
    assert (row["retries"], row["crashes"]) == ("2", "0")
    (job,) = json.loads(on_redis("admin", "peek", "--json").out)["jobs"]
    assert job["retries"] == 2


def test_peek_shows_no_password(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "a")
    message = f"cannot connect to postgres://me:{SECRET}@db/x"
    with_store(redis_url, lambda store: kill_one(store, message, f"Traceback:\n  {message}"))
    for option in ("--tracebacks", "--json"):
        ended = on_redis("admin", "peek", "--state", "dead", option)
        assert ended.out.count("cannot connect to postgres://me:***@db/x") == 2
        assert SECRET not in ended.out


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\xff{not json", "not a job record"),
        (b'{"v": 99, "task": "x"}', "record version 99"),
        (None, "the record is missing"),
    ],
)
def test_peek_shows_a_record_it_cannot_decode(
    on_redis: Invoke, redis_server: SharedRedis, raw: bytes | None, why: str
) -> None:
    put(on_redis, "a")
    keys = LaneKeys(LANE)
    with connect(redis_server.unix_socket) as client:
        client.hdel(keys["job"], "a")
        if raw is not None:
            client.hset(keys["job"], "a", raw)
        client.hset(keys["error"], "a", "not json either")
    ended = on_redis("admin", "peek")
    assert why in ended.out
    assert "?: not json either" in ended.out
    (job,) = json.loads(on_redis("admin", "peek", "--json").out)["jobs"]
    assert job["raw"] == (None if raw is None else repr(raw))
    assert why in job["undecodable"]


DEEP = b"[" * 5000 + b"]" * 5000
HOSTILE = {
    "deep": b'{"v":1,"task":"t","args":%s}' % DEEP,
    "bigint": b'{"v":1,"task":"t","args":{"a":%s}}' % (b"9" * 6000),
    "infinite": b'{"v":1,"task":"t","args":{"a":1e999}}',
    "escapes": b'{"v":1,"task":"t\\u001b[2J","args":{"a":"\\u001b]0;x\\u0007"},"headers":{"\\u001b":"\\u0007"}}',
    "latin": b'{"v":1,"task":"t","args":{"a":"\xff"}}',
    "ages": b'{"v":1,"task":"t","enqueued_ms":9223372036854775807}',
    "huge": b'{"v":1,"task":"t","args":{"a":"%s"}}' % (b"x" * 500_000),
}
HISTORIES = (b"\xff\xfe", b"99999999999999999999 {}", b'1 {"type":"\x1b[2J","message":"m\x07"}', b"1 " + DEEP)


def test_no_job_can_stop_an_operator_from_looking_at_it_and_at_the_others(
    on_redis: Invoke, redis_url: str, redis_server: SharedRedis, project: Path
) -> None:
    for name in HOSTILE:
        put(on_redis, name)
        with_store(redis_url, kill_one)
    keys = LaneKeys(LANE)
    with connect(redis_server.unix_socket) as client:
        for name, raw in HOSTILE.items():
            client.hset(keys["job"], name, raw)
        for name, history in zip(HOSTILE, HISTORIES, strict=False):
            client.hset(keys["error"], name, history)
    for command in (
        ("peek", "dead", "--tracebacks"),
        ("purge-dlq", "--dry-run"),
        *(("inspect", name, "--tracebacks") for name in HOSTILE),
    ):
        shown, told = on_redis("admin", *command), on_redis("admin", *command, "--json")
        assert (shown.code, told.code, shown.err, told.err) == (0, 0, "", "")
        assert all(char.isprintable() or char == "\n" for char in shown.out)
        assert "Infinity" not in told.out
        json.loads(told.out)
    drawn = on_terminal(project, redis_url, "admin", "peek", "dead")
    assert drawn.code == 0
    assert "huge" in drawn.out
    assert len(drawn.out) < 50_000
    ended = on_redis("admin", "purge-dlq", "--yes", "--export", "out")
    assert ended.code == 0
    kept = {line["id"]: line for line in map(json.loads, (project / "out").read_text().splitlines())}
    for name, raw in HOSTILE.items():
        line = kept[name]
        found = (
            base64.b64decode(line["record_base64"]) if "record_base64" in line else line["record"].encode()
        )
        assert found == raw


@pytest.mark.parametrize(("arguments", "word"), [(("--state", "gone"), "'--state'"), (("-n", "0"), "'-n'")])
def test_peek_at_what_makes_no_sense(invoke: Invoke, arguments: tuple[str, ...], word: str) -> None:
    ended = invoke("admin", "peek", *arguments)
    assert ended.code == 2
    assert word in ended.error


def test_peek_takes_a_state_or_a_queue(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "a")
    put(on_redis, "b")
    with_store(redis_url, kill_one)
    (row,) = table(on_redis("admin", "peek", "dead", "-n", "5").out.split("a:")[0])
    assert row["job"] == "a"
    assert [row["job"] for row in table(on_redis("admin", "peek", "default").out)] == ["b"]
    assert "a:\n" in on_redis("admin", "peek", "dead", "--queue", "default").out
    assert on_redis("admin", "peek", "leased").out == "no leased jobs\n"
    # A queue that is named like a state.
    with_store(redis_url, lambda store: kill_many(store, 1, queue="dead"))
    assert "dead-0" in on_redis("admin", "peek", "--queue", "dead", "--state", "dead").out
    assert on_redis("admin", "peek", "--queue", "dead").out == "no ready jobs in queue dead\n"


def test_peek_at_two_things_at_once(invoke: Invoke) -> None:
    ended = invoke("admin", "peek", "dead", "--state", "ready")
    assert ended.code == 2
    assert "for a queue named so, use --queue dead" in ended.error
    ended = invoke("admin", "peek", "emails", "--queue", "default")
    assert ended.code == 2
    assert "two queues are named" in ended.error


# --- audit ---------------------------------------------------------------------------------------------------------


def test_audit_of_a_healthy_queue(on_redis: Invoke) -> None:
    put(on_redis, "a")
    ended = on_redis("admin", "audit")
    assert (ended.code, ended.out) == (0, "default: 1 job checked, every promise holds\n")
    assert on_redis("admin", "audit", "--repair", "--yes").out == ended.out
    found = json.loads(on_redis("admin", "audit", "--json").out)
    assert found["ok"] is True
    assert (found["queues"][0]["checked"], found["queues"][0]["violations"]) == (1, [])


@pytest.mark.usefixtures("break_it")
def test_audit_finds_and_repairs(on_redis: Invoke) -> None:
    for arguments in ((), ("--repair", "--dry-run")):
        ended = on_redis("admin", "audit", *arguments)
        assert ended.code == 1
        assert "default: 2 jobs checked, 2 are wrong" in ended.out
        assert "has a record, but is nowhere" in ended.out
        assert "is in 2 places at once" in ended.out
        assert "admin audit --repair" in ended.out
    assert json.loads(on_redis("admin", "audit", "--json").out)["ok"] is False

    ended = on_redis("admin", "audit", "--repair")
    assert ended.code == 2
    assert "add --yes, or --dry-run" in ended.error

    ended = on_redis("admin", "audit", "--repair", "--yes")
    assert ended.code == 0
    assert "now ready" in ended.out
    assert ended.out.endswith("repaired: every promise holds now\n")
    assert on_redis("admin", "audit").code == 0


@pytest.mark.usefixtures("break_it")
def test_audit_repairs_as_json(on_redis: Invoke) -> None:
    ended = on_redis("admin", "audit", "default", "--repair", "--yes", "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    assert found["ok"] is True
    repaired = {violation["id"]: violation["repaired"] for violation in found["queues"][0]["violations"]}
    assert repaired == {"nowhere": "now ready", "twice": "now dead"}


def test_audit_of_counts_that_do_not_add_up(on_redis: Invoke, redis_server: SharedRedis) -> None:
    put(on_redis, "a")
    with connect(redis_server.unix_socket) as client:
        client.hincrby(LaneKeys(LANE)["stats"], "enqueued", 2)
    ended = on_redis("admin", "audit")
    assert ended.code == 1
    assert "the counts do not add up, 2 jobs lost: 3 enqueued, 0 completed" in ended.out
    assert "default: the counts do not add up: run `queue-trio admin audit`" in on_redis("admin", "stats").out


# --- on a terminal -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("break_it")
def test_repair_asks_on_a_terminal(project: Path, redis_url: str, on_redis: Invoke) -> None:
    refused = on_terminal(project, redis_url, "admin", "audit", "--repair", typed="n\n")
    assert refused.code == 2
    assert "Repair? [y/N]" in refused.out
    assert "nothing was done" in refused.out
    assert on_redis("admin", "audit").code == 1
    agreed = on_terminal(project, redis_url, "admin", "audit", "--repair", typed="y\n")
    assert agreed.code == 0
    assert "every promise holds now" in agreed.out
    shown = on_terminal(project, redis_url, "admin", "stats")
    assert "───" in shown.out
    lines = [line.split() for line in shown.out.splitlines()]
    assert [
        "default",
        "0",
        "1",
        "0",
        "0",
        "0",
        "0",
        "1",
        "0",
    ] in lines  # nothing is broken over lines in 80 columns


async def test_redis_goes_away_while_admin_looks(
    private_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "PATIENCE_S", 0.1)
    settings = Settings.model_validate({"redis": {"url": private_redis.url}})

    async def look() -> None:
        async with reaching.reach_redis(settings) as redis:
            await private_redis.kill()
            await redis.store.stats(LANE)

    with pytest.RaisesGroup(pytest.RaisesExc(NotSent, match="went away")):
        await look()
