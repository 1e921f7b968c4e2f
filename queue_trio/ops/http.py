"""The worker's own HTTP server: /healthz and /readyz for probes, /metrics for Prometheus, a page for people at /.

Served by Hypercorn in the worker's own nursery, so it is there before Redis is, and until the last job is settled. It
shows what `health`, `metrics` and `page` say and decides nothing. An error in it never ends the worker.
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
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve
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
READ_S: Final = 10
"""A connection that sends nothing for so long is closed."""
GOODBYE_S: Final = 0.5
"""At the end, requests under way may take so long."""

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
                # Hypercorn's type for an application is narrower than what it takes.
                await serve(cast("Any", self._app), self._config(), mode="asgi")
        except* Exception:
            # Jobs go on without it. Whoever probes it finds nobody, and restarts the worker in good order.
            log.exception("http.failed", hint="jobs still run, but probes and metrics get no answer any more")
        finally:
            self._socket.close()

    def _config(self) -> Config:
        config = _OneSocket(self._socket)
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn.error")
        config.include_server_header = False
        config.graceful_timeout = GOODBYE_S
        config.read_timeout = READ_S
        config.keep_alive_timeout = READ_S
        return config

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


class _OneSocket(Config):
    """Hypercorn's settings, with a socket that is bound already and stays ours to close."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock

    def create_sockets(self) -> Sockets:
        return Sockets([], [self._sock], [])


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
