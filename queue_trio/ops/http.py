"""The worker's own HTTP server: /healthz and /readyz for probes, /metrics for Prometheus, a page for people at /.

Served by Hypercorn in the worker's own nursery, so it is there before Redis is, and until the last job is settled. It
shows what `health`, `metrics` and `page` say and decides nothing. An error in it never ends the worker, and no client,
however slow, keeps it from ending. Connections are accepted here, because Hypercorn bounds neither them nor its sends.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from queue_trio.errors import ConfigError
from queue_trio.ops.health import Health
from queue_trio.ops.metrics import WorkerMetrics
from queue_trio.ops.page import CONTENT_SECURITY_POLICY, Page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from queue_trio.core.settings import HttpSettings
    from queue_trio.runtime.worker import Worker

log = structlog.get_logger(__name__)

BACKLOG: Final = 128
PATIENCE_S: Final = 10
"""A connection is closed whose client sends nothing, or does not take an answer, for so long."""
CONNECTIONS_MAX: Final = 100
"""With one more, the one that has been open longest is closed: probes get through whoever holds connections open."""

_NO_STORE: Final = {"Cache-Control": "no-store"}


def listen(settings: HttpSettings) -> socket.socket:
    """A socket bound to the configured address. Raises ConfigError, naming the setting, if that cannot be had."""
    port = settings.port or 0
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"http.host: {settings.host!r} is no address here: {error.strerror}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"http.port: cannot listen on {settings.host} port {port}: {error.strerror}; "
            "choose another port, or 0 for any that is free"
        ) from None
    return sock


class HttpServer:
    """Serves one worker on a socket from `listen`, which it closes. `wall_clock`: seconds since the epoch."""

    def __init__(
        self, worker: Worker, sock: socket.socket, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        settings = worker.app.settings.http
        self._socket = sock
        host, port = sock.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._open: dict[_Connection, None] = {}
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        self.health = Health(worker, stall_limit_s=settings.stall_limit, wall_clock=wall_clock)
        started_s = wall_clock()
        self.metrics = WorkerMetrics(worker, lambda: self.health.report, started_s=started_s)
        self.page = Page(worker, started_s=started_s, wall_clock=wall_clock)
        self._app = Starlette(
            routes=[
                Route("/healthz", self._guarded(self._healthz)),
                Route("/readyz", self._guarded(self._readyz)),
                Route("/metrics", self._guarded(self._metrics)),
                Route("/", self._guarded(self._index)),
            ]
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        log.info("http.listening", url=self.url)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.page.run)
                nursery.start_soon(self.health.watch)
                await self._accept(nursery)
        except* Exception:
            # Jobs go on without it. Whoever probes it finds nobody, and restarts the worker in good order.
            log.exception("http.failed", hint="jobs still run, but probes and metrics get no answer any more")
        finally:
            self._socket.close()

    async def _accept(self, nursery: trio.Nursery) -> None:
        # Hypercorn's type for an application is narrower than what it takes.
        app, config, context = ASGIWrapper(cast("Any", self._app)), _config(), WorkerContext(None)

        async def serve(stream: trio.SocketStream) -> None:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = next(iter(self._open))
                del self._open[oldest]
                oldest.abort()
            connection = _Connection(stream)
            self._open[connection] = None
            try:
                # It asks of a stream no more than _Connection has.
                await TCPServer(app, config, context, ConnectionState({}), cast("Any", connection))
            except* Exception:
                log.exception("http.connection_failed")
            finally:
                self._open.pop(connection, None)
                connection.abort()

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        try:
            await trio.serve_listeners(serve, [listener], handler_nursery=nursery)
        finally:
            # Hypercorn shields its sends from cancellation: this is what ends them.
            for connection in self._open:
                connection.abort()

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _healthz(self, request: Request) -> Response:
        alive = self.health.alive()
        return PlainTextResponse(alive.why + "\n", 200 if alive.ok else 503, _NO_STORE)

    async def _readyz(self, request: Request) -> Response:
        report = await self.health.ready()
        return JSONResponse(report.as_json(), 200 if report.ready else 503, _NO_STORE)

    async def _metrics(self, request: Request) -> Response:
        await self.health.ready()  # which `ready` and `redis_up` then show
        body, content_type = self.metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type, **_NO_STORE})

    async def _index(self, request: Request) -> Response:
        text = self.page.render(await self.health.ready())
        return HTMLResponse(text, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY, **_NO_STORE})

    # --- who may ask -----------------------------------------------------------------------------------------------

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            given = _token_in(request.headers.get("authorization", ""))
            if self._token is not None and not hmac.compare_digest(given, self._token):
                # Basic, so that a browser asks for it; programs bring it as a bearer token.
                headers = {"WWW-Authenticate": 'Basic realm="queue_trio", charset="UTF-8"', **_NO_STORE}
                text = "send the token (http.token) as `Authorization: Bearer TOKEN`, or as the password\n"
                return PlainTextResponse(text, 401, headers)
            return await answer(request)

        return guarded


class _Connection:
    """A stream for Hypercorn, which cannot wait for ever for its client to take an answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._send_all = stream.send_all

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(PATIENCE_S):
            await self._send_all(data)
            return
        self.abort()  # part of it is gone, so nothing can follow
        raise trio.BrokenResourceError("the client does not take its answer")

    def abort(self) -> None:
        """Close it now. Whoever waits for it gets ClosedResourceError."""
        self.socket.close()


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.read_timeout = PATIENCE_S
    config.keep_alive_timeout = PATIENCE_S
    return config


def _token_in(authorization: str) -> bytes:
    """The bearer token, or the password of HTTP Basic; empty if there is neither."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
