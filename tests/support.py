"""What tests share: waiting on conditions, one server per session, and seeing what a test left behind.

The fixtures are in `conftest.py`; here are the parts that can be called, and read, on their own.
"""

from __future__ import annotations

import inspect
import os
import queue
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from queue_trio.embedded import EmbeddedRedis, open_embedded_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queue_trio.server_binary import ServerBinary

POLL_SECONDS = 0.01
SERVER_SECONDS_MAX = 30.0


# --- waiting -------------------------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], object], seconds_max: float = 10.0, *, what: str = "") -> None:
    """Wait until `condition`, which may be async, gives something true. Fails the test after `seconds_max`.

    For what only looking can tell, such as another process. Not for our own tasks: those have events to wait on.
    An exception from `condition` is not caught; a condition that may fail for a while says so itself.
    """
    with trio.move_on_after(seconds_max):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return
            await trio.sleep(POLL_SECONDS)
    name = what or getattr(condition, "__name__", "the condition")
    raise AssertionError(f"{name} did not come true within {seconds_max:g} s")


def is_gone(pid: int) -> bool:
    """Whether the process has ended. One that has and is not yet reaped counts as gone."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# --- one server for a whole session --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SharedRedis:
    """A server that many tests use in turn. Nobody may stop it; a test that must asks for `private_redis`."""

    url: str
    port: int
    unix_socket: Path
    pid: int
    binary: ServerBinary


@contextmanager
def shared_redis(binary: ServerBinary) -> Iterator[SharedRedis]:
    """Run a server outside any test's Trio: it listens on a loopback port and a unix socket, and writes no file.

    pytest-trio fixtures live no longer than one test, so the embedded server gets a thread with a Trio of its own.
    """
    started: queue.SimpleQueue[tuple[EmbeddedRedis, Callable[[], None]]] = queue.SimpleQueue()

    async def serve() -> None:
        async with open_embedded_redis(server=binary, port=True, settings={"appendonly": "no"}) as server:
            stop = trio.Event()
            token = (
                trio.lowlevel.current_trio_token()
            )  # lowlevel: the one way in from another thread's fixture
            started.put((server, lambda: token.run_sync_soon(stop.set)))
            await stop.wait()
            await server.kill()  # its data is nobody's: why wait until it notices a SIGTERM

    with ThreadPoolExecutor(1, thread_name_prefix="shared redis") as executor:
        done = executor.submit(trio.run, serve)
        # If it does not start, waiting for it raises why.
        while not done.done() and started.empty():
            time.sleep(POLL_SECONDS)
        if done.done():
            done.result()
        server, stop = started.get()
        assert server.port is not None
        try:
            yield SharedRedis(server.url, server.port, server.unix_socket, server.pid, server.binary)
        finally:
            stop()
            done.result(timeout=SERVER_SECONDS_MAX)


# What may stay in Redis after a test: counters, the pause flag and sweep clock, wake tokens, ids taken for a while,
# sessions and rate limits (they expire), the audit trail, and the set of lanes. Anything else, a job, a lease, a
# worker, is something the test left undone.
BOOKKEEPING = re.compile(r":(stats|control|lanes|wake|unique|audit)$|:session:|:limit:")


def connect(unix_socket: Path, database: int = 0) -> closing[redis.Redis]:
    """A plain client for a test's own look at Redis, closed at the end of `with`. It tries once: no retries."""
    return closing(
        redis.Redis(unix_socket_path=str(unix_socket), db=database, retry=Retry(NoBackoff(), retries=0))
    )


def left_keys(unix_socket: Path) -> list[str]:
    """The keys, over all databases, that are not bookkeeping. Those outside database 0 are written `key (db 3)`."""
    with connect(unix_socket) as client:
        keyspace = client.info("keyspace")
    assert isinstance(keyspace, dict)
    left = []
    for database in sorted(int(name.removeprefix("db")) for name in keyspace):
        with connect(unix_socket, database) as client:
            names = sorted(
                bytes(key).decode(errors="backslashreplace") for key in client.scan_iter(count=1000)
            )
        note = f" (db {database})" if database else ""
        left += [name + note for name in names if not BOOKKEEPING.search(name)]
    return left


# --- what a test left behind ---------------------------------------------------------------------------------------

# Trio keeps a thread that has done its work for ten seconds, for the next `to_thread.run_sync`: a cache, not a leak.
# While it works it bears the name of its work, so an abandoned call that still runs is not mistaken for an idle one.
_IDLE_TRIO_THREAD = re.compile(r"Trio thread \d+")

# Closing and reaping may take an instant after the call that asked for it returned. Only a leak costs this long.
LEAK_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process holds at one moment. Compare two to see what came in between."""

    threads: frozenset[threading.Thread]
    children: frozenset[psutil.Process]
    sockets: frozenset[str]

    @classmethod
    def now(cls) -> Footprint:
        return cls(frozenset(_threads()), frozenset(psutil.Process().children(recursive=True)), _sockets())

    def leaks(self, later: Footprint) -> list[str]:
        """What `later` has and this one has not, one description each."""
        return [
            *(f"thread {thread.name!r}" for thread in later.threads - self.threads),
            *(f"child process {_describe(child)}" for child in later.children - self.children),
            *(f"open {socket}" for socket in sorted(later.sockets - self.sockets)),
        ]


def settled_leaks(before: Footprint) -> list[str]:
    """What is held now and was not `before`, after what is still closing was given its moment."""
    deadline = time.monotonic() + LEAK_SECONDS_MAX
    while (leaks := before.leaks(Footprint.now())) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return leaks


def kill_children(before: Footprint) -> None:
    """End the processes that were started since `before`, so that one bad test does not outlive the session."""
    strays = [child for child in psutil.Process().children(recursive=True) if child not in before.children]
    for child in strays:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(strays, timeout=LEAK_SECONDS_MAX)


def _threads() -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if not _IDLE_TRIO_THREAD.fullmatch(thread.name))


def _sockets() -> frozenset[str]:
    """Every socket by a name no other one had before it where the system gives one, else by its descriptor."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return frozenset(f"socket, descriptor {it.fd}" for it in psutil.Process().net_connections(kind="all"))
    found = set()
    for descriptor in os.listdir(folder):
        try:
            target = os.readlink(folder / descriptor)
        except FileNotFoundError:
            continue  # the descriptor of this very listing
        if target.startswith("socket:"):
            found.add(target)
    return frozenset(found)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline()) or process.name()}"
    except psutil.NoSuchProcess:
        return f"{process.pid} (gone by now)"
