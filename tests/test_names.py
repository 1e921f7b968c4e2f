"""The package's public names: looked up when first used, and all there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import queue_trio


def test_every_public_name_is_there() -> None:
    assert set(queue_trio._LATER) == set(queue_trio.__all__)
    for name in queue_trio.__all__:
        assert getattr(queue_trio, name).__name__ == name
    assert {*queue_trio.__all__, "__version__"} <= set(dir(queue_trio))
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        getattr(queue_trio, "Nonsense")  # noqa: B009  # a type checker knows better


def test_importing_the_package_loads_next_to_nothing() -> None:
    code = "import sys; old = {*sys.modules}; import queue_trio; print({*sys.modules} - old - {'__future__'})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(queue_trio.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "{'queue_trio'}\n"


def test_a_star_imports_them_all() -> None:
    code = "from queue_trio import *; print(App, Retry, Settings)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.count("queue_trio.") == 3
