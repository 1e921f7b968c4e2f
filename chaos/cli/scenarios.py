"""`list`, `run` and `suite`: what there is, one of it, many of it."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from chaos.cli.environment import (
    JOB_SECONDS,
    App,
    Jobs,
    JobSeconds,
    Journals,
    Metrics,
    Owned,
    Prefix,
    Proxies,
    Redis,
    Toxiproxy,
    read_environment,
)
from chaos.cli.terminal import EXIT_UNEXPECTED, Seed, console, interruptible, progress
from chaos.errors import leaves
from chaos.playing.environment import PREFIX, needs
from chaos.playing.runner import run_scenario
from chaos.playing.suite import PROGRAM, as_expected, chosen, run_suite
from chaos.report.markdown import suite_table
from chaos.report.page import render_page
from chaos.report.terminal import full, line, suite, suite_summary
from chaos.result import in_short, shown_command, to_json
from chaos.scenario.loading import SUFFIX, find_scenario, load_all
from chaos.scenario.reshape import resized
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import Console

    from chaos.result import Result
    from chaos.scenario.model import Scenario


T = TypeVar("T")


class Size(StrEnum):
    SMOKE = "smoke"
    FULL = "full"


def register(cli: typer.Typer) -> None:
    """Add these commands."""
    cli.command(name="list")(list_scenarios)
    cli.command()(run)
    cli.command(name="suite")(run_many)


def list_scenarios() -> None:
    """Show every scenario."""
    table = Table("name", "promises", "suite", "staging", "title", box=SIMPLE_HEAD, pad_edge=False)
    for scenario in load_all():
        size = Size.SMOKE if scenario.smoke else Size.FULL
        table.add_row(
            scenario.name, scenario.promises, size.value, needs(scenario) or "–", Text(scenario.title)
        )
    console().print(table)


def run(
    scenario: Annotated[str, typer.Argument(metavar="NAME|FILE", help=f"A scenario, or a file *{SUFFIX}.")],
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="So many jobs in all, instead of its own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="So many workers, instead of its own.")] = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the report there, as one HTML page.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the whole result there, as JSON.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep journals and logs.")] = False,
    toxiproxy: Toxiproxy = None,
    proxy: Proxies = None,
    redis: Redis = None,
    owned: Owned = False,
    prefix: Prefix = PREFIX,
    journals: Journals = None,
    metrics: Metrics = None,
    app: App = None,
    job: Jobs = None,
    job_seconds: JobSeconds = JOB_SECONDS,
) -> None:
    """Run one scenario."""
    environment = read_environment(
        toxiproxy=toxiproxy,
        proxies=proxy,
        redis=redis,
        owned=owned,
        prefix=prefix,
        journals=journals,
        metrics=metrics,
        app=app,
        jobs=job,
        job_seconds=job_seconds,
    )
    if journals is not None and workers is not None:
        raise typer.BadParameter("workers elsewhere are as many as write --journals", param_hint="--workers")
    resized_one = environment.fit(resized(find_scenario(scenario), jobs=jobs, workers=workers))
    words = [*PROGRAM, "run", scenario, "--seed", str(seed)]
    words += ["--jobs", str(jobs)] if jobs is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    command = shown_command([*words, *environment.words])
    out = console()
    with progress(out) as say:
        result = _run(
            partial(
                run_scenario,
                resized_one,
                seed=seed,
                command=command,
                say=say,
                keep=keep,
                environment=environment,
            )
        )
    if json is not None:
        json.write_bytes(to_json(result))
    if report is not None:
        report.write_text(render_page(result), "utf-8")
    out.print(full(result))
    _tell_unexpected(out, [(resized_one, result)])


def run_many(
    size: Annotated[Size, typer.Argument(help="smoke: the short one. full: every scenario.")] = Size.SMOKE,
    seeds: Annotated[int, typer.Option(min=1, help="Run all of it with so many seeds.")] = 1,
    seed: Seed = 0,
    json: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the results there, without their histories.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the table there, for a document.")
    ] = None,
    toxiproxy: Toxiproxy = None,
    proxy: Proxies = None,
    redis: Redis = None,
    owned: Owned = False,
    prefix: Prefix = PREFIX,
    journals: Journals = None,
    metrics: Metrics = None,
    app: App = None,
    job: Jobs = None,
    job_seconds: JobSeconds = JOB_SECONDS,
) -> None:
    """Run many scenarios, and show them in a table. In an environment of your own, those that can run there."""
    environment = read_environment(
        toxiproxy=toxiproxy,
        proxies=proxy,
        redis=redis,
        owned=owned,
        prefix=prefix,
        journals=journals,
        metrics=metrics,
        app=app,
        jobs=job,
        job_seconds=job_seconds,
    )
    out = console()
    scenarios, left_out = environment.those_that_fit(chosen(load_all(), smoke=size is Size.SMOKE))
    for why in left_out:
        out.print(Text(f"left out: {why}", style="dim"), soft_wrap=True)
    if not scenarios:
        raise ConfigError("none of these scenarios can run there")
    finished: list[tuple[Scenario, Result]] = []
    with progress(out, quiet=True) as say:

        def done(scenario: Scenario, result: Result) -> None:
            finished.append((scenario, result))
            out.print(line(result), soft_wrap=True)

        try:
            seeds_of_it = range(seed, seed + seeds)
            _run(
                partial(run_suite, scenarios, seeds=seeds_of_it, say=say, done=done, environment=environment)
            )
        finally:  # interrupted, it tells what it has
            results = [result for _, result in finished]
            out.print(suite(results, f"chaos suite {size}"))
            out.print(suite_summary(results))
            if json is not None:
                json.write_bytes(b"[%s]\n" % b",".join(to_json(in_short(result)) for result in results))
            if markdown is not None:
                markdown.write_text(suite_table(results), "utf-8")
    _tell_unexpected(out, finished)


def _run(work: Callable[[], Awaitable[T]]) -> T:
    """Raises ConfigError, out of whatever nurseries it has passed, if the environment is not as it must be."""
    try:
        return interruptible(work)
    except* ConfigError as group:
        refusal = str(leaves(group)[0])
    raise ConfigError(refusal)


def _tell_unexpected(out: Console, finished: list[tuple[Scenario, Result]]) -> None:
    """What did not come out as it should, and how to run it again; then the exit code says so."""
    wrong = [(scenario, result) for scenario, result in finished if not as_expected(scenario, result)]
    for scenario, result in wrong:
        verdict = result.judgement.verdict
        out.print(Text(f"{scenario.name}: {verdict}, expected {scenario.expect.verdict}: {result.command}"))
    if wrong:
        raise typer.Exit(EXIT_UNEXPECTED)
