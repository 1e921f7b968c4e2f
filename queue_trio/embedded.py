"""A private, real Redis server as a child process: for the demo, and for tests, ours and yours.

    async with open_embedded_redis() as redis:
        ...  # redis.url, await redis.kill(), await redis.restart()

`server_binary.find_server` picks a program; `open_embedded_redis` runs it in a temporary folder of its own with an
append-only file, so that it can be killed and brought back with its data. It knows nothing of queues and
jobs, and nothing in production imports it: there, Redis is somebody else's process.

Three processes take part. Ours starts a tiny shell, the *lifeline*, whose standard input is a pipe that only
we hold open, and then starts the server inside the lifeline's process group:

    this process ──pipe──> lifeline (leads the group)
         └── starts ─────> server   (member of the group)

However we end, kill -9 included, the kernel closes the pipe; the lifeline reads end-of-file, removes the
folder and kills its group. That needs no pid that might have been reused, and nothing that only Linux has.
The group is not the terminal's, so Ctrl-C reaches us and not the server: a worker can still drain into it.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import trio

from queue_trio.errors import ConfigError, InfrastructureError, InternalError, UsageError
from queue_trio.server_binary import ServerBinary, find_server

Fsync = Literal["always", "everysec", "no"]

_PING_SECONDS_MAX: Final = 0.5
_POLL_SECONDS: Final = 0.005
_KILL_SECONDS_MAX: Final = 10.0  # SIGKILL acts at once, unless the kernel holds the process in disk I/O

# A socket's path fits in 104 bytes on macOS and 108 on Linux, the final zero included.
_SOCKET_PATH_BYTES_MAX: Final = 100
_SOCKET_NAME: Final = "redis.sock"

# Below the range that outgoing connections are given (from 32768 on Linux, 49152 on macOS). A port inside it
# can be taken while our server is down, even by its own client: one that keeps connecting to a closed
# loopback port is one day given that very port as its own, and then TCP connects it to itself.
_PORTS: Final = range(20_000, 32_000)

# `rm` comes first because the kill ends the lifeline too, and the server has nobody left to serve.
# With `--`, minus the group's number names the group.
_LIFELINE: Final = 'trap "" HUP INT TERM; read -r _; rm -rf -- "$1"; kill -s KILL -- -$$'


@dataclass(frozen=True, slots=True)
class _Options:
    """What stays the same over every restart."""

    binary: ServerBinary
    folder: Path
    group: int
    appendfsync: Fsync
    settings: Mapping[str, str]
    start_seconds_max: float
    stop_seconds_max: float

    @property
    def unix_socket(self) -> Path:
        return self.folder / _SOCKET_NAME

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def command(self, port: int | None) -> list[str]:
        directives = {
            "bind": "127.0.0.1",
            "port": str(port or 0),
            "protected-mode": "yes",
            "unixsocket": str(self.unix_socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self.appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            # To standard output, which we send to a file: a complaint about the settings themselves comes
            # before the server opens any log of its own.
            "logfile": "",
        }
        words = [str(self.binary.path)]
        for name, value in {**directives, **self.settings}.items():
            words += [f"--{name}", value]
        return words


class _PortTaken(InfrastructureError):
    """Somebody else listens on our port. Contrast other failures to start, which no other port would cure."""


class EmbeddedRedis:
    """A running server, made by `open_embedded_redis`. Call its methods from one task at a time."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._port: int | None = None
        self._process: trio.Process | None = None
        self._frozen = False

    @property
    def url(self) -> str:
        """Where clients connect: `redis://127.0.0.1:<port>/0`, or `unix://<path>` without a port."""
        return f"unix://{self.unix_socket}" if self._port is None else f"redis://127.0.0.1:{self._port}/0"

    @property
    def port(self) -> int | None:
        """The loopback port; None if there is only the unix socket. Restarts keep it."""
        return self._port

    @property
    def unix_socket(self) -> Path:
        """The server always listens here too. Restarts keep it."""
        return self._options.unix_socket

    @property
    def folder(self) -> Path:
        """The server's own folder: socket, append-only file and log. Removed at the end."""
        return self._options.folder

    @property
    def log(self) -> Path:
        """The file with what the server printed, over all its restarts."""
        return self._options.log

    @property
    def binary(self) -> ServerBinary:
        """The program that runs."""
        return self._options.binary

    @property
    def pid(self) -> int:
        """The server's process id; after it ended, the id it had. Every restart has a new one."""
        assert self._process is not None, "open_embedded_redis yields only after a start"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists. A frozen one does."""
        return self._process is not None and self._process.poll() is None

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is gone; nothing is flushed. Does nothing if it is down."""
        await self._end(signal.SIGKILL, _KILL_SECONDS_MAX)

    async def terminate(self) -> None:
        """SIGTERM, and wait until the server has written its file and is gone. Does nothing if it is down.

        Raises `InfrastructureError` if it is still there after `stop_seconds_max`, as a frozen one will be.
        """
        await self._end(signal.SIGTERM, self._options.stop_seconds_max)

    async def restart(self) -> None:
        """Stop the server if it is up, start it on the same data, socket and port; back when it answers.

        Raises `InfrastructureError` if it ends, or does not answer within `start_seconds_max`.
        """
        await self._stop()
        # Clients know this port, so unlike at the first start another one will not do: wait until it is free.
        await self._bring_up(itertools.repeat(self._port))

    async def freeze(self) -> None:
        """SIGSTOP: connections stay open and nobody answers. Back when the process has really stopped.

        Raises `UsageError` if the server is down.
        """
        self._signal_running(signal.SIGSTOP)
        self._frozen = True
        with trio.move_on_after(_KILL_SECONDS_MAX):
            while not _has_stopped(self.pid):  # noqa: ASYNC110, the kernel offers nothing to wait on
                await trio.sleep(_POLL_SECONDS)
            return
        raise InfrastructureError(f"the embedded server (pid {self.pid}) does not stop for SIGSTOP")

    def thaw(self) -> None:
        """SIGCONT: the server goes on and answers what has piled up. Raises `UsageError` if it is down."""
        self._signal_running(signal.SIGCONT)
        self._frozen = False

    def _signal_running(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            raise UsageError(f"the embedded server is down and cannot get {number.name}: restart() it first")
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals, seconds_max: float) -> None:
        process = self._process
        if process is None or not self.running:
            # lowlevel: an async function is a checkpoint on every path, this one too.
            await trio.lowlevel.checkpoint()
            return
        process.send_signal(number)
        with trio.move_on_after(seconds_max):
            await process.wait()
        if process.poll() is None:
            raise InfrastructureError(
                f"the embedded server (pid {process.pid}) is still up {seconds_max:g} s after {number.name}"
            )

    async def _stop(self) -> None:
        if not self._frozen:  # a stopped process would leave SIGTERM lying until the deadline
            with suppress(InfrastructureError):
                await self.terminate()
        await self.kill()

    async def _bring_up(self, ports: Iterable[int | None]) -> None:
        """Start on the first free one of the endless `ports`; only the server's own bind tells if it is."""
        options = self._options
        with trio.move_on_after(options.start_seconds_max):
            for port in ports:
                try:
                    await self._start(port)
                except _PortTaken:
                    await trio.sleep(_POLL_SECONDS)
                else:
                    self._port = port
                    return
        raise InfrastructureError(
            f"{options.binary.version} did not answer within {options.start_seconds_max:g} s; "
            f"its log ends: {_last_words(options.log)}"
        )

    async def _start(self, port: int | None) -> None:
        """Run the server until it answers, or raise what its log says. The caller sets the deadline."""
        options = self._options
        with options.log.open("ab") as log:
            log_offset = log.tell()
            # lowlevel: trio.run_process ties a process to a nursery; ours outlives the call that starts it.
            self._process = await trio.lowlevel.open_process(
                options.command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=options.folder,
                process_group=options.group,
            )
        self._frozen = False
        # The socket lies in a folder only we can reach, so whoever answers there is our server, and it opens
        # the port before the socket. An answer on the port could come from the process that took it.
        while not await _answers(options.unix_socket):
            if not self.running:
                raise self._early_end(log_offset)
            await trio.sleep(_POLL_SECONDS)

    def _early_end(self, log_offset: int) -> InfrastructureError:
        assert self._process is not None
        words = _last_words(self.log, log_offset)
        if "Address already in use" in words or "Failed listening on port" in words:
            return _PortTaken(words)
        return InfrastructureError(
            f"{self.binary.version} ended with exit code {self._process.returncode} before it answered; "
            f"its log ends: {words}"
        )


def _has_stopped(pid: int) -> bool:
    if not hasattr(os, "waitid"):  # Python on macOS before 3.13: the signal's word has to do
        return True
    # WNOWAIT only looks: reaping the child is trio's business.
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None


async def _answers(unix_socket: Path) -> bool:
    """Whether a PING is answered now. A server still loading its file says so instead, and is not ready."""
    with trio.move_on_after(_PING_SECONDS_MAX):
        try:
            async with await trio.open_unix_socket(unix_socket) as stream:
                await stream.send_all(b"PING\r\n")
                reply = await stream.receive_some(64)
        except (OSError, trio.BrokenResourceError):
            return False
        # NOAUTH: with `requirepass` among the settings this is how a ready server answers strangers.
        return bytes(reply).startswith((b"+PONG", b"-NOAUTH"))
    return False


def _last_words(log: Path, offset: int = 0, lines: int = 4) -> str:
    """The end of the log in one line, without process ids and times."""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(re.sub(r"^\d+:[A-Z] .{11,25} [.*#-] ", "", line) for line in kept) or "(empty)"


@asynccontextmanager
async def open_embedded_redis(
    *,
    server: ServerBinary | None = None,
    port: bool = False,
    appendfsync: Fsync = "everysec",
    settings: Mapping[str, str] = MappingProxyType({}),
    start_seconds_max: float = 20.0,
    stop_seconds_max: float = 10.0,
) -> AsyncIterator[EmbeddedRedis]:
    """Run a server of our own inside the block; neither process nor folder is left after it.

    It listens on a unix socket in its own folder (mode 0700), with `port` also on a free loopback port, and
    asks for no password. Nothing is evicted and no snapshots are written; an append-only file keeps the data
    over restarts: all of it after SIGKILL if `appendfsync` is "always", else all but about the last two
    seconds.

    `server` is what `find_server` returned, and is found if not given. `settings` are directives of
    redis.conf, such as `{"maxmemory": "8mb"}`, and win over ours. Every start must answer within
    `start_seconds_max`; at the end the server gets SIGTERM, and SIGKILL after `stop_seconds_max`.

    Raises `ConfigError` if there is no usable binary; `InfrastructureError`, with the end of the server's
    log, if it does not start.
    """
    if server is None:
        server = await trio.to_thread.run_sync(find_server)
    folder = _make_folder()
    try:
        async with open_lifeline(folder) as group:
            redis = EmbeddedRedis(
                _Options(server, folder, group, appendfsync, settings, start_seconds_max, stop_seconds_max)
            )
            # From the system: tests that seed `random` must not all try the same ports in the same order.
            choose = random.SystemRandom().choice
            try:
                await redis._bring_up(iter(lambda: choose(_PORTS), None) if port else itertools.repeat(None))
                yield redis
            finally:
                with trio.CancelScope(shield=True):  # bounded: every step of _stop has its deadline
                    await redis._stop()
    finally:
        # The lifeline has done it, unless somebody killed the lifeline.
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder() -> Path:
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108, mkdtemp chooses the name
        # mkdtemp adds eight characters, and makes the folder 0700.
        if len(os.fsencode(base)) + len(f"/qt-12345678/{_SOCKET_NAME}") <= _SOCKET_PATH_BYTES_MAX:
            try:
                return Path(tempfile.mkdtemp(prefix="qt-", dir=base))
            except OSError as error:
                raise ConfigError(f"no folder for the embedded server can be made: {error}") from error
    raise InternalError("even the shortest temporary folder is too long for a socket's path")


@asynccontextmanager
async def open_lifeline(folder: Path) -> AsyncIterator[int]:
    """Yield a process group for the server. Group and `folder` go when the block, or this process, ends."""
    # Both ends close on exec, and the lifeline gets the reading one as its stdin: nobody else holds the pipe.
    # But a child that is forked and does not exec does, and the lifeline waits for its end too.
    read_end, write_end = os.pipe()
    try:
        try:
            # lowlevel: as for the server, and a nursery would end the lifeline before the server.
            lifeline = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", _LIFELINE, "queue_trio-lifeline", str(folder)],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        finally:
            os.close(read_end)
        try:
            yield lifeline.pid
        finally:
            os.close(write_end)
            write_end = -1
            with trio.move_on_after(_KILL_SECONDS_MAX) as scope:
                scope.shield = True
                await lifeline.wait()
            if lifeline.poll() is None:
                os.killpg(lifeline.pid, signal.SIGKILL)
    finally:
        if write_end != -1:
            os.close(write_end)
