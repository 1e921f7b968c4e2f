"""Mutants of everything that talks to Redis: the scripts, the store, the client, the connection."""

from __future__ import annotations

from typing import Final

from chaos.mutants.mutant import Edit, Mutant

# A lease that is taken back is charged as a crash by the real sweep; here nobody is charged: whoever writes this does
# not think of it. It goes past the sweep's own caution, which would otherwise mend the bug.
_TAKE_BACK: Final = """\
    async def _take_back_from_the_dead(self, calls: _LaneCalls) -> None:
        known: set[bytes] = self.__dict__.setdefault("_workers_seen", set())
        try:
            there = set(await self.client.command("ZRANGE", calls.keys["workers"], 0, -1))
        except InfrastructureError:
            there = set()
        for worker in known - there:
            keys = [calls.keys[name] for name in ("lease", "owner", *READY_KEYS)]
            await self.client.ask("EVAL", _TAKE_BACK, len(keys), *keys, worker)
        known |= there

"""
_TAKE_BACK_LUA: Final = '''\
_TAKE_BACK = """
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local rank, worker = string.match(redis.call('HGET', KEYS[2], id) or '', '^(%d) (.+):%d+$')
  if worker == ARGV[1] then
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('LPUSH', KEYS[3 + rank], id)
  end
end
return 0
"""


'''

IN_REDIS: Final = (
    Mutant(
        name="unfenced-settle",
        broken="a settle is not fenced: it counts, whoever holds the lease",
        promise="F",
        signs=("F: ", "S: "),
        edits=(
            Edit(
                "redis/lua/settle.lua",
                old="if owners[i] and not passed[id] and string.sub(owners[i], 3) == tokens[i] then",
                new="if not passed[id] then",
            ),
            Edit(
                "redis/lua/settle.lua",
                old="local id, rank = ids[i], tonumber(string.sub(owners[i], 1, 1))",
                new="local id, rank = ids[i], tonumber(string.sub(owners[i] or '2', 1, 1))",
            ),
        ),
    ),
    Mutant(
        name="claim-not-recovered",
        broken="a claim whose reply was lost claims other jobs when it is sent again",
        promise="S",
        signs=("A: ", "dead: ", "reclaimed: ", "poisoned: "),
        edits=(
            Edit(
                "redis/lua/claim.lua",
                old="""\
local again = recorded_reply(SESSION, seq)
if again then
  if again.err then return again end
  return answer(leased_again(again, LEASE, OWNER, now + lease_ms, JOB, TRIES, CRASHES), -1)
end

""",
                new="",
            ),
        ),
    ),
    Mutant(
        name="sweep-ignores-outage",
        broken="the sweep takes expired leases back at once after an outage in which nobody could renew",
        promise="Z",
        signs=("Z: ", "D: ", "duplicated: ", "reclaimed: "),
        edits=(
            Edit(
                "redis/lua/sweep.lua",
                old="if now - swept > lease_ms / 2 then hold_until = now + hold end\n",
                new="",
            ),
        ),
    ),
    Mutant(
        name="error-is-death",
        broken="the reaper takes no answer about a worker for no such worker, and hands out its jobs",
        promise="Z",
        signs=("Z: ", "D: ", "duplicated: "),
        edits=(
            Edit(
                "redis/store.py",
                old="        args = (lease_ms, max_crashes, limit, POISON, recovery_ms)\n",
                new="        await self._take_back_from_the_dead(calls)\n"
                "        args = (lease_ms, max_crashes, limit, POISON, recovery_ms)\n",
            ),
            Edit(
                "redis/store.py",
                old="    async def register(self, lane: Lane, *, worker: str, info: str) -> None:\n",
                new=f"{_TAKE_BACK}    async def register(self, lane: Lane, *, worker: str, info: str) -> None:\n",
            ),
            Edit(
                "redis/store.py",
                old="class RedisStore:\n",
                new=f"{_TAKE_BACK_LUA}class RedisStore:\n",
            ),
        ),
    ),
    Mutant(
        name="two-step-reap",
        broken="the reaper takes expired leases away in one call and puts the jobs back in a second",
        promise="N",
        signs=("N: ", "S: "),
        edits=(
            Edit(
                "redis/lua/sweep.lua",
                old="      reclaimed[#reclaimed + 1] = id\n      add_to_rank(front, rank, id)\n",
                new="      reclaimed[#reclaimed + 1] = rank .. ':' .. id\n",
            ),
            Edit("redis/lua/sweep.lua", old="  push_ready(READY, front, 'LPUSH')\n", new=""),
            Edit(
                "runtime/reaper.py",
                old="        if not swept.hold_ms:\n",
                new="""\
        keys = self._store.keys(lane)
        for rank, _, job_id in (entry.partition(":") for entry in swept.reclaimed):
            await self._store.client.ask("LPUSH", keys[READY_KEYS[int(rank)]], job_id)
        if not swept.hold_ms:
""",
            ),
            Edit(
                "runtime/reaper.py",
                old="import structlog\nimport trio\n",
                new="import structlog\nimport trio\n\nfrom queue_trio.redis.keys import READY_KEYS\n",
            ),
        ),
    ),
    Mutant(
        name="new-id-on-retry",
        broken="an enqueue that is tried again is a new request, with a new id",
        promise="U",
        signs=("U: ", "S: "),
        edits=(
            Edit(
                "redis/enqueuer.py",
                old="        for part in (*self._under_way, *self._waiting):\n",
                new="""\
        call = self._session.unanswered
        if call is not None and call.maybe_sent:
            now_ms = time.time_ns() // 1_000_000
            for part in self._under_way:
                part.jobs = [replace(job, id=new_id(now_ms, os.urandom(10).hex())) for job in part.jobs]
            self._session._seq += 1
            call.args = (self._session._seq, *self._arguments())
        for part in (*self._under_way, *self._waiting):
""",
            ),
            Edit(
                "redis/enqueuer.py",
                old="from collections import deque\n",
                new="import os\nimport time\nfrom collections import deque\n",
            ),
            Edit(
                "redis/enqueuer.py",
                old="import trio\n\n",
                new="import trio\nfrom msgspec.structs import replace\n\nfrom queue_trio.core.job import new_id\n",
            ),
        ),
    ),
    Mutant(
        name="reused-connection",
        broken="a connection is used again after a timeout, while its reply is still on the way",
        promise="S",
        signs=("N: ", "U: ", "F: ", "S: ", "manual interventions: "),
        edits=(
            Edit(
                "redis/connection.py",
                old="        began = trio.current_time()\n",
                new="        began = trio.current_time()\n"
                "        scope = trio.CancelScope(deadline=began + timeout)\n",
            ),
            Edit(
                "redis/connection.py",
                old="                with trio.CancelScope(deadline=began + timeout):\n",
                new="                with scope:\n",
            ),
            Edit(
                "redis/connection.py",
                old="            if len(received) < replies:\n                self.abort()\n",
                new="            if len(received) < replies and not scope.cancelled_caught:\n"
                "                self.abort()\n",
            ),
            Edit(
                "redis/client.py",
                old="                pool.lost += connection is not None\n                pool.drop_idle()\n",
                new="                if connection is not None and connection.usable:\n"
                "                    pool.give_back(connection)\n"
                "                else:\n"
                "                    pool.lost += connection is not None\n"
                "                    pool.drop_idle()\n",
            ),
        ),
    ),
)
