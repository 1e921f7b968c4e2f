"""Where spans go: the program's own OpenTelemetry SDK if it has set one up, else one made here from the settings.

Not in `ops`, because clients inside other programs trace too. Nothing of OpenTelemetry is imported before it is needed.

The exporter takes endpoint, headers and timeout from the settings and goes there directly, past proxies and `.netrc`.
From the environment come only: OTEL_EXPORTER_OTLP_HEADERS (settings win), OTEL_EXPORTER_OTLP_CERTIFICATE and the client
certificate beside it, OTEL_RESOURCE_ATTRIBUTES (settings win), the span limits, and OTEL_SDK_DISABLED.
"""

from __future__ import annotations

import atexit
import logging
import platform
from typing import TYPE_CHECKING, Final

from queue_trio.errors import ConfigError
from queue_trio.masking import mask, remember

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from queue_trio.core.settings import TracingSettings
    from queue_trio.tracing.spans import Spans

_EXPORTER_LOGGER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def open_spans(settings: TracingSettings, app_name: str) -> Spans:
    """Spans as the settings want them. Raises ConfigError if OpenTelemetry is not installed."""
    try:
        from opentelemetry import trace

        from queue_trio.tracing.spans import Spans

        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            # The program has a provider of its own: where its spans go, and which are kept, is its business.
            return Spans(provider.get_tracer("queue_trio"), ratio=None)
        return _own_spans(settings, app_name)
    except ImportError as error:
        raise ConfigError(
            f"tracing.enabled: OpenTelemetry is not installed ({error}); "
            "pip install 'queue-trio[tracing]', or set tracing.enabled to false"
        ) from None


def _own_spans(settings: TracingSettings, app_name: str) -> Spans:
    # The exporter is made later, in its thread; what it needs must be missed now.
    import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    import requests  # noqa: F401
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from queue_trio.tracing.export import Export
    from queue_trio.tracing.spans import Spans

    remember([value.get_secret_value() for value in settings.headers.values()])
    export = Export(
        lambda: _exporter(settings), queue_size=settings.queue_size, endpoint=mask(settings.endpoint)
    )
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # `Spans` has decided before
        resource=Resource.create(
            {
                "service.name": settings.service_name,
                "host.name": platform.node(),
                "queue_trio.app": app_name,
            }
        ),
        shutdown_on_exit=False,  # that would wait for as long as the exporter likes
    )
    provider.add_span_processor(export)
    logging.getLogger(_EXPORTER_LOGGER).addFilter(export.listen)
    atexit.register(export.end, settings.shutdown_timeout)
    return Spans(
        provider.get_tracer("queue_trio"),
        ratio=settings.sample_ratio,
        flush=export.flush,
        dropped=lambda: export.dropped,
        flush_timeout_s=settings.shutdown_timeout,
    )


def _exporter(settings: TracingSettings) -> SpanExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.trust_env = False
    return OTLPSpanExporter(
        endpoint=settings.endpoint,
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        timeout=settings.timeout,
        compression=Compression.NoCompression,
        session=session,
    )
