"""A private Toxiproxy server: a child process on a free port that dies with us, and is replaced when it hangs.

A lifeline, as for the embedded Redis, ends it however we end. Its control API is known to deadlock, so a heal that it
does not answer is done by a new process: same ports, same proxies, no toxics. That closes every connection, like any
outage; `restarts` tells how often it was done, and the runner writes it down. Where Docker has to run it, the child is
Docker's client, and a container goes the same ways.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from chaos.driving.container import open_container
from chaos.driving.toxiproxy import Api, Proxy
from chaos.driving.toxiproxy_binary import IMAGE, VERSION, in_docker
from chaos.errors import ApiHangs, HarnessError
from queue_trio.embedded import open_lifeline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chaos.driving.container import Container

RESTART_S: Final = 20.0
_START_S: Final = 10.0
_KILL_S: Final = 10.0
_POLL_S: Final = 0.01
_TRIES: Final = 20

# Below the ports that outgoing connections get: a proxy that is down must get its own back. See queue_trio.embedded.
_PORTS: Final = range(20_000, 32_000)


class ToxiproxyServer:
    """A running server, made by `open_toxiproxy`."""

    def __init__(self, binary: Path, folder: Path, group: int, container: Container | None = None) -> None:
        self._binary = binary
        self._folder = folder
        self._group = group
        self._container = container
        self._process: trio.Process | None = None
        # From the system: runs that seed `random` must not all try the same ports in the same order.
        self._choose = random.SystemRandom()
        self._api: Api | None = None
        self.proxies: dict[str, Proxy] = {}
        self.restarts = 0

    @property
    def api(self) -> Api:
        assert self._api is not None, "open_toxiproxy yields only after a start"
        return self._api

    @property
    def version(self) -> str:
        """Our own copy's; of what somebody else has put here it is not known."""
        return VERSION if self._binary.name.endswith(VERSION) or self._container is not None else "unknown"

    @property
    def log(self) -> Path:
        """What the server printed, one JSON object a line, over all its restarts."""
        return self._folder / "toxiproxy.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def create(self, name: str, upstream: str) -> Proxy:
        """A proxy that is up, on a free loopback port, which it keeps. `upstream` is HOST:PORT. Raises HarnessError."""
        error: HarnessError | None = None
        for _ in range(_TRIES):
            listen = f"127.0.0.1:{self._choose.choice(_PORTS)}"
            try:
                proxy = await self.api.create(name, upstream=upstream, listen=listen)
            except ApiHangs:
                raise
            except HarnessError as refused:
                if "address already in use" not in str(refused):
                    raise
                error = refused
            else:
                self.proxies[name] = proxy
                return proxy
        assert error is not None
        raise error

    async def heal(self, proxy: Proxy) -> str:
        """Up and without toxics, though we be cancelled. A server that does not answer is replaced.

        Raises HarnessError.
        """
        try:
            return await proxy.heal()
        except HarnessError:
            proxy.enabled = True
            proxy.toxics.clear()
        with trio.CancelScope(shield=True, relative_deadline=RESTART_S):
            return await self.restart()
        raise HarnessError(f"Toxiproxy was not restarted within {RESTART_S:g} s")

    async def restart(self) -> str:
        """A new process, and in it every proxy as it should be, on its old port. Raises HarnessError."""
        old = self.pid
        await self.kill()
        await self._start(self.api.port)
        self.restarts += 1
        for proxy in self.proxies.values():
            enabled, toxics = proxy.enabled, list(proxy.toxics.values())
            proxy.enabled, proxy.toxics = True, {}
            await self.api.create(proxy.name, upstream=proxy.upstream, listen=proxy.listen)
            for toxic in toxics:
                await proxy.add(toxic)
            if not enabled:
                await proxy.disable()
        return (
            f"Toxiproxy restarted: pid {old} is gone, pid {self.pid} answers with {len(self.proxies)} proxies"
        )

    async def kill(self) -> None:
        """SIGKILL, which ends a stopped one too, and wait until it is gone."""
        process = self._process
        if process is None:
            return
        if self._container is not None:
            await self._container.remove()
        with trio.move_on_after(_KILL_S):
            if process.poll() is None:
                process.kill()
            await process.wait()
            return
        raise HarnessError(f"Toxiproxy (pid {process.pid}) is still there {_KILL_S:g} s after SIGKILL")

    def freeze(self) -> None:
        """SIGSTOP: proxies and control API hang."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._container is not None:
            self._container.signal(number.name.removeprefix("SIG"))
            return
        assert self._process is not None
        self._process.send_signal(number)

    async def connections(self, name: str) -> tuple[int, int]:
        """Connections that a proxy has accepted, and those of them for which it did not reach its upstream."""
        lines = await trio.to_thread.run_sync(self.log.read_bytes)
        accepted = failed = 0
        for line in lines.splitlines():
            if b'"Accepted client"' in line or b'"Unable to open connection to upstream"' in line:
                told = json.loads(line)
                if told.get("name") == name:
                    accepted += told["message"] == "Accepted client"
                    failed += told["message"] != "Accepted client"
        return accepted, failed

    # --- its process -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """On the first free port of those that are tried."""
        for _ in range(_TRIES):
            try:
                await self._start(self._choose.choice(_PORTS))
            except _PortTaken:
                await self.kill()  # a container that has ended still has its name
                continue
            return
        raise HarnessError(f"Toxiproxy found no free port in {_TRIES} tries")

    async def _start(self, port: int) -> None:
        """Run it until it answers. A proxy by a name nobody else knows tells that it is ours that answers."""
        secret = f"started-{self._choose.randrange(2**64):x}"
        config = self._folder / "toxiproxy.json"
        config.write_text(
            json.dumps(
                [{"name": secret, "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "enabled": False}]
            )
        )
        with self.log.open("ab") as log:
            offset = log.tell()
            # lowlevel: trio.run_process ties a process to a nursery; ours outlives the call that starts it.
            self._process = await trio.lowlevel.open_process(
                self._command(port, config),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={
                    **os.environ,
                    "LOG_LEVEL": "info",
                },  # the levels below say several lines for each connection
                process_group=self._group,
            )
        if self._api is None or self._api.port != port:
            self._api = Api(f"http://127.0.0.1:{port}")
        with trio.move_on_after(_START_S):
            while not await self._answers(secret):
                await self._check_start(offset)
                await trio.sleep(_POLL_S)
            await self.api.call("forget", lambda api: api.delete(f"/proxies/{secret}"))
            return
        raise HarnessError(f"Toxiproxy did not answer within {_START_S:g} s; see {self.log}")

    def _command(self, port: int, config: Path) -> list[str]:
        flags = ["-host", "127.0.0.1", "-port", str(port), "-proxy-metrics", "-config", str(config)]
        if self._container is not None:
            return self._container.command(IMAGE, flags, self._folder)
        return [str(self._binary), *flags]

    async def _answers(self, secret: str) -> bool:
        try:
            return secret in await self.api.state()
        except HarnessError:
            return False

    async def _check_start(self, offset: int) -> None:
        """Raises HarnessError if it will never answer. One whose port is taken lives on, and only its log says so."""
        assert self._process is not None
        ended = not self.running  # before its log is read: what it said last is then in it
        said = (await trio.to_thread.run_sync(self.log.read_bytes))[offset:].decode(errors="replace")
        if "address already in use" in said:
            raise _PortTaken(f"Toxiproxy cannot listen on port {self.api.port}: somebody else does")
        if ended:
            last = (said.strip() or "it said nothing").splitlines()[-1]
            raise HarnessError(f"Toxiproxy ended with exit code {self._process.returncode}: {last}")


class _PortTaken(HarnessError):
    """Somebody else listens there."""


@asynccontextmanager
async def open_toxiproxy(binary: Path) -> AsyncIterator[ToxiproxyServer]:
    """Run a server of our own inside the block; neither process nor folder is left after it. Raises HarnessError.

    `binary`: what `ensure_toxiproxy` gives.
    """
    with tempfile.TemporaryDirectory(prefix="qt-toxiproxy-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(open_lifeline(folder))
            container = None
            if in_docker(binary):
                container = await stack.enter_async_context(open_container(binary))
            server = ToxiproxyServer(binary, folder, group, container)
            try:
                await server.start()
                yield server
            finally:
                with trio.CancelScope(shield=True):  # bounded by itself
                    await server.kill()
