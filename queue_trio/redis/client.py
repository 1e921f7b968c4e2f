"""One Redis as the store sees it: a call is sent until it is answered, through outages, or its caller gives up.

Owns the connections (a small pool), the circuit breaker and the waiting between tries. Every script may be sent twice
(see `session`), so any transport failure is tried again here and nowhere else: above this module an outage is only a
call that takes long. Knows no key and no job.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio

from queue_trio.core.backoff import Backoff
from queue_trio.core.breaker import Breaker, State, Transition
from queue_trio.errors import (
    CircuitOpen,
    Indeterminate,
    InfrastructureError,
    NotSent,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
    TransportError,
    UsageError,
)
from queue_trio.redis.connection import Argument, pack_command
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.error_replies import error_kind
from queue_trio.redis.outage import News, Outage
from queue_trio.redis.pool import IDLE_CHECK_S, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from queue_trio.core.settings import RedisSettings
    from queue_trio.redis.connection import Connection
    from queue_trio.redis.endpoint import Resolver
    from queue_trio.redis.scripts import Script

log = structlog.get_logger(__name__)

T = TypeVar("T")

GOODBYE_S = 0.25
"""For a last command before closing."""

NEVER_REACHED = "waiting for it; redis.url or QUEUE_TRIO_REDIS__URL says where"


@dataclass(slots=True)
class Call:
    """One script call under way. It can be sent any number of times; the server acts once."""

    script: Script
    keys: tuple[str, ...]
    args: Sequence[Any]
    on_trouble: Callable[[CircuitOpen], None] | None = None
    """Hears of every try that failed; the call itself goes on. For impatient callers who share it with patient ones."""
    meanwhile: Callable[[], None] | None = None
    """Work for the time between sending it and the reply. Called at every try, in the caller's task."""
    look: bool = False
    """Look for the reply before sleeping, if that promises to find it: see `Connection.exchange`."""
    busy: bool = False
    """Other tasks have work to do until the reply comes: see there, too."""
    on_wait: Callable[[], None] | None = None
    """Called before what may take longer than the first exchange: another one, or waiting for another try.

    The first is bounded by itself: whoever has time for it (`Client.exchange_max_s`) needs no scope before this.
    """
    maybe_sent: bool = field(default=False, init=False)
    """An attempt is under way, or ended without a reply: the server may have acted on it, or may yet."""

    def payload(self, command: str, what: str) -> bytes:
        return pack_command((command, what, len(self.keys), *self.keys, *self.args))


class Client:
    """Calls to one Redis. Safe for many tasks at once.

    `wait_when_refused`: what to do while the server refuses writes (memory full, cannot persist, too few replicas).
    True waits for an operator, as a worker must; False raises ServerRefused at once, as whoever enqueues wants.
    """

    def __init__(
        self,
        resolver: Resolver,
        settings: RedisSettings,
        *,
        name: str = "queue-trio",
        wait_when_refused: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._pool = Pool(resolver, settings, name=name)
        self._limit = self._pool.limit
        self._wait_when_refused = wait_when_refused
        self._rng = rng or random.Random()
        self._backoff = Backoff(base=settings.backoff_base, cap=settings.backoff_cap)
        self._outage = Outage(self._rng, wait_s=settings.breaker_open_wait)
        self._impatient: set[trio.lowlevel.Task] = set()
        self.breaker = Breaker(
            self._rng,
            window=settings.breaker_window,
            min_samples=settings.breaker_min_samples,
            failure_ratio=settings.breaker_failure_ratio,
            open_wait=settings.breaker_open_wait,
            on_change=self._breaker_changed,
        )
        self.errors: Counter[str] = Counter()
        """Failures so far, by `error_kind`. What an open breaker refuses is not among them: nothing was tried."""

    @classmethod
    def from_settings(cls, settings: RedisSettings, *, name: str, wait_when_refused: bool = False) -> Client:
        """A client for the server that the settings name. Raises ConfigError."""
        endpoint = parse_url(
            settings.url.get_secret_value(),
            tls_ca_file=settings.tls_ca_file,
            tls_cert_file=settings.tls_cert_file,
            tls_key_file=settings.tls_key_file,
            tls_verify=None if settings.tls_verify else False,
        )
        return cls(FixedResolver(endpoint), settings, name=name, wait_when_refused=wait_when_refused)

    @property
    def down_since(self) -> float | None:
        """Since when (Trio's clock) nothing gets through, or None."""
        return self._outage.since

    @property
    def reason(self) -> str | None:
        """Why nothing gets through, or None."""
        return None if self._outage.since is None else self._outage.reason

    @property
    def connects(self) -> int:
        """Connections made so far."""
        return self._pool.connects

    @property
    def reconnects(self) -> int:
        """Connections made so far in place of ones that broke."""
        return self._pool.reconnects

    async def aclose(self) -> None:
        """Close every connection. Idempotent; cancelled, it closes them all the same."""
        await self._pool.aclose()

    def exchange_max_s(self, now: float) -> float:
        """Within how many seconds an exchange that begins `now` will have ended somehow; inf if that is unknown."""
        idle = self._pool.idle
        at_hand = idle and now - idle[-1].answered_at < IDLE_CHECK_S and self._limit.value
        return self._settings.read_timeout if at_hand else math.inf

    # --- calls -----------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> Any:
        """Send `call` until it is answered. Bound it with a cancel scope.

        Raises ServerUnusable and, unless `wait_when_refused`, ServerRefused; any other ServerError is a script's bug.
        """
        (reply,) = await self.run_together((call,))
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def run_together(self, calls: tuple[Call, ...]) -> list[Any]:
        """Send `calls` in one round trip, again and again, until all are answered. Bound it with a cancel scope.

        One reply for each, in order; what `run` would call a script's bug is a value among them. Raises as `run`.
        """

        async def attempt() -> list[Any]:
            replies = await self._exchange(
                lambda: b"".join([call.payload("EVALSHA", call.script.sha) for call in calls]),
                len(calls),
                calls=calls,
            )
            for at, call in enumerate(calls):
                if isinstance(replies[at], ServerError) and replies[at].code == "NOSCRIPT":
                    if calls[0].on_wait is not None:
                        calls[0].on_wait()
                    whole = partial(call.payload, "EVAL", call.script.text)
                    (replies[at],) = await self._exchange(whole, 1, calls=(call,))
            for reply in replies:
                if isinstance(reply, (ServerNotReady, ServerRefused, ServerUnusable)):
                    raise reply
            return replies

        return await self._until_answered(attempt, calls[0])

    async def ask(self, *command: Argument) -> Any:
        """One plain command that may be sent twice, sent until it is answered. Bound it with a cancel scope."""
        (reply,) = await self.ask_many([command])
        return reply

    async def ask_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Plain commands that may be sent twice, in one round trip, sent until they are answered."""
        payload = b"".join(map(pack_command, commands))

        async def attempt() -> list[Any]:
            replies = await self._exchange(lambda: payload, len(commands))
            for reply in replies:
                if isinstance(reply, ServerError):
                    raise reply
            return replies

        return await self._until_answered(attempt)

    async def command(self, *command: Argument, wait_s: float = 0.0) -> Any:
        """One plain command, sent once. `wait_s`: for how long the command itself blocks on the server.

        Raises NotSent, Indeterminate or a ServerError; UsageError if the client is closed.
        """
        (reply,) = await self._exchange(lambda: pack_command(command), 1, wait_s)
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def last_words(self, commands: Sequence[tuple[Argument, ...]]) -> None:
        """Plain commands whose replies do not matter, sent once, and only if a connection is there already.

        Bounded by GOODBYE_S, also when cancelled. Raises NotSent, Indeterminate or a ServerError.
        """
        if commands and self._pool.idle:
            payload = b"".join(map(pack_command, commands))
            with trio.CancelScope(shield=True, relative_deadline=GOODBYE_S):
                await self._exchange(lambda: payload, len(commands))

    async def connect(self) -> None:
        """Reach the server once, or raise the reason why not. For one-shot commands, which fail at once."""
        await self.command("PING")

    async def probe(self, timeout_s: float) -> None:
        """One PING, answered within `timeout_s`, waiting for a connection included. For readiness.

        Raises CircuitOpen, NotSent, Indeterminate or a ServerError.
        """
        sent = False

        def payload() -> bytes:
            nonlocal sent
            sent = True
            return pack_command(("PING",))

        with trio.move_on_after(timeout_s):
            (reply,) = await self._exchange(payload, 1)
            if isinstance(reply, ServerError):
                raise reply
            return
        if sent:
            raise Indeterminate(f"no reply to PING within {timeout_s:g} s")
        raise NotSent(f"no connection within {timeout_s:g} s")

    # --- outages ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def fail_fast(self) -> AsyncIterator[None]:
        """Within this block, calls of the present task raise CircuitOpen at their first failure instead of waiting.

        Raises CircuitOpen at once while Redis is known to be out of reach, unless it is time for somebody to see
        whether it is back. A call that others share (`Call.on_trouble`) is not ended: it goes on for them.
        """
        task = trio.lowlevel.current_task()
        if task in self._impatient:
            yield
            return
        try:
            self._outage.enter(trio.current_time())
        except CircuitOpen:
            await trio.lowlevel.checkpoint()  # who is refused in a loop must still let others run
            raise
        self._impatient.add(task)
        try:
            yield
        finally:
            self._impatient.discard(task)
            self._outage.leave()

    @property
    def failing_fast(self) -> bool:
        """Whether the present task is within `fail_fast`."""
        return bool(self._impatient) and trio.lowlevel.current_task() in self._impatient

    async def _until_answered(self, attempt: Callable[[], Awaitable[T]], call: Call | None = None) -> T:
        """Try, wait, try again. This loop is the whole of what an outage is to everything above."""
        on_trouble, on_wait = (None, None) if call is None else (call.on_trouble, call.on_wait)
        failures = 0
        joined = False
        try:
            while True:
                try:
                    reply = await attempt()
                except CircuitOpen as error:
                    wait_s = error.retry_after
                    self._failing(error, on_trouble)
                except (TransportError, ServerNotReady, ServerRefused) as error:
                    if isinstance(error, ServerRefused) and not self._wait_when_refused:
                        raise
                    wait_s = self._backoff.delay(failures, self._rng)
                    failures += 1
                    self._failing(error, on_trouble)
                else:
                    if self._outage.since is not None:
                        self._answered(failed_before=joined or failures > 0)
                    return reply
                if not joined and not self.failing_fast:
                    joined = True
                    self._outage.join()
                if on_wait is not None:
                    on_wait()
                await trio.sleep(wait_s)
        finally:
            if joined:
                self._outage.leave()

    async def _exchange(
        self, payload: Callable[[], bytes], replies: int, wait_s: float = 0.0, *, calls: tuple[Call, ...] = ()
    ) -> list[Any]:
        """One exchange on a connection of one's own, with the breaker's leave. Every command passes through here.

        `payload` is asked for once there is a connection: until then an enqueuer may take jobs out of its call.
        """
        pool = self._pool
        if pool.closed:
            raise UsageError("this client is closed")
        # Without blocking where possible: each checkpoint costs a turn of the event loop.
        try:
            self._limit.acquire_nowait()
        except trio.WouldBlock:
            await self._limit.acquire()
        try:
            # Before anything is taken: who is cancelled already, or out of time, has certainly sent nothing.
            await trio.lowlevel.checkpoint_if_cancelled()
            began = trio.current_time()
            permit = self.breaker.acquire(began)
            connection = None
            try:
                connection = pool.take_idle(began) or await pool.open()
                packed = payload()
                sent_before = [call.maybe_sent for call in calls]
                for call in calls:
                    # Before, not after: a cancellation in mid-exchange leaves no chance to say so.
                    call.maybe_sent = True
                timeout_s = wait_s + self._settings.read_timeout
                if calls:
                    first = calls[0]
                    received = await connection.exchange(
                        packed, replies, timeout_s, first.meanwhile, look=first.look, busy=first.busy
                    )
                else:
                    received = await connection.exchange(packed, replies, timeout_s)
                for call, sent in zip(calls, sent_before, strict=True):
                    call.maybe_sent = sent  # this attempt has its answer, be it an error
            except TransportError as error:
                permit.failure(trio.current_time())
                self.errors[error_kind(error)] += 1
                self._outage.reason = str(error)
                pool.lost += connection is not None
                pool.drop_idle()
                raise
            except ServerError as error:
                permit.success(trio.current_time())  # it answered the handshake, if only to refuse
                self.errors[error_kind(error)] += 1
                raise
            except BaseException:
                now = trio.current_time()
                permit.cancelled(now)
                if self.failing_fast:
                    self._tell(self._outage.cut_short(now - began - wait_s, now))
                raise
            permit.success(connection.answered_at)
            self._give_back(connection, received)
            return received
        finally:
            self._limit.release()

    def _give_back(self, connection: Connection, received: list[Any]) -> None:
        for reply in received:
            # A script's first time brings NOSCRIPT, and is no failure.
            if isinstance(reply, ServerError) and reply.code != "NOSCRIPT":
                self.errors[error_kind(reply)] += 1
                if reply.code == "READONLY":
                    # It is a replica now. Whoever is primary is found by resolving the endpoint again.
                    connection.abort()
                    self._pool.lost += 1
                    return
        self._pool.give_back(connection)

    # --- what is told ----------------------------------------------------------------------------------------------

    def _failing(self, error: InfrastructureError, on_trouble: Callable[[CircuitOpen], None] | None) -> None:
        """Note a failed try, and tell those who will not wait for the next one."""
        outage, now = self._outage, trio.current_time()
        self._tell(outage.failing(error, now), error_kind(error))
        if on_trouble is not None:
            trouble = outage.error(now)
            trouble.__cause__ = error
            on_trouble(trouble)
        elif self.failing_fast:
            raise outage.error(now) from error

    def _tell(self, news: News | None, kind: str = Indeterminate.__name__) -> None:
        # A line when it begins and one a minute: every further failure of the same outage says nothing new.
        reason = self._outage.reason
        if news is News.BEGUN:
            hint = {} if self.connects else {"hint": NEVER_REACHED}
            log.warning("redis.unavailable", reason=reason, kind=kind, **hint)
        elif news is News.STILL:
            for_s = round(self._outage.for_s(trio.current_time()), 1)
            log.warning("redis.still_unavailable", for_s=for_s, reason=reason, kind=kind)

    def _answered(self, *, failed_before: bool) -> None:
        now = trio.current_time()
        after_s = round(self._outage.for_s(now), 3)
        if self._outage.over(now, failed_before=failed_before):
            log.info("redis.back", after_s=after_s)

    def _breaker_changed(self, change: Transition) -> None:
        level = log.warning if change.new is State.OPEN and change.old is State.CLOSED else log.debug
        level("breaker.changed", old=change.old.value, new=change.new.value, reason=change.reason)
