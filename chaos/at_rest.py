"""What a queue says of itself when all is over: its counters, where each job is, what its audit finds; and its file.

Places and counters are read at one instant by a script of our own, so that they do not depend on the code under test;
the audit is the product's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from pydantic import SecretStr

from chaos.aof import inversions
from chaos.history import AtRest
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import QueueTrioError
from queue_trio.redis.client import Client
from queue_trio.redis.keys import READY_KEYS, LaneKeys
from queue_trio.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.redis_server import ChaosRedis

COUNTERS: Final = ("enqueued", "completed", "cancelled", "purged")
STATES: Final = ("scheduled", "ready", "leased", "dead")

# Inboxes (strategy `looped`) come after the fixed keys: a job in one counts as ready.
_PLACES: Final = """
local function members(key) return redis.call('ZRANGE', key, 0, -1) end
local scheduled, ready = {}, {}
for _, member in ipairs(members(KEYS[2])) do scheduled[#scheduled + 1] = string.sub(member, 3) end
for i = 5, #KEYS do
  for _, id in ipairs(redis.call('LRANGE', KEYS[i], 0, -1)) do ready[#ready + 1] = id end
end
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), scheduled, ready, members(KEYS[3]), members(KEYS[4])}
"""


class AtRestReader:
    """Asks the server directly, past every proxy."""

    def __init__(self, redis: ChaosRedis, lane: Lane | None = None) -> None:
        self._redis = redis
        self._lane = lane or Lane()
        self._keys = LaneKeys(self._lane)

    async def look(self, at_s: float, *, drained: bool) -> AtRest:
        """What is there now, without the audit. Raises HarnessError."""
        counters, *states = await self._read()
        places = {id: state for state, ids in zip(STATES, states, strict=True) for id in ids}
        enqueued, completed, cancelled, purged = (int(count or 0) for count in counters)
        return AtRest(
            at_s,
            drained,
            places,
            enqueued=enqueued,
            completed=completed,
            cancelled=cancelled,
            purged=purged,
        )

    async def empty(self) -> bool:
        """Whether nothing is scheduled, ready or leased. Raises HarnessError."""
        _, *states = await self._read()
        return not any(states[: STATES.index("dead")])

    async def _read(self) -> list[Any]:
        inboxes = await self._redis.command("KEYS", self._keys.session("")[: -len("session:")] + "inbox:*")
        keys = [*self._keys.pick(("stats", "scheduled", "lease", "dead", *READY_KEYS)), *sorted(inboxes)]
        found = await self._redis.command("EVAL", _PLACES, str(len(keys)), *keys, *COUNTERS)
        assert isinstance(found, list)
        return found

    async def violations(self) -> tuple[str, ...]:
        """What the queue's own audit finds. Raises QueueTrioError."""
        client = Client.from_settings(
            RedisSettings(url=SecretStr(self._redis.url)), name="queue-trio:chaos:audit"
        )
        store = RedisStore(client)
        try:
            report = await store.audit(self._lane)
        finally:
            await client.aclose()
        found = [f"{violation.id}: {violation.problem}" for violation in report.violations]
        if report.stats.imbalance:
            found.append(f"the conservation law is off by {report.stats.imbalance}")
        if not report.ok and not found:
            found.append(f"{report.stats.records} records for {report.live} jobs")
        return tuple(found)

    async def registered(self) -> set[str]:
        """Workers that the queue still knows. Raises HarnessError."""
        found = await self._redis.command("ZRANGE", self._keys["workers"], "0", "-1")
        return set(found)

    async def inversions(self) -> tuple[str, ...]:
        """Claims that passed over a job of higher priority. Raises HarnessError."""
        keys = self._keys.pick(READY_KEYS)
        _, found = await trio.to_thread.run_sync(inversions, self._redis.folder, keys)
        return tuple(found)


async def sum_up(
    reader: AtRestReader, rest: AtRest, *, strict: bool, leftovers: Sequence[str] = ()
) -> AtRest:
    """What was seen, with what the audit finds, and the append-only file where the strategy is strict."""
    try:
        violations = await reader.violations()
    except QueueTrioError as error:
        violations = (f"the audit failed: {error}",)
    return msgspec.structs.replace(
        rest,
        violations=violations,
        inversions=await reader.inversions() if strict else (),
        leftovers=tuple(leftovers),
    )


async def wait_until(condition: Callable[[], Any], within_s: float, poll_s: float = 0.05) -> bool:
    """Whether the async `condition` came within the time."""
    with trio.move_on_after(within_s):
        while not await condition():  # noqa: ASYNC110, a server is asked
            await trio.sleep(poll_s)
        return True
    return False
