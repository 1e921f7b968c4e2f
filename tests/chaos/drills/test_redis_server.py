"""Every fault of Redis itself: it bites, it says so, it heals, and the data is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
import trio
from pydantic import SecretStr

from chaos.actors.tasks import app, make_job
from chaos.driving.redis_faults import BAD_BYTES, RedisFaults
from chaos.driving.redis_server import open_chaos_redis
from chaos.errors import HarnessError
from queue_trio.core.job import Lane, State
from queue_trio.core.settings import RedisSettings, Settings
from tests.support import is_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from chaos.driving.redis_faults import Fault
    from chaos.driving.redis_server import ChaosRedis
    from queue_trio.server_binary import ServerBinary

FAULTS: dict[str, tuple[Callable[[RedisFaults], Fault], str]] = {
    "killed": (lambda faults: faults.killed(), r"pid \d+ is gone"),
    "frozen": (lambda faults: faults.frozen(), "is stopped; PING gets no answer"),
    "loading": (lambda faults: faults.loading(0.3), "PING is refused: .*loading the dataset"),
    "asleep": (lambda faults: faults.asleep(0.6), "DEBUG SLEEP 0.6: PING gets no answer"),
    "writes paused": (lambda faults: faults.writes_paused(), "PING is answered; DEL gets no answer"),
    "busy": (lambda faults: faults.busy(), "PING is refused: BUSY"),
    "out of memory": (lambda faults: faults.out_of_memory(), "SETRANGE is refused: .*maxmemory"),
    "would evict": (lambda faults: faults.would_evict(), "maxmemory-policy says 'allkeys-lru'"),
    "read-only": (lambda faults: faults.read_only(), "role:slave; DEL is refused"),
    "too few replicas": (lambda faults: faults.too_few_replicas(), "DEL is refused: .*replicas"),
    "cannot persist": (lambda faults: faults.cannot_persist(), "status:err; DEL is refused"),
    "scripts flushed": (lambda faults: faults.scripts_flushed(), "SCRIPT EXISTS says 0"),
}


@pytest.fixture
async def server(server_binary: ServerBinary) -> AsyncIterator[ChaosRedis]:
    async with open_chaos_redis(server=server_binary) as server:
        yield server


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_bites_and_heals_and_loses_nothing(server: ChaosRedis, name: str) -> None:
    make, proof = FAULTS[name]
    fault = make(RedisFaults(server))
    await server.ask("SET", "kept", "value")

    with trio.fail_after(5):
        told = await fault.begin()
    with trio.fail_after(5):
        healed = await fault.heal()

    assert pytest.RaisesExc(Exception, match=proof).matches(Exception(told)), told
    assert healed
    assert await server.refusal("SET", "chaos:later", "1") == ""
    assert await server.ask("GET", "kept") == "value"
    await server.ask("DEL", "kept", "chaos:later")
    assert await server.ask("KEYS", "*") == []
    assert "db9" not in await server.info("keyspace")


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in {"asleep", "loading"}])
async def test_a_heal_may_be_called_twice(server: ChaosRedis, name: str) -> None:
    fault = FAULTS[name][0](RedisFaults(server))
    await fault.begin()
    assert await fault.heal()
    assert await fault.heal()


async def test_a_fault_that_does_not_bite_is_an_error(
    server: ChaosRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.driving.redis_server.HEAL_S", 0.3)

    async def nothing(name: str, value: str) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    monkeypatch.setattr(server, "config", nothing)
    with pytest.raises(
        HarnessError, match="SETRANGE should be refused with 'maxmemory', and got 'an answer'"
    ):
        await RedisFaults(server).out_of_memory().begin()


async def test_a_setting_that_does_not_take_is_an_error(server: ChaosRedis) -> None:
    with pytest.raises(HarnessError, match="maxmemory-policy cannot be set to 'nonsense'"):
        await server.config("maxmemory-policy", "nonsense")


async def test_nothing_is_left_of_it_whatever_state_it_is_in(server_binary: ServerBinary) -> None:
    async with open_chaos_redis(server=server_binary) as server:
        await RedisFaults(server).busy().begin()
        await RedisFaults(server).frozen().begin()
        pid, folder = server.server.pid, server.folder
    assert is_gone(pid)
    assert not folder.exists()


async def test_what_is_acknowledged_survives_a_kill(server: ChaosRedis) -> None:
    for number in range(100):
        await server.ask("SET", f"key-{number}", "x")
    fault = RedisFaults(server).killed()
    await fault.begin()
    with pytest.raises(redis.RedisError):
        await server.ask("PING")
    await fault.heal()
    assert await server.ask("DBSIZE") == 100


async def test_memory_may_run_out_later(server: ChaosRedis) -> None:
    fault = RedisFaults(server).out_of_memory(headroom=2_000_000)
    assert "maxmemory says" in await fault.begin()
    assert await server.refusal("SET", "small", "x") == ""
    answers = [await server.refusal("SET", f"key-{number}", "x" * 200_000) for number in range(20)]
    assert answers[0] == ""
    assert "maxmemory" in answers[-1]
    await fault.heal()
    assert await server.refusal("SET", "small", "y") == ""


async def test_ready_jobs_become_undecodable(server: ChaosRedis) -> None:
    settings = Settings(redis=RedisSettings(url=SecretStr(server.url)))
    app.configure(settings)
    async with app.client() as client:
        ids = [await client.enqueue(make_job("quick")) for _ in range(3)]
        assert (
            await RedisFaults(server).bad_records(2).begin()
            == f"no record can be decoded of {ids[0]}, {ids[1]}"
        )
        raws = [job.raw for job in await client.store.peek(Lane(), State.READY, count=3)]
        assert [raw == BAD_BYTES.encode() for raw in raws] == [True, True, False]
        with pytest.raises(HarnessError, match="only 3 of 4"):
            await RedisFaults(server).bad_records(4).begin()


async def test_a_heal_waits_for_another_fault_to_be_healed(server: ChaosRedis) -> None:
    faults = RedisFaults(server)
    memory, stop = faults.out_of_memory(), faults.frozen()
    await memory.begin()
    await stop.begin()

    async def thaw() -> None:
        await trio.sleep(0.3)
        await stop.heal()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thaw)
            assert await memory.heal() == "CONFIG GET maxmemory says '0'; SETRANGE is accepted"
