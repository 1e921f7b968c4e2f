"""Makes ready for the tests of `chaos` what they need and the rest does not.

Toxiproxy is found or installed before the first test that may want it (`drills`): an install takes a minute or more,
which no single test has. None of these tests counts for coverage, which is `queue_trio`'s: the bounds that drills
judge are those of a worker that nobody traces.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.errors import NoToxiproxy

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
NO_TOXIPROXY = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.no_cover)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have a Toxiproxy, if drills are to run. Of several processes one installs it, and the others wait for that."""
    if session.config.option.collectonly:
        return
    if not any(item.path.is_relative_to(HERE / "drills") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\n{text}\n")

    try:
        ensure_toxiproxy(say)
    except NoToxiproxy as error:
        session.config.stash[NO_TOXIPROXY] = str(error)


@pytest.fixture(autouse=True)
def toxiproxy_is_there(request: pytest.FixtureRequest) -> None:
    """A drill without Toxiproxy fails, with one line that says how to get it. Skipped, it would look like passed."""
    reason = request.config.stash.get(NO_TOXIPROXY, None)
    if reason is not None and request.path.is_relative_to(HERE / "drills"):
        pytest.fail(reason, pytrace=False)
