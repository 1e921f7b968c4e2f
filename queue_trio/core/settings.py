"""Every setting, its default and its bounds. Durations are seconds, sizes are bytes. Reading files is elsewhere.

Unknown keys are errors: a setting that is spelled wrong must not be ignored. `queue_trio.config` fills these from YAML
and the environment.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from queue_trio.core.dequeue import DEFAULT_WEIGHTS, LaneOrder, Priority
from queue_trio.core.job import check_queue
from queue_trio.errors import UsageError

Seconds = Annotated[float, Field(gt=0, le=86400 * 366, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    # An error that quotes its input could quote a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _as_value_error(text: str) -> str:
    try:
        for entry in text.split(","):
            check_queue(entry.partition(":")[0].strip())
        LaneOrder.parse(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return text


class RedisSettings(_Section):
    """How to reach Redis, and how patient to be with it."""

    url: SecretStr = SecretStr("redis://localhost:6379/0")
    """redis://, rediss:// (TLS) or unix:// address, with user, password and database if needed."""
    prefix: str = "qt"
    """What every key begins with; tells several installations on one Redis apart."""
    tls_ca_file: str | None = None
    """Certificate authority to trust instead of the system's, for rediss://."""
    tls_cert_file: str | None = None
    """Client certificate, for rediss:// with mutual TLS."""
    tls_key_file: str | None = None
    """Key of the client certificate."""
    tls_verify: bool = True
    """Whether to check the server's certificate."""
    connect_timeout: Seconds = 2.0
    """For name resolution, connect and TLS together."""
    read_timeout: Seconds = 3.0
    """For one command and its reply."""
    backoff_base: Seconds = 0.05
    """First wait after a failure; doubles with each further one, drawn with full jitter."""
    backoff_cap: Seconds = 1.0
    """Longest wait between two tries."""
    breaker_window: Seconds = 10.0
    """The breaker counts calls and failures over so long."""
    breaker_min_samples: Whole = 5
    """The breaker does not judge by fewer calls than this."""
    breaker_failure_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The breaker opens when this share of the calls in its window failed."""
    breaker_open_wait: Seconds = 0.5
    """How long an open breaker refuses before it lets a probe through; up to half as much again is added at random."""
    max_connections: Whole = 16
    """Connections of one client or worker, at most."""

    @property
    def recovery(self) -> float:
        """The longest it takes to get through again after an outage: a call under way, a wait, the breaker."""
        return self.read_timeout + self.backoff_cap + 1.5 * self.breaker_open_wait

    @field_validator("prefix")
    @classmethod
    def _plain_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_\-.:]{1,64}", value):
            raise ValueError("use 1 to 64 letters, digits, '_', '-', '.' or ':'")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backoff_base > self.backoff_cap:
            raise ValueError(
                f"backoff_base ({self.backoff_base:g} s) must be no more than backoff_cap ({self.backoff_cap:g} s)"
            )
        return self


class WorkerSettings(_Section):
    """How a worker runs jobs."""

    queues: Annotated[str, AfterValidator(_as_value_error)] = "default"
    """Queues to serve: "emails,default" in that order, or by weight "emails:3,default:1"."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Jobs that run at once."""
    threads: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Jobs of `run_in="thread"` that run at once; by default as many as `concurrency`. With fewer, a claimed job may
    wait for a thread."""
    processes: Annotated[int, Field(ge=1, le=256)] = 2
    """Jobs of `run_in="process"` that run at once."""
    lease: Annotated[float, Field(ge=0.3, le=86400)] = 30.0
    """A worker that is not heard of for so long loses its jobs to others."""
    sweep_interval: Seconds = 2.0
    """How often to look for due jobs and expired leases, give or take a quarter; at most a third of `lease` counts."""
    poll_interval: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """An idle worker looks for jobs this often even if nothing wakes it."""
    shutdown_grace: Annotated[float, Field(ge=0, le=86400)] = 25.0
    """On SIGTERM, how long running jobs may take to finish before they are cancelled and given back."""
    timeout: Seconds = 300.0
    """How long a job may run, unless its task says otherwise."""
    max_retries: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often a failed job is run again, unless its task says otherwise."""
    retry_base: Seconds = 1.0
    """Longest wait before the first retry; doubles with each further one, drawn with full jitter."""
    retry_cap: Seconds = 600.0
    """Longest wait before a retry."""
    max_crashes: Annotated[int, Field(ge=0, le=1000)] = 3
    """A job whose worker was lost more often than this is poison and goes to the dead letters."""
    unknown_task_delay: Seconds = 10.0
    """A job whose task this worker does not know is given back for so long, so that a newer worker can have it."""
    max_result: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Largest encoded result that is kept; a job with a larger one goes to the dead letters."""
    stall_limit: Seconds = 1.0
    """A handler that blocks the event loop for longer is reported by name."""
    dequeue_strategy: Literal["strict", "weighted", "looped"] = "strict"
    """How priorities are served; see docs/priority.md."""
    weights: dict[Priority, Whole] = dict(DEFAULT_WEIGHTS)
    """For `weighted`: how many claims in a row of their sum each priority leads. What is left out keeps its default."""
    looped_wait: Annotated[float, Field(ge=0.01, le=60)] = 0.1
    """For `looped`: how long each priority's blocking move waits."""

    @property
    def thread_limit(self) -> int:
        return self.concurrency if self.threads is None else self.threads

    @property
    def lease_ms(self) -> int:
        return round(self.lease * 1000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.retry_base > self.retry_cap:
            raise ValueError(
                f"retry_base ({self.retry_base:g} s) must be no more than retry_cap ({self.retry_cap:g} s)"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _complete(cls, value: dict[Priority, int]) -> dict[Priority, int]:
        return dict(DEFAULT_WEIGHTS) | value


class ClientSettings(_Section):
    """How enqueueing behaves."""

    timeout: Seconds = 30.0
    """How long an enqueue keeps trying through an outage before it raises."""
    max_payload: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Largest encoded record."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Most jobs waiting in a queue before enqueue is refused; 0 for no limit."""
    on_full: Literal["refuse", "wait"] = "refuse"
    """At `max_length`: refuse raises QueueFull at once, wait tries again for up to `timeout` first."""
    on_outage: Literal["wait", "fail"] = "wait"
    """While Redis cannot be reached: wait tries for up to `timeout`, fail raises CircuitOpen at once."""


class ProducerSettings(_Section):
    """What the folder producer picks up."""

    include: tuple[str, ...] = ("**/*",)
    """Globs, relative to the folder, of files to take."""
    exclude: tuple[str, ...] = ("**/__pycache__/**", "**/.git/**", "**/site-packages/**")
    """Globs of files to leave out; they win over include."""
    priorities: dict[str, Priority] = {}
    """Priority by file extension, such as {".py": "high"}; everything else is normal."""
    remember: Seconds = 30 * 86400.0
    """An unchanged file is not enqueued again within so long."""
    batch: Annotated[int, Field(ge=1, le=500)] = 200
    """Files per enqueue call."""


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    format: Literal["auto", "console", "json"] = "auto"
    """With auto, console on a terminal and JSON elsewhere."""
    repeat_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Lines of one kind within `repeat_window`; what is more is counted, and the count is logged at its end."""
    repeat_window: Seconds = 10.0
    """How long lines of one kind are counted for `repeat_limit`."""


class HttpSettings(_Section):
    """The worker's own small server: /healthz, /readyz, /metrics, and a page for people at /."""

    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """TCP port; 0 picks a free one and logs it, null serves nothing."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. Anything but loopback shows the queues to whoever can reach it: set `token` too."""
    token: SecretStr | None = None
    """If set, every request must bring it, as `Authorization: Bearer TOKEN` or as the password of HTTP Basic."""
    stall_limit: Seconds = 10.0
    """/healthz fails when the event loop was stuck for longer."""

    @field_validator("host")
    @classmethod
    def _plain_host(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z:._%-]+", value):
            raise ValueError(
                "use a host name or an address, without scheme, port and brackets, such as 0.0.0.0 or ::1"
            )
        return value

    @field_validator("token")
    @classmethod
    def _usable_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("use 1 or more visible ASCII characters, no spaces; null asks for no token")
        return value


class MetricsSettings(_Section):
    """What /metrics shows; counted only while there is an HTTP port."""

    interval: Seconds = 5.0
    """How often to ask Redis for the lengths of the queues: one script call for each queue served."""
    jitter: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of `interval` by which each wait is made longer or shorter at random."""
    tasks: tuple[str, ...] | None = None
    """Task names that get series of their own; null for all that the app declares. The rest is counted as `other`."""
    max_tasks: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Of those, so many at most, in the order of their declaration."""


class TracingSettings(_Section):
    """OpenTelemetry: spans for enqueue, claim, run and settle, and trace ids in the log."""

    enabled: bool = False
    """Whether to trace. Needs the extra `tracing`: pip install 'queue-trio[tracing]'."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]")] = "http://localhost:4318/v1/traces"
    """Where spans go: OTLP over HTTP."""
    headers: dict[str, SecretStr] = {}
    """HTTP headers for the collector, such as its API key. Names are in lower case, however they are written."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces that are kept, for jobs that do not belong to a trace already."""
    service_name: Annotated[str, Field(min_length=1)] = "queue-trio"
    """What the traces are filed under; the app's name is an attribute beside it."""
    timeout: Seconds = 2.0
    """How long one export may take before its spans are dropped."""
    shutdown_timeout: Annotated[float, Field(ge=0, le=60)] = 1.0
    """How long the end of the program waits for the last spans."""
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    """Spans that wait for export; what is more is dropped and counted."""

    @field_validator("headers")
    @classmethod
    def _sendable_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        lower: dict[str, SecretStr] = {}
        for name, secret in value.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise ValueError(f"{name!r} cannot be a header's name: use letters, digits and '-'")
            if name.lower() in lower:
                raise ValueError(
                    f"{name.lower()} is there twice; upper and lower case are the same in headers"
                )
            if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", secret.get_secret_value()):
                raise ValueError(
                    f"{name} must be 1 or more printable ASCII characters, without spaces at its ends"
                )
            lower[name.lower()] = secret
        return lower


class Settings(_Section):
    """Everything."""

    redis: RedisSettings = RedisSettings()
    worker: WorkerSettings = WorkerSettings()
    client: ClientSettings = ClientSettings()
    producer: ProducerSettings = ProducerSettings()
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
