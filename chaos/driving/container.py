"""A container that lives no longer than we do, though the engine and not we have started it.

`docker run` in the foreground is a child like any other, but SIGKILL ends only the client: so what is done to the
container is asked of the engine, by its name. However this process ends, a watcher outside our process group reads
end-of-file from a pipe that only we hold open, and removes what bears the name. Knows nothing of what runs in it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chaos.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

_ENGINE_S: Final = 15.0
_WATCHER: Final = 'trap "" HUP INT TERM; read -r _; exec "$1" rm --force "$2"'


class Container:
    """Made by `open_container`."""

    def __init__(self, docker: Path) -> None:
        self.name = f"queue-trio-chaos-{secrets.token_hex(6)}"
        self.docker = docker

    def command(self, image: str, arguments: Sequence[str], folder: Path) -> list[str]:
        """What runs it in the foreground, on this machine's own network; it can read `folder` under the same path."""
        options = ["--name", self.name, "--network", "host", "--volume", f"{folder}:{folder}:ro"]
        return [str(self.docker), "run", *options, "--env", "LOG_LEVEL", image, *arguments]

    async def remove(self) -> None:
        """It is gone afterwards, if it ever was there. Raises HarnessError."""
        await trio.to_thread.run_sync(self._ask, "rm", "--force", self.name)

    def signal(self, name: str) -> None:
        """Send it a signal, such as STOP. Blocks for a moment. Raises HarnessError."""
        self._ask("kill", "--signal", name, self.name)

    def _ask(self, *words: str) -> None:
        try:
            done = subprocess.run(
                [self.docker, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_ENGINE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HarnessError(f"docker {words[0]} {self.name}: {error}") from None
        # A container that was never made is gone, which is all that is asked for.
        if done.returncode and "no such container" not in done.stderr.lower():
            raise HarnessError(f"docker {words[0]} {self.name}: {done.stderr.strip()}")


@asynccontextmanager
async def open_container(docker: Path) -> AsyncIterator[Container]:
    """A container's name, and the promise that nothing of that name is there after the block, or this process."""
    container = Container(docker)
    read_end, write_end = os.pipe()
    try:
        try:
            # lowlevel: it must outlive whatever nursery we are in, and us.
            watcher = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", _WATCHER, "queue_trio-watcher", str(docker), container.name],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        finally:
            os.close(read_end)
        yield container
    finally:
        os.close(write_end)
    with trio.CancelScope(shield=True), trio.move_on_after(_ENGINE_S):
        await watcher.wait()
