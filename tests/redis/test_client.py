"""The client through faults: what is tried again, what is not, for how long, and on how many connections."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from queue_trio.core.breaker import State
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import (
    CircuitOpen,
    Indeterminate,
    NotSent,
    ServerError,
    ServerRefused,
    ServerUnusable,
    UsageError,
)
from queue_trio.redis.client import Call, Client
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.scripts import Script
from tests.runtime.faults import FAST, faulty_relay, recovery_bound_s
from tests.support import connect, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from queue_trio.embedded import EmbeddedRedis

ECHO = Script("echo", "return ARGV[1]", "0" * 40, (), False)
WRITE = Script("write", "return redis.call('INCR', KEYS[1])", "1" * 40, ("counter",), False)


def settings_for(url: str, **changes: Any) -> RedisSettings:
    return RedisSettings(**(FAST | {"url": url} | changes))


@asynccontextmanager
async def client_for(url: str, *, wait_when_refused: bool = False, **changes: Any) -> AsyncIterator[Client]:
    settings = settings_for(url, **changes)
    resolver = FixedResolver(parse_url(url))
    client = Client(
        resolver, settings, name="test", wait_when_refused=wait_when_refused, rng=random.Random(5)
    )
    try:
        yield client
    finally:
        await client.aclose()


async def test_commands_and_connections_are_used_again(redis_url: str) -> None:
    async with client_for(redis_url) as client:
        assert await client.ask("ECHO", "a") == b"a"
        assert await client.ask_many([("ECHO", n) for n in range(3)]) == [b"0", b"1", b"2"]
        assert await client.command("ECHO", "b") == b"b"
        await client.connect()
        assert client.connects == 1
        assert client.down_since is None


async def test_a_script_the_server_does_not_know_is_sent_whole(redis_url: str) -> None:
    async with client_for(redis_url) as client:
        assert await client.run(Call(ECHO, (), ("x",))) == b"x"


async def test_error_replies_are_raised_and_not_tried_again(redis_url: str) -> None:
    async with client_for(redis_url) as client:
        with pytest.raises(ServerError, match="unknown command"):
            await client.ask("NONSENSE")
        with pytest.raises(ServerError, match="unknown command"):
            await client.ask_many([("PING",), ("NONSENSE",)])
        with pytest.raises(ServerError, match="unknown command"):
            await client.command("NONSENSE")
        assert client.connects == 1
        assert client.breaker.state(trio.current_time()) is State.CLOSED


async def test_never_more_connections_than_allowed(redis_url: str) -> None:
    async with client_for(redis_url, max_connections=3) as client, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(client.ask, "PING")
        await eventually(lambda: not nursery.child_tasks)
        assert client.connects == 3


async def test_a_cancelled_call_leaves_its_reply_to_nobody(redis_url: str) -> None:
    async with client_for(redis_url, read_timeout=3) as client:
        with trio.move_on_after(0.05):
            await client.command("BLPOP", "nothing", 5, wait_s=5)
        for n in range(5):
            assert await client.ask("ECHO", n) == str(n).encode()
        assert client.connects == 2
        assert client._limit.borrowed_tokens == 0


async def test_a_closed_client_says_so(redis_url: str) -> None:
    async with client_for(redis_url) as client:
        await client.ask("PING")
    with trio.fail_after(1):
        for call in (client.ask("PING"), client.command("PING"), client.run(Call(ECHO, (), ("x",)))):
            with pytest.raises(UsageError, match="closed"):
                await call


async def test_closed_while_it_is_cancelled_no_socket_is_left(redis_url: str) -> None:
    async with client_for(redis_url) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client.ask, "PING")
        connections = [connection for connection, _ in client._idle]
        assert len(connections) > 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()
        assert not any(connection.usable for connection in connections)


async def test_closed_in_mid_command_the_connection_goes_too(redis_url: str) -> None:
    async with client_for(redis_url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.command, "BLPOP", "nothing", 0.2, 0.2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.aclose()
    assert client._idle == []


async def test_one_shot_commands_fail_at_once() -> None:
    async with client_for("redis://127.0.0.1:1/0") as client:
        for attempt in (client.connect(), client.command("PING")):
            with pytest.raises(NotSent), trio.fail_after(1):
                await attempt


async def test_the_breaker_opens_and_says_for_how_long() -> None:
    async with client_for("redis://127.0.0.1:1/0") as client:
        for _ in range(5):
            with pytest.raises(NotSent):
                await client.command("PING")
        with pytest.raises(CircuitOpen) as caught:
            await client.command("PING")
        assert 0 < caught.value.retry_after <= 0.15


async def test_a_wrong_password_ends_the_wait(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://nobody:wrong@")
    async with client_for(url) as client:
        with pytest.raises(ServerUnusable), trio.fail_after(2):
            await client.ask("PING")
        assert client.down_since is None


async def test_memory_full_is_raised_or_waited_out(private_redis: EmbeddedRedis) -> None:
    url = private_redis.url
    async with client_for(url) as impatient, client_for(url, wait_when_refused=True) as patient:
        await impatient.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServerRefused), trio.fail_after(2):
            await impatient.run(Call(WRITE, ("counter",), ()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patient.run, Call(WRITE, ("counter",), ()))
            await eventually(lambda: patient.down_since is not None)
            await impatient.ask("CONFIG", "SET", "maxmemory", "0")
        assert patient.down_since is None
        assert await impatient.ask("GET", "counter") == b"1"


async def test_an_outage_is_told_once_and_its_end_too(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url) as client:
        await client.ask("PING")
        await private_redis.kill()
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(client.ask, "PING")
                await eventually(lambda: client.breaker.state(trio.current_time()) is State.OPEN)
                await private_redis.restart()
                began = trio.current_time()
            assert trio.current_time() - began < recovery_bound_s(client._settings)
    told = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert told == ["redis.unavailable", "breaker.changed", "redis.back"]


async def test_what_one_dead_connection_tells_of_the_others(private_redis: EmbeddedRedis) -> None:
    """A firewall that forgot us kills them all at once, and finding that out one by one takes a timeout each."""
    async with faulty_relay(private_redis) as relay, client_for(relay.url) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client.ask, "PING")
        assert len(client._idle) == 8
        relay.forget()
        began = trio.current_time()
        await client.ask("PING")
        # One read timeout, one wait, and a little for a busy machine.
        assert trio.current_time() - began < 0.3 + client._settings.backoff_cap + 0.3
        assert client.connects == 9


async def test_a_restart_between_two_commands_costs_no_breaker(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(client.ask, "PING")
        await private_redis.kill()
        await private_redis.restart()
        with capture_logs() as logs:
            assert await client.ask("PING") == b"PONG"
        assert "breaker.changed" not in [line["event"] for line in logs]


@pytest.mark.parametrize("frozen", [True, False], ids=["connecting", "waiting for its reply"])
async def test_a_cancelled_probe_gives_its_place_back(private_redis: EmbeddedRedis, frozen: bool) -> None:
    # Patient: this probe must end by being cancelled, not by a timeout.
    async with client_for(private_redis.url, connect_timeout=30, read_timeout=30) as client:
        await _open_the_breaker(client, private_redis)
        await private_redis.restart()
        if frozen:
            await private_redis.freeze()
        await eventually(lambda: client.breaker.state(trio.current_time()) is State.HALF_OPEN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.command, "BLPOP", "nothing", 30, 30)
            if frozen:
                await trio.testing.wait_all_tasks_blocked()
            else:
                await eventually(lambda: _blocked_clients(private_redis))
            assert len(client.breaker._probing) == 1
            with pytest.raises(CircuitOpen, match="awaits its probes"):
                await client.command("PING")
            nursery.cancel_scope.cancel()
        assert client.breaker._probing == set()
        assert client._limit.borrowed_tokens == 0
        if frozen:
            private_redis.thaw()
        with trio.fail_after(recovery_bound_s(client._settings)):
            assert await client.ask("PING") == b"PONG"
        assert client.breaker.state(trio.current_time()) is State.CLOSED


async def _open_the_breaker(client: Client, server: EmbeddedRedis) -> None:
    await client.ask("PING")
    await server.kill()
    while client.breaker.state(trio.current_time()) is State.CLOSED:
        with pytest.raises((NotSent, Indeterminate)):
            await client.command("PING")


def _blocked_clients(server: EmbeddedRedis) -> bool:
    with connect(server.unix_socket) as direct:
        clients = direct.info("clients")
    assert isinstance(clients, dict)
    return bool(clients["blocked_clients"])


async def test_a_connection_closed_while_it_lay_idle_is_not_used(redis_url: str) -> None:
    """A command that is sent once would end as Indeterminate there, and its caller could not know what happened."""
    async with client_for(redis_url) as client, client_for(redis_url) as other:
        await other.command("CLIENT", "KILL", "ID", await client.command("CLIENT", "ID"))
        ((connection, used),) = client._idle
        await eventually(connection.stale, what="the end of the connection")
        client._idle = [(connection, used - 5)]  # five seconds that need not be waited for
        assert await client.command("PING") == b"PONG"
        assert client.connects == 2
        assert not connection.usable


async def test_a_peer_that_hangs_up_at_once_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    connect, made = trio.open_tcp_stream, []

    async def connect_and_be_reset(host: str, port: int) -> trio.SocketStream:
        made.append(await connect(host, port))
        accepted = await listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.socket.close()  # a reset, and no goodbye
        await trio.lowlevel.wait_readable(made[0].socket)
        return made[0]

    monkeypatch.setattr(trio, "open_tcp_stream", connect_and_be_reset)
    async with listener, client_for(f"redis://127.0.0.1:{listener.socket.getsockname()[1]}/0") as client:
        with pytest.raises(NotSent):
            await client.command("PING")
    assert made[0].socket.fileno() == -1
