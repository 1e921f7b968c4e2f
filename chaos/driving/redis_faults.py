"""Every fault that Redis itself can have, each with its heal and a proof of both.

A fault's methods return how it is known to be there, or to be gone, in words: a reply of the server, a process that is
gone. They raise HarnessError if it cannot be known. But for `bad_record`, nothing here knows of queues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import redis
import trio

from chaos.driving.redis_server import ASK_S, HEAL_S, POLL_S, open_client
from chaos.errors import DidNotBite, HarnessError
from queue_trio.core.job import Lane
from queue_trio.redis.keys import READY_KEYS, LaneKeys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from chaos.driving.redis_server import ChaosRedis

_BUSY_AFTER_MS: Final = 50
_TINY_MEMORY: Final = 100_000
"""Bytes: less than an empty server has in use."""
_NOBODY: Final = ("127.0.0.1", "1")
"""A primary that is not there: a replica of it is read-only and keeps its data."""
_PAD: Final = "chaos:pad"
_SCRIPT: Final = "return 'chaos'"

# Names no key of anybody's. A write that changes nothing is still a write to all that may refuse writes.
_A_WRITE: Final = ("DEL", "chaos:probe")
# `DEL` is never out of memory: only what may need more is refused.
_A_GROWTH: Final = ("SETRANGE", "chaos:probe", "0", "")

BAD_BYTES: Final = "no record: \x00\x01{["
_SPOIL: Final = """
local left, spoilt = tonumber(ARGV[1]), {}
local function spoil(id)
  if #spoilt >= left then return end
  redis.call('HSET', KEYS[1], id, ARGV[2])
  spoilt[#spoilt + 1] = id
end
for i = 3, #KEYS do
  for _, id in ipairs(redis.call('LRANGE', KEYS[i], 0, left - 1)) do spoil(id) end
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, left - 1)) do spoil(string.sub(member, 3)) end
return spoilt
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, ready to be brought about. Both return a proof and raise HarnessError; `heal` may be called twice."""

    name: str
    begin: Callable[[], Awaitable[str]]
    heal: Callable[[], Awaitable[str]]


class RedisFaults:
    """The faults of one server. One of a kind at a time; different kinds may overlap."""

    def __init__(self, redis: ChaosRedis) -> None:
        self._redis = redis

    # --- its process -----------------------------------------------------------------------------------------------

    def killed(self) -> Fault:
        """SIGKILL; healed by a restart from its append-only file. No power loss: the kernel keeps what it wrote."""

        async def begin() -> str:
            pid = self._redis.server.pid
            await self._redis.server.kill()
            if self._redis.server.running:
                raise HarnessError(f"redis (pid {pid}) survived SIGKILL")
            return f"pid {pid} is gone"

        async def heal() -> str:
            if not self._redis.server.running:
                await self._redis.bounded(self._redis.server.restart)
            return f"pid {self._redis.server.pid} answers"

        return self._fault("redis killed", begin, heal)

    def frozen(self) -> Fault:
        """SIGSTOP: connections stay open and nobody answers, for as long as it takes."""

        async def begin() -> str:
            await self._redis.server.freeze()
            return f"pid {self._redis.server.pid} is stopped; " + await self._redis.until_refused(
                "no answer", "PING"
            )

        async def heal() -> str:
            if self._redis.server.running:
                self._redis.server.thaw()
            return await self._redis.until_accepted("PING")

        return self._fault("redis frozen", begin, heal)

    def loading(self, seconds: float = 1.0) -> Fault:
        """A restart that takes a while, with LOADING as the answer to everything. `seconds`: roughly, by this machine.

        The append-only file is made long by commands that keep the server busy and change nothing.
        """
        restarted = trio.Event()

        async def restart() -> None:
            await self._redis.bounded(self._redis.server.restart)
            restarted.set()

        async def begin() -> str:
            cost_s = await self._cost_of_a_bitcount_s()
            await self._redis.server.terminate()
            file = _newest_aof(self._redis.folder)
            await trio.to_thread.run_sync(_pad, file, max(2048, round(seconds / cost_s)))
            self._redis.background.start_soon(restart)
            return await self._redis.until_refused("oading", "PING")

        async def heal() -> str:
            await restarted.wait()
            return await self._redis.until_accepted("PING")

        return self._fault("redis loading", begin, heal, heal_s=HEAL_S + seconds)

    async def _cost_of_a_bitcount_s(self) -> float:
        return await trio.to_thread.run_sync(_measure_bitcount, self._redis.server.unix_socket)

    # --- it answers late -------------------------------------------------------------------------------------------

    def asleep(self, seconds: float) -> Fault:
        """DEBUG SLEEP: the whole server stalls, and heals itself after `seconds`."""

        async def sleep() -> None:
            try:
                await self._redis.ask("DEBUG", "SLEEP", str(seconds), timeout_s=seconds + ASK_S)
            except redis.RedisError:
                return  # killed meanwhile; a refusal shows in `begin`

        async def begin() -> str:
            self._redis.background.start_soon(sleep)
            return f"DEBUG SLEEP {seconds:g}: " + await self._redis.until_refused("no answer", "PING")

        return self._fault("redis asleep", begin, self._answers, heal_s=HEAL_S + seconds)

    def writes_paused(self, seconds_max: float = 600.0) -> Fault:
        """CLIENT PAUSE WRITE: reads are answered, writes and scripts wait."""

        async def begin() -> str:
            await self._redis.command("CLIENT", "PAUSE", str(round(seconds_max * 1000)), "WRITE")
            if told := await self._redis.refusal("PING"):
                raise HarnessError(f"redis: only writes are paused, but PING gets: {told}")
            return "PING is answered; " + await self._redis.until_refused("no answer", *_A_WRITE)

        async def heal() -> str:
            await self._redis.command("CLIENT", "UNPAUSE")
            return await self._redis.until_accepted(*_A_WRITE)

        return self._fault("redis writes paused", begin, heal)

    def busy(self) -> Fault:
        """A script that never ends: BUSY is the answer to everything until SCRIPT KILL."""

        async def begin() -> str:
            await self._redis.config("lua-time-limit", str(_BUSY_AFTER_MS))
            self._redis.background.start_soon(self._ask_for_ever, "EVAL", "while true do end", "0")
            return await self._redis.until_refused("BUSY", "PING")

        async def heal() -> str:
            await self._redis.refusal("SCRIPT", "KILL")  # NOTBUSY if it has been done already
            told = await self._redis.until_accepted("PING")
            await self._redis.config("lua-time-limit", "5000")
            return told

        return self._fault("redis busy", begin, heal)

    async def _ask_for_ever(self, *command: str) -> None:
        try:
            await self._redis.ask(*command, timeout_s=3600.0)
        except redis.RedisError:
            return  # how it ends: killed script, killed server

    # --- it forgets and refuses ------------------------------------------------------------------------------------

    def scripts_flushed(self) -> Fault:
        """SCRIPT FLUSH, once. There is nothing to heal."""

        async def begin() -> str:
            sha = await self._redis.command("SCRIPT", "LOAD", _SCRIPT)
            await self._redis.command("SCRIPT", "FLUSH")
            if await self._redis.command("SCRIPT", "EXISTS", sha) != [False]:
                raise HarnessError("redis: a script is still there after SCRIPT FLUSH")
            return "SCRIPT EXISTS says 0 of a script that was loaded just before"

        return self._fault("redis scripts flushed", begin, self._answers)

    def out_of_memory(self, headroom: int = 0) -> Fault:
        """`maxmemory` at what is used plus `headroom` bytes, and nothing may be evicted; below what is used if 0.

        Proof is a refusal, which with headroom only the load can bring about: then it is what CONFIG GET says.
        """

        async def begin() -> str:
            used = (await self._redis.info("memory"))["used_memory"] if headroom else 0
            told = await self._redis.config("maxmemory", str(max(_TINY_MEMORY, used + headroom)))
            return (
                told if headroom else f"{told}; " + await self._redis.until_refused("maxmemory", *_A_GROWTH)
            )

        return self._configured("redis out of memory", begin, ("maxmemory", "0"), _A_GROWTH)

    def would_evict(self, policy: str = "allkeys-lru") -> Fault:
        """An eviction policy under which jobs would vanish when memory is full."""

        async def begin() -> str:
            return await self._redis.config("maxmemory-policy", policy)

        return self._configured("redis would evict", begin, ("maxmemory-policy", "noeviction"), ("PING",))

    def read_only(self) -> Fault:
        """A replica of a primary that is not there, as after a failover: reads are answered, writes are not."""

        async def begin() -> str:
            await self._redis.command("REPLICAOF", *_NOBODY)
            return await self._role("slave") + "; " + await self._redis.until_refused("read only", *_A_WRITE)

        async def heal() -> str:
            await self._redis.command("REPLICAOF", "NO", "ONE")
            return await self._role("master") + "; " + await self._redis.until_accepted(*_A_WRITE)

        return self._fault("redis read-only", begin, heal)

    def too_few_replicas(self, replicas: int = 1) -> Fault:
        """`min-replicas-to-write`, and there is none."""

        async def begin() -> str:
            told = await self._redis.config("min-replicas-to-write", str(replicas))
            return f"{told}; " + await self._redis.until_refused("replicas", *_A_WRITE)

        return self._configured("redis too few replicas", begin, ("min-replicas-to-write", "0"), _A_WRITE)

    def cannot_persist(self) -> Fault:
        """MISCONF: a snapshot cannot be written, so writes are refused.

        A folder by the snapshot's name is in its way: unlike permissions, that stops root too.
        """
        obstacle = self._redis.folder / "dump.rdb"

        async def begin() -> str:
            (obstacle / "in the way").mkdir(parents=True, exist_ok=True)
            await self._redis.config("save", "3600 1")
            await self._redis.command("BGSAVE")
            await self._saved("err")
            return "INFO says rdb_last_bgsave_status:err; " + await self._redis.until_refused(
                "snapshot", *_A_WRITE
            )

        async def heal() -> str:
            if obstacle.is_dir():
                (obstacle / "in the way").rmdir()
                obstacle.rmdir()
            await self._redis.command("BGSAVE")
            await self._saved("ok")
            await self._redis.config("save", "")
            return await self._redis.until_accepted(*_A_WRITE)

        return self._fault("redis cannot persist", begin, heal)

    def bad_records(self, count: int = 1, *, queue: str = "default", prefix: str = "qt") -> Fault:
        """The records of `count` jobs that wait, ready or scheduled, become BAD_BYTES in one step. Nothing heals that.

        The proof names the jobs. Raises DidNotBite if fewer were waiting.
        """
        keys = LaneKeys(Lane(queue), prefix)
        names = (keys["job"], keys["scheduled"], *keys.pick(READY_KEYS))

        async def begin() -> str:
            command = ("EVAL", _SPOIL, str(len(names)), *names, str(count), BAD_BYTES)
            spoilt = await self._redis.command(*command)
            if len(spoilt) < count:
                raise DidNotBite(f"redis: only {len(spoilt)} of {count} jobs were waiting to be spoilt")
            told = await self._redis.command("HMGET", keys["job"], *spoilt)
            if any(raw not in (BAD_BYTES, None) for raw in told):  # None: it has been quarantined already
                raise HarnessError(f"redis: {told} should be bad records")
            return f"no record can be decoded of {', '.join(spoilt)}"

        return self._fault("bad records", begin, self._answers)

    async def _saved(self, status: str) -> None:
        """Wait until a snapshot has ended that way. Raises HarnessError."""
        with trio.move_on_after(HEAL_S):
            while True:
                found = await self._redis.info("persistence")
                if not found["rdb_bgsave_in_progress"] and found["rdb_last_bgsave_status"] == status:
                    return
                await trio.sleep(POLL_S)
        raise HarnessError(f"redis: no snapshot ended with {status!r} within {HEAL_S:g} s")

    async def _role(self, wanted: str) -> str:
        found = (await self._redis.info("replication"))["role"]
        if found != wanted:
            raise HarnessError(f"redis: its role should be {wanted}, and is {found}")
        return f"INFO says role:{found}"

    def _configured(
        self,
        name: str,
        begin: Callable[[], Awaitable[str]],
        normal: tuple[str, str],
        accepted: tuple[str, ...],
    ) -> Fault:
        """A fault that is one setting, healed by setting it to `normal`, after which `accepted` is no more refused."""

        async def heal() -> str:
            told = await self._redis.config(*normal)
            return f"{told}; " + await self._redis.until_accepted(*accepted)

        return self._fault(name, begin, heal)

    def _fault(
        self,
        name: str,
        begin: Callable[[], Awaitable[str]],
        heal: Callable[[], Awaitable[str]],
        heal_s: float = HEAL_S,
    ) -> Fault:
        """A fault whose heal is done though we be cancelled, and tried again: another fault may be in its way."""

        async def insist() -> str:
            last = "nothing was answered"
            with trio.CancelScope(shield=True, relative_deadline=heal_s):
                while True:
                    try:
                        return await heal()
                    except HarnessError as error:
                        last = str(error)
                    await trio.sleep(POLL_S)
            raise HarnessError(f"{name}: not healed within {heal_s:g} s: {last}")

        return Fault(name, begin, insist)

    async def _answers(self) -> str:
        return await self._redis.until_accepted("PING")


def _measure_bitcount(unix_socket: Path, tries: int = 64) -> float:
    """Seconds that one of `_pad`'s commands costs here, as the server counts them."""
    client = open_client(unix_socket, ASK_S)
    try:
        for command in _pad_commands(tries):
            client.execute_command(*command)  # type: ignore[no-untyped-call]
        usec = client.execute_command("INFO", "commandstats")["cmdstat_bitcount"]["usec_per_call"]  # type: ignore[no-untyped-call]
    finally:
        client.close()
    return max(float(usec), 1.0) / 1e6


def _pad_commands(count: int) -> list[tuple[str, ...]]:
    """Commands that keep a server busy and leave nothing; in a database of their own, so nobody's key is touched."""
    pad = [("SELECT", "9"), ("SETBIT", _PAD, str(8 * 200_000), "1")]
    return [*pad, *[("BITCOUNT", _PAD)] * count, ("DEL", _PAD), ("SELECT", "0")]


def _pad(file: Path, count: int) -> None:
    """Make an append-only file longer. Only after a clean stop: behind half a command it would be damage."""
    with file.open("ab") as aof:
        for command in _pad_commands(count):
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(part), part.encode()) for part in command)
            aof.write(b"*%d\r\n%s" % (len(command), parts))


def _newest_aof(folder: Path) -> Path:
    """The file that the server appends to: `*.incr.aof` from Redis 7 on, one single file before."""
    parts = sorted(folder.rglob("*.incr.aof"), key=lambda file: int(file.name.split(".")[-3]))
    single = folder / "appendonly.aof"
    if not parts and not single.is_file():
        raise HarnessError(f"redis: no append-only file in {folder}")
    return parts[-1] if parts else single
