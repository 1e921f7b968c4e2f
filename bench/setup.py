"""Installs the peers, each in a virtual environment of its own, from the pins in bench/peers/requirements.

    python -m bench.setup [NAMES] [--lock]

An environment that holds what its pins say is left alone. `--lock` makes the pins anew from the `.in` files first.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.catalogue import ENVIRONMENTS

ROOT: Final = Path(__file__).resolve().parent.parent
REQUIREMENTS: Final = ROOT / "bench" / "peers" / "requirements"
HOME: Final = ROOT / ".tools" / "bench"
"""Not in the repository."""
INSTALL_S_MAX: Final = 900.0


def python_of(environment: str) -> Path:
    """The interpreter of a peer's environment."""
    return HOME / environment / "bin" / "python"


def is_installed(environment: str) -> bool:
    """Whether the environment holds what its pins say."""
    stamp = HOME / environment / "pins.sha256"
    return stamp.exists() and stamp.read_text() == pins_of(environment)


def pins_of(environment: str) -> str:
    """A fingerprint of an environment's pins and of the Python it is made with."""
    return hashlib.sha256(
        (REQUIREMENTS / f"{environment}.txt").read_bytes() + sys.version.encode()
    ).hexdigest()


def _uv(*words: str | Path) -> None:
    subprocess.run(["uv", *map(str, words)], check=True, timeout=INSTALL_S_MAX, cwd=REQUIREMENTS)


def lock(environment: str) -> None:
    """Pin everything, with hashes, for every platform, without a word about where packages come from."""
    words = ("--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header")
    _uv("pip", "compile", f"{environment}.in", *words, "--output-file", f"{environment}.txt")


def install(environment: str) -> None:
    """Make the environment anew. Raises CalledProcessError, after uv has said why."""
    folder = HOME / environment
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--quiet", "--python", sys.executable, folder)
    pins = ("--require-hashes", "--requirement", f"{environment}.txt")
    _uv("pip", "install", "--quiet", "--python", python_of(environment), *pins)
    # Last: half an environment must never pass for a whole one.
    (folder / "pins.sha256").write_text(pins_of(environment))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench-setup", description="Install the queues that are measured.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of: {', '.join(ENVIRONMENTS)}; default: all"
    )
    parser.add_argument("--lock", action="store_true", help="first pin the newest versions that fit")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(ENVIRONMENTS)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(ENVIRONMENTS)}")
    failed = []
    for environment in options.names or ENVIRONMENTS:
        try:
            if options.lock:
                lock(environment)
            if is_installed(environment):
                print(f"{environment}: is there")
            else:
                install(environment)
                print(f"{environment}: installed")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{environment}: failed: {error}", file=sys.stderr)
            failed.append(environment)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
