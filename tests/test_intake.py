"""Enqueueing many jobs, portion by portion: what is sent, what is drawn, and what is said when something fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from queue_trio import App
from queue_trio.core.job import Enqueued
from queue_trio.core.store import MAX_BATCH
from queue_trio.errors import DeadlineExceeded, OutcomeUnknown, PayloadTooLarge, QueueFull, ServerUnusable
from queue_trio.intake import Intake
from queue_trio.redis.foreign import run_blocking
from queue_trio.submission import Terms, portions
from queue_trio.tracing.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from queue_trio.app import Job
    from queue_trio.core.job import Lane, NewJob
    from queue_trio.submission import JobId

TIMEOUT_S = 10.0


class Server:
    """An `intake.Port` that notes what is put. `room`: so many jobs are taken in; `failures`: by call, from 1 on."""

    def __init__(self, *, room: int = 1_000_000, failures: dict[int, Exception] | None = None) -> None:
        self.room = room
        self.failures = failures or {}
        self.time = 0.0
        self.slept_s = 0.0
        self.calls = 0
        self.taken: list[str] = []
        self.left: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept_s += seconds

    async def put(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        deadline: float,
        *,
        fail_fast: bool,
        meanwhile: Callable[[], None] | None,
    ) -> list[Enqueued]:
        self.calls += 1
        self.left.append(deadline - self.time)
        if meanwhile is not None:
            meanwhile()
        if (failure := self.failures.get(self.calls)) is not None:
            raise failure
        fits = jobs[: self.room - len(self.taken)]
        self.taken += [job.id for job in fits]
        return [Enqueued.CREATED] * len(fits) + [Enqueued.REFUSED] * (len(jobs) - len(fits))


class Source:
    """A generator of `count` jobs that counts what was made. `last` comes after them."""

    def __init__(self, count: int, last: Callable[[], Job] | None = None) -> None:
        app = App("tests")
        self.task = app.task(name="note")(lambda text="": None)
        self.made: list[str] = []
        self._count = count
        self._last = last

    def jobs(self) -> Iterator[Job]:
        for _ in range(self._count):
            job = self.task.job()
            self.made.append(job.id)
            yield job
        if self._last is not None:
            yield self._last()


def take_in(
    server: Server, source: Source, *, spans: Spans | None = None, wait_for_room: bool = False
) -> list[JobId]:
    made = portions(source.jobs(), now_ms=lambda: 0, max_payload=1_000, spans=spans)
    terms = Terms(TIMEOUT_S, fail_fast=False, wait_for_room=wait_for_room)
    return run_blocking(Intake(server, made, terms, max_length=server.room).run())


def broken() -> Job:
    raise ValueError("the file ends here")


def test_one_portion_is_made_ahead_and_each_has_its_own_time() -> None:
    server, source = Server(), Source(3 * MAX_BATCH + 1)
    assert take_in(server, source) == source.made == server.taken
    assert server.calls == 4
    assert server.left == [TIMEOUT_S] * 4


def test_slow_to_make_is_no_fault_of_the_server() -> None:
    server = Server()

    class Slow(Source):
        def jobs(self) -> Iterator[Job]:
            for job in super().jobs():
                server.time += TIMEOUT_S / MAX_BATCH  # a portion takes all of it
                yield job

    source = Slow(4 * MAX_BATCH)
    assert take_in(server, source) == source.made
    assert server.left == pytest.approx([TIMEOUT_S] * 4)


def test_refused_no_more_is_taken() -> None:
    server, source = Server(room=MAX_BATCH + 10), Source(100 * MAX_BATCH)
    with pytest.raises(QueueFull, match=f"{MAX_BATCH - 10} of {2 * MAX_BATCH} jobs refused") as caught:
        take_in(server, source)
    assert list(caught.value.accepted) == server.taken
    assert caught.value.__notes__ == [f"the first {MAX_BATCH} jobs are queued"]
    assert len(source.made) == 3 * MAX_BATCH


def test_refused_for_too_long_no_more_is_taken() -> None:
    server, source = Server(room=MAX_BATCH + 10), Source(100 * MAX_BATCH)
    with pytest.raises(QueueFull) as caught:
        take_in(server, source, wait_for_room=True)
    assert list(caught.value.accepted) == server.taken == source.made[: MAX_BATCH + 10]
    assert server.slept_s == pytest.approx(TIMEOUT_S)
    assert len(source.made) == 3 * MAX_BATCH


def test_a_failure_on_the_way_says_how_many_are_queued() -> None:
    note = f"the first {MAX_BATCH} jobs are queued"
    unknown = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown) as caught:
        take_in(Server(failures={2: unknown}), Source(3 * MAX_BATCH))
    assert caught.value is unknown
    assert caught.value.__notes__ == [note]
    with pytest.raises(OutcomeUnknown, match=f"only {MAX_BATCH} of {2 * MAX_BATCH} jobs") as caught:
        take_in(Server(failures={2: DeadlineExceeded("away")}), Source(3 * MAX_BATCH))
    assert caught.value.__notes__ == [note]
    with pytest.raises(ServerUnusable) as unusable:
        take_in(Server(failures={1: ServerUnusable("X", "no")}), Source(3 * MAX_BATCH))
    assert not hasattr(unusable.value, "__notes__")


def test_what_fails_in_the_iterator_is_raised_when_its_turn_comes() -> None:
    server, source = Server(), Source(2 * MAX_BATCH + 10, last=broken)
    with pytest.raises(ValueError, match="the file ends here") as caught:
        take_in(server, source)
    assert caught.value.__notes__ == [f"the first {2 * MAX_BATCH} jobs are queued"]
    assert server.taken == source.made[: 2 * MAX_BATCH]


def test_of_two_failures_both_are_told() -> None:
    source = Source(MAX_BATCH + 10, last=broken)
    with pytest.raises(OutcomeUnknown) as caught:
        take_in(Server(failures={1: OutcomeUnknown("no answer")}), source)
    assert caught.value.__notes__ == ["and what the jobs came from failed: ValueError('the file ends here')"]


@pytest.mark.parametrize(
    ("server", "last", "ends"),
    [
        (Server(), None, [None] * 3),
        (Server(), broken, [None] * 2),
        (Server(failures={2: OutcomeUnknown("no")}), None, [None, "OutcomeUnknown", None]),
        (Server(room=MAX_BATCH + 1), None, [None, "QueueFull", None]),
    ],
    ids=["well", "iterator", "server", "full"],
)
def test_every_span_ends(server: Server, last: Callable[[], Job] | None, ends: list[str | None]) -> None:
    """One for each portion, because they are all within one trace; with the error, if it was sent and failed."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    spans = Spans(tracer, ratio=1.0)
    error = None
    with tracer.start_as_current_span("caller"):
        try:
            take_in(server, Source(2 * MAX_BATCH + 10, last), spans=spans)
        except Exception as caught:  # noqa: BLE001  # judged below
            error = caught
    assert (error is None) == (last is None and set(ends) == {None})
    found = [span for span in exporter.get_finished_spans() if span.name != "caller"]
    assert [error_of(span) for span in found] == ends


def test_the_span_of_a_portion_that_cannot_be_made_ends_with_the_error() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    source = Source(0)
    source._last = lambda: source.task.job("x" * 2_000)
    with pytest.raises(PayloadTooLarge):
        take_in(Server(), source, spans=Spans(provider.get_tracer("tests"), ratio=1.0))
    (span,) = exporter.get_finished_spans()
    assert error_of(span) == "PayloadTooLarge"


def error_of(span: ReadableSpan) -> str | None:
    kind = (span.attributes or {}).get("error.type")
    return None if kind is None else str(kind).rpartition(".")[2]
