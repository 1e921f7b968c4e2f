"""What goes wrong in the harness itself. A run that meets one of these ends with the verdict ERROR, never PASS."""

from __future__ import annotations

from queue_trio.errors import QueueTrioError


class HarnessError(QueueTrioError):
    """A driver could not do what it was asked to, or cannot prove that it did."""


class NoToxiproxy(HarnessError):
    """There is no Toxiproxy here and none can be installed; the message says what to do."""

    exit_code = 3


class ApiHangs(HarnessError):
    """Toxiproxy's control API gave no answer in time. What was asked for may have happened."""
