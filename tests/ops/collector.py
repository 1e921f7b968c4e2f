"""An OpenTelemetry collector for tests: OTLP over HTTP, parsed with the protocol's own definitions, on a real socket.

`answer` chooses how it treats requests: "ok", "hang" (reads, and does not answer until closed), or a status: "500".
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Seen:
    """A span as it came over the wire. Ids in hexadecimal; `parent` is empty for a root; times are nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """Trace and span of each."""
    events: tuple[tuple[str, dict[str, Any]], ...]
    status: str
    message: str
    began: int
    ended: int
    resource: dict[str, Any]


@dataclass
class Collector:
    """What came in. `changed` is notified with every request."""

    answer: str = "ok"
    delay_s: float = 0.0
    requests: int = 0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Seen] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def named(self, prefix: str) -> list[Seen]:
        """The spans whose name begins with `prefix`."""
        return [span for span in self.spans if span.name.startswith(prefix)]


@contextmanager
def collecting(answer: str = "ok", *, delay_s: float = 0.0) -> Iterator[Collector]:
    """A collector on a free port of the loopback."""
    collector = Collector(answer, delay_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests += 1
            collector.bodies.append(body)
            collector.headers.append(dict(self.headers))
            if collector.answer == "hang":
                collector.closing.wait()
                self.close_connection = True
                return
            collector.closing.wait(collector.delay_s)
            status = 200 if collector.answer == "ok" else int(collector.answer)
            reply = b""
            if status == 200:
                collector.spans += _parse(body)
                reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status, None if status == 200 else f"no such key: {self.headers.get('X-Key')}")
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = True
        daemon_threads = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that hung up while we hung is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="collector")
    thread.start()
    try:
        yield collector
    finally:
        collector.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _parse(body: bytes) -> Iterator[Seen]:
    request = ExportTraceServiceRequest.FromString(body)
    for group in request.resource_spans:
        resource = _plain(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Seen(
                    name=span.name,
                    kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes=_plain(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    events=tuple((event.name, _plain(event.attributes)) for event in span.events),
                    status=type(span.status).StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    message=span.status.message,
                    began=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    resource=resource,
                )


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
