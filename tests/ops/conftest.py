"""What the tests about logs and traces share."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog

from queue_trio import masking
from queue_trio.ops import logging as ours

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Logging as it was, and no secrets learnt, after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show, known = warnings.showwarning, masking._known[:]
    yield
    structlog.reset_defaults()
    ours._limits.clear()
    masking._known[:] = known
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers[:] = handlers
    root.setLevel(level)
