"""Connections to real servers, to a scripted peer, and to addresses where nobody is."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from queue_trio.errors import (
    ConfigError,
    Indeterminate,
    NotSent,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
)
from queue_trio.redis import connection, lookout
from queue_trio.redis.connection import Connection, ServerInfo
from queue_trio.redis.endpoint import Endpoint, parse_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis
    from tests.support import SharedRedis

LOOPBACK = "127.0.0.1"


async def connect(endpoint: Endpoint, *, timeout: float = 5, client_name: str = "test") -> Connection:  # noqa: ASYNC109
    return await Connection.open(
        endpoint, connect_timeout=timeout, read_timeout=timeout, client_name=client_name
    )


@asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[Connection]:
    connection = await connect(endpoint)
    try:
        yield connection
    finally:
        await connection.aclose()


def tcp(port: int, **values: Any) -> Endpoint:
    return Endpoint(host=LOOPBACK, port=port, **values)


# --- real servers --------------------------------------------------------------------------------------------------


async def test_tcp(redis_server: SharedRedis, redis_url: str) -> None:
    async with connected(parse_url(f"redis://{LOOPBACK}:{redis_server.port}")) as connection:
        assert connection.server.name in ("redis", "valkey")
        assert connection.server.protocol == 3
        assert (connection.server.role, connection.server.mode) == ("master", "standalone")
        assert re.fullmatch(r"\d+\.\d+\.\d+", connection.server.version)
        assert await connection.execute("SET", "k", b"\x00\xff", timeout=5) == b"OK"
        assert await connection.execute("GET", "k", timeout=5) == b"\x00\xff"
        assert await connection.execute("DEL", "k", timeout=5) == 1


async def test_unix_socket_and_database_number(redis_server: SharedRedis, redis_url: str) -> None:
    async with (
        connected(parse_url(f"unix://{redis_server.unix_socket}?db=3")) as third,
        connected(parse_url(f"unix://{redis_server.unix_socket}")) as zeroth,
    ):
        await third.execute("SET", "k", 1, timeout=5)
        assert await zeroth.execute("EXISTS", "k", timeout=5) == 0
        assert await third.execute("DEL", "k", timeout=5) == 1


async def test_client_name(redis_server: SharedRedis) -> None:
    connection = await connect(tcp(redis_server.port), client_name="qt:worker@host/1")
    clients = await connection.execute("CLIENT", "LIST", timeout=5)
    await connection.aclose()
    assert isinstance(clients, bytes)
    assert b" name=qt:worker@host/1 " in clients


@pytest.mark.parametrize("name", ["", "two words", "new\nline", "caf\u00e9"])
async def test_client_names_the_server_would_refuse(name: str) -> None:
    with pytest.raises(ConfigError, match="client name"):
        await connect(Endpoint(), client_name=name)


async def test_a_pipeline_in_order_and_large_values(redis_server: SharedRedis, redis_url: str) -> None:
    async with connected(tcp(redis_server.port)) as connection:
        commands = [("ECHO", number) for number in range(5_000)]
        assert await connection.pipeline(commands, 20) == [b"%d" % number for number in range(5_000)]
        large = bytes(range(256)) * 20_000
        # More than both sides' socket buffers at once: sending must not wait for replies to be read.
        replies = await connection.pipeline([("SET", "k", large), *[("GET", "k")] * 5, ("DEL", "k")], 20)
        assert replies == [b"OK", *[large] * 5, 1]


async def test_the_server_speaks_resp3_types(redis_server: SharedRedis, redis_url: str) -> None:
    async with connected(tcp(redis_server.port)) as connection:
        replies = await connection.pipeline(
            [
                ("HSET", "h", "field", 1.5),
                ("HGETALL", "h"),
                ("ZADD", "z", 1.5, "member"),
                ("ZSCORE", "z", "member"),
                ("SADD", "s", "member"),
                ("SMEMBERS", "s"),
                ("GET", "nothing"),
                ("EVAL", "return {1, 'a', false, redis.error_reply('STALE lease')}", 0),
                ("DEL", "h", "z", "s"),
            ],
            5,
        )
        *plain, script, deleted = replies
        assert plain == [1, {b"field": b"1.5"}, 1, 1.5, 1, [b"member"], None]
        assert isinstance(script, list)
        assert script[:3] == [1, b"a", None]
        assert script[3].code == "STALE"
        assert deleted == 3


async def test_push_messages_of_a_real_server(redis_server: SharedRedis, redis_url: str) -> None:
    async with connected(tcp(redis_server.port)) as connection, connected(tcp(redis_server.port)) as other:
        await connection.execute("CLIENT", "TRACKING", "ON", timeout=5)
        await connection.execute("GET", "k", timeout=5)
        await other.execute("SET", "k", 1, timeout=5)
        assert await connection.execute("GET", "k", timeout=5) == b"1"
        await connection.execute("DEL", "k", timeout=5)
        assert await connection.pipeline([("GET", "k"), ("PING",)], 5) == [None, b"PONG"]


async def test_a_cancelled_blocking_command_leaves_nothing_to_read(
    redis_server: SharedRedis, redis_url: str
) -> None:
    waiting = await connect(tcp(redis_server.port), client_name="waiting")
    async with connected(tcp(redis_server.port)) as other:

        async def blocked() -> bool:
            return b" name=waiting " in (listed := await client_list(other)) and b"cmd=blpop" in listed

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: waiting.execute("BLPOP", "q", 0, timeout=60))
            with trio.fail_after(10):
                while not await blocked():  # each look is a round trip, so this does not spin
                    pass
            nursery.cancel_scope.cancel()
        assert not waiting.usable
        # The server, too, must see it as gone before it hands anything out.
        with trio.fail_after(10):
            while b" name=waiting " in await client_list(other):
                pass
        assert await other.pipeline([("RPUSH", "q", "job"), ("LPOP", "q")], 5) == [1, b"job"]


async def client_list(connection: Connection) -> bytes:
    listed = await connection.execute("CLIENT", "LIST", timeout=5)
    assert isinstance(listed, bytes)
    return listed


async def test_a_blocking_command_gets_its_own_time(redis_server: SharedRedis, redis_url: str) -> None:
    async with connected(tcp(redis_server.port)) as connection:
        assert await connection.execute("BLPOP", "nothing", 0.01, timeout=0.01 + 5) is None
        with pytest.raises(Indeterminate, match=r"within 0\.05 s"):
            await connection.execute("BLPOP", "nothing", 30, timeout=0.05)


async def test_stale_notices_that_the_server_hung_up(redis_server: SharedRedis) -> None:
    victim, other = await connect(tcp(redis_server.port)), await connect(tcp(redis_server.port))
    assert not victim.stale()
    victim_id = await victim.execute("CLIENT", "ID", timeout=5)
    assert isinstance(victim_id, int)
    assert await other.execute("CLIENT", "KILL", "ID", victim_id, timeout=5) == 1
    with trio.fail_after(10):
        while not victim.stale():
            await other.execute("PING", timeout=5)
    # Nobody asked, so it was used: sent into a closed socket, it can only be unknown.
    with pytest.raises(Indeterminate):
        await victim.execute("PING", timeout=5)
    assert victim.stale()
    await other.aclose()


async def test_a_server_that_dies_in_mid_command(private_redis: EmbeddedRedis) -> None:
    connection = await connect(tcp(port_of(private_redis)))

    async def ask() -> None:
        with pytest.raises(Indeterminate):
            await connection.execute("BLPOP", "q", 0, timeout=60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await private_redis.kill()
    assert not connection.usable


def port_of(server: EmbeddedRedis) -> int:
    assert server.port is not None
    return server.port


# --- logging in ----------------------------------------------------------------------------------------------------


async def test_acl_user_and_password(private_redis: EmbeddedRedis) -> None:
    port = port_of(private_redis)
    async with connected(tcp(port)) as admin:
        await admin.pipeline([("ACL", "SETUSER", "alice", "on", ">s/c@r", "+@all", "~*")], 5)
        await admin.pipeline([("ACL", "SETUSER", "open", "on", "nopass", "+@all", "~*")], 5)
        await admin.pipeline([("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "-@all", "+hello", "+get")], 5)
    async with connected(parse_url(f"redis://alice:s%2Fc%40r@{LOOPBACK}:{port}/2")) as connection:
        assert await connection.execute("ACL", "WHOAMI", timeout=5) == b"alice"
    async with connected(parse_url(f"redis://open@{LOOPBACK}:{port}")) as connection:
        assert await connection.execute("ACL", "WHOAMI", timeout=5) == b"open"
    async with connected(tcp(port, username="narrow", password="pw")) as connection:
        with pytest.raises(ServerUnusable, match="permission") as caught:
            await connection.execute("SET", "k", 1, timeout=5)
        assert caught.value.code == "NOPERM"
    with pytest.raises(
        ServerUnusable, match="user 'alice' is unknown or disabled, or the password"
    ) as caught:
        await connect(tcp(port, username="alice", password="hunter2"))
    assert caught.value.code == "WRONGPASS"
    one_clear_line(caught.value, f"redis://alice:***@{LOOPBACK}:{port}/0")
    with pytest.raises(ServerUnusable, match=r"user 'narrow' lacks a permission.*ACL SETUSER") as caught:
        await connect(tcp(port, username="narrow", password="pw", db=1))
    assert caught.value.code == "NOPERM"


async def test_a_password_for_the_default_user(private_redis: EmbeddedRedis) -> None:
    port = port_of(private_redis)
    async with connected(tcp(port)) as admin:
        await admin.execute("CONFIG", "SET", "requirepass", "s3cret", timeout=5)
    async with connected(tcp(port, password="s3cret")) as connection:
        assert await connection.execute("PING", timeout=5) == b"PONG"
    with pytest.raises(ServerUnusable, match=r"wants a password.*redis://user:password@host") as caught:
        await connect(tcp(port))
    assert caught.value.code == "NOAUTH"
    one_clear_line(caught.value, f"redis://{LOOPBACK}:{port}/0")


def one_clear_line(error: Exception, where: str) -> None:
    text = str(error)
    assert where in text
    assert "\n" not in text
    assert "hunter2" not in text
    assert "s3cret" not in text


async def test_a_database_that_is_not_there(redis_server: SharedRedis) -> None:
    with pytest.raises(ServerUnusable, match=r"database 4000 cannot be selected .*choose another db"):
        await connect(tcp(redis_server.port, db=4000))


async def test_too_many_clients(private_redis: EmbeddedRedis) -> None:
    port = port_of(private_redis)
    async with connected(tcp(port)) as only:
        await only.execute("CONFIG", "SET", "maxclients", 1, timeout=5)
        # The server says so and hangs up; when our HELLO meets the closed socket first, the words are lost.
        with pytest.raises((ServerNotReady, NotSent)):
            await connect(tcp(port))
        await only.execute("CONFIG", "SET", "maxclients", 100, timeout=5)


async def test_error_codes_in_and_out_of_scripts(private_redis: EmbeddedRedis) -> None:
    write, kept = "return redis.call('SET', 'k', 1)", "return redis.pcall('SET', 'k', 1)"
    async with connected(tcp(port_of(private_redis))) as connection:

        async def errors(*setting: str) -> list[tuple[type, str]]:
            assert await connection.execute(*setting, timeout=5) == b"OK"
            commands = [("SET", "k", 1), ("EVAL", write, 1, "k"), ("EVAL", kept, 1, "k")]
            return [
                (type(it), it.code)
                for it in await connection.pipeline(commands, 5)
                if isinstance(it, ServerError)
            ]

        assert await errors("CONFIG", "SET", "maxmemory", "1") == [(ServerRefused, "OOM")] * 3
        await connection.execute("CONFIG", "SET", "maxmemory", "0", timeout=5)
        found = await errors("CONFIG", "SET", "min-replicas-to-write", "1")
        assert found == [(ServerRefused, "NOREPLICAS")] * 3
        await connection.execute("CONFIG", "SET", "min-replicas-to-write", "0", timeout=5)
        assert await errors("REPLICAOF", LOOPBACK, "1") == [(ServerNotReady, "READONLY")] * 3
        await connection.execute("CONFIG", "SET", "replica-serve-stale-data", "no", timeout=5)
        with pytest.raises(ServerNotReady) as caught:
            await connection.execute("GET", "k", timeout=5)
        assert caught.value.code == "MASTERDOWN"
        await connection.execute("REPLICAOF", "NO", "ONE", timeout=5)

        await connection.execute("RPUSH", "list", 1, timeout=5)
        for command in ("return redis.call('GET', 'list')", "return redis.pcall('GET', 'list')"):
            with pytest.raises(ServerError) as plain:
                await connection.execute("EVAL", command, 1, "list", timeout=5)
            assert (type(plain.value), plain.value.code) == (ServerError, "WRONGTYPE")
        with pytest.raises(ServerError) as plain:
            await connection.execute("EVALSHA", "0" * 40, 0, timeout=5)
        assert plain.value.code == "NOSCRIPT"
        with pytest.raises(ServerError) as plain:
            await connection.execute("EVAL", "error('OOM said the script')", 0, timeout=5)
        assert (type(plain.value), plain.value.code) == (ServerError, "ERR")

        await connection.execute("ACL", "SETUSER", "u", "on", "nopass", "~*", "+eval", "+hello", timeout=5)
    async with connected(tcp(port_of(private_redis), username="u")) as narrow:
        with pytest.raises(ServerUnusable) as denied:
            await narrow.execute("EVAL", write, 1, "k", timeout=5)
        assert denied.value.code == "NOPERM"


async def test_a_busy_server_is_not_ready(private_redis: EmbeddedRedis) -> None:
    port = port_of(private_redis)
    admin, looping = await connect(tcp(port)), await connect(tcp(port))
    await admin.execute("CONFIG", "SET", "lua-time-limit", 10, timeout=5)

    async def loop() -> None:
        # To be tried again: nothing can have been written, or the server would have said UNKILLABLE.
        with pytest.raises(ServerNotReady, match="Script killed by user with SCRIPT KILL"):
            await looping.execute("EVAL", "while true do end", 0, timeout=30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop)
        busy: Any = None
        with trio.fail_after(20):
            while not isinstance(busy, ServerError):
                (busy,) = await admin.pipeline([("GET", "k")], 5)
        assert (type(busy), busy.code) == (ServerNotReady, "BUSY")
        await admin.execute("SCRIPT", "KILL", timeout=5)
    await admin.aclose()
    await looping.aclose()


# --- TLS, through a relay that ends it, so that it works with every server -----------------------------------------


@asynccontextmanager
async def tls_relay(target: Path, context: ssl.SSLContext) -> AsyncIterator[int]:
    async def relay(
        source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, done: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
        done.cancel()

    async def serve(client: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await client.do_handshake()
            async with (
                client,
                await trio.open_unix_socket(str(target)) as server,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(relay, client, server, nursery.cancel_scope)
                nursery.start_soon(relay, server, client, nursery.cancel_scope)

    async with serving(trio.serve_ssl_over_tcp, serve, 0, context, host=LOOPBACK) as port:
        yield port


@asynccontextmanager
async def serving(
    serve: Callable[..., Any], handler: Callable[..., Any], *args: Any, host: str
) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[Any]) -> None:
            await serve(handler, *args, host=host, task_status=task_status)

        listeners = await nursery.start(start)
        listener = getattr(listeners[0], "transport_listener", listeners[0])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


class Certificates:
    """One authority, a server's certificate for `localhost`, and a client's."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.client_file = str(folder / "client.pem")
        authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(self.client_file)
        self.server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self.server_context)
        authority.configure_trust(self.server_context)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_tls(redis_server: SharedRedis, redis_url: str, certificates: Certificates) -> None:
    async with tls_relay(redis_server.unix_socket, certificates.server_context) as port:
        url = f"rediss://{LOOPBACK}:{port}/1"
        endpoint = parse_url(url, tls_ca_file=certificates.ca_file, tls_server_hostname="localhost")
        async with connected(endpoint) as connection:
            value = bytes(200_000)
            replies = await connection.pipeline([("SET", "k", value), ("GET", "k"), ("DEL", "k")], 5)
            assert replies == [b"OK", value, 1]
            assert not connection.stale()
        async with connected(parse_url(url, tls_verify=False)) as connection:
            assert await connection.execute("PING", timeout=5) == b"PONG"
            # A timed-out exchange closes what lies below TLS.
            with pytest.raises(Indeterminate):
                await connection.execute("BLPOP", "nothing", 0, timeout=0.05)
            assert not connection.usable


async def test_tls_certificates_that_are_refused(
    redis_server: SharedRedis, certificates: Certificates
) -> None:
    async with tls_relay(redis_server.unix_socket, certificates.server_context) as port:
        url = f"rediss://:hunter2@{LOOPBACK}:{port}"
        with pytest.raises(NotSent, match=r"certificate was refused.*tls_ca_file") as untrusted:
            await connect(parse_url(url, tls_server_hostname="localhost"))
        one_clear_line(untrusted.value, f"rediss://:***@{LOOPBACK}:{port}/0")
        with pytest.raises(NotSent, match=r"certificate was refused.*tls_server_hostname") as mismatch:
            await connect(parse_url(url, tls_ca_file=certificates.ca_file))
        one_clear_line(mismatch.value, f"rediss://:***@{LOOPBACK}:{port}/0")


async def test_tls_client_certificate(
    redis_server: SharedRedis, certificates: Certificates, tmp_path: Path
) -> None:
    demanding = Certificates(tmp_path)
    demanding.server_context.verify_mode = ssl.CERT_REQUIRED
    async with tls_relay(redis_server.unix_socket, demanding.server_context) as port:
        endpoint = Endpoint(
            port=port, host=LOOPBACK, tls=True, tls_verify=False, tls_cert_file=demanding.client_file
        )
        async with connected(endpoint) as connection:
            assert await connection.execute("PING", timeout=5) == b"PONG"
        # In TLS 1.3 the refusal comes after our side has finished the handshake.
        with pytest.raises(NotSent, match=f"cannot connect to rediss://{LOOPBACK}:{port}/0: "):
            await connect(Endpoint(port=port, host=LOOPBACK, tls=True, tls_verify=False))


# --- a peer that follows a script ----------------------------------------------------------------------------------


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[tuple[int, list[list[bytes]]]]:
    """A server that answers each command with the next answer, then hangs up. Yields its port and what it was sent."""
    commands: list[list[bytes]] = []

    async def serve(stream: trio.SocketStream) -> None:
        reader, left = hiredis.Reader(), list(answers)
        with contextlib.suppress(trio.BrokenResourceError):
            while left:
                data = await stream.receive_some()
                if not data:
                    return
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    commands.append(command)
                    await stream.send_all(left.pop(0))

    async with serving(trio.serve_tcp, serve, 0, host=LOOPBACK) as port:
        yield port, commands


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
        b"-NOPROTO sorry\r\n",
        b"-NOPERM this user has no permissions to run the 'hello' command\r\n",
    ],
)
async def test_resp2_fallback(refusal: bytes) -> None:
    async with (
        scripted(refusal, b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b"$-1\r\n") as (port, commands),
        connected(tcp(port, password="pw", db=2)) as connection,
    ):
        assert connection.server == ServerInfo()
        assert connection.server.protocol == 2
        assert await connection.execute("GET", "k", timeout=5) is None
    assert commands == [
        [b"HELLO", b"3", b"AUTH", b"default", b"pw", b"SETNAME", b"test"],
        [b"AUTH", b"pw"],
        [b"CLIENT", b"SETNAME", b"test"],
        [b"SELECT", b"2"],
        [b"GET", b"k"],
    ]


async def test_resp2_fallback_with_a_user_and_without_names() -> None:
    unknown = b"-ERR unknown command\r\n"
    async with (
        scripted(unknown, b"+OK\r\n", unknown, b"+PONG\r\n") as (port, commands),
        connected(tcp(port, username="alice", password="pw")) as connection,
    ):
        assert await connection.execute("PING", timeout=5) == b"PONG"
    assert commands[1:3] == [[b"AUTH", b"alice", b"pw"], [b"CLIENT", b"SETNAME", b"test"]]


@pytest.mark.parametrize(
    ("answers", "kind", "what"),
    [
        ([b"-ERR max number of clients reached\r\n"], ServerNotReady, "max number of clients"),
        ([b"-LOADING Redis is loading the dataset in memory\r\n"], ServerNotReady, "not ready yet: LOADING"),
        ([b"-BUSY Redis is busy running a script\r\n"], ServerNotReady, "not ready yet: BUSY"),
        ([b"-DENIED Redis is running in protected mode\r\n"], ServerUnusable, "protected mode"),
        (
            [b"-ERR unknown\r\n", b"-ERR invalid password\r\n"],
            ServerUnusable,
            "refused to log us in.*invalid",
        ),
        ([b"-ERR unknown\r\n", b"-LOADING wait\r\n"], ServerNotReady, "LOADING"),
        (
            [b"-ERR unknown\r\n", b"+OK\r\n", b"-NOAUTH Authentication required.\r\n"],
            ServerUnusable,
            "wants a pass",
        ),
        ([b"*1\r\n$5\r\nHELLO\r\n"], NotSent, "not a Redis server"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], NotSent, "does not speak RESP"),
        ([b"%7\r\n$6\r\nserver\r\n"], NotSent, "closed the connection"),
        ([b""], NotSent, "handshake failed.*rediss://"),
    ],
)
async def test_handshakes_that_fail(answers: list[bytes], kind: type[Exception], what: str) -> None:
    async with scripted(*answers) as (port, _):
        with pytest.raises(kind, match=what) as caught:
            await connect(tcp(port, password="hunter2"))
        assert type(caught.value) is kind
        one_clear_line(caught.value, f"redis://:***@{LOOPBACK}:{port}/0")


async def test_a_peer_that_hangs_up_in_mid_reply() -> None:
    hello = b"%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n"
    async with scripted(hello, b"$5\r\nhal") as (port, _):
        connection = await connect(tcp(port))
        assert connection.server.name == "redis"
        with pytest.raises(Indeterminate):
            await connection.execute("GET", "k", timeout=5)
        with pytest.raises(NotSent):
            await connection.execute("GET", "k", timeout=5)


# --- nobody there --------------------------------------------------------------------------------------------------


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port that takes connections, since the kernel does, and never says a word."""
    with trio.socket.socket() as listener:
        await listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_a_server_that_never_answers(silent_port: int) -> None:
    with pytest.raises(NotSent, match=r"handshake failed: no reply from .* within 0\.05 s"):
        await connect(tcp(silent_port), timeout=0.05)
    with pytest.raises(NotSent, match=r"no TLS handshake within 0\.05 s"):
        await connect(tcp(silent_port, tls=True), timeout=0.05)


async def test_a_handshake_that_is_cancelled_leaves_no_socket(silent_port: int) -> None:
    for endpoint in (tcp(silent_port), tcp(silent_port, tls=True)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, endpoint)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_closed_port() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))  # bound and not listening: nobody else can open it meanwhile
        port = taken.getsockname()[1]
        with pytest.raises(NotSent) as caught:
            await connect(parse_url(f"redis://:hunter2@{LOOPBACK}:{port}"))
    expected = f"cannot connect to redis://:***@{LOOPBACK}:{port}/0: Connection refused"
    assert str(caught.value) == expected


async def test_a_missing_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(NotSent, match=r"cannot connect to unix:///.*no\.sock: No such file"):
        await connect(Endpoint(path=str(tmp_path / "no.sock")))


class Names(trio.abc.HostnameResolver):
    """A name service without a network: it knows no name, or never answers."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        if not self._answers:
            await trio.sleep_forever()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


async def test_an_unknown_name() -> None:
    trio.socket.set_custom_hostname_resolver(Names(answers=True))
    with pytest.raises(NotSent) as caught:
        await connect(Endpoint(host="redis.invalid"))
    assert str(caught.value) == "cannot connect to redis://redis.invalid:6379/0: Name or service not known"


async def test_a_name_service_that_never_answers(autojump_clock: trio.testing.MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(Names(answers=False))
    with pytest.raises(NotSent, match=r"redis\.invalid:6379/0: no answer within 2 s"):
        await connect(Endpoint(host="redis.invalid"), timeout=2)


async def test_a_socket_that_connected_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def meet_oneself(host: str, port: int) -> trio.SocketStream:
        ours = trio.socket.socket()
        await ours.bind((LOOPBACK, 0))
        await ours.connect(ours.getsockname())
        return trio.SocketStream(ours)

    monkeypatch.setattr(trio, "open_tcp_stream", meet_oneself)
    with pytest.raises(NotSent, match="Connection refused"):
        await connect(tcp(6379))


async def test_no_time_to_connect() -> None:
    with pytest.raises(NotSent, match="no answer"):
        await connect(tcp(6379), timeout=-1)


# --- writing without a turn of the event loop ------------------------------------------------------------------------


async def test_a_socket_that_takes_nothing_yet_is_waited_for() -> None:
    ours, theirs = trio.socket.socketpair()
    junk = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            junk += os.write(ours.fileno(), b"x" * 4096)
    connection = Connection(trio.SocketStream(ours))
    received = bytearray()

    async def peer() -> None:
        await wait_all_tasks_blocked()
        while not received.endswith(b"PING\r\n"):
            received.extend(await theirs.recv(65536))
        await theirs.send(b"+PONG\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        assert await connection.execute("PING", timeout=10) == b"PONG"
    assert bytes(received[junk:]) == b"*1\r\n$4\r\nPING\r\n"
    connection.abort()
    theirs.close()


async def test_who_is_cancelled_already_sends_nothing() -> None:
    ours, theirs = trio.socket.socketpair()
    connection = Connection(trio.SocketStream(ours))
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.execute("PING", timeout=10)
    assert scope.cancelled_caught
    assert not connection.usable
    assert await theirs.recv(10) == b""
    theirs.close()


async def test_a_loop_of_commands_lets_others_run_and_can_be_cancelled(redis_url: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with connected(parse_url(redis_url)) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(100):
            await connection.execute("PING", timeout=10)
        nursery.cancel_scope.cancel()
    assert turns >= 90
    with trio.move_on_after(0.05) as scope:
        async with connected(parse_url(redis_url)) as connection:
            while True:
                await connection.execute("PING", timeout=10)
    assert scope.cancelled_caught


# --- looking for the reply before sleeping -------------------------------------------------------------------------

PING = b"*1\r\n$4\r\nPING\r\n"
TURNS = 50


class Looker:
    """A connection that looks, to a peer of the test's own. `slept`: how often it went to sleep all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "TURNS", TURNS)
        monkeypatch.setattr(lookout, "AWAKE_S", math.inf)
        monkeypatch.setattr(lookout, "NEAR_S", math.inf)
        ours, self.peer = trio.socket.socketpair()
        stream = trio.SocketStream(ours)
        self.connection = Connection(stream)
        self.connection._lookout.answered(0.0, trio.current_time(), looked=False, found=False)
        self.slept = 0
        receive_some = stream.receive_some

        async def counted(max_bytes: int | None = None) -> bytes | bytearray:
            self.slept += 1
            return await receive_some(max_bytes)

        monkeypatch.setattr(stream, "receive_some", counted)

    async def ping(self, timeout: float = 10) -> Any:  # noqa: ASYNC109
        return await self.connection.exchange(PING, 1, timeout, look=True)

    async def after(self, turns: int, *pieces: bytes) -> None:
        """Let the peer wait for the command and some turns, and send these; at the end it hangs up."""
        assert await self.peer.recv(100) == PING
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        for piece in pieces:
            await self.peer.send(piece)
            await wait_all_tasks_blocked()
        self.peer.close()


@pytest.fixture
async def looker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looker]:
    looker = Looker(monkeypatch)
    yield looker
    looker.connection.abort()
    looker.peer.close()


async def test_a_reply_that_comes_soon_is_taken_without_sleeping(looker: Looker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.after, 5, b">2\r\n+invalidate\r\n:1\r\n+PONG\r\n")
        assert await looker.ping() == [b"PONG"]
    assert looker.slept == 0
    assert looker.connection.usable


async def test_who_has_looked_in_vain_sleeps(looker: Looker) -> None:
    """`wait_all_tasks_blocked` returns, so nothing goes on looking; other tasks run all the while."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not looker.slept:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def late() -> None:
        assert await looker.peer.recv(100) == PING
        await wait_all_tasks_blocked()
        assert looker.slept == 1
        await looker.peer.send(b"+PONG\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(late)
        assert await looker.ping() == [b"PONG"]
    assert TURNS - 2 <= turns <= TURNS + 2


async def test_the_rest_of_a_reply_is_waited_for(looker: Looker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.after, 5, b"+PO", b"NG\r\n")
        assert await looker.ping() == [b"PONG"]
    assert looker.slept == 1


@pytest.mark.parametrize("said", [b"", b"+PO"], ids=["nothing", "half a reply"])
async def test_a_peer_that_hangs_up_while_its_reply_is_looked_for(looker: Looker, said: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.after, 5, *filter(None, [said]))
        with pytest.raises(Indeterminate, match="closed the connection before its reply"):
            await looker.ping()
    assert not looker.connection.usable


@pytest.mark.parametrize("how", ["cancelled", "aborted", "reset"])
async def test_whatever_ends_the_looking_ends_the_connection(looker: Looker, how: str) -> None:
    scope = trio.CancelScope()

    async def end() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        if how == "cancelled":
            scope.cancel()
        elif how == "aborted":
            looker.connection.abort()
        else:
            looker.peer.close()  # with the command unread: a reset

    told: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with scope:
            try:
                await looker.ping()
            except Indeterminate as error:
                told.append(str(error))
    assert (scope.cancelled_caught, len(told)) == (how == "cancelled", how != "cancelled")
    assert looker.slept == 0
    assert not looker.connection.usable


async def test_the_time_to_look_is_part_of_the_timeout(
    looker: Looker, autojump_clock: trio.testing.MockClock
) -> None:
    async def hold_up() -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            autojump_clock.jump(0.02)  # as a task does that works for so long

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_up)
        with pytest.raises(Indeterminate, match=r"no reply from redis within 0\.1 s"):
            await looker.ping(0.1)
    assert trio.current_time() - began == pytest.approx(0.2)
    assert not looker.connection.usable


async def test_who_has_work_for_the_meantime_does_that_instead_of_looking(looker: Looker) -> None:
    done_at: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.after, 5, b"+PONG\r\n")
        exchange = looker.connection.exchange
        assert await exchange(PING, 1, 10, lambda: done_at.append(looker.slept), look=True) == [b"PONG"]
    assert (done_at, looker.slept) == ([0], 1)


@pytest.mark.parametrize("in_time", [True, False])
async def test_others_who_have_work_do_it_before_the_reply_is_looked_for(
    looker: Looker, in_time: bool
) -> None:
    """Two turns, whatever looking has taught: then it is there, or is slept for."""
    log: list[str] = []

    async def work() -> None:
        log.append("worked")
        if in_time:
            await looker.peer.send(b"+PONG\r\n")
        else:
            await looker.after(9, b"+PO", b"NG\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        assert await looker.connection.exchange(PING, 1, 10, busy=True) == [b"PONG"]
        log.append("answered")
    assert log == ["worked", "answered"]
    assert looker.slept == (0 if in_time else 2)


async def test_work_for_the_meantime_is_done_though_others_are_busy(looker: Looker) -> None:
    done_at: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looker.after, 0, b"+PONG\r\n")
        exchange = looker.connection.exchange
        assert await exchange(PING, 1, 10, lambda: done_at.append(looker.slept), busy=True) == [b"PONG"]
    assert done_at == [0]


async def test_a_reply_looked_for_in_vain_is_slept_for_the_next_times(looker: Looker) -> None:
    """What looking taught is kept with the connection; the rules are tested with the lookout."""

    async def serve() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await looker.peer.recv(100):
                await wait_all_tasks_blocked()
                await looker.peer.send(b"+PONG\r\n")

    looked: list[bool] = []
    look = looker.connection._look

    async def noted(replies: int, received: list[Any], turns: int) -> bool:
        looked[-1] = True
        return await look(replies, received, turns)

    looker.connection._look = noted  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for _ in range(8):
            looked.append(False)
            await looker.ping()
        nursery.cancel_scope.cancel()
    assert looked == [True, True, False, True, False, False, False, True]
