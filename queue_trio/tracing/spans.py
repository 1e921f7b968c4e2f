"""The spans that clients and the runtime make: enqueue, claim, run and settle, named by the messaging conventions.

Imports OpenTelemetry's API, so whoever may run without tracing imports this late and holds `Spans | None`. It does not
know the SDK: `tracing.provider` makes one, or takes the program's own. Why the spans hang together as they do:
docs/decisions/ on tracing.

    enqueue ◄─── child ─── run      in one trace, whoever runs it and however often
    claim, settle                   children of those if they are about one job; about several, traces of their own
                                    that link to them

What is not sampled costs no span: that is decided here, before anything is made.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags

from queue_trio.context import job_in_scope
from queue_trio.core.job import Verdict
from queue_trio.masking import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from queue_trio.app import Job
    from queue_trio.context import JobInScope
    from queue_trio.core.job import Outcome

SYSTEM: Final = "queue_trio"
TEXT_LENGTH_MAX: Final = 1000
"""Characters of an error's message that go into its span."""

# https://www.w3.org/TR/trace-context/: later versions may append fields.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_PARENT: Final = otel_context.Context()


class Spans:
    """One per app and process. `ratio`: share of new traces that are kept; None leaves that to the tracer's sampler.

    `flush(seconds)` waits so long, at most, for spans to get away and tells whether all did; `dropped()` counts those
    that never will. Both are whoever exports the spans'. Safe for any thread.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        ratio: float | None,
        flush: Callable[[float], bool] = lambda seconds: True,
        dropped: Callable[[], int] = lambda: 0,
        flush_timeout_s: float = 0.0,
        now_ns: Callable[[], int] = time.time_ns,
        getrandbits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        self.tracer = tracer
        self.now_ns = now_ns
        self.flush_timeout_s = flush_timeout_s
        self._flush = flush
        self._dropped = dropped
        self._bound = None if ratio is None else round(ratio * 2**53)
        self._getrandbits = getrandbits
        self._unsettled: dict[tuple[str, str], SpanContext] = {}

    @property
    def dropped(self) -> int:
        """Spans that were made and will never arrive."""
        return self._dropped()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all spans are sent, by default for `tracing.shutdown_timeout`. Blocks; False if some are left."""
        return self._flush(self.flush_timeout_s if timeout_s is None else timeout_s)

    # --- enqueue -----------------------------------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[Job]) -> Enqueue:
        """`with spans.enqueue(jobs) as traceparents`: one for each job's record; the block is the time it takes.

        Inside a trace the whole call is one span of it (of an iterator, each portion). Outside of any, each job begins
        a trace of its own, or a large batch would be sampled all or nothing.
        """
        here = trace.get_current_span().get_span_context()
        if here.is_valid:
            if not here.trace_flags & TraceFlags.SAMPLED:
                return Enqueue([_traceparent(here)] * len(jobs))
            span = self._start_enqueue(jobs, None)
            return Enqueue([_traceparent(span.get_span_context())] * len(jobs), [span])
        scope = job_in_scope.get()
        if scope is not None and scope.traceparent is not None:
            scope.traceparent = scope.traceparent or self._unsampled()
            return Enqueue([scope.traceparent] * len(jobs))
        traceparents, spans = [], []
        for job in jobs:
            if self._keeps_new_trace():
                span = self._start_enqueue((job,), _NO_PARENT)
                spans.append(span)
                traceparents.append(_traceparent(span.get_span_context()))
            else:
                traceparents.append(self._unsampled())
        return Enqueue(traceparents, spans)

    def _start_enqueue(self, jobs: Sequence[Job], context: Context | None) -> Span:
        # What is no Job is found out later, by whoever reads it: here it must only do no harm.
        tasks = {task for job in jobs if (task := getattr(job, "task", None)) is not None}
        queues = {task.queue for task in tasks}
        queue = queues.pop() if len(queues) == 1 else None
        attributes = _attributes("enqueue", "send", queue)
        if len(tasks) == 1:
            attributes["queue_trio.task"] = tasks.pop().name
        if len(jobs) == 1:
            attributes["messaging.message.id"] = getattr(jobs[0], "id", "")
        else:
            attributes["messaging.batch.message_count"] = len(jobs)
        name = f"enqueue {queue}" if queue is not None else "enqueue"
        return self.tracer.start_span(name, context, SpanKind.PRODUCER, attributes)

    # --- claim -------------------------------------------------------------------------------------------------------

    def claimed(self, queue: str, began_ns: int, jobs: int) -> Receipt:
        """A claim that brought jobs: its span is made when `arrived` was called for each, if any of them is sampled."""
        return Receipt(queue, began_ns, self.now_ns(), jobs)

    def arrived(
        self, receipt: Receipt | None, scope: JobInScope | None, traceparent: str | None
    ) -> SpanContext | None:
        """Note a job that was claimed, and what its trace is. Returns the parent for its run's span, if sampled.

        `scope`: None for a job that cannot be read.
        """
        parent = None
        if traceparent is not None and scope is not None:
            if traceparent.endswith("-00") and len(traceparent) == 55:
                scope.traceparent = traceparent  # the usual one, when few traces are kept
            else:
                parent = parse_traceparent(traceparent)
                if parent is not None and not parent.trace_flags & TraceFlags.SAMPLED:
                    scope.traceparent, parent = traceparent, None
        if receipt is not None:
            receipt.left -= 1
            if parent is not None:
                receipt.parents.append((parent, scope.job if scope is not None else ""))
            if not receipt.left and receipt.parents:
                self._end_claim(receipt)
        return parent

    def _end_claim(self, receipt: Receipt) -> None:
        attributes = _attributes("claim", "receive", receipt.queue)
        self._about(
            receipt.parents,
            receipt.jobs,
            f"claim {receipt.queue}",
            attributes,
            receipt.began_ns,
            receipt.ended_ns,
        )

    # --- run ---------------------------------------------------------------------------------------------------------

    def run(self, scope: JobInScope, parent: SpanContext | None, worker: str = "") -> Run | None:
        """Begin the span of one attempt, as a child of what enqueued it, in the current task. None if not sampled.

        A job without a trace, from a client that does not trace, begins one.
        """
        if scope.traceparent is not None or (parent is None and not self._keeps_new_trace()):
            scope.traceparent = scope.traceparent or ""
            if self._bound is None and (unsampled := parse_traceparent(scope.traceparent)) is not None:
                # The program has instruments of its own, and what they see in the handler follows as well.
                otel_context.attach(_as_context(unsampled))
            return None
        attributes = _attributes("run", "process", scope.queue)
        attributes["messaging.message.id"] = scope.job
        attributes["messaging.client.id"] = worker
        attributes["queue_trio.task"] = scope.task
        attributes["queue_trio.attempt"] = scope.attempt
        context = _NO_PARENT if parent is None else _as_context(parent)
        span = self.tracer.start_span(f"run {scope.task}", context, SpanKind.CONSUMER, attributes)
        found = span.get_span_context()
        scope.trace_id = trace.format_trace_id(found.trace_id)
        scope.span_id = trace.format_span_id(found.span_id)
        # Never detached: the context is the job's task's own, and ends with it.
        otel_context.attach(trace.set_span_in_context(span, _NO_PARENT))
        return Run(self, span)

    # --- settle ------------------------------------------------------------------------------------------------------

    def settled(
        self, queue: str, began_ns: int, outcomes: Sequence[Outcome], accepted: Sequence[bool]
    ) -> None:
        """A settle call that was answered."""
        unsettled = self._unsettled
        if not unsettled:
            return
        runs = [
            (context, outcome.id)
            for outcome in outcomes
            if (context := unsettled.pop((outcome.token, outcome.id), None)) is not None
        ]
        if not runs:
            return
        attributes = _attributes("settle", "settle", queue)
        stale = len(outcomes) - sum(accepted)
        if stale:
            attributes["queue_trio.stale"] = stale
        self._about(runs, len(outcomes), f"settle {queue}", attributes, began_ns, self.now_ns())

    def expect_settle(self, span: Span, outcome: Outcome) -> None:
        """A run has ended with this outcome: remember its span until the outcome is settled."""
        context = span.get_span_context()
        if context.trace_flags & TraceFlags.SAMPLED:
            self._unsettled[outcome.token, outcome.id] = context

    # --- parts -------------------------------------------------------------------------------------------------------

    def _about(
        self,
        jobs: Sequence[tuple[SpanContext, str]],
        total: int,
        name: str,
        attributes: dict[str, Any],
        began_ns: int,
        ended_ns: int,
    ) -> None:
        """The span of a call about `total` jobs, of which `jobs`, by context and id, are sampled."""
        if total == 1:
            context, links = _as_context(jobs[0][0]), None
            attributes["messaging.message.id"] = jobs[0][1]
        else:
            context = _NO_PARENT
            links = [Link(link, {"messaging.message.id": job_id}) for link, job_id in jobs]
            attributes["messaging.batch.message_count"] = total
        span = self.tracer.start_span(name, context, SpanKind.CLIENT, attributes, links, start_time=began_ns)
        span.end(ended_ns)

    def _keeps_new_trace(self) -> bool:
        return self._bound is None or self._getrandbits(53) < self._bound

    def _unsampled(self) -> str:
        """A new trace that nobody keeps: whoever meets it must not decide again."""
        text = self._getrandbits(192).to_bytes(24).hex()
        return f"00-{text[:32]}-{text[32:]}-00"


class Enqueue:
    """One call of a client; see `Spans.enqueue`."""

    __slots__ = ("_spans", "_traceparents")

    def __init__(self, traceparents: list[str], spans: Sequence[Span] = ()) -> None:
        self._traceparents = traceparents
        self._spans = spans

    def __enter__(self) -> list[str]:
        return self._traceparents

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for span in self._spans:
            if error is not None:
                _record(span, error)
            span.end()


class Receipt:
    """A claim whose jobs have not all been read yet. `parents`: of the sampled ones, with their ids."""

    __slots__ = ("began_ns", "ended_ns", "jobs", "left", "parents", "queue")

    def __init__(self, queue: str, began_ns: int, ended_ns: int, jobs: int) -> None:
        self.queue = queue
        self.began_ns = began_ns
        self.ended_ns = ended_ns
        self.jobs = jobs
        self.left = jobs
        self.parents: list[tuple[SpanContext, str]] = []


class Run:
    """The span of one attempt that is under way."""

    __slots__ = ("_failed", "_span", "_spans")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans = spans
        self._span = span
        self._failed = False

    def note(self, event: str) -> None:
        """Mark a moment of it."""
        self._span.add_event(event)

    def fail(self, error: BaseException) -> None:
        """The attempt failed."""
        self._failed = True
        _record(self._span, error)

    def end(self, outcome: Outcome | None) -> None:
        """The attempt is over; None if its lease is another's now."""
        self._span.set_attribute("queue_trio.outcome", "lost" if outcome is None else outcome.verdict.value)
        if outcome is not None and outcome.verdict is Verdict.DEAD and not self._failed:
            self._span.set_status(StatusCode.ERROR, "it returned what cannot be kept")
        self._span.end()
        if outcome is not None:
            self._spans.expect_settle(self._span, outcome)


def parse_traceparent(text: str) -> SpanContext | None:
    """The span context in a W3C traceparent, None if it is not one."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    context = SpanContext(int(found[2], 16), int(found[3], 16), True, TraceFlags(int(found[4], 16)))
    return context if context.is_valid else None


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _as_context(parent: SpanContext) -> Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), _NO_PARENT)


def _attributes(name: str, kind: str, queue: str | None) -> dict[str, Any]:
    attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    return attributes


def _record(span: Span, error: BaseException) -> None:
    """An error on its span: type and masked message. No stack trace, which belongs to the log and the dead letters."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # it is the user's code, and already failing
        text = "<its str() failed>"
    shown = mask(text[: 4 * TEXT_LENGTH_MAX])[:TEXT_LENGTH_MAX].encode("utf-8", "backslashreplace").decode()
    span.set_attribute("error.type", name)
    span.add_event("exception", {"exception.type": name, "exception.message": shown})
    span.set_status(StatusCode.ERROR, shown)
