"""What spans say and how they hang together, and that a collector in whatever state harms nobody but them."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace

from queue_trio import App
from queue_trio.context import JobInScope, job_in_scope
from queue_trio.core.job import Outcome, Verdict
from queue_trio.core.settings import TracingSettings
from queue_trio.errors import ConfigError, QueueFull
from queue_trio.tracing.provider import open_spans
from queue_trio.tracing.spans import Spans, parse_traceparent
from tests.ops.collector import Collector, collecting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queue_trio.app import Job

app = App("traced")


@app.task(name="render", queue="images")
async def render(number: int = 0) -> None: ...


@app.task(name="mail", queue="mails")
async def mail() -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """What a test makes current is gone after it."""
    job = job_in_scope.set(None)
    token = otel_context.attach(otel_context.Context())
    yield
    otel_context.detach(token)
    job_in_scope.reset(job)


def opened(collector: Collector | str, **settings: Any) -> Spans:
    url = collector if isinstance(collector, str) else collector.url
    return open_spans(TracingSettings.model_validate({"endpoint": url} | settings), "traced")


def enqueue(spans: Spans, *jobs: Job) -> list[str]:
    with spans.enqueue(jobs) as traceparents:
        return traceparents


def ran(
    spans: Spans, traceparent: str | None, job: str = "1", *, error: BaseException | None = None
) -> JobInScope:
    """What the executor does with one job."""
    scope = JobInScope(job, "render", "images", 2)
    token = otel_context.attach(otel_context.get_current())
    run = spans.run(scope, spans.arrived(None, scope, traceparent), "worker-1")
    if run is not None:
        if error is not None:
            run.fail(error)
        run.end(Outcome(job, "w:1", Verdict.RETRY if error else Verdict.DONE))
    otel_context.detach(token)
    return scope


def test_a_job_in_one_trace_from_enqueue_to_settle(collector: Collector) -> None:
    spans = opened(collector, service_name="shop", headers={"X-Key": "k3y"})
    job = render.job(1)
    (traceparent,) = enqueue(spans, job)
    scope = JobInScope(job.id, "render", "images", 1)
    receipt = spans.claimed("images", spans.now_ns(), 1)
    parent = spans.arrived(receipt, scope, traceparent)
    run = spans.run(scope, parent, "worker-1")
    assert run is not None
    outcome = Outcome(job.id, "w:1")
    run.end(outcome)
    spans.settled("images", spans.now_ns(), [outcome], [True])
    assert spans.flush(10)

    assert [span.name for span in collector.spans] == [
        "enqueue images", "claim images", "run render", "settle images",
    ]  # fmt: skip
    sent, claim, process, settle = collector.spans
    assert {span.trace for span in collector.spans} == {sent.trace}
    assert sent.parent == ""
    assert (claim.parent, process.parent, settle.parent) == (sent.id, sent.id, process.id)
    assert [span.kind for span in collector.spans] == ["PRODUCER", "CLIENT", "CONSUMER", "CLIENT"]
    assert traceparent[:-2] == f"00-{sent.trace}-{sent.id}-"
    assert int(traceparent[-2:], 16) & 1, "sampled"
    common = {
        "messaging.system": "queue_trio",
        "messaging.destination.name": "images",
        "messaging.message.id": job.id,
    }
    kinds = {"enqueue": "send", "claim": "receive", "run": "process", "settle": "settle"}
    for span, (name, kind) in zip(collector.spans, kinds.items(), strict=True):
        wanted = common | {"messaging.operation.name": name, "messaging.operation.type": kind}
        assert wanted.items() <= span.attributes.items()
        assert span.began <= span.ended
        assert span.status == "UNSET"
    assert process.attributes["queue_trio.task"] == sent.attributes["queue_trio.task"] == "render"
    assert process.attributes["queue_trio.attempt"] == 1
    assert process.attributes["queue_trio.outcome"] == "done"
    assert process.attributes["messaging.client.id"] == "worker-1"
    assert sent.resource["service.name"] == "shop"
    assert sent.resource["queue_trio.app"] == "traced"
    assert {header["x-key"] for header in collector.headers} == {"k3y"}
    assert (scope.trace_id, scope.span_id) == (process.trace, process.id)


def test_calls_about_several_jobs_link_to_them(collector: Collector) -> None:
    spans = opened(collector)
    first, second = enqueue(spans, render.job(), render.job())
    assert first[3:35] != second[3:35], "outside of any trace, each job is one"
    receipt = spans.claimed("images", spans.now_ns(), 4)
    outcomes = []
    for number, traceparent in enumerate((first, None, second, f"00-{1:032x}-{1:016x}-00")):
        job = str(number)
        scope = JobInScope(job, "render", "images", 1)
        parent = spans.arrived(receipt, scope if number != 1 else None, traceparent)
        outcomes.append(Outcome(job, "w:1"))
        if parent is not None:
            run = spans.run(scope, parent)
            assert run is not None
            run.end(outcomes[-1])
    spans.settled("images", spans.now_ns(), outcomes, [True, True, True, False])
    spans.flush(10)
    (claim,), (settle,), runs = collector.named("claim"), collector.named("settle"), collector.named("run")
    sent = collector.named("enqueue")
    assert set(claim.links) == {(span.trace, span.id) for span in sent}
    assert set(settle.links) == {(span.trace, span.id) for span in runs}
    assert claim.parent == settle.parent == ""
    assert claim.attributes["messaging.batch.message_count"] == 4
    assert settle.attributes["messaging.batch.message_count"] == 4
    assert settle.attributes["queue_trio.stale"] == 1
    assert not spans._unsettled


def test_inside_a_trace_a_call_is_one_span_of_it(collector: Collector) -> None:
    spans = opened(collector)
    outer = spans.tracer.start_span("request")
    with trace.use_span(outer, end_on_exit=True):
        found = enqueue(spans, render.job(), render.job(), mail.job())
    spans.flush(10)
    (sent,) = collector.named("enqueue")
    assert {text[:-2] for text in found} == {f"00-{sent.trace}-{sent.id}-"}
    assert sent.parent == collector.named("request")[0].id
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert "messaging.destination.name" not in sent.attributes, "there are two"


def test_a_job_enqueued_by_a_handler_belongs_to_its_run(collector: Collector) -> None:
    spans = opened(collector)
    scope = JobInScope("1", "render", "images", 1)
    run = spans.run(scope, spans.arrived(None, scope, enqueue(spans, render.job())[0]))
    assert run is not None
    enqueue(spans, mail.job())
    run.end(Outcome("1", "w:1"))
    spans.flush(10)
    assert collector.named("enqueue mails")[0].parent == collector.named("run")[0].id


@pytest.mark.parametrize("flags", ["00", "02"])
def test_what_is_not_sampled_makes_no_span_and_is_passed_on(collector: Collector, flags: str) -> None:
    spans = opened(collector)
    traceparent = f"00-{'ab' * 16}-{'cd' * 8}-{flags}"
    scope = ran(spans, traceparent)
    job_in_scope.set(scope)
    assert enqueue(spans, mail.job(), mail.job()) == [traceparent] * 2
    with trace.use_span(trace.NonRecordingSpan(parse_traceparent(traceparent) or trace.INVALID_SPAN_CONTEXT)):
        assert enqueue(spans, mail.job()) == [traceparent]
    assert spans.flush(10)
    assert collector.requests == 0


def test_the_decision_not_to_sample_is_made_once(collector: Collector) -> None:
    spans = opened(collector, sample_ratio=0)
    (first,) = enqueue(spans, render.job())
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", first)
    keeps_all = opened(collector)
    assert ran(keeps_all, first).traceparent == first
    # A job from a client that does not trace: the worker decides, and what its handler enqueues follows.
    scope = ran(spans, None)
    job_in_scope.set(scope)
    (passed,) = enqueue(keeps_all, mail.job())
    assert passed.endswith("-00")
    assert enqueue(keeps_all, mail.job()) == [passed], "all of one run in one trace"
    assert spans.flush(10)
    assert keeps_all.flush(10)
    assert collector.requests == 0


def test_the_ratio_is_kept_for_each_job_of_a_batch(collector: Collector) -> None:
    spans = opened(collector, sample_ratio=0.1, queue_size=10_000)
    found = enqueue(spans, *(render.job() for _ in range(3000)))
    sampled = [text for text in found if int(text[-2:], 16) & 1]
    assert 200 < len(sampled) < 400
    assert len({text[3:35] for text in found}) == 3000
    spans.flush(10)
    assert {f"00-{span.trace}-{span.id}-" for span in collector.spans} == {text[:-2] for text in sampled}


def test_a_job_without_a_trace_begins_one_where_it_runs(collector: Collector) -> None:
    spans = opened(collector)
    for text in (None, "nonsense", f"00-{0:032x}-{1:016x}-01", f"ff-{1:032x}-{1:016x}-01"):
        ran(spans, text)
    spans.flush(10)
    assert [span.parent for span in collector.named("run")] == [""] * 4


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (f"00-{1:032x}-{1:016x}-01", True),
        (f"cc-{1:032x}-{1:016x}-01-and-more", True),
        (f"00-{1:032x}-{1:016x}-01-and-more", False),
        (f"00-{1:032X}-{'AB' * 8}-01", False),
        (f"00-{1:032x}-{0:016x}-01", False),
        ("", False),
    ],
)
def test_traceparents(text: str, valid: bool) -> None:
    assert (parse_traceparent(text) is not None) == valid


def test_an_error_is_told_by_type_and_message_without_secrets(collector: Collector) -> None:
    spans = opened(collector)
    ran(spans, None, error=ValueError("cannot reach redis://me:hunter2@host \ud800" + "x" * 5000))
    with pytest.raises(QueueFull), spans.enqueue((render.job(),)):
        raise QueueFull("1 of 1 jobs refused")
    assert spans.flush(10)
    (run,), (sent,) = collector.named("run"), collector.named("enqueue")
    assert (run.status, sent.status) == ("ERROR", "ERROR")
    assert run.attributes["error.type"] == "ValueError"
    assert run.attributes["queue_trio.outcome"] == "retry"
    assert run.message.startswith("cannot reach redis://me:***@host \\ud800x")
    assert len(run.message) < 1100
    assert run.events[0] == (
        "exception", {"exception.type": "ValueError", "exception.message": run.message},
    )  # fmt: skip
    assert sent.attributes["error.type"] == "queue_trio.errors.QueueFull"
    assert not any(b"hunter2" in body for body in collector.bodies)


def test_what_is_no_job_is_the_clients_to_refuse(collector: Collector) -> None:
    spans = opened(collector)
    not_a_job: Any = render
    with pytest.raises(LookupError), spans.enqueue((not_a_job,)):
        raise LookupError("refused")
    assert spans.flush(10)
    assert collector.named("enqueue")[0].status == "ERROR"


# --- whose SDK -----------------------------------------------------------------------------------------------------


def test_a_provider_of_the_programs_own_is_used_and_decides(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    spans = opened(collector, sample_ratio=0)
    ran(spans, enqueue(spans, render.job())[0])
    assert [span.name for span in kept.get_finished_spans()] == ["enqueue images", "run render"]
    assert spans.flush()
    assert spans.dropped == 0

    unsampled = f"00-{'ab' * 16}-{'cd' * 8}-00"
    scope = JobInScope("1", "render", "images", 1)
    assert spans.run(scope, spans.arrived(None, scope, unsampled)) is None
    assert not trace.get_current_span().is_recording()
    assert trace.get_current_span().get_span_context().trace_id == int("ab" * 16, 16)
    assert enqueue(spans, mail.job()) == [unsampled]
    assert len(kept.get_finished_spans()) == 2
    otel_context.attach(otel_context.Context())

    monkeypatch.setattr(
        trace, "_TRACER_PROVIDER", TracerProvider(ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    )
    (traceparent,) = enqueue(opened(collector), render.job())
    assert traceparent.endswith(("-00", "-02"))
    assert ran(opened(collector), traceparent).traceparent == traceparent
    assert collector.requests == 0


@pytest.mark.parametrize(
    "missing", ["opentelemetry", "opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"]
)
def test_without_the_extra_one_line_says_what_to_do(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "queue_trio.tracing.spans", raising=False)
    monkeypatch.delitem(sys.modules, "queue_trio.tracing.export", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"^tracing.enabled: .*pip install 'queue-trio\[tracing\]'"):
        opened("http://127.0.0.1:1/")


def test_proxies_and_netrc_of_the_environment_are_not_used(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
    spans = opened(collector, service_name="shop")
    enqueue(spans, render.job())
    assert spans.flush(10)
    assert collector.spans[0].resource["service.name"] == "shop"


# --- what a collector may do ---------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    from structlog.testing import capture_logs

    monkeypatch.setattr("queue_trio.tracing.export.log", structlog.get_logger())
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_collector_that_is_not_there_costs_its_spans(said: list[dict[str, Any]]) -> None:
    spans = opened(f"http://me:hunter2@127.0.0.1:{free_port()}/v1/traces", timeout=0.3, queue_size=5)
    enqueue(spans, *(render.job() for _ in range(9)))
    assert spans.flush(10)
    assert spans.dropped == 9
    assert [line["event"] for line in said] == ["tracing.spans_dropped"], "one line, and it is not repeated"
    assert "hunter2" not in repr(said)


def test_a_collector_that_refuses_slowly(said: list[dict[str, Any]]) -> None:
    with collecting("500", delay_s=0.2) as collector:
        spans = opened(collector, timeout=1.0)
        enqueue(spans, render.job())
        assert spans.flush(10)
        assert spans.dropped == 1
        assert "500" in said[0]["reason"]
        collector.answer = "ok"
        enqueue(spans, render.job())
        assert spans.flush(10)
        assert len(collector.spans) == 1, "it goes on when the collector is back"


def test_nobody_waits_for_a_collector_that_never_answers(said: list[dict[str, Any]]) -> None:
    with collecting("hang") as collector:
        spans = opened(collector, timeout=0.5, queue_size=10)
        began = time.monotonic()
        enqueue(spans, *(render.job() for _ in range(100)))
        assert not spans.flush(0.1)
        assert time.monotonic() - began < 0.5
        assert spans.dropped >= 90
        collector.closing.set()
        assert spans.flush(10)
    assert spans.dropped == 100


def test_a_key_that_the_collector_quotes_when_it_refuses_is_not_shown(said: list[dict[str, Any]]) -> None:
    with collecting("401") as collector:
        spans = opened(collector, headers={"X-Key": "sesame-17"})
        enqueue(spans, render.job())
        assert spans.flush(10)
    assert said[0]["reason"].endswith("reason: no such key: ***")


def test_losses_are_told_again_only_after_a_while(said: list[dict[str, Any]]) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from queue_trio.tracing.export import QUIET_S, Export

    def no_exporter() -> SpanExporter:
        raise OSError("no sockets left")

    now = [0.0]
    export = Export(no_exporter, queue_size=10, clock=lambda: now[0])
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export)
    for at in (0.0, 1.0, 2.0, QUIET_S):
        now[0] = at
        provider.get_tracer("x").start_span("x").end()
        assert export.flush(10)
    assert [line["count"] for line in said] == [1, 3]
    assert said[0]["reason"] == "OSError: no sockets left"


def test_without_a_thread_to_send_them_spans_are_lost_and_nothing_else(
    collector: Collector, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = opened(collector)
    with monkeypatch.context() as patch:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        enqueue(spans, render.job())
    assert spans.dropped == 1
    assert said[0]["reason"] == "can't start new thread"
    enqueue(spans, render.job())
    assert spans.flush(10)
    assert len(collector.spans) == 1


def test_a_forked_process_sends_its_own_spans_and_nothing_of_its_parents(collector: Collector) -> None:
    spans = opened(collector)
    enqueue(spans, render.job(1))  # waits in the parent
    child = os.fork()
    if child == 0:
        try:
            enqueue(spans, mail.job())
            os._exit(0 if spans.flush(10) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [span.name for span in collector.spans] == ["enqueue mails"]
    assert spans.flush(10)
    assert sorted(span.name for span in collector.spans) == ["enqueue images", "enqueue mails"]


def test_threads_lose_no_span(collector: Collector) -> None:
    spans = opened(collector, queue_size=100_000)

    def some() -> None:
        for _ in range(500):
            enqueue(spans, render.job())

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spans.flush(20)
    assert len({span.id for span in collector.spans}) == 2000
    assert spans.dropped == 0
