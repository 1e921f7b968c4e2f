"""Chaos for somebody's own tasks, in a process of its own as they would type it, and everything else private."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from pathlib import Path

# Its settings name a Redis that is not there: if any process used them, nothing would run.
SHOP = """
import trio
from pydantic import SecretStr
from queue_trio import App, JobContext, Settings

settings = Settings.model_validate({"redis": {"url": SecretStr("redis://127.0.0.1:1/0")}})
app = App("shop", settings=settings)

@app.task(queue="emails")
async def send_mail(to: str, context: JobContext) -> str:
    await trio.sleep(0.05)
    return f"{to}: {context.id}"

@app.task(max_retries=1, retry_base=0.05)
def charge(amount: int) -> None:
    raise ValueError(f"nobody can pay {amount}")
"""


async def chaos(folder: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the result."""
    found = folder / "found.json"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with trio.fail_after(100):
        done = await trio.run_process(
            [sys.executable, "-m", "chaos", *arguments, "--json", str(found)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
            env=kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    told = done.stdout.decode() + done.stderr.decode()
    result: dict[str, Any] = json.loads(found.read_bytes()) if found.exists() else {}
    return done.returncode, told, result


async def test_their_tasks_run_through_an_outage_and_may_fail_for_reasons_of_their_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    jobs = ["--job", '3*send_mail={"to": "x"}', "--job", 'charge={"amount": 7}', "--job-seconds", "0.2"]

    code, told, result = await chaos(tmp_path, "run", "short-outage", "--app", "shop:app", *jobs)

    assert code == 0, told
    counts = result["judgement"]["counts"]
    assert (counts["acknowledged"], counts["completed"], counts["dead"]) == (250, 188, 62)
    runs = Counter(event["outcome"] for event in result["history"] if event.get("phase") == "end")
    assert runs["raised"] == 124
    assert "P" in [invariant["letter"] for invariant in result["judgement"]["invariants"]]
    assert "--app shop:app --job '3*send_mail=" in result["command"]


async def test_what_is_wrong_with_them_is_said_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    code, told, result = await chaos(
        tmp_path, "run", "short-outage", "--app", "shop:app", "--job", 'charge={"amount": "much"}'
    )
    assert (code, result) == (3, {})
    assert told.count("\n") == 1
    assert "'amount'" in told
