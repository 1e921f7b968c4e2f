"""A user's own tasks as the load of a run: which of them, with what arguments, in what shares.

All of it is checked by the product itself before anything is started. A scenario keeps its faults, its numbers and its
priorities; only what the jobs do is theirs. No promise is relaxed: only the number of dead letters may be any.
"""

from __future__ import annotations

import itertools
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from chaos.scenario.reshape import changed, told
from queue_trio.cli.loading import load_app
from queue_trio.cli.tasks import find_task, make_job, parse_arguments
from queue_trio.core.job import Lane
from queue_trio.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.scenario.model import Scenario
    from queue_trio import App, Job, Task

VARIABLE: Final = "CHAOS_OWN_TASKS"
"""The environment variable that tells a producer of them."""
ORDINARY: Final = frozenset({"quick", "slow", "thread"})
"""Kinds of the harness's tasks whose place any other task can take."""

_JOB: Final = re.compile(r"(?:(?P<share>[1-9]\d{0,5})\*)?(?P<task>[^=*]+)(?:=(?P<arguments>.*))?", re.DOTALL)


class Call(msgspec.Struct, frozen=True):
    """One task with its arguments, `share` times as often as one with 1."""

    task: str
    arguments: dict[str, Any] | list[Any] = {}
    share: int = 1


class OwnTasks(msgspec.Struct, frozen=True):
    """`app`: module:app, found from `folder`. `seconds`: the longest that one of the jobs takes, for the bounds."""

    app: str
    folder: str
    calls: tuple[Call, ...]
    seconds: float

    @property
    def variables(self) -> dict[str, str]:
        """What tells a producer of them."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    def jobs(self) -> Iterator[Job]:
        """Jobs without end, each task as often as its share says, for the lane that a run has. Raises UsageError."""
        app = load_app(self.app)
        tasks = [(find_task(app, call.task), call) for call in self.calls]
        for task, _ in tasks:
            task.lane = Lane()
        for task, call in itertools.cycle(pair for pair in tasks for _ in range(pair[1].share)):
            yield make_job(task, call.arguments, {})


def read_own_tasks(app: str, jobs: Sequence[str], *, seconds: float) -> OwnTasks:
    """What a command line says of them: `TASK`, `TASK={"name": value}`, `3*TASK=...`. Raises ConfigError."""
    if not jobs:
        raise ConfigError("""--app needs --job, once or more: such as --job 'send_mail={"to": "x"}'""")
    try:
        loaded = load_app(app)
        calls = tuple(_call(loaded, job) for job in jobs)
    except UsageError as error:
        raise ConfigError(str(error)) from None
    return OwnTasks(app, str(Path.cwd()), calls, seconds)


def _call(app: App, text: str) -> Call:
    found = _JOB.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"""--job {text!r}: write TASK={{"name": value}}, or 3*TASK=... for three times as many"""
        )
    task = find_task(app, found["task"].strip())
    if task.run_in == "process":
        raise ConfigError(
            f"--job {text!r}: it runs in a process of its own, where nobody can write down when it begins and ends"
        )
    arguments = _arguments(task, text, found["arguments"])
    make_job(task, arguments, {})
    return Call(task.name, arguments, int(found["share"] or 1))


def _arguments(task: Task[..., Any], text: str, given: str | None) -> dict[str, Any] | list[Any]:
    if given is None:
        return {}
    if not given.lstrip().startswith(("{", "[")):
        raise ConfigError(f"""--job {text!r}: the arguments must be JSON, such as {{"name": "value"}}""")
    return parse_arguments(task, [given])


def with_own_tasks(scenario: Scenario, own: OwnTasks) -> Scenario:
    """The scenario with these jobs. Raises ConfigError if its own are what it is about."""
    odd = sorted({load.kind for load in scenario.loads} - ORDINARY)
    if odd:
        raise ConfigError(f"{scenario.name} is about jobs of its own ({', '.join(odd)}), so not for --app")
    other = told(scenario)
    for step in other["steps"]:
        if step.get("load"):
            step["load"] |= {"kind": "slow", "seconds": own.seconds}
    dead = scenario.expect.counts.get("dead")
    # Theirs may fail for reasons of their own.
    counts = other.setdefault("expect", {}).setdefault("counts", {})
    counts["dead"] = f">= {dead.number if dead else 0}"
    counts.pop("in_flight", None)  # how long they take, and so whether any is under way, is theirs
    return changed(other, f"{scenario.name}, with the jobs of {own.app}")


@cache
def _told_jobs() -> Iterator[Job] | None:
    told = os.environ.get(VARIABLE)
    return msgspec.json.decode(told, type=OwnTasks).jobs() if told else None


def next_own_job() -> Job | None:
    """In a producer process: the next of the user's jobs, if the run has any."""
    jobs = _told_jobs()
    return None if jobs is None else next(jobs)
