"""Looks through a folder, a bounded piece at a time. Blocking: call it in a thread. Knows no queue.

What counts as a file: a regular one, or a link to one. Links to folders are not followed, so a loop of links is no
loop here, and no file is found twice through them. Files come in the order the system lists them. What cannot be
read is told to `on_skip` and left out; what has vanished since it was listed is nobody's error.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from queue_trio.runtime.globs import Globs

_URI = "file://"


class Found(NamedTuple):
    """A file as it was when it was looked at. `relative`: to the folder, with `/` between names."""

    path: str
    relative: str
    size: int
    mtime_ns: int


class Folder:
    """A folder and what is wanted of it. `on_skip(path, reason)` is called in the thread that scans."""

    def __init__(self, root: Path, globs: Globs, on_skip: Callable[[str, str], None]) -> None:
        self.root = str(root)
        self._prefix = self.root if self.root.endswith("/") else f"{self.root}/"
        self._globs = globs
        self._on_skip = on_skip

    def scan(self, start: str | None = None) -> Iterator[Found]:
        """Every wanted file below `start`, by default the whole folder. Holds one folder's list open at a time."""
        pending = [self.root if start is None else start]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        relative = self._relative(entry.path)
                        if entry.is_dir(follow_symlinks=False):
                            if self._globs.enters(relative):
                                pending.append(entry.path)
                        elif self._globs.takes(relative) and (found := self._look(entry.path, relative)):
                            yield found
            except OSError as error:
                self._skip(folder, error)

    def named(self, paths: Iterable[str]) -> Iterator[Found]:
        """The wanted ones among `paths`, which are below the folder; for a folder, everything wanted below it."""
        scanned: set[str] = set()
        for path in sorted(
            paths
        ):  # a folder comes before what is in it, which then need not be looked at again
            relative = self._relative(path)
            parents = list(_parents(relative))
            if (
                path == self.root
                or not scanned.isdisjoint(parents)
                or not all(map(self._globs.enters, parents))
            ):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                if self._globs.enters(relative):
                    yield from self.scan(path)
                    scanned.add(relative)
            elif self._globs.takes(relative) and (found := self._look(path, relative)):
                yield found

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._prefix)

    def _look(self, path: str, relative: str) -> Found | None:
        try:
            status = os.stat(path)
        except OSError as error:
            self._skip(path, error)
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        if not os.access(path, os.R_OK):
            self._on_skip(path, "no permission to read it")
            return None
        return Found(path, relative, status.st_size, status.st_mtime_ns)

    def _skip(self, path: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self._on_skip(path, error.strerror or str(error))


def _parents(relative: str) -> Iterator[str]:
    at = relative.find("/")
    while at != -1:
        yield relative[:at]
        at = relative.find("/", at + 1)


# --- paths in jobs -------------------------------------------------------------------------------------------------


def path_to_text(path: str) -> str:
    """A path as a job can carry it: itself, or, if its bytes are not UTF-8, as a `file://` address (RFC 8089).

    A job is JSON, which has no place for such names. The two forms cannot be confused: a path here is absolute.
    """
    if path.isascii():
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return _URI + quote_from_bytes(os.fsencode(path))
    return path


def path_from_text(text: str) -> str:
    """The path that `path_to_text` was given. A handler that should work for every name opens what this returns."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_URI))) if text.startswith(_URI) else text
