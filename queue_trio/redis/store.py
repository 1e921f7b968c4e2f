"""The Store on Redis: one method per transition, each one script call.

Turns values into script arguments and replies into values, and nothing else: retrying is `client`'s, happening once
is `session`'s, the keys are `keys`'s, reading is `reads`'s. Claim and settle have a session each per lane, because a
session is one stream of calls; both are meant for one task at a time (the fetcher, the settler).
"""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import trio
from msgspec import structs

from queue_trio.core.job import Claim, ClaimedJob, Enqueued, Lane, Verdict
from queue_trio.core.store import MAX_BATCH, POISON, PROMOTE_LIMIT, Renewed, Swept
from queue_trio.errors import (
    DeadlineExceeded,
    Indeterminate,
    InfrastructureError,
    NotSent,
    OutcomeUnknown,
    ServerError,
    ServerNotReady,
    ServerRefused,
)
from queue_trio.redis import audit, scripts
from queue_trio.redis.client import Call
from queue_trio.redis.enqueue_call import split
from queue_trio.redis.enqueuer import Enqueuer
from queue_trio.redis.keys import DEFAULT_PREFIX, READY_KEYS, LaneKeys, lanes_key
from queue_trio.redis.limiter import RedisLimiter
from queue_trio.redis.reads import Reads
from queue_trio.redis.session import Session, SharedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.core.dequeue import Priority
    from queue_trio.core.job import NewJob, Outcome, State
    from queue_trio.core.store import AuditReport, LaneStats, PeekedJob
    from queue_trio.redis.client import Client
    from queue_trio.redis.scripts import Script


@lru_cache(maxsize=64)
def _ranks(order: tuple[Priority, ...]) -> str:
    return "".join(str(priority.rank) for priority in order)


class _LaneCalls:
    """Everything about one lane that is made once: key tuples and sessions."""

    def __init__(self, client: Client, keys: LaneKeys, incarnation: str) -> None:
        self._client = client
        self._incarnation = incarnation
        self.keys = keys
        self.sessions: dict[str, Session] = {}
        self.enqueue = scripts.load("enqueue")
        self.enqueuers: dict[int, Enqueuer] = {}
        self.claim = scripts.load("claim")
        self.claim_session_key, self.claim_session = self.open_session("claim")
        self.claim_keys = self.claim.keys(keys, {"session": self.claim_session_key})
        self.adopt = scripts.load("adopt")
        self.settle = scripts.load("settle")
        settle_session_key, self.settle_session = self.open_session("settle")
        self.settle_keys = self.settle.keys(keys, {"session": settle_session_key})
        self.renew = scripts.load("renew")
        self.renew_keys = self.renew.keys(keys)
        self.sweep = scripts.load("sweep")
        self.sweep_keys = self.sweep.keys(keys)
        operate_key = self.keys.session(f"{incarnation}:operate")
        self.operate_session = SharedSession(client, operate_key)
        self.sessions[operate_key] = self.operate_session.session
        self.announced = False

    def open_session(self, stream: str) -> tuple[str, Session]:
        """A session for one stream of our calls, and its key."""
        key = self.keys.session(f"{self._incarnation}:{stream}")
        session = self.sessions[key] = Session(self._client)
        return key, session


class RedisStore:
    """See `core.store.Store`. `incarnation` names this store's sessions; unique per store object."""

    def __init__(
        self, client: Client, *, prefix: str = DEFAULT_PREFIX, incarnation: str | None = None
    ) -> None:
        self.client = client
        self.limiter = RedisLimiter(client, prefix)
        self.prefix = prefix
        self.incarnation = incarnation or secrets.token_hex(8)
        self.reads = Reads(client, self.keys, prefix)
        self._lanes: dict[Lane, _LaneCalls] = {}
        self._shared: dict[str, SharedSession] = {}

    def _calls(self, lane: Lane) -> _LaneCalls:
        try:
            return self._lanes[lane]
        except KeyError:
            calls = _LaneCalls(self.client, LaneKeys(lane, self.prefix), self.incarnation)
            return self._lanes.setdefault(lane, calls)

    def keys(self, lane: Lane) -> LaneKeys:
        """The key names of one lane."""
        return self._calls(lane).keys

    def shared_session(self, key: str) -> SharedSession:
        """A session outside any lane, forgotten by the server when the store closes."""
        return self._shared.setdefault(key, SharedSession(self.client, key))

    async def operate(self, lane: Lane, script: Script, args: Sequence[str | int]) -> Any:
        """Run an operator's change, once. For any number of tasks: these go one after the other."""
        calls = self._calls(lane)
        session = calls.operate_session
        return await session.call(script, script.keys(calls.keys, {"session": session.key}), args)

    async def _announce(self, lane: Lane, calls: _LaneCalls) -> None:
        # Outside the scripts, because the set of lanes is in another hash slot; and before them, so that no job is ever
        # in a lane that nobody lists. Looking first, because with memory full even adding again is refused.
        if not await self.client.ask("SISMEMBER", lanes_key(self.prefix), str(lane)):
            await self.client.ask("SADD", lanes_key(self.prefix), str(lane))
        calls.announced = True

    async def aclose(self) -> None:
        """Let the server forget our sessions, so that clients which come and go leave nothing. Tried once."""
        forgotten: list[tuple[str, ...]] = []
        for calls in self._lanes.values():  # one command each: on a cluster they lie in different slots
            keys = [key for key, session in calls.sessions.items() if session.forgettable]
            if keys:
                forgotten.append(("UNLINK", *keys))
        forgotten += [("UNLINK", key) for key, shared in self._shared.items() if shared.session.forgettable]
        with suppress(InfrastructureError):  # they expire by themselves
            await self.client.last_words(forgotten)

    # --- transitions -----------------------------------------------------------------------------------------------

    async def enqueue(
        self,
        lane: Lane,
        jobs: Sequence[NewJob],
        *,
        max_length: int = 0,
        timeout_s: float = math.inf,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Enqueued]:
        calls = self._calls(lane)
        enqueuer = calls.enqueuers.get(max_length)
        if enqueuer is None:
            key, session = calls.open_session(f"enqueue:{max_length}")
            keys = calls.enqueue.keys(calls.keys, {"session": key})
            enqueuer = calls.enqueuers[max_length] = Enqueuer(session, calls.enqueue, keys, max_length)
        if len(jobs) == 1 and calls.announced:
            return await enqueuer.enqueue(jobs, timeout_s, meanwhile)
        deadline = trio.current_time() + timeout_s
        answers: list[Enqueued] = []
        if not calls.announced:
            with trio.move_on_at(deadline):
                await self._announce(lane, calls)
        try:
            for piece in split(jobs):
                answers += await enqueuer.enqueue(piece, deadline - trio.current_time(), meanwhile)
        except (DeadlineExceeded, ServerRefused) as error:
            if not answers:
                raise
            raise OutcomeUnknown(
                f"only the first {len(answers)} of {len(jobs)} jobs are known to be queued: {error}; "
                "enqueue the same job objects again: their ids keep them from being queued twice"
            ) from error
        return answers

    async def claim(
        self,
        lane: Lane,
        *,
        worker: str,
        want: int,
        lease_ms: int,
        order: Sequence[Priority],
        outcomes: Sequence[Outcome] = (),
    ) -> Claim:
        calls = self._calls(lane)
        session = calls.claim_session
        if session.unanswered is not None:
            # A claim was cancelled on its way and may hold jobs that nobody knows of: ask for those first.
            return _claim(await session.again())
        args = (worker, min(want, MAX_BATCH), lease_ms, PROMOTE_LIMIT, _ranks(tuple(order)))
        if not outcomes or calls.settle_session.unanswered is not None:
            return _claim(await session.call(calls.claim, calls.claim_keys, args))
        keys, settle_args, positions = _settle_arguments(calls, outcomes)
        settle = calls.settle_session.begin(calls.settle, keys, settle_args)
        settle.busy = True  # jobs have ended, so others have begun
        claim = session.begin(calls.claim, calls.claim_keys, args)
        settled, claimed = await self.client.run_together((settle, claim))
        for reply in (settled, claimed):
            if isinstance(reply, ServerError):
                raise reply  # both stay unanswered: what the other did can be asked for, by its number
        letters, jobs = calls.settle_session.end(settled), session.end(claimed)
        return structs.replace(_claim(jobs), accepted=_accepted(letters, positions))

    async def wait(self, lanes: Sequence[Lane], *, timeout_s: float) -> None:
        wakes = [self._calls(lane).keys["wake"] for lane in lanes]
        # Redis counts in milliseconds here and takes 0 for forever.
        timeout_s = max(timeout_s, 0.001)
        try:
            await self.client.command("BLPOP", *wakes, f"{timeout_s:.3f}", wait_s=timeout_s)
        except (NotSent, Indeterminate, ServerNotReady, ServerRefused):
            # A lost token costs latency and never a job. The claim that follows waits for the server.
            await trio.lowlevel.checkpoint()

    async def pull(self, lane: Lane, *, worker: str, priority: Priority, timeout_s: float) -> bool:
        keys = self._calls(lane).keys
        source, inbox = keys[READY_KEYS[priority.rank]], keys.inboxes(worker)[priority.rank]
        move: tuple[str, ...] = ("LMOVE", source, inbox, "LEFT", "RIGHT")
        if timeout_s > 0:
            move = ("B" + move[0], *move[1:], f"{max(timeout_s, 0.001):.3f}")  # Redis takes 0 for forever
        try:
            moved = await self.client.command(*move, wait_s=timeout_s)
        except (NotSent, Indeterminate, ServerNotReady):
            # If the move happened, the job is in the inbox, and adopt takes everything that is there.
            return True
        except ServerRefused:
            script = scripts.load("pull")
            if await self.client.run(Call(script, script.keys(keys, {"ready": source, "inbox": inbox}), ())):
                return True
            await trio.sleep(timeout_s)
            return False
        return moved is not None

    async def adopt(self, lane: Lane, *, worker: str, want: int, lease_ms: int) -> Claim:
        calls = self._calls(lane)
        session = calls.claim_session
        if session.unanswered is not None:
            return _claim(await session.again())
        own = dict(zip((f"inbox:{rank}" for rank in range(4)), calls.keys.inboxes(worker), strict=True))
        own["session"] = calls.claim_session_key
        keys = calls.adopt.keys(calls.keys, own)
        return _claim(await session.call(calls.adopt, keys, (worker, min(want, MAX_BATCH), lease_ms)))

    async def settle(self, lane: Lane, outcomes: Sequence[Outcome]) -> list[bool]:
        accepted: list[bool] = []
        for at in range(0, len(outcomes), MAX_BATCH):
            accepted += await self._settle(self._calls(lane), outcomes[at : at + MAX_BATCH])
        return accepted

    async def _settle(self, calls: _LaneCalls, outcomes: Sequence[Outcome]) -> list[bool]:
        keys, args, positions = _settle_arguments(calls, outcomes)
        session, before = calls.settle_session, calls.settle_session.unanswered
        if before is not None and (before.keys, tuple(before.args[1:])) == (keys, args):
            reply = await session.again()  # the same outcomes, cancelled on their way: what became of them?
        else:
            reply = await session.call(calls.settle, keys, args)
        return _accepted(reply, positions)

    async def renew(
        self, lane: Lane, *, worker: str, lease_ms: int, held: Sequence[tuple[str, str]]
    ) -> Renewed:
        calls = self._calls(lane)
        lost: list[str] = []
        drain = 0
        for at in range(0, max(len(held), 1), MAX_BATCH):
            batch = held[at : at + MAX_BATCH]
            args = [worker, lease_ms, *(value for pair in batch for value in pair)]
            drain, *positions = await self.client.run(Call(calls.renew, calls.renew_keys, args))
            lost += [batch[position - 1][0] for position in positions]
        return Renewed(tuple(lost), bool(drain))

    async def sweep(
        self, lane: Lane, *, lease_ms: int, max_crashes: int, limit: int = PROMOTE_LIMIT, recovery_ms: int = 0
    ) -> Swept:
        calls = self._calls(lane)
        args = (lease_ms, max_crashes, limit, POISON, recovery_ms)
        reply = await self.client.run(Call(calls.sweep, calls.sweep_keys, args))
        promoted, reclaimed, poisoned, hold_ms, silent, silent_ms = reply
        buried = [
            worker
            for worker in map(bytes.decode, silent)
            if await self._bury(lane, worker, silent_ms=silent_ms)
        ]
        return Swept(promoted, _texts(reclaimed), _texts(poisoned), tuple(buried), hold_ms)

    async def register(self, lane: Lane, *, worker: str, info: str) -> None:
        calls = self._calls(lane)
        await self._announce(lane, calls)
        script = scripts.load("register")
        await self.client.run(Call(script, script.keys(calls.keys), (worker, info)))

    async def deregister(self, lane: Lane, *, worker: str) -> None:
        while not await self._bury(lane, worker, silent_ms=0):
            await trio.lowlevel.checkpoint()

    async def _bury(self, lane: Lane, worker: str, *, silent_ms: int) -> bool:
        calls, script = self._calls(lane), scripts.load("bury")
        own = dict(zip((f"inbox:{rank}" for rank in range(4)), calls.keys.inboxes(worker), strict=True))
        return bool(
            await self.client.run(Call(script, script.keys(calls.keys, own), (worker, silent_ms, MAX_BATCH)))
        )

    async def pause(self, lane: Lane, paused: bool) -> None:
        await self.operate(lane, scripts.load("pause"), (int(paused),))

    # --- reads -----------------------------------------------------------------------------------------------------

    async def result(self, lane: Lane, job_id: str) -> bytes | None:
        return await self.reads.result(lane, job_id)

    async def lanes(self) -> list[Lane]:
        return await self.reads.lanes()

    async def stats(self, lane: Lane) -> LaneStats:
        return await self.reads.stats(lane)

    async def peek(self, lane: Lane, state: State, *, count: int) -> list[PeekedJob]:
        return await self.reads.peek(lane, state, count=count)

    async def audit(self, lane: Lane, *, repair: bool = False) -> AuditReport:
        return await audit.audit(self.reads, self.keys(lane), repair=repair)


def _settle_arguments(
    calls: _LaneCalls, outcomes: Sequence[Outcome]
) -> tuple[tuple[str, ...], tuple[Any, ...], list[int]]:
    """Keys and arguments of the settle script, and for each letter of its answer the position of its outcome."""
    plain: list[str] = []
    plain_at: list[int] = []
    others: list[str | int | bytes] = []
    others_at: list[int] = []
    results: list[str] = []
    done = Verdict.DONE
    for at, outcome in enumerate(outcomes):
        if outcome.verdict is done and not outcome.keep_ms:
            plain += (outcome.id, outcome.token)
            plain_at.append(at)
        else:
            others += (outcome.id, outcome.token, outcome.verdict.value)
            others += (outcome.delay_ms, outcome.detail, outcome.keep_ms)
            others_at.append(at)
            if outcome.verdict is done:
                results.append(calls.keys.result(outcome.id))
    return (*calls.settle_keys, *results), (len(plain_at), *plain, *others), plain_at + others_at


def _accepted(letters: bytes, positions: list[int]) -> list[bool]:
    accepted = [False] * len(positions)
    for at, letter in zip(positions, letters, strict=True):
        accepted[at] = letter == ord("a")
    return accepted


def _claim(reply: list[Any]) -> Claim:
    token, ids, records, tries, crashes, next_due, paused, drain = reply
    if not ids:
        return Claim([], None if next_due < 0 else next_due, bool(paused), bool(drain))
    text = token.decode()
    if tries:
        jobs = [
            ClaimedJob(job_id.decode(), text, raw, int(failed or 0), lost.count(b" ") + 1 if lost else 0)
            for job_id, raw, failed, lost in zip(ids, records, tries, crashes, strict=True)
        ]
    else:
        jobs = [ClaimedJob(job_id.decode(), text, raw) for job_id, raw in zip(ids, records, strict=True)]
    return Claim(jobs, None if next_due < 0 else next_due, bool(paused), bool(drain))


def _texts(replies: list[bytes]) -> tuple[str, ...]:
    return tuple(reply.decode() for reply in replies)
