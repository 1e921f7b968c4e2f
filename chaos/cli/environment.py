"""The options that name an environment which the harness does not start: `run` and `suite` have them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from chaos.actors.own_tasks import read_own_tasks
from chaos.playing.environment import OWNED, PREFIX, Environment, read_given

PANEL: Final = "An environment of your own: docs/chaos-staging.md"

Toxiproxy: TypeAlias = Annotated[
    str | None,
    typer.Option("--toxiproxy", metavar="URL", help="Address of its API.", rich_help_panel=PANEL),
]
Proxies: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--proxy",
        metavar="[POSITION=]NAME[@HOST:PORT]",
        help="A proxy before that Redis: one for all, or one each for workers= and clients=.",
        rich_help_panel=PANEL,
    ),
]
Redis: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        envvar="CHAOS_REDIS_URL",
        show_envvar=True,
        help="The same Redis, past the proxies.",
        rich_help_panel=PANEL,
    ),
]
Owned: TypeAlias = Annotated[
    bool, typer.Option(OWNED, help="Nobody minds what happens to that Redis.", rich_help_panel=PANEL)
]
Prefix: TypeAlias = Annotated[
    str,
    typer.Option("--prefix", metavar="TEXT", help="What every key there begins with.", rich_help_panel=PANEL),
]
Journals: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--journals",
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="Workers are elsewhere, and write their journals there.",
        rich_help_panel=PANEL,
    ),
]
Metrics: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="URL",
        help="Where such a worker serves HTTP; one for each, in the order of their journals' names.",
        rich_help_panel=PANEL,
    ),
]
App: TypeAlias = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:APP", help="Jobs are of this App's tasks.", rich_help_panel=PANEL),
]
Jobs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--job",
        metavar="[N*]TASK[=JSON]",
        help="One of its tasks, with arguments; N times as often as others.",
        rich_help_panel=PANEL,
    ),
]
JobSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        "--job-seconds", min=0, max=60, help="The longest that such a job takes.", rich_help_panel=PANEL
    ),
]
JOB_SECONDS: Final = 1.0


def read_environment(
    *,
    toxiproxy: str | None,
    proxies: list[str] | None,
    redis: str | None,
    owned: bool,
    prefix: str,
    journals: Path | None,
    metrics: list[str] | None,
    app: str | None,
    jobs: list[str] | None,
    job_seconds: float,
) -> Environment:
    """What the options say, and the words that say it again. Raises ConfigError."""
    given = read_given(
        toxiproxy=toxiproxy,
        proxies=proxies or (),
        redis=redis,
        owned=owned,
        prefix=prefix,
        journals=journals,
        metrics=metrics or (),
    )
    own = None
    if app is not None:
        own = read_own_tasks(app, jobs or (), seconds=job_seconds)
    elif jobs:
        raise typer.BadParameter("goes with --app", param_hint="--job")
    named: list[tuple[str, object]] = []
    if given is not None:
        named += [("--toxiproxy", toxiproxy), *(("--proxy", proxy) for proxy in proxies or ())]
        named += [("--redis", redis), (OWNED, ""), ("--prefix", None if prefix == PREFIX else prefix)]
        named += [("--journals", journals), *(("--metrics", url) for url in metrics or ())]
    if own is not None:
        named += [("--app", app), *(("--job", job) for job in jobs or ())]
        named += [("--job-seconds", None if job_seconds == JOB_SECONDS else job_seconds)]
    words = [str(word) for option in named if option[1] is not None for word in option if word != ""]
    return Environment(given, own, tuple(words))
