"""A worker as a service: beside it, in the same nursery, the HTTP server that tells how it is, if one is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from queue_trio.ops.http import HttpServer
    from queue_trio.runtime.worker import Worker


def open_http(worker: Worker) -> HttpServer | None:
    """The worker's HTTP server, listening already; None without `http.port`. Raises ConfigError if it cannot listen.

    Before the event loop runs, so that a port in use ends the program before it has done anything.
    """
    settings = worker.app.settings.http
    if settings.port is None:
        return None
    from queue_trio.ops.http import HttpServer, listen

    return HttpServer(worker, listen(settings))


async def run_service(worker: Worker, http: HttpServer | None) -> None:
    """Run the worker until it is drained. The server is there before Redis is, and until the last job is settled."""
    if http is None:
        await worker.run()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.run)
        await worker.run()
        nursery.cancel_scope.cancel()
