"""How the command line ends when something goes wrong: one line that says what, where and what to do, and an exit code.

Knows the error tree and nothing of commands. A note on an error (`add_note`) becomes part of its line: that is how a
command adds the remedy, or how far it got, to an error from below.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from queue_trio.errors import ConfigError, QueueTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAM: Final = "queue-trio"

EXIT_OK: Final = 0
EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2
EXIT_ARGUMENTS: Final = 7
EXIT_BUG: Final = 70
EXIT_INTERRUPTED: Final = 130
EXIT_OUTPUT_CLOSED: Final = 141

EXIT_CODES: Final[Mapping[int, str]] = {
    EXIT_OK: "done; for a worker or a producer: ended as it was asked to",
    EXIT_BROKEN: "the work went wrong: the audit found a broken promise, a queue is full, a job or worker is not there",
    EXIT_USAGE: "the command line is wrong: unknown option, task or queue",
    3: "a setting is unknown, has the wrong type, or contradicts another",
    4: "the app cannot be loaded: no such module or name, or its import fails",
    5: "Redis cannot be reached, or did not answer in time",
    6: "Redis will never do: wrong password, too old, or it evicts keys",
    EXIT_ARGUMENTS: "arguments do not fit the task, or the job is too large; some lines were skipped",
    EXIT_BUG: "a bug in queue_trio; run again with --debug and report it",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_OUTPUT_CLOSED: "whoever read the output has gone, as `head` does",
}
"""Every exit code and its meaning."""

_SECRET_LENGTH_MIN: Final = 4
_URL_VARIABLE: Final = "QUEUE_TRIO_REDIS__URL"


class OutputClosed(Exception):
    """Nobody reads our standard output any more: end quietly."""


def report(error: BaseException, *, debug: bool = False) -> int:
    """Say on standard error what went wrong, in one line unless there are several mistakes, and give the exit code."""
    if isinstance(error, OutputClosed | BrokenPipeError):
        return EXIT_OUTPUT_CLOSED
    causes = list(leaves(error))
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return EXIT_INTERRUPTED
    if debug:
        write_error(mask("".join(traceback.format_exception(error))).rstrip("\n"))
    # The siblings of an expected error are the same fault seen by others; one bug among them is news.
    bug = next((cause for cause in causes if not isinstance(cause, QueueTrioError)), None)
    first = causes[0]
    if bug is not None or not isinstance(first, QueueTrioError):
        hint = "" if debug else "; run again with --debug for the details"
        say_error(f"this is a bug in queue_trio, please report it: {_named(bug or first)}{hint}")
        return EXIT_BUG
    notes = getattr(first, "__notes__", ())
    text = "; ".join(part for part in (str(first), *notes) if part) or type(first).__name__
    for line in text.splitlines() if isinstance(first, ConfigError) else (text,):
        say_error(line)
    return first.exit_code


def say_error(text: str) -> None:
    """One error line on standard error."""
    write_error(f"{PROGRAM}: error: {mask(one_line(text))}")


def say(text: str) -> None:
    """One line for people, on standard error."""
    write_error(f"{PROGRAM}: {mask(one_line(text))}")


def one_line(text: str) -> str:
    """`text` without line breaks and terminal control characters."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)


def mask(text: str) -> str:
    """`text` without passwords: those that look like one, and wherever it turns up, that of the Redis URL."""
    from queue_trio.ops.logging import mask as mask_known  # late: few runs end in an error

    text = mask_known(text)
    found = re.search(r"://[^:/@]*:(.+)@", os.environ.get(_URL_VARIABLE, ""))
    if found is not None:
        for secret in (found[1], unquote(found[1])):
            if len(secret) >= _SECRET_LENGTH_MIN:
                text = text.replace(secret, "***")
    return text


def write_error(text: str) -> None:
    """Write to standard error as it is, if anybody is there."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        return  # nobody to tell


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors themselves, out of the groups that nurseries put them in."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
