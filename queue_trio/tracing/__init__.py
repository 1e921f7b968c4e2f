"""OpenTelemetry: what is traced, and how it gets away. Imported only when tracing is on."""
