"""The client through faults: what is tried again, what is not, for how long, and on how many connections."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from queue_trio.core.breaker import State
from queue_trio.core.job import Enqueued, Lane, NewJob
from queue_trio.core.job import State as JobState
from queue_trio.core.settings import RedisSettings
from queue_trio.errors import (
    CircuitOpen,
    Indeterminate,
    InfrastructureError,
    NotSent,
    OutcomeUnknown,
    ServerError,
    ServerRefused,
    ServerUnusable,
    UsageError,
)
from queue_trio.redis.client import Call, Client
from queue_trio.redis.endpoint import FixedResolver, parse_url
from queue_trio.redis.scripts import Script
from queue_trio.redis.store import RedisStore
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
        assert client._limit.value == client._settings.max_connections


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
        connections = list(client._pool.idle)
        assert len(connections) > 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()
        assert not any(connection.usable for connection in connections)


async def test_closed_in_mid_command_the_connection_goes_too(redis_url: str) -> None:
    async with client_for(redis_url) as client, trio.open_nursery() as nursery:
        # The server ends a blocking command late, by up to a tenth of a second: `wait_s` is what allows for it.
        nursery.start_soon(partial(client.command, "BLPOP", "nothing", 0.2, wait_s=0.2))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.aclose()
    assert client._pool.idle == []


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


async def test_a_policy_that_evicts_is_refused_at_the_start_and_waited_out_at_work(
    private_redis: EmbeddedRedis,
) -> None:
    url = private_redis.url
    async with client_for(url) as impatient, client_for(url, wait_when_refused=True) as patient:
        for client in (impatient, patient):
            await client.ask("PING")
        with connect(private_redis.unix_socket) as operator:
            operator.config_set("maxmemory-policy", "allkeys-lru")
            operator.client_kill_filter(_type="normal", skipme=True)
            async with client_for(url, wait_when_refused=True) as newcomer:
                with pytest.raises(ServerUnusable, match="set it to noeviction"), trio.fail_after(2):
                    await newcomer.ask("PING")
            with pytest.raises(ServerRefused, match="set it to noeviction"), trio.fail_after(2):
                await impatient.ask("PING")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(patient.ask, "PING")
                await eventually(lambda: patient.reason is not None and "noeviction" in patient.reason)
                operator.config_set("maxmemory-policy", "noeviction")
        assert patient.down_since is None


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
        assert len(client._pool.idle) == 8
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
            nursery.start_soon(partial(client.command, "BLPOP", "nothing", 30, wait_s=30))
            if frozen:
                await trio.testing.wait_all_tasks_blocked()
            else:
                await eventually(lambda: _blocked_clients(private_redis))
            assert len(client.breaker._probing) == 1
            with pytest.raises(CircuitOpen, match="awaits its probes"):
                await client.command("PING")
            nursery.cancel_scope.cancel()
        assert client.breaker._probing == set()
        assert client._limit.value == client._settings.max_connections
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
        (connection,) = client._pool.idle
        await eventually(connection.stale, what="the end of the connection")
        connection.answered_at -= 5  # five seconds that need not be waited for
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


# --- what is told, and counted -------------------------------------------------------------------------------------


class Unreachable:
    """A resolver of a server that is out of reach until `away` is False."""

    def __init__(self, url: str = "redis://127.0.0.1:1/0") -> None:
        self.away = True
        self.endpoint = parse_url(url)

    async def resolve(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise NotSent("cannot connect: no route to host")
        return self.endpoint


async def test_an_hour_of_outage_is_a_line_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    client = Client(Unreachable(), settings_for("redis://x", backoff_cap=5, breaker_open_wait=5), name="test")
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client.ask, "PING")
            await trio.sleep(3600)
            nursery.cancel_scope.cancel()
    told = [line for line in logs if line["log_level"] != "debug"]
    assert [line["event"] for line in told[:2]] == ["redis.unavailable", "breaker.changed"]
    assert told[0]["hint"] == "waiting for it; redis.url or QUEUE_TRIO_REDIS__URL says where"
    reminders = told[2:]
    assert {line["event"] for line in reminders} == {"redis.still_unavailable"}
    assert 50 <= len(reminders) <= 60
    assert reminders[-1]["reason"] == "cannot connect: no route to host"
    assert reminders[-1]["for_s"] > 3500


async def test_what_was_reached_before_gets_no_hint(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url) as client:
        await client.ask("PING")
        assert (client.down_since, client.reason) == (None, None)
        await private_redis.kill()
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.ask, "PING")
                await eventually(lambda: client.reason is not None and "refused" in client.reason)
                assert client.down_since is not None
                await private_redis.restart()
        assert not client._outage.since
        assert not client.reason
    assert "hint" not in logs[0]
    assert logs[-1]["event"] == "redis.back"


async def test_errors_and_reconnects_are_counted(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url) as client:
        await client.run(Call(ECHO, (), ("x",)))
        assert (client.errors, client.connects, client.reconnects) == ({}, 1, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client.ask, "PING")
        assert (client.connects, client.reconnects) == (4, 0)  # a pool that grows has not reconnected
        for command in ("NONSENSE", "LLEN"):
            with pytest.raises(ServerError):
                await client.ask(command)
        await client.ask("SET", "text", "x")
        with pytest.raises(ServerError):
            await client.ask("LLEN", "text")
        await client.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServerRefused):
            await client.run(Call(WRITE, ("counter",), ()))
        with pytest.raises(ServerError):
            await client.run(Call(Script("odd", "return {err='MADEUP x'}", "2" * 40, (), False), (), ()))
        assert client.errors == {"ERR": 2, "WRONGTYPE": 1, "OOM": 1, "other": 1}
        await private_redis.kill()
        for _ in range(2):
            with pytest.raises((NotSent, Indeterminate)):
                await client.command("PING")
        await private_redis.restart()
        await client.ask("PING")
        assert client.errors["Indeterminate"] == 1
        assert client.errors["NotSent"] >= 1
        assert client.reconnects == 1


# --- probes --------------------------------------------------------------------------------------------------------


async def test_a_probe_says_what_is_the_matter_in_time(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url, max_connections=1, read_timeout=30) as client:
        await client.probe(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.command, "BLPOP", "nothing", 30, wait_s=30))
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(NotSent, match=r"no connection within 0\.1 s"), trio.fail_after(2):
                await client.probe(0.1)
            nursery.cancel_scope.cancel()
        await client.probe(1)
        await private_redis.freeze()
        with pytest.raises(Indeterminate, match=r"no reply to PING within 0\.1 s"), trio.fail_after(2):
            await client.probe(0.1)
        with pytest.raises(NotSent, match=r"no connection within 0\.1 s"), trio.fail_after(2):
            await client.probe(0.1)  # the kernel accepts, but nobody shakes hands
        private_redis.thaw()
        await client.probe(5)
        await private_redis.kill()
        with trio.fail_after(2):
            while client.breaker.state(trio.current_time()) is State.CLOSED:
                with pytest.raises((NotSent, Indeterminate)):
                    await client.probe(1)
            with pytest.raises(CircuitOpen):
                await client.probe(1)


async def test_a_probe_of_a_server_that_is_loading_or_refuses_us(private_redis: EmbeddedRedis) -> None:
    async with client_for(private_redis.url) as client:
        await client.probe(1)
        await client.ask("CONFIG", "SET", "requirepass", "secret")
    async with client_for(private_redis.url) as stranger:
        with pytest.raises(ServerUnusable):
            await stranger.probe(1)
        assert stranger.errors == {"NOAUTH": 1}


async def test_a_replica_is_left_and_the_primary_looked_for_again(private_redis: EmbeddedRedis) -> None:
    """A connection to what was the primary stays open after a failover. Whoever kept it would be refused for ever."""
    with connect(private_redis.unix_socket) as plain:
        plain.replicaof("127.0.0.1", "1")
        async with client_for(private_redis.url) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run, Call(WRITE, ("counter",), ()))
                await eventually(lambda: client.connects >= 3)
                plain.replicaof("NO", "ONE")
            assert client.reconnects >= 2
            assert client.errors["READONLY"] >= 2
            await client.ask("FLUSHALL")


# --- those who do not wait -----------------------------------------------------------------------------------------


async def test_who_fails_fast_looks_one_at_a_time_and_only_when_nobody_else_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    resolver = Unreachable()
    client = Client(resolver, settings_for("redis://x", breaker_open_wait=1), name="test")
    tries = 0
    original = resolver.resolve

    async def slow() -> Any:
        nonlocal tries
        tries += 1
        await trio.sleep(0.2)
        return await original()

    resolver.resolve = slow  # type: ignore[method-assign]

    async def ask() -> None:
        with pytest.raises(CircuitOpen, match="no route to host") as caught:
            async with client.fail_fast():
                await client.ask("PING")
        assert isinstance(caught.value.__cause__, NotSent) or caught.value.__cause__ is None

    await ask()
    assert tries == 1
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert (tries, trio.current_time()) == (1, began)
    await trio.sleep(1.6)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert tries == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, "PING")
        await trio.sleep(30)
        before, now = tries, trio.current_time()
        await ask()  # a patient one is at it: it will see
        assert (tries, trio.current_time()) == (before, now)
        nursery.cancel_scope.cancel()
    await trio.sleep(1.6)
    await ask()
    assert tries > before


async def test_who_shares_a_call_with_patient_ones_is_told_apart(private_redis: EmbeddedRedis) -> None:
    """Redis goes away in mid-call: those in it cannot know, those behind it can, and the patient ones go on."""
    async with faulty_relay(private_redis) as relay, client_for(relay.url) as client:
        store = RedisStore(client)
        lane = Lane()
        await store.enqueue(lane, [NewJob("first", b"{}")])
        ends: dict[str, Any] = {}

        async def put(job_id: str, *, fail_fast: bool) -> None:
            try:
                async with client.fail_fast() if fail_fast else nullcontext():
                    ends[job_id] = await store.enqueue(lane, [NewJob(job_id, b"{}")], timeout_s=10)
            except InfrastructureError as error:
                ends[job_id] = type(error)

        relay.swallow(True)
        async with trio.open_nursery() as nursery:
            for job_id, fail_fast in (("sends", True), ("behind", True), ("patient", False), ("last", True)):
                nursery.start_soon(partial(put, job_id, fail_fast=fail_fast))
                await trio.testing.wait_all_tasks_blocked()
            await eventually(lambda: len(ends) == 3, 1)
            assert ends == {"sends": OutcomeUnknown, "behind": CircuitOpen, "last": CircuitOpen}
            relay.swallow(False)
        assert ends["patient"] == [Enqueued.CREATED]
        peeked = [job.id for job in await store.peek(lane, JobState.READY, count=9)]
        assert "patient" in peeked
        assert not {"behind", "last"} & set(peeked)
        assert client._impatient == set()
        await client.ask("FLUSHALL")
