"""What is allowed and still probably not meant: settings that undo each other, or weaken a promise.

Contradictions are errors, in `core.settings`. A doubt is a warning: `queue-trio config check` shows it, a worker logs
it when it starts. Defaults never cause one; most rules look only at what somebody has set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queue_trio.core.settings import Settings

WORKER_CONNECTIONS: Final = 4
"""What a worker may have under way at once: a claim that waits, a renewal, a sweep, a batch of outcomes."""

_GRACE_MIN_S: Final = 1.0  # twice what a worker keeps for settling at least
_TOKEN_LENGTH_MIN: Final = 16
_METRICS_INTERVAL_MAX_S: Final = 60.0
_LOOPBACK: Final = re.compile(r"localhost|127(\.\d+){3}|::1|\[::1\]", re.IGNORECASE)
_WELL_KNOWN: Final = frozenset(
    {
        "redis",
        "foobared",
        "password",
        "passwd",
        "pass",
        "admin",
        "root",
        "default",
        "secret",
        "changeme",
        "test",
        "guest",
    }
    | {"1234", "12345", "123456", "12345678", "123456789"}
)


@dataclass(frozen=True, slots=True)
class Doubt:
    """`settings`: the keys it is about, such as "worker.lease", the one to change first. No secret is in `message`."""

    settings: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{', '.join(self.settings)}: {self.message}"


def doubts(settings: Settings) -> tuple[Doubt, ...]:
    """Everything doubtful about valid settings."""
    rules = (
        _leases,
        _unused_worker_settings,
        _shutdown,
        _redis,
        _client,
        _http,
        _metrics,
        _tracing,
        _producer,
    )
    return tuple(doubt for rule in rules for doubt in rule(settings))


def is_set(settings: Settings, key: str) -> bool:
    """Whether "section.setting" was given a value, be it the default's."""
    section, _, name = key.partition(".")
    return section in settings.model_fields_set and name in getattr(settings, section).model_fields_set


def _leases(settings: Settings) -> Iterator[Doubt]:
    worker, redis = settings.worker, settings.redis
    third = worker.lease / 3
    if third < redis.recovery:
        yield Doubt(
            ("worker.lease", "redis.read_timeout", "redis.backoff_cap", "redis.breaker_open_wait"),
            f"leases are renewed every {third:g} s, a third of the lease, but it may take {redis.recovery:g} s to get "
            "through after a failure (read_timeout + backoff_cap + 1.5 × breaker_open_wait): one failed renewal can "
            f"lose jobs to other workers; a lease of {3 * redis.recovery:g} s or more outlasts it",
        )
    if worker.sweep_interval > third and is_set(settings, "worker.sweep_interval"):
        yield Doubt(
            ("worker.sweep_interval", "worker.lease"),
            f"{worker.sweep_interval:g} s is more than a third of the lease: {third:g} s counts",
        )
    if worker.stall_limit > third and is_set(settings, "worker.stall_limit"):
        yield Doubt(
            ("worker.stall_limit", "worker.lease"),
            f"a handler that blocks the event loop for a third of the lease ({third:g} s) delays its renewal, and is "
            f"reported only after {worker.stall_limit:g} s",
        )


def _unused_worker_settings(settings: Settings) -> Iterator[Doubt]:
    worker = settings.worker
    for name in ("threads", "processes"):
        number = getattr(worker, name)
        if number is not None and number > worker.concurrency and is_set(settings, f"worker.{name}"):
            yield Doubt(
                (f"worker.{name}", "worker.concurrency"),
                f"no more than {worker.concurrency} jobs run at once, so {number - worker.concurrency} of "
                f"{number} {name} are never used",
            )
    for name, strategy in (("weights", "weighted"), ("looped_wait", "looped")):
        if worker.dequeue_strategy != strategy and is_set(settings, f"worker.{name}"):
            yield Doubt(
                (f"worker.{name}", "worker.dequeue_strategy"),
                f"has no effect with the strategy {worker.dequeue_strategy}, only with {strategy}",
            )


def _shutdown(settings: Settings) -> Iterator[Doubt]:
    grace = settings.worker.shutdown_grace
    if grace < _GRACE_MIN_S:
        yield Doubt(
            ("worker.shutdown_grace",),
            f"{grace:g} s leaves running jobs no time: they are cancelled at once and run again elsewhere, and if "
            f"Redis does not answer the end takes up to {_GRACE_MIN_S:g} s all the same",
        )
    tracing = settings.tracing
    if tracing.enabled and tracing.shutdown_timeout > grace:
        yield Doubt(
            ("tracing.shutdown_timeout", "worker.shutdown_grace"),
            f"the end may wait {tracing.shutdown_timeout:g} s for the last spans, longer than the whole grace "
            f"of {grace:g} s",
        )


def _redis(settings: Settings) -> Iterator[Doubt]:
    redis = settings.redis
    url = redis.url.get_secret_value()
    password = re.search(r"://[^:/@]*:([^@]*)@", url)
    if password is not None and unquote(password[1]).lower() in _WELL_KNOWN:
        yield Doubt(
            ("redis.url",), "its password is one that everybody tries first: choose a long random one"
        )
    if url.startswith("rediss:") and not redis.tls_verify:
        yield Doubt(
            ("redis.tls_verify",),
            "the server's certificate is not checked, so anybody between can read the password: name its authority "
            "in redis.tls_ca_file instead",
        )
    if redis.max_connections < WORKER_CONNECTIONS:
        yield Doubt(
            ("redis.max_connections",),
            f"a worker has up to {WORKER_CONNECTIONS} calls under way, and one of them may wait for jobs "
            f"for worker.poll_interval ({settings.worker.poll_interval:g} s): with {redis.max_connections} "
            "a renewal can come too late",
        )


def _client(settings: Settings) -> Iterator[Doubt]:
    client, recovery = settings.client, settings.redis.recovery
    if client.on_outage == "wait" and client.timeout < recovery:
        yield Doubt(
            ("client.timeout", "redis.read_timeout", "redis.backoff_cap", "redis.breaker_open_wait"),
            f"an enqueue gives up after {client.timeout:g} s, but it may take {recovery:g} s to get through after the "
            "shortest outage (read_timeout + backoff_cap + 1.5 × breaker_open_wait)",
        )
    if client.on_full == "wait" and client.max_length == 0:
        yield Doubt(
            ("client.on_full", "client.max_length"),
            "has no effect: max_length is 0, so no queue is ever full",
        )


def _http(settings: Settings) -> Iterator[Doubt]:
    http = settings.http
    if http.port is not None and not _LOOPBACK.fullmatch(http.host):
        if http.token is None:
            yield Doubt(
                ("http.token", "http.host"),
                f"whoever can reach {http.host} sees the queues' names, lengths and errors: set a token",
            )
        elif len(http.token.get_secret_value()) < _TOKEN_LENGTH_MIN:
            yield Doubt(
                ("http.token", "http.host"),
                f"is short enough to be guessed: use {_TOKEN_LENGTH_MIN} random characters or more",
            )
    if http.stall_limit < settings.worker.stall_limit:
        yield Doubt(
            ("http.stall_limit", "worker.stall_limit"),
            f"/healthz fails after {http.stall_limit:g} s, before the handler that blocks the loop is named in the log "
            f"(after {settings.worker.stall_limit:g} s)",
        )


def _metrics(settings: Settings) -> Iterator[Doubt]:
    metrics = settings.metrics
    if settings.http.port is not None and metrics.interval > _METRICS_INTERVAL_MAX_S:
        yield Doubt(
            ("metrics.interval",),
            f"the lengths of the queues in /metrics are up to {metrics.interval:g} s old, and alerts come as late",
        )
    if metrics.tasks is not None and len(metrics.tasks) > metrics.max_tasks:
        left = metrics.tasks[metrics.max_tasks :]
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        yield Doubt(
            ("metrics.tasks", "metrics.max_tasks"),
            f"lists {len(metrics.tasks)} tasks, but only {metrics.max_tasks} get series of their own: "
            f"{left[0]!r}{more} will be counted as `other`",
        )


def _tracing(settings: Settings) -> Iterator[Doubt]:
    tracing = settings.tracing
    host = re.match(r"http://(\[[^]]*\]|[^:/?#]*)", tracing.endpoint)
    if tracing.enabled and tracing.headers and host is not None and not _LOOPBACK.fullmatch(host[1]):
        yield Doubt(
            ("tracing.endpoint", "tracing.headers"), "the headers travel unencrypted: use an https:// address"
        )


def _producer(settings: Settings) -> Iterator[Doubt]:
    if not settings.producer.include:
        yield Doubt(("producer.include",), "is empty: the producer takes no file at all")
