"""A worker process of a chaos run: `python -m chaos.actors.worker_main --journal FILE [--app MODULE:APP]`.

It is the product's worker, with two things put around it from outside, in this program only: every run of a handler is
written to a journal before and after its body; and it can be told to die, or to stop, in a chosen phase of its work.
Settings come from the environment, as for any worker. Its reports are JSON lines on standard output; orders come the
same way on standard input: {"order": "at", "phase": "claimed", "do": "kill"}. Its log goes to standard error.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import trio

from chaos.history import Journal, Run, Settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from queue_trio import App, JobContext, Task
    from queue_trio.core.job import Outcome
    from queue_trio.errors import QueueTrioError
    from queue_trio.runtime.worker import Worker

Phase = Literal["idle", "before_claim", "claimed", "running", "before_settle", "settled", "sweeping"]
"""idle: about to claim, and nothing runs. before_claim, before_settle: just before that call goes out; it carries a job
only in the second case. claimed: the claim's reply has come with jobs, no handler has begun. running: a handler's start
is in the journal. settled: the reply has come. sweeping: a sweep has changed something and its reply is not looked at.
"""

Deed = Literal["kill", "stop"]
SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

_wall_clock = time.time  # before `set_clock_off` puts another in its place: a journal has one clock


def say(what: str, **details: Any) -> None:
    """One report. One write, so lines of several threads do not mix."""
    os.write(1, json.dumps({"report": what, **details}).encode() + b"\n")


def set_clock_off(seconds: float) -> None:
    """From now on this process believes another time of day. Before anything of queue_trio is imported."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)


class Recorder:
    """Writes the runs of one worker. `phases`: is told when a handler has begun."""

    def __init__(self, journal: Journal, phases: Phases) -> None:
        self._journal = journal
        self._phases = phases
        self._pid = os.getpid()
        self.worker = ""
        self.trio_ahead_s = 0.0
        """Of time.perf_counter: what threads need to know about a job's deadline."""

    def wrap(self, task: Task[..., Any]) -> None:
        """Make every run of `task` be written down. It gets a JobContext, if it has not asked for one."""
        if task.run_in == "process":
            say("unrecorded", task=task.name, why="it runs in a process of its own")
            return
        function, own = task.function, task.signature.context_parameter
        name = own or "chaos_context"
        task.signature.context_parameter = name
        run = self._run if task.run_in == "trio" else self._run_in_thread

        @functools.wraps(function)
        def recorded(**arguments: Any) -> Any:
            context = arguments[name] if own else arguments.pop(name)
            return run(context, function, arguments)

        task.function = recorded

    async def _run(
        self, context: JobContext, function: Callable[..., Awaitable[Any]], arguments: dict[str, Any]
    ) -> Any:
        self._note(context, "start")
        self._phases.reached("running", job=context.id)
        outcome: Literal["returned", "raised", "cancelled"] = "raised"
        try:
            result = await function(**arguments)
            outcome = "returned"
            return result
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        finally:
            self._note(context, "end", outcome)

    def _run_in_thread(
        self, context: JobContext, function: Callable[..., Any], arguments: dict[str, Any]
    ) -> Any:
        self._note(context, "start")
        self._phases.reached("running", job=context.id)
        outcome: Literal["returned", "raised", "cancelled"] = "raised"
        try:
            result = function(**arguments)
            outcome = "returned"
            return result
        finally:
            if time.perf_counter() + self.trio_ahead_s >= context.deadline:
                outcome = "cancelled"  # a thread that was given up on: what it ends with is nobody's outcome
            self._note(context, "end", outcome)

    def _note(
        self,
        context: JobContext,
        phase: Literal["start", "end"],
        outcome: Literal["", "returned", "raised", "cancelled"] = "",
    ) -> None:
        self._journal.append(
            Run(
                at_s=self._journal.clock(),
                id=context.id,
                phase=phase,
                worker=self.worker,
                pid=self._pid,
                attempt=context.attempt,
                fence=context.fencing_token,
                outcome=outcome,
            )
        )


class Phases:
    """What is to be done when a phase is reached next, and the hooks that tell when it is, and what was settled."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._armed: dict[Phase, Deed] = {}

    def arm(self, phase: Phase, deed: Deed) -> None:
        """Next time, once."""
        self._armed[phase] = deed

    def reached(self, phase: Phase, **details: Any) -> None:
        """We are there. Does not return if we are to die here, and not before SIGCONT if we are to stop."""
        deed = self._armed.pop(phase, None) if self._armed else None
        if deed is not None:
            say("at", phase=phase, do=deed, at_s=self._journal.clock(), **details)
            os.kill(os.getpid(), SIGNALS[deed])

    def hook(self, worker: Worker) -> None:
        """Put hooks around the calls of the store that move jobs. Both ways of claiming count, and both of settling."""
        store: Any = worker._store
        claim, adopt, settle, sweep = store.claim, store.adopt, store.settle, store.sweep

        def claiming(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def hooked(*args: Any, **options: Any) -> Any:
                if not worker.in_flight:
                    self.reached("idle")
                self.reached("before_claim")
                outcomes = options.get("outcomes")
                if outcomes:
                    self.reached("before_settle", job=outcomes[0].id)
                sent_s = self._journal.clock()
                claimed = await call(*args, **options)
                if claimed.accepted is not None:
                    note_settled(outcomes, claimed.accepted, sent_s)
                if claimed.jobs:
                    self.reached("claimed", job=claimed.jobs[0].id)
                return claimed

            return hooked

        async def settling(lane: Any, outcomes: Any) -> Any:
            self.reached("before_settle", job=outcomes[0].id)
            sent_s = self._journal.clock()
            accepted = await settle(lane, outcomes)
            note_settled(outcomes, accepted, sent_s)
            return accepted

        def note_settled(outcomes: Any, accepted: Any, sent_s: float) -> None:
            self._journal.append(*_settles(outcomes, accepted, sent_s, self._journal.clock()))
            self.reached("settled", job=outcomes[0].id)

        async def sweeping(*args: Any, **options: Any) -> Any:
            swept = await sweep(*args, **options)
            if swept.reclaimed or swept.poisoned or swept.promoted:
                self.reached("sweeping", reclaimed=len(swept.reclaimed))
            return swept

        store.claim, store.adopt, store.settle, store.sweep = (
            claiming(claim),
            claiming(adopt),
            settling,
            sweeping,
        )


def _settles(
    outcomes: Sequence[Outcome], accepted: Sequence[bool], sent_s: float, at_s: float
) -> Iterator[Settle]:
    for outcome, yes in zip(outcomes, accepted, strict=True):
        fence = int(outcome.token.rpartition(":")[2])
        yield Settle(at_s, sent_s, outcome.id, fence, outcome.verdict.value, yes)


async def take_orders(phases: Phases) -> None:
    """Follow what comes on standard input, until its end."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as orders:
        async for data in orders:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                phases.arm(order["phase"], order["do"])
                say("armed", phase=order["phase"], do=order["do"])


async def run(app: App, journal: Journal, first: str = "") -> None:
    """Run a worker of `app` until a signal drains it. `first`: an order, PHASE:DEED, that holds from the start."""
    from queue_trio.ops.service import open_http
    from queue_trio.runtime.signals import watch_signals
    from queue_trio.runtime.worker import Worker

    phases = Phases(journal)
    if first:
        phase, _, deed = first.partition(":")
        phases.arm(cast("Phase", phase), cast("Deed", deed))
    recorder = Recorder(journal, phases)
    for task in app.tasks.values():
        recorder.wrap(task)
    worker = Worker(app)
    recorder.worker = worker.id
    recorder.trio_ahead_s = trio.current_time() - time.perf_counter()
    phases.hook(worker)
    http = open_http(worker)
    async with trio.open_nursery() as services:
        await services.start(watch_signals, worker.drain, worker.cancel)
        services.start_soon(take_orders, phases)
        if http is not None:
            services.start_soon(http.run)
        say("started", worker=worker.id, url=http.url if http else "")
        async with trio.open_nursery() as life:
            await life.start(worker.run)
            if worker.registered:
                say("registered", worker=worker.id)
        say("drained", completed=worker.counts.completed)
        services.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.actors.worker_main")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--app", default="chaos.actors.tasks:app")
    parser.add_argument("--at", default="", metavar="PHASE:DEED")
    parser.add_argument("--clock-off", type=float, default=0.0)
    given = parser.parse_args()
    if given.clock_off:
        set_clock_off(given.clock_off)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some tasks abort, and nobody wants what that leaves

    from queue_trio.cli.loading import load_app
    from queue_trio.config.load import load_settings
    from queue_trio.errors import QueueTrioError
    from queue_trio.ops.logging import configure_logging

    error: QueueTrioError | None = None
    try:
        app = load_app(given.app)
        app.configure(load_settings())  # whatever a user's module may have given it
        configure_logging(app.settings.log)
        trio.run(run, app, Journal(given.journal, clock=_wall_clock), given.at)
    except* QueueTrioError as group:  # in as many groups as there are nurseries
        error = next(_leaves(group))
    if error is not None:
        say("refused", why=str(error), kind=type(error).__name__)
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def _leaves(group: BaseExceptionGroup[QueueTrioError]) -> Iterator[QueueTrioError]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner


if __name__ == "__main__":
    main()
