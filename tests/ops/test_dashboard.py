"""The Grafana dashboard: the file is what the code makes, and every query in it has an answer.

The queries run on a real Prometheus that scrapes a real worker, while its jobs succeed, fail, retry, die and wait.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import trio

from deploy.grafana.dashboard import FILE, dashboard, encoded
from queue_trio.core.settings import Settings
from queue_trio.ops.metrics import CATALOGUE
from tests.ops import dashboard_app as jobs
from tests.ops.scraping import Prometheus, running_prometheus, running_worker
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRAPED_S = 60.0


async def enqueue_for_ever(url: str) -> None:
    """A few jobs of each kind, again and again: a rate needs something that changes."""
    jobs.app.configure(Settings.model_validate({"redis": {"url": url}}))
    async with jobs.app.client() as client:
        while True:
            for _ in range(3):
                await jobs.fine.enqueue()
                await jobs.threaded.enqueue()
                await jobs.limited.enqueue()
            await jobs.again.enqueue()
            await jobs.dies.enqueue()
            await client.enqueue(jobs.fine.job().options(delay=0.2, priority="low"))
            await trio.sleep(0.2)


# --- as Grafana does it --------------------------------------------------------------------------------------------


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query of every panel, as (where it is, the expression)."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def filled_in(expr: str, variables: dict[str, list[str]]) -> str:
    """The expression as Grafana sends it, with every value of a variable chosen."""
    for name, values in variables.items():
        escaped = [re.escape(value).replace("\\", "\\\\") for value in values]
        expr = expr.replace(f"${name}", f"({'|'.join(escaped)})")
    return expr.replace("$__rate_interval", "4s")


async def read_variables(prometheus: Prometheus, board: dict[str, Any]) -> dict[str, list[str]]:
    """The values of each query variable, in the order of their declaration: later ones use earlier ones."""
    found: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match is not None, variable
            found[variable["name"]] = await prometheus.label_values(filled_in(match[1], found), match[2])
    return found


@pytest.mark.leaves_keys("dead letters, and what is still queued at the end")
async def test_every_query_has_an_answer(redis_url: str, tmp_path: Path) -> None:
    board = dashboard()
    async with (
        running_worker(tmp_path, redis_url) as target,
        running_prometheus(tmp_path, [target]) as prometheus,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(enqueue_for_ever, redis_url)

        async def is_scraped() -> bool:
            return len(await prometheus.values("count_over_time(queue_trio_queue_jobs[1m]) > 5")) > 0

        await eventually(is_scraped, SCRAPED_S, what="a few scrapes")
        variables = await read_variables(prometheus, board)
        assert variables == {"job": ["queue-trio"], "instance": [target], "queue": ["default", "mails"]}
        missing = dict(queries(board))

        async def all_answered() -> bool:
            for where, expr in list(missing.items()):
                if await prometheus.values(filled_in(expr, variables)):
                    del missing[where]
            return not missing

        try:
            await eventually(all_answered, SCRAPED_S, what="an answer to every query")
        except AssertionError as error:
            raise AssertionError(f"no data for {missing}") from error
        nursery.cancel_scope.cancel()


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_file_is_what_the_code_makes() -> None:
    assert FILE.read_text("utf-8") == encoded(), "run python -m deploy.grafana.dashboard"


def test_every_panel_has_a_place_of_its_own_and_says_what_it_shows() -> None:
    taken: dict[tuple[int, int], str] = {}
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at, title = panel["gridPos"], panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith("."), title
        for x in range(at["x"], at["x"] + at["w"]):
            assert x < 24, title
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), title) is title, f"{title} covers {taken[x, y]}"


def test_every_metric_is_shown_somewhere() -> None:
    asked = " ".join(expr for _, expr in queries(dashboard()))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"queue_trio_\w+", asked)}
    assert {metric.full_name for metric in CATALOGUE.values()} <= shown


def test_every_query_is_for_the_chosen_installation() -> None:
    for where, expr in queries(dashboard()):
        selectors = re.findall(r"queue_trio_\w+\{([^}]*)\}", expr)
        assert selectors, where
        assert all('job=~"$job"' in selector for selector in selectors), where
