"""What goes wrong in the harness itself. A run that meets one of these ends with the verdict ERROR, never PASS.

But for `DidNotBite`, which makes it INVALID.
"""

from __future__ import annotations

from queue_trio.errors import QueueTrioError


class HarnessError(QueueTrioError):
    """A driver could not do what it was asked to, or cannot prove that it did."""


class DidNotBite(HarnessError):
    """What a fault was to hit never came about. The harness did what it could, but the run proves nothing: INVALID."""


class NoToxiproxy(HarnessError):
    """There is no Toxiproxy here and none can be installed; the message says what to do."""

    exit_code = 3


class ApiHangs(HarnessError):
    """Toxiproxy's control API gave no answer in time. What was asked for may have happened."""


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, however deep; or the one that it is."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
