"""`queue-trio admin inspect|cancel|pause|resume|workers|drain|trail`: one job, one queue, one worker; who did what."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import Failure, Lane, Outcome, Verdict, encode_failure
from queue_trio.redis.keys import LaneKeys
from tests.cli.admin_jobs import LANE, claim_all, kill_many, kill_one, put, table, with_store
from tests.cli.conftest import SECRET, Invoke, command, environment, on_terminal
from tests.support import connect

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.redis.store import RedisStore
    from tests.support import SharedRedis

pytestmark = pytest.mark.leaves_keys("admin looks at jobs, and no worker runs them")

EMAILS = Lane("emails")
INFO = {"host": "box", "pid": 42, "app": "shop", "queues": "default", "concurrency": 8}
WORKERS = ("1a2b000000000000", "1a2c000000000000")


def acts(invoke: Invoke) -> list[dict[str, Any]]:
    found = json.loads(invoke("admin", "trail", "--json").out)["acts"]
    assert isinstance(found, list)
    return found


async def enlist(store: RedisStore) -> None:
    """Two workers that never beat again: the first serves two queues and holds what is ready."""
    await store.register(LANE, worker=WORKERS[0], info=json.dumps(INFO))
    await store.register(EMAILS, worker=WORKERS[0], info=json.dumps(INFO))
    await store.register(LANE, worker=WORKERS[1], info="not json")
    await store.claim(LANE, worker=WORKERS[0], want=9, lease_ms=60_000, order=PRIORITIES)


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_a_job_in_each_place(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "late", "--delay", "90", "--timeout", "2.5")
    for job_id in ("urgent", "first", "second"):
        put(on_redis, job_id, "--priority", "critical" if job_id == "urgent" else "normal")
    out = on_redis("admin", "inspect", "second").out
    assert out.startswith("second is ready in queue default\n")
    assert "\n  position   2 of 2; 1 more urgent\n" in out
    assert '\n  arguments  {"path":"second.txt"}\n' in out
    out = on_redis("admin", "inspect", "late").out
    assert out.startswith("late is scheduled in queue default\n")
    assert "(in 1.5 min)" in out
    assert "\n  position   1 of 1\n" in out
    assert "  2.5 s\n" in out
    found = json.loads(on_redis("admin", "inspect", "second", "--json").out)
    assert (found["id"], found["found"], found["ended"]) == ("second", True, [])
    (job,) = found["jobs"]
    assert (job["queue"], job["state"], job["task"]) == ("default", "ready", "tasks.touch")
    assert job["position"] == {"before": 1, "of": 2, "more_urgent": 1}

    with_store(redis_url, claim_all)
    out = on_redis("admin", "inspect", "first").out
    assert "first is leased" in out
    assert "\n  owner " in out
    assert "lease ends" in out


def test_inspect_shows_the_whole_history(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "a")

    async def fail_then_die(store: RedisStore) -> None:
        for verdict, message in ((Verdict.RETRY, f"redis://:{SECRET}@db"), (Verdict.DEAD, "gave up")):
            claim = await store.claim(LANE, worker="w1", want=1, lease_ms=60_000, order=PRIORITIES)
            (job,) = claim.jobs
            failure = Failure(type="ValueError", message=message, attempt=job.tries + 1, traceback="Tb:\n  x")
            detail = encode_failure(failure)
            await store.settle(LANE, [Outcome(job.id, job.token, verdict, detail=detail)])

    with_store(redis_url, fail_then_die)
    out = on_redis("admin", "inspect", "a").out
    assert out.startswith("a is dead in queue default\n")
    history = out.partition("history, oldest first:\n")[2].splitlines()
    assert [line.partition("ago)")[2] for line in history] == [
        "  attempt 1: ValueError: redis://:***@db",
        "  attempt 2: ValueError: gave up",
    ]
    assert all(line.startswith("  20") for line in history)
    assert "\n  position     1 of 1\n" in out or "\n  position   1 of 1\n" in out
    assert on_redis("admin", "inspect", "a", "--tracebacks").out.count("    Tb:\n      x\n") == 2
    (job,) = json.loads(on_redis("admin", "inspect", "a", "--json").out)["jobs"]
    assert [error["message"] for error in job["errors"]] == ["redis://:***@db", "gave up"]


def test_inspect_looks_through_all_queues(on_redis: Invoke, redis_url: str) -> None:
    with_store(redis_url, lambda store: kill_many(store, 1))
    with_store(redis_url, lambda store: kill_many(store, 1, queue="emails"))
    out = on_redis("admin", "inspect", "dead-0").out
    assert "dead-0 is dead in queue default\n" in out
    assert "\n\ndead-0 is dead in queue emails\n" in out
    assert "default" not in on_redis("admin", "inspect", "dead-0", "--queue", "emails").out


def test_inspect_a_job_that_is_nowhere(on_redis: Invoke, redis_url: str, redis_server: SharedRedis) -> None:
    ended = on_redis("admin", "inspect", "nix")
    assert ended.code == 1
    assert "job nix is nowhere: it never was, or it has completed" in ended.error
    assert json.loads(on_redis("admin", "inspect", "nix", "--json").out) == {
        "id": "nix",
        "found": False,
        "jobs": [],
        "ended": [],
    }
    put(on_redis, "a")
    with connect(redis_server.unix_socket) as client:
        client.set(LaneKeys(LANE).result("nix"), b"12345", px=90_000)
        client.zadd(LaneKeys(LANE)["unique"], {"nix": time.time() * 1000 + 7_200_500})
    ended = on_redis("admin", "inspect", "nix")
    assert ended.code == 1
    assert "as it has ended: in queue default its result is kept for another 1.5 min (5 bytes)" in ended.error
    assert "its id stays taken for another 2.0 h" in ended.error
    (left,) = json.loads(on_redis("admin", "inspect", "nix", "--json").out)["ended"]
    assert (left["queue"], left["result_bytes"]) == ("default", 5)
    assert (
        "job nix is not in queue default" in on_redis("admin", "inspect", "nix", "--queue", "default").error
    )


def test_inspect_what_is_no_id(invoke: Invoke) -> None:
    ended = invoke("admin", "inspect", "a b")
    assert ended.code == 2
    assert "job id 'a b'" in ended.error


# --- cancel --------------------------------------------------------------------------------------------------------


def test_cancel(on_redis: Invoke, redis_url: str) -> None:
    put(on_redis, "dead")
    with_store(redis_url, kill_one)
    put(on_redis, "runs")
    with_store(redis_url, claim_all)
    put(on_redis, "ready")
    put(on_redis, "late", "--delay", "90")
    refused = on_redis("admin", "cancel", "ready")
    assert refused.code == 2
    assert "cancel ends jobs: add --yes" in refused.error
    dry = on_redis("admin", "cancel", "ready", "late", "--dry-run")
    assert dry.code == 0
    assert "is scheduled, would be cancelled" in dry.out
    assert acts(on_redis) == []

    ended = on_redis("admin", "cancel", "ready", "late", "runs", "dead", "nix", "ready", "--yes")
    assert ended.code == 1
    assert [row[""].split(maxsplit=2) for row in table(ended.out)] == [
        ["ready", "default", "cancelled"],
        ["late", "default", "cancelled"],
        ["runs", "default", "runs, and is left alone"],
        ["dead", "default", "is dead: use purge-dlq"],
        ["nix", "is", "nowhere: it has ended, or never was"],
    ]
    (stats,) = json.loads(on_redis("admin", "stats", "--json").out)["queues"]
    assert (stats["cancelled"], stats["ready_total"], stats["scheduled"], stats["imbalance"]) == (2, 0, 0, 0)
    (act,) = acts(on_redis)
    assert (act["what"], act["counts"]) == ("cancel", {"asked": 5, "cancelled": 2})
    assert act["ids"] == ["ready", "late", "runs", "dead", "nix"]

    put(on_redis, "more")
    found = json.loads(on_redis("admin", "cancel", "more", "--yes", "--json").out)
    assert found["jobs"] == [{"id": "more", "queue": "default", "state": "cancelled", "cancelled": True}]


def test_cancel_what_is_not_there(on_redis: Invoke) -> None:
    ended = on_redis("admin", "cancel", "nix", "--yes")
    assert ended.code == 1
    assert "nowhere" in ended.out
    assert acts(on_redis) == []


def test_cancel_asks_on_a_terminal(on_redis: Invoke, redis_url: str, project: Path) -> None:
    put(on_redis, "a")
    refused = on_terminal(project, redis_url, "admin", "cancel", "a", typed="n\n")
    assert (refused.code, "Cancel 1 job? [y/N]" in refused.out) == (2, True)
    assert on_redis("admin", "inspect", "a").code == 0
    agreed = on_terminal(project, redis_url, "admin", "cancel", "a", typed="y\n")
    assert agreed.code == 0
    assert on_redis("admin", "inspect", "a").code == 1


# --- pause and resume ----------------------------------------------------------------------------------------------


def test_pause_and_resume(on_redis: Invoke) -> None:
    ended = on_redis("admin", "pause", "--all")
    assert (ended.code, ended.out) == (0, "")
    assert "no queues yet" in ended.error
    put(on_redis, "a")
    on_redis("enqueue", "tasks:app", "send", "to=me")
    assert on_redis("admin", "pause", "default", "--dry-run").out == "default: would be paused\n"
    assert acts(on_redis) == []
    ended = on_redis("admin", "pause", "default")
    assert ended.code == 0
    assert ended.out.startswith("default: paused; what runs goes on; undo it with `queue-trio admin resume")
    assert on_redis("admin", "pause", "default").out == "default: is paused already\n"
    assert [one["paused"] for one in json.loads(on_redis("admin", "stats", "--json").out)["queues"]] == [
        True,
        False,
    ]
    assert on_redis("admin", "resume", "--all").out == "default: goes on\nemails: is not paused\n"
    found = json.loads(on_redis("admin", "pause", "emails", "--json", "--as", "me").out)
    assert found == {
        "paused": True,
        "dry_run": False,
        "queues": [{"queue": "emails", "partition": 0, "changed": True}],
    }
    assert [(act["what"], act["queue"], act["counts"]["changed"]) for act in acts(on_redis)] == [
        ("pause", "default", 1),
        ("pause", "default", 0),
        ("resume", "--all", 1),
        ("pause", "emails", 1),
    ]


@pytest.mark.parametrize("arguments", [(), ("default", "--all")])
def test_pause_wants_one_queue_or_all(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    ended = invoke("admin", "pause", *arguments)
    assert ended.code == 2
    assert "name one queue, or use --all" in ended.error


def test_pause_a_queue_that_is_not_there(on_redis: Invoke) -> None:
    put(on_redis, "a")
    ended = on_redis("admin", "resume", "defualt")
    assert ended.code == 2
    assert "did you mean default?" in ended.error


def test_memory_that_is_full_stops_no_act(
    on_redis: Invoke, redis_url: str, redis_server: SharedRedis
) -> None:
    """That is when operators must act most."""
    with_store(redis_url, lambda store: kill_many(store, 5))
    with connect(redis_server.unix_socket) as client:
        client.config_set("maxmemory", 1)
        try:
            assert on_redis("enqueue", "tasks:app", "touch", "path=x").code == 5
            assert on_redis("admin", "pause", "default").code == 0
            assert on_redis("admin", "purge-dlq", "--yes", "--no-export").code == 0
        finally:
            client.config_set("maxmemory", 0)
    (stats,) = json.loads(on_redis("admin", "stats", "--json").out)["queues"]
    assert (stats["paused"], stats["dead"], stats["purged"]) == (True, 0, 5)
    assert [act["what"] for act in acts(on_redis)] == ["pause", "purge-dlq"]


# --- workers and drain ---------------------------------------------------------------------------------------------


def test_workers(on_redis: Invoke, redis_url: str) -> None:
    assert on_redis("admin", "workers").out == "no worker is registered\n"
    assert json.loads(on_redis("admin", "workers", "--json").out) == {"workers": []}
    put(on_redis, "a")
    put(on_redis, "b")
    with_store(redis_url, enlist)
    rows = {row["worker"]: row for row in table(on_redis("admin", "workers").out)}
    first = rows[WORKERS[0]]
    assert (first["host"], first["pid"], first["app"], first["jobs"]) == ("box", "42", "shop", "2/8")
    assert rows[WORKERS[1]]["jobs"] == "0/?"
    found = json.loads(on_redis("admin", "workers", "emails", "--json").out)["workers"]
    assert [(seen["id"], seen["draining"], seen["concurrency"]) for seen in found] == [(WORKERS[0], False, 8)]
    every = json.loads(on_redis("admin", "workers", "--json").out)["workers"]
    (both,) = (seen["registered"] for seen in every if seen["id"] == WORKERS[0])
    assert both == [
        {"queue": "default", "partition": 0, "leased": 2},
        {"queue": "emails", "partition": 0, "leased": 0},
    ]


def test_drain_asks_one_worker(on_redis: Invoke, redis_url: str) -> None:
    with_store(redis_url, enlist)
    assert "add --yes" in on_redis("admin", "drain", WORKERS[0]).error
    dry = on_redis("admin", "drain", "1a2b", "--dry-run")
    assert (dry.code, "would be asked to drain" in dry.out) == (0, True)
    for beginning, words in (
        ("1a2", "could be any of 2"),
        ("ff", "no worker's id begins"),
        ("", "begins with"),
    ):
        ended = on_redis("admin", "drain", beginning, "--yes")
        assert ended.code == 2
        assert words in ended.error
    assert acts(on_redis) == []
    ended = on_redis("admin", "drain", "1a2b", "--yes")
    assert ended.code == 0
    assert ended.out == f"worker {WORKERS[0]} is asked to drain; it holds 0 jobs\n"
    rows = {row["worker"]: row[""] for row in table(on_redis("admin", "workers").out)}
    assert rows[WORKERS[0]].endswith("draining")
    assert not rows[WORKERS[1]].endswith("draining")
    (act,) = acts(on_redis)
    assert (act["what"], act["worker"], act["outcome"]) == ("drain", WORKERS[0], "done")


def test_drain_waits_no_longer_than_it_is_told(on_redis: Invoke, redis_url: str) -> None:
    with_store(redis_url, enlist)
    ended = on_redis("admin", "drain", WORKERS[1], "--yes", "--wait", "--timeout", "0.1")
    assert ended.code == 1
    assert "has not left within 0.1 s" in ended.err
    found = json.loads(
        on_redis("admin", "drain", WORKERS[1], "--yes", "--wait", "--timeout", "0.1", "--json").out
    )
    assert (found["left"], found["worker"]["id"]) == (False, WORKERS[1])
    assert "--timeout goes with --wait" in on_redis("admin", "drain", "x", "--timeout", "1", "--yes").error


def test_drain_says_so_if_a_worker_is_silent(
    on_redis: Invoke, redis_url: str, redis_server: SharedRedis
) -> None:
    async def beat(store: RedisStore) -> None:
        await enlist(store)
        await store.renew(LANE, worker=WORKERS[1], lease_ms=1000, held=[])

    with_store(redis_url, beat)
    keys = LaneKeys(LANE)
    with connect(redis_server.unix_socket) as client:
        client.zadd(keys["workers"], {WORKERS[1]: int(client.time()[0] * 1000) - 90_000})
    ended = on_redis("admin", "drain", WORKERS[1], "--yes", "--wait", "--timeout", "0.1")
    assert ended.code == 1
    assert (
        "has not left within 0.1 s: not heard of for 1.5 min, so it is frozen, cut off or dead" in ended.err
    )
    rows = {row["worker"]: row[""] for row in table(on_redis("admin", "workers").out)}
    assert rows[WORKERS[1]].endswith("silent draining")
    told = json.loads(on_redis("admin", "workers", "--json").out)["workers"]
    assert {seen["id"]: seen["silent"] for seen in told}[WORKERS[1]]


def test_drain_ends_a_worker(on_redis: Invoke, redis_url: str, project: Path) -> None:
    env = environment(QUEUE_TRIO_REDIS__URL=redis_url, QUEUE_TRIO_WORKER__LEASE="3")
    with subprocess.Popen(
        command("worker", "tasks:app"), cwd=project, env=env, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline_s = time.monotonic() + 20
            found: list[dict[str, Any]] = []
            while not found and time.monotonic() < deadline_s:
                found = json.loads(on_redis("admin", "workers", "--json").out)["workers"]
            (seen,) = found
            assert (seen["pid"], seen["app"]) == (process.pid, "shop")
            ended = on_redis("admin", "drain", seen["id"][:6], "--yes", "--wait", "--timeout", "30")
            assert ended.out == f"worker {seen['id']} has left\n"
            assert ended.code == 0
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert on_redis("admin", "workers").out == "no worker is registered\n"


# --- the trail -----------------------------------------------------------------------------------------------------


def test_the_trail(on_redis: Invoke, redis_url: str) -> None:
    ended = on_redis("admin", "trail")
    assert (ended.code, ended.out) == (0, "nobody changed anything yet\n")
    assert json.loads(on_redis("admin", "trail", "--json").out) == {"acts": []}
    put(on_redis, "a")
    for number in range(3):
        on_redis("admin", "pause", "default", "--as", f"me-{number} postgres://x:{SECRET}@db")
    rows = on_redis("admin", "trail", "-n", "2").out.splitlines()
    assert len(rows) == 3
    assert "me-1" in rows[1]
    assert "me-2" in rows[2]
    assert "queue=default counts=changed:0" in rows[2]
    assert SECRET not in "".join(rows)
    assert rows[2].endswith("done")
    assert "'-n'" in on_redis("admin", "trail", "-n", "0").error


def test_an_act_that_was_cut_off_is_seen(on_redis: Invoke, redis_url: str) -> None:
    """What a crash half way leaves is the first of its two entries. And somebody else may have written nonsense."""
    from queue_trio.redis.operations import RedisOperations

    async def cut_off(store: RedisStore) -> None:
        begun = {
            "act": "1",
            "phase": "begun",
            "at": "2026-01-02T03:04:05Z",
            "who": "me@here",
            "what": "purge-dlq",
            "queue": "default",
        }
        operations = RedisOperations(store)
        for entry in (json.dumps(begun), "[1]", "{", '{"act": "2", "phase": "other", "at": 1}'):
            await operations.note(entry.encode())

    with_store(redis_url, cut_off)
    rows = on_redis("admin", "trail").out.splitlines()[1:]
    assert rows[0].startswith("2026-01-02 03:04:05  me@here  purge-dlq  queue=default")
    assert rows[0].endswith("cut off, or under way")
    assert len(rows) == 4
    assert "b'[1]'" in rows[1]
    assert acts(on_redis)[0]["ended"] is None


def test_audit_with_repair_is_in_the_trail(on_redis: Invoke, redis_server: SharedRedis) -> None:
    put(on_redis, "nowhere")
    with connect(redis_server.unix_socket) as client:
        client.lrem(LaneKeys(LANE)["ready:high"], 0, "nowhere")
    on_redis("admin", "audit", "--repair", "--dry-run")
    assert acts(on_redis) == []
    assert on_redis("admin", "audit", "--repair", "--yes").code == 0
    (act,) = acts(on_redis)
    assert (act["what"], act["counts"], act["outcome"]) == ("audit --repair", {"violations": 1}, "done")
