"""`./dev` in a folder whose environment is up to date: what it says when it cannot do what was asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import queue_trio

ROOT = Path(queue_trio.__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that uses our environment."""
    for name in ("dev", "Justfile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)

    def checksum(name: str) -> str:
        return subprocess.run(
            ["cksum"], input=(tmp_path / name).read_bytes(), capture_output=True, check=True
        ).stdout.decode()

    stamp = checksum("requirements/dev.txt") + f"{sys.version}\n{tmp_path.resolve()}\n"
    (tmp_path / ".venv" / "environment.stamp").write_text(stamp)
    (tmp_path / ".venv" / "project.stamp").write_text(checksum("pyproject.toml"))
    return tmp_path


def dev(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "dev", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_recipe_that_is_not_there(checkout: Path) -> None:
    done = dev(checkout, "nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dev: there is no recipe 'nonsense'; ./dev alone lists them.\n"
    listed = dev(checkout)
    assert listed.returncode == 0
    for recipe in ("bench-self", "chaos", "chaos-full"):
        assert f" {recipe} " in listed.stdout


@pytest.mark.parametrize("recipe", ["test", "demo", "chaos", "bench-self"])
def test_a_recipe_that_fails_says_why_itself(checkout: Path, recipe: str) -> None:
    done = dev(checkout, recipe, "--nonsense")
    assert done.returncode != 0
    assert f"recipe `{recipe}` failed" not in done.stderr.lower()
