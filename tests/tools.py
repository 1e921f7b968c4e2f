"""Programs that tests run and pip does not install. A missing one skips its tests and says so; in CI they fail.

Those of chaos fail everywhere.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest

PACKAGES: Final = {"promtool": "prometheus"}
"""What brings a program on Debian, where that has another name."""


def in_ci() -> bool:
    """Whether this is a CI machine, by the variable that they all set."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def tool(program: str, *, may_be_missing: bool = True) -> str:
    """The path of a program from PATH."""
    found = shutil.which(program)
    if found is None:
        missing = f"{program} is not installed: apt-get install {PACKAGES.get(program, program)}"
        if in_ci() or not may_be_missing:
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found
