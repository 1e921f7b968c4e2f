"""What a queue says of itself when all is over: its counters, where each job is, what its audit finds; and its file.

Places and counters are read at one instant by a script of our own, so that they do not depend on the code under test;
the audit is the product's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from pydantic import SecretStr

from chaos.errors import HarnessError
from chaos.history import AtRest
from chaos.judging.aof_judge import judge_file
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import QueueTrioError
from queue_trio.redis.client import Client
from queue_trio.redis.keys import READY_KEYS, LaneKeys
from queue_trio.redis.store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.judging.aof_judge import Told
    from chaos.playing.stage import Stage

COUNTERS: Final = ("enqueued", "completed", "cancelled", "purged", "reclaimed", "poisoned", "stale")
WRITTEN_S: Final = 5.0
CLOSED_S: Final = 2.0
"""For a proxy to pass on that a process has closed its connections."""
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
    """Asks the server directly, past every proxy. `workers`: all that ever were, by what they call themselves."""

    def __init__(self, stage: Stage, workers: Callable[[], Iterable[str]]) -> None:
        self._redis = stage.redis
        self._aof = stage.aof
        self._prefix = stage.prefix
        self._workers = workers
        self._lane = Lane()
        self._keys = LaneKeys(self._lane, stage.prefix)

    async def look(self, at_s: float, *, drained: bool) -> AtRest:
        """What is there now, without the audit. Raises HarnessError."""
        counters, *states = await self._read()
        places = {id: state for state, ids in zip(STATES, states, strict=True) for id in ids}
        counts: dict[str, Any] = {
            name: int(count or 0) for name, count in zip(COUNTERS, counters, strict=True)
        }
        return AtRest(at_s, drained, places, **counts)

    async def empty(self) -> bool:
        """Whether nothing is scheduled, ready or leased. Raises HarnessError."""
        _, *states = await self._read()
        return not any(states[: STATES.index("dead")])

    async def _read(self) -> list[Any]:
        workers = {*self._workers(), *await self.registered()}
        inboxes = [key for worker in sorted(workers) for key in self._keys.inboxes(worker)]
        keys = [*self._keys.pick(("stats", "scheduled", "lease", "dead", *READY_KEYS)), *inboxes]
        found = await self._redis.command("EVAL", _PLACES, str(len(keys)), *keys, *COUNTERS)
        assert isinstance(found, list)
        return found

    async def violations(self) -> tuple[str, ...]:
        """What the queue's own audit finds. Raises QueueTrioError."""
        settings = RedisSettings(url=SecretStr(self._redis.url), prefix=self._prefix)
        client = Client.from_settings(settings, name="queue-trio:chaos:audit")
        store = RedisStore(client, prefix=self._prefix)
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

    async def connected(self) -> list[str]:
        """Workers that still have connections, though all have gone; of a server that is ours. Raises HarnessError."""
        return [] if self._aof is None or await wait_until(self._alone, CLOSED_S) else await self._callers()

    async def _alone(self) -> bool:
        return not await self._callers()

    async def _callers(self) -> list[str]:
        names = set(re.findall(r" name=\S*:(\S+)", await self._redis.command("CLIENT", "LIST")))
        return sorted(names & set(self._workers()))

    async def told_by_file(self) -> Told | None:
        """What the server's append-only file tells; None where that is out of reach. Raises HarnessError."""
        if self._aof is None:
            return None
        if not await wait_until(self._written, WRITTEN_S):
            raise HarnessError(f"redis: its append-only file was not written within {WRITTEN_S:g} s")
        return await trio.to_thread.run_sync(judge_file, self._aof, self._keys)

    async def _written(self) -> bool:
        """With `appendfsync everysec` a slow disk can put it off."""
        told = await self._redis.command("INFO", "persistence")
        return int(told["aof_buffer_length"]) == 0


async def sum_up(
    reader: AtRestReader, rest: AtRest, *, strict: bool, leftovers: Sequence[str] = ()
) -> AtRest:
    """What was seen, with what the audit finds, and what the append-only file tells; of priority if `strict`.

    Where there is no such file (`Stage.unjudged`), that nothing was found in it says nothing. Raises HarnessError.
    """
    try:
        violations = await reader.violations()
    except QueueTrioError as error:
        violations = (f"the audit failed: {error}",)
    rest = msgspec.structs.replace(rest, violations=violations, leftovers=tuple(leftovers))
    told = await reader.told_by_file()
    if told is None:
        return rest
    return msgspec.structs.replace(
        rest,
        violations=(*told.misplaced, *violations),
        inversions=told.inversions if strict else (),
        transactions=told.transactions,
        leases=told.leases,
    )


async def wait_until(condition: Callable[[], Any], within_s: float, poll_s: float = 0.05) -> bool:
    """Whether the async `condition` came within the time."""
    with trio.move_on_after(within_s):
        while not await condition():  # noqa: ASYNC110, a server is asked
            await trio.sleep(poll_s)
        return True
    return False
