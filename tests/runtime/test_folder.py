"""Which files of a folder are found, and how their names travel."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.errors import UsageError
from queue_trio.runtime.folder import Folder, path_from_text, path_to_text
from queue_trio.runtime.globs import Globs, translate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "sub/a.py", False),
        ("*.py", ".py", True),
        ("*.py", ".hidden.py", True),
        ("*.py", "a.PY", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "sub/deep/a.py", True),
        ("**/*", "a", True),
        ("**", "a/b", True),
        ("sub/**", "sub/a", True),
        ("sub/**", "sub/deep/a", True),
        ("sub/**", "sub", False),
        ("sub/**", "subway/a", False),
        ("sub/", "sub/deep/a", True),
        ("**/__pycache__/**", "__pycache__/a.pyc", True),
        ("**/__pycache__/**", "x/y/__pycache__/a.pyc", True),
        ("**/__pycache__/**", "x/__pycache__", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("a**b", "a/b", False),
        ("a**b", "axyb", True),
        ("?", "/", False),
        ("a?c", "abc", True),
        ("[abc]", "b", True),
        ("[!abc]", "b", False),
        ("[!abc]", "d", True),
        ("[a-c]x", "bx", True),
        ("[c-a]x", "bx", False),
        ("[]]", "]", True),
        ("[!]]", "]", False),
        ("[", "[", True),
        ("a.c", "abc", False),
        ("*", "two\nlines", True),
        ("[^a]", "^", True),
    ],
)
def test_glob(pattern: str, path: str, matches: bool) -> None:
    assert (translate(pattern).fullmatch(path) is not None) == matches


@pytest.mark.parametrize("pattern", ["", "/etc/*", "./a", "../a", "a//b", "a/../b", "/"])
def test_glob_that_can_match_nothing(pattern: str) -> None:
    with pytest.raises(UsageError, match="relative to the folder"):
        translate(pattern)


@given(st.text(alphabet="ab*?[]!-/.", max_size=12), st.text(alphabet="ab*[]!-/.", max_size=12))
def test_any_glob_is_refused_or_decides(pattern: str, path: str) -> None:
    try:
        regex = translate(pattern)
    except UsageError:
        return
    regex.fullmatch(path)


def test_exclude_wins_and_prunes() -> None:
    globs = Globs.of(("**/*",), ("**/cache/**", "build/", "*.o"))
    assert globs.takes("a")
    assert not globs.takes("a.o")
    assert not globs.takes("x/cache/a")
    assert not globs.enters("x/cache")
    assert not globs.enters("build")
    assert globs.enters("x/build")
    assert globs.enters("x")


# --- scanning ------------------------------------------------------------------------------------------------------


class Scene:
    def __init__(self, root: Path, *, exclude: tuple[str, ...] = ()) -> None:
        self.skipped: list[str] = []
        self.folder = Folder(
            root, Globs.of(("**/*",), exclude), lambda path, reason: self.skipped.append(reason)
        )

    def scan(self) -> list[str]:
        return sorted(found.relative for found in self.folder.scan())

    def named(self, *paths: Path) -> list[str]:
        return sorted(found.relative for found in self.folder.named(map(str, paths)))


def test_scan_finds_regular_files_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "deep" / "a").write_text("x")
    (tmp_path / "link").symlink_to("sub/deep/a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    scene = Scene(tmp_path)
    assert scene.scan() == ["link", "sub/deep/a"]
    assert scene.skipped == []


def test_a_link_to_itself_is_reported(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    scene = Scene(tmp_path)
    assert scene.scan() == []
    assert len(scene.skipped) == 1


@pytest.fixture
def too_deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root can list, because its path is longer than the system allows."""
    here = os.open(tmp_path, os.O_DIRECTORY)
    name = "d" * 250
    for _ in range(20):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield tmp_path
    shutil.rmtree(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_reported(too_deep: Path) -> None:
    (too_deep / "a").write_text("x")
    scene = Scene(too_deep)
    assert scene.scan() == ["a"]
    assert len(scene.skipped) == 1


def test_without_permission(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a").write_text("x")
    (tmp_path / "closed").chmod(0)
    scene = Scene(tmp_path)
    found = scene.scan()
    (tmp_path / "closed").chmod(0o700)
    if os.geteuid() == 0:  # for whom nothing is closed
        assert found == ["closed/a", "secret"]
    else:
        assert found == []
        assert len(scene.skipped) == 2


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "never")
    assert scene.scan() == []
    assert scene.skipped == []


def test_named_paths(tmp_path: Path) -> None:
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "deep" / "a").write_text("x")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "b").write_text("x")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    scene = Scene(tmp_path, exclude=("cache/",))
    assert scene.named(tmp_path / "new" / "deep" / "a") == ["new/deep/a"]
    # A folder brings what is in it, once, also if that is named too.
    assert scene.named(tmp_path / "new", tmp_path / "new" / "deep" / "a", tmp_path / "new" / "deep") == [
        "new/deep/a"
    ]
    assert scene.named(tmp_path / "cache", tmp_path / "cache" / "b", tmp_path / "gone", tmp_path) == []
    assert scene.named(tmp_path / "elsewhere") == []


# --- names ---------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_survives_as_text(name: bytes) -> None:
    path = os.fsdecode(b"/" + name)
    text = path_to_text(path)
    assert path_from_text(text.encode().decode()) == path


def test_only_names_that_are_not_utf8_look_different() -> None:
    assert path_to_text("/tmp/käse %20.txt") == "/tmp/käse %20.txt"
    assert path_to_text(os.fsdecode(b"/tmp/caf\xe9 x")) == "file:///tmp/caf%E9%20x"
