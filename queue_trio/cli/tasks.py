"""From the words of a command line to a task and a job."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from queue_trio.errors import InvalidArguments, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queue_trio.app import App, Job, Task


def find_task(app: App, name: str) -> Task[..., Any]:
    """The task of that name; its last part will do where only one task ends so. Raises UnknownTask."""
    task = app.tasks.get(name)
    if task is not None:
        return task
    ending = [full for full in app.tasks if full.endswith(f".{name}")]
    if len(ending) == 1:
        return app.tasks[ending[0]]
    if ending:
        raise UnknownTask(f"task {name!r} could be {' or '.join(sorted(ending))}: write it in full")
    short = {full.rpartition(".")[2]: full for full in app.tasks}
    close = get_close_matches(name, [*app.tasks, *short], n=1)
    if close:
        hint = f"did you mean {short.get(close[0], close[0])}?"
    else:
        hint = f"choose one of {', '.join(sorted(app.tasks))}"
    raise UnknownTask(f"app {app.name!r} has no task {name!r}: {hint}")


def make_job(task: Task[..., Any], args: dict[str, Any] | list[Any], options: Mapping[str, Any]) -> Job:
    """The job. Raises InvalidArguments, and UsageError for options that make no sense."""
    job = task.job(**args) if isinstance(args, dict) else task.job(*args)
    return job.options(**options) if options else job


def parse_arguments(task: Task[..., Any], words: Sequence[str]) -> dict[str, Any] | list[Any]:
    """Arguments from `key=value` words, or from one JSON object (by name) or array (by position).

    A value is JSON if it reads as JSON, else it is text. Raises InvalidArguments.
    """
    if len(words) == 1 and words[0].lstrip().startswith(("{", "[")):
        try:
            found = msgspec.json.decode(words[0])
        except msgspec.DecodeError as error:
            raise InvalidArguments(f"task {task.name}: the arguments are not JSON: {error}") from None
        assert isinstance(found, dict | list)
        return found
    named: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InvalidArguments(
                f"task {task.name}: argument {word!r} has no name: write {_example(task, word)}"
            )
        if name in named:
            raise InvalidArguments(f"task {task.name}: argument {name!r} is given twice")
        named[name] = _value(value)
    return named


def quote_hint(error: InvalidArguments) -> str:
    """What to do about a number that was meant as text; nothing if that is not the trouble."""
    return (
        """to pass text that reads as JSON, quote it: name='"123"'""" if "valid string" in str(error) else ""
    )


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def _example(task: Task[..., Any], word: str) -> str:
    import inspect

    known = inspect.signature(task.function).parameters
    name = next((name for name in known if name != task.signature.context_parameter), "name")
    return f"{name}={word.lstrip('=')}"
