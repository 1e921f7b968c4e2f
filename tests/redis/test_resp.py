"""Replies through the real code path of `Connection`, over Trio's memory streams: split anywhere, truncated, garbled,
with push messages between, and what each makes of the connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair, memory_stream_pair

from queue_trio.errors import (
    Indeterminate,
    InternalError,
    NotSent,
    ProtocolError,
    ServerError,
    ServerNotReady,
    ServerRefused,
    ServerUnusable,
)
from queue_trio.redis.connection import Connection, pack_command
from queue_trio.redis.error_replies import error_from_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

PING = pack_command(("PING",))
PUSH = b">2\r\n+invalidate\r\n*1\r\n$3\r\nkey\r\n"

REPLIES: list[tuple[bytes, Any]] = [
    # RESP2
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b":-42\r\n", -42),
    (b"$0\r\n\r\n", b""),
    (b"$6\r\na\r\nb\xff\x00\r\n", b"a\r\nb\xff\x00"),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*2\r\n+a\r\n$-1\r\n$1\r\nb\r\n", [1, [b"a", None], b"b"]),
    # RESP3
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b",-inf\r\n", -math.inf),
    (b"(12345678901234567890\r\n", b"12345678901234567890"),
    (b"=8\r\ntxt:some\r\n", b"some"),
    (b"~2\r\n+a\r\n+b\r\n", [b"a", b"b"]),
    (b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n*1\r\n_\r\n", {b"a": 1, b"b": [None]}),
]


async def feed(chunks: Sequence[bytes], replies: int, then: str = "stay") -> tuple[list[Any], Connection]:
    """One exchange with a peer that hands over each chunk on its own: the next only when that one was taken."""
    ours, theirs = lockstep_stream_pair()
    connection = Connection(ours, name="peer")
    received: list[Any] = []

    async def peer() -> None:
        request = b""
        while request != PING:
            request += await theirs.receive_some()
        for chunk in chunks:
            await theirs.send_all(chunk)
        if then == "close":
            await theirs.aclose()

    failure: Indeterminate | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        try:
            received += await connection.exchange(PING, replies, 5)
        except Indeterminate as exc:
            failure = exc  # raised below: out of the nursery it would come in a group
    if failure is not None:
        raise failure
    return received, connection


def whole_and_split(wire: bytes) -> list[list[bytes]]:
    return [
        [wire],
        [wire[i : i + 1] for i in range(len(wire))],
        *([wire[:i], wire[i:]] for i in range(1, len(wire))),
    ]


@pytest.mark.parametrize(("wire", "value"), REPLIES, ids=[repr(wire) for wire, _ in REPLIES])
async def test_a_reply_split_anywhere(wire: bytes, value: Any) -> None:
    for chunks in whole_and_split(wire):
        assert (await feed(chunks, 1))[0] == [value]


async def test_error_replies_split_anywhere() -> None:
    for chunks in whole_and_split(b"*2\r\n-LOADING wait\r\n:1\r\n-ERR no\xff\r\n"):
        (nested, top), _ = await feed(chunks, 2)
        assert isinstance(nested[0], ServerNotReady)
        assert nested[1] == 1
        assert type(top) is ServerError
        assert (top.code, str(top)) == ("ERR", "ERR no\ufffd")


def encode(value: Any, protocol: int) -> bytes:
    match value:
        case None:
            return b"_\r\n" if protocol == 3 else b"$-1\r\n"
        case bool():
            return b"#%c\r\n" % (b"ft"[value])
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%r\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(encode(item, protocol) for item in value)
        case dict():
            items = (encode(item, protocol) for pair in value.items() for item in pair)
            return b"%%%d\r\n" % len(value) + b"".join(items)
    raise AssertionError(value)


resp2_leaves = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20)
resp2_values = st.recursive(resp2_leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=10)
resp3_values = st.recursive(
    resp2_leaves | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def wires_of(values: st.SearchStrategy[Any], protocol: int) -> st.SearchStrategy[list[tuple[bytes, Any]]]:
    return st.lists(values.map(lambda value: (encode(value, protocol), value)), min_size=1, max_size=4)


wires = wires_of(resp2_values, 2) | wires_of(resp3_values, 3)


@settings(deadline=None)
@given(wires, st.data())
async def test_any_replies_split_anywhere_with_pushes_between(
    wire: list[tuple[bytes, Any]], data: Any
) -> None:
    pushed = [data.draw(st.sampled_from([b"", b"", PUSH])) for _ in wire]
    stream = b"".join(push + encoded for push, (encoded, _) in zip(pushed, wire, strict=True))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    received, connection = await feed(chunks, len(wire))
    assert received == [value for _, value in wire]
    assert connection.usable


# --- exchanges that end early --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wire", "value"), REPLIES, ids=[repr(wire) for wire, _ in REPLIES])
async def test_a_truncated_reply_is_indeterminate(wire: bytes, value: Any) -> None:
    for end in range(len(wire)):
        with pytest.raises(Indeterminate, match="peer closed the connection"):
            await feed([wire[:end]] if end else [], 1, then="close")


async def test_too_few_replies_are_indeterminate() -> None:
    with pytest.raises(Indeterminate):
        await feed([b"+OK\r\n"], 2, then="close")


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x03\x00\x02\x02(",
        b":one\r\n",
        b"$x\r\n",
        b"$-7\r\n",
        b"#x\r\n",
        b"%1\r\n*1\r\n:1\r\n:1\r\n",
        b"*4294967295\r\n",
        b"+OK\r\nx",
    ],
    ids=repr,
)
async def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(garbage)
    with pytest.raises(ProtocolError, match=r"^peer does not speak RESP: ."):
        await connection.exchange(PING, 2, 5)
    await refuses(connection)


async def refuses(connection: Connection) -> None:
    """Every use says NotSent, and says so whenever it is asked."""
    assert not connection.usable
    assert connection.stale()
    for _ in range(2):
        with pytest.raises(NotSent, match="closed"):
            await connection.execute("PING", timeout=1)
        with pytest.raises(NotSent):
            await connection.pipeline([("PING",)], 1)
        with pytest.raises(NotSent):
            await connection.exchange(PING, 1, 1)


@pytest.mark.parametrize("arrived", [b"", b"$5\r\nhal"], ids=["no byte yet", "half a reply"])
async def test_a_cancelled_exchange_closes_the_connection_at_once(arrived: bytes) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    cancelled = False

    async def ask(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        nonlocal cancelled
        with trio.CancelScope() as scope:
            task_status.started(scope)
            try:
                await connection.execute("GET", "mine", timeout=5)
            except trio.Cancelled:
                cancelled = not connection.usable  # closed before the cancelled task itself goes on
                raise

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(ask)
        await theirs.send_all(arrived or PUSH)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert cancelled
    assert await theirs.receive_some() == pack_command(("GET", "mine"))
    assert await theirs.receive_some() == b""
    await refuses(connection)


@pytest.mark.parametrize("arrived", [b"", b"$5\r\nhal"], ids=["no byte yet", "half a reply"])
async def test_a_timed_out_exchange_is_indeterminate(
    arrived: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(arrived or PUSH)
    started = trio.current_time()
    with pytest.raises(Indeterminate, match=r"no reply from peer within 2\.5 s"):
        await connection.execute("GET", "mine", timeout=2.5)
    assert trio.current_time() - started == pytest.approx(2.5)
    await refuses(connection)


async def test_a_peer_that_takes_no_bytes_is_indeterminate(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = lockstep_stream_pair()
    connection = Connection(ours, name="peer")
    with pytest.raises(Indeterminate):
        await connection.execute("PING", timeout=3)
    await refuses(connection)


async def test_a_stream_that_breaks_while_sending_is_indeterminate() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    theirs.send_stream.close()
    theirs.receive_stream.close()
    with pytest.raises(Indeterminate):
        await connection.execute("PING", timeout=3)
    await refuses(connection)


@pytest.mark.parametrize("seconds", [0, -1.5])
async def test_no_time_left_means_not_sent(seconds: float) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    with pytest.raises(NotSent, match="no time was left"):
        await connection.execute("PING", timeout=seconds)
    assert connection.usable
    await theirs.send_all(b"+PONG\r\n")
    assert await connection.execute("PING", timeout=1) == b"PONG"
    assert await theirs.receive_some() == PING


@pytest.mark.parametrize("seconds", [math.inf, math.nan])
async def test_a_command_without_a_deadline_is_our_bug(seconds: float) -> None:
    with pytest.raises(InternalError, match="deadline"):
        await Connection(memory_stream_pair()[0]).execute("PING", timeout=seconds)


async def test_an_argument_that_cannot_be_sent_leaves_the_connection_alone() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours)
    with pytest.raises(TypeError):
        await connection.execute("SET", "k", None, timeout=1)  # type: ignore[arg-type]
    await theirs.send_all(b"+PONG\r\n")
    assert await connection.execute("PING", timeout=1) == b"PONG"


# --- whose reply it is ---------------------------------------------------------------------------------------------


async def test_concurrent_use_is_refused_and_disturbs_nobody() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    first: list[Any] = []

    async def ask() -> None:
        first.append(await connection.execute("GET", "first", timeout=5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(InternalError, match="two tasks"):
            await connection.execute("GET", "second", timeout=5)
        await theirs.send_all(b"+for first\r\n")
    assert first == [b"for first"]
    assert await theirs.receive_some() == pack_command(("GET", "first"))
    assert connection.usable


async def test_an_abort_from_another_task_ends_the_exchange() -> None:
    ours, _theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")

    async def ask() -> None:
        with pytest.raises(Indeterminate):
            await connection.execute("PING", timeout=5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        connection.abort()
    await refuses(connection)


@pytest.mark.parametrize(
    "surplus",
    [
        b"+extra\r\n",
        b":7\r\n",
        b"-ERR extra\r\n",
        b"$0\r\n",
        b":",
        b"$3\r\nab",
        b"*1\r\n",
        b"*0\r\n",
        b"\x00",
        PUSH + b"+extra\r\n",
        PUSH[:-1],
        b"$-1\r",
        b"_\r\n",
    ],
    ids=repr,
)
async def test_bytes_nobody_asked_for_end_the_connection(surplus: bytes) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(b"+mine\r\n" + surplus)
    assert await connection.execute("GET", "mine", timeout=1) == b"mine"
    assert await theirs.receive_some() == pack_command(("GET", "mine"))
    with pytest.raises(ProtocolError, match="no command asked for"):
        await connection.execute("GET", "yours", timeout=1)
    assert await theirs.receive_some() == b""
    await refuses(connection)


async def test_push_messages_are_skipped_wherever_they_come() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(PUSH + b":1\r\n" + PUSH + PUSH + b":2\r\n" + PUSH)
    assert await connection.pipeline([("GET", "a"), ("GET", "b")], 1) == [1, 2]
    await theirs.send_all(PUSH + b":3\r\n")
    assert await connection.execute("GET", "c", timeout=1) == 3


async def test_execute_raises_error_replies_and_stays_usable() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(b"-NOSCRIPT No matching script\r\n")
    with pytest.raises(ServerError, match="No matching script") as caught:
        await connection.execute("EVALSHA", "0" * 40, 0, timeout=1)
    assert caught.value.code == "NOSCRIPT"
    await theirs.send_all(b"+PONG\r\n")
    assert await connection.execute("PING", timeout=1) == b"PONG"


async def test_pipeline_gives_error_replies_as_values() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    await theirs.send_all(b"+OK\r\n-OOM no\r\n$1\r\nx\r\n")
    ok, refused, value = await connection.pipeline([("SET", "a", 1), ("SET", "b", 2.5), ("GET", b"a")], 1)
    assert (ok, value) == (b"OK", b"x")
    assert isinstance(refused, ServerRefused)
    expected = b"".join(map(pack_command, [("SET", "a", 1), ("SET", "b", 2.5), ("GET", b"a")]))
    assert await theirs.receive_some() == expected
    assert await connection.pipeline([], 1) == []
    assert connection.usable


# --- closing -------------------------------------------------------------------------------------------------------


async def test_aclose_says_goodbye_and_can_be_repeated() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    assert not connection.stale()
    await connection.aclose()
    assert await theirs.receive_some() == b""
    await connection.aclose()
    connection.abort()
    await refuses(connection)


async def test_aclose_closes_even_when_cancelled() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, name="peer")
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
    assert scope.cancelled_caught
    assert await theirs.receive_some() == b""
    await refuses(connection)


def test_a_stream_that_cannot_be_closed_at_once_is_our_bug() -> None:
    class Slow(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def aclose(self) -> None: ...

    with pytest.raises(InternalError, match="Slow"):
        Connection(Slow())


# --- error replies -------------------------------------------------------------------------------------------------

SCRIPT_62 = "ERR Error running script (call to f_12d3d6a2eb6d57c52bb91e272cbe5251e6bf2e9f): @user_script:3: "


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("LOADING Redis is loading the dataset in memory", ServerNotReady, "LOADING"),
        ("BUSY Redis is busy running a script.", ServerNotReady, "BUSY"),
        ("MASTERDOWN Link with MASTER is down", ServerNotReady, "MASTERDOWN"),
        ("CLUSTERDOWN The cluster is down", ServerNotReady, "CLUSTERDOWN"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", ServerNotReady, "TRYAGAIN"),
        ("READONLY You can't write against a read only replica.", ServerNotReady, "READONLY"),
        ("UNBLOCKED force unblock from blocking operation", ServerNotReady, "UNBLOCKED"),
        ("UNKILLABLE Sorry the script already executed write commands", ServerNotReady, "UNKILLABLE"),
        ("ERR max number of clients reached", ServerNotReady, "ERR"),
        ("OOM command not allowed when used memory > 'maxmemory'.", ServerRefused, "OOM"),
        ("MISCONF Redis is configured to save RDB snapshots", ServerRefused, "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write.", ServerRefused, "NOREPLICAS"),
        ("NOAUTH Authentication required.", ServerUnusable, "NOAUTH"),
        ("WRONGPASS invalid username-password pair or user is disabled.", ServerUnusable, "WRONGPASS"),
        ("NOPERM User u has no permissions to run the 'get' command", ServerUnusable, "NOPERM"),
        ("DENIED Redis is running in protected mode", ServerUnusable, "DENIED"),
        ("NOSCRIPT No matching script. Please use EVAL.", ServerError, "NOSCRIPT"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ServerError, "WRONGTYPE"),
        ("ERR unknown command 'FOO', with args beginning with: 'OOM '", ServerError, "ERR"),
        ("STALE lease", ServerError, "STALE"),
        (
            "-STALE lease",
            ServerError,
            "STALE",
        ),  # redis 6.2 keeps the dash of `redis.error_reply("-STALE lease")`
        ("", ServerError, "ERR"),
        # From a script: Redis 6.2 ...
        (SCRIPT_62 + "@user_script: 3: -OOM command not allowed when used memory", ServerRefused, "OOM"),
        (SCRIPT_62 + "@user_script: 3: -NOREPLICAS Not enough good replicas", ServerRefused, "NOREPLICAS"),
        (SCRIPT_62 + "@user_script: 3: -READONLY You can't write against", ServerNotReady, "READONLY"),
        (SCRIPT_62 + "WRONGTYPE Operation against a key", ServerError, "WRONGTYPE"),
        ("@user_script: 1: -OOM command not allowed", ServerRefused, "OOM"),  # `return redis.pcall(...)`
        (SCRIPT_62 + "user_script:3: attempt to index a nil value", ServerError, "ERR"),
        (SCRIPT_62 + "Script killed by user with SCRIPT KILL...", ServerNotReady, "ERR"),
        (SCRIPT_62 + "@user_script: 3: Unknown Redis command called from Lua script", ServerError, "ERR"),
        (
            SCRIPT_62 + "@user_script: 3: The user executing the script can't run this command or subcommand",
            ServerUnusable,
            "NOPERM",
        ),
        # ... Redis 7 and Valkey
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 12d3, on @user_script:12.",
            ServerRefused,
            "OOM",
        ),
        (
            "READONLY You can't write against a read only replica. script: on @user_script:1.",
            ServerNotReady,
            "READONLY",
        ),
        ("ERR user_script:1: oops script: ecbf, on @user_script:1.", ServerError, "ERR"),
        (
            "ERR Script killed by user with SCRIPT KILL... script: 694a, on @user_script:1.",
            ServerNotReady,
            "ERR",
        ),
        ("ERR Script killed by user with SCRIPT KILL. script: on @user_script:1.", ServerNotReady, "ERR"),
        (
            "ERR The user executing the script can't run this command or subcommand script: eaea,",
            ServerUnusable,
            "NOPERM",
        ),
        (
            "ERR ACL failure in script: User u has no permissions to run the 'get' command script: on",
            ServerUnusable,
            "NOPERM",
        ),
    ],
)
def test_error_from_reply(text: str, kind: type[ServerError], code: str) -> None:
    error = error_from_reply(text)
    assert type(error) is kind
    assert error.code == code
    assert str(error) == text


@given(st.text())
def test_error_from_reply_takes_anything(text: str) -> None:
    assert error_from_reply(text).code


def test_hiredis_still_needs_the_marker() -> None:
    """`Connection._at_rest` exists because of this; when it fails, a plain `has_data()` will do."""
    reader = hiredis.Reader()
    reader.feed(b"%1\r\n+half a map\r\n")
    assert reader.gets() is False
    assert not reader.has_data()
