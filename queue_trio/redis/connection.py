"""One RESP connection over one Trio stream: commands out, as many replies back, or an error that says which it was.

It knows the wire and the handshake. It does not know retries, pools, breakers, keys or scripts; it has no clock but
Trio's, and it never logs.

Everything here serves one rule: a reply is read by the caller who asked for it, or by nobody. So whatever ends an
exchange early (a timeout, a cancellation, a broken stream, bytes that are not RESP) closes the connection before
anyone else can run, and what comes back for it finds no reader.
"""

# ruff: noqa: ASYNC109  # a scope of the caller's could not tell a timeout before the first byte from one after it

from __future__ import annotations

import math
import os
import re
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, cast

import hiredis
import trio

from queue_trio.errors import (
    ConfigError,
    Indeterminate,
    InternalError,
    NotSent,
    ProtocolError,
    ServerError,
    ServerNotReady,
    ServerUnusable,
)
from queue_trio.redis.endpoint import Endpoint
from queue_trio.redis.error_replies import error_from_reply
from queue_trio.redis.lookout import BUSY_TURNS, TURNS, Lookout

Argument: TypeAlias = str | bytes | int | float
Reply: TypeAlias = bool | int | float | bytes | list[Any] | dict[Any, Any] | None
"""What hiredis makes of a reply: text stays bytes, a set is a list, an error inside a list is a `ServerError`."""

# hiredis declares a tuple of one item; it means one of any length.
pack_command = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)

_RECEIVE_SIZE = 65536
_CLOSE_TIMEOUT_S = 1.0
_MORE = object()

# --- the connection --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerInfo:
    """What the server said of itself in reply to HELLO. A server without HELLO (RESP2) says nothing: see defaults."""

    name: str = "unknown"
    """`redis` or `valkey`."""
    version: str = ""
    protocol: int = 2
    mode: str = ""
    """`standalone`, `sentinel` or `cluster`."""
    role: str = ""
    """`master` or `replica`, at the time of the handshake."""


class Connection:
    """One connection, used by one task at a time. `open` makes a ready one; the constructor takes any Trio stream
    that can be closed at once (sockets, TLS over them, memory streams) and shakes no hands.
    """

    def __init__(self, stream: trio.abc.Stream, *, name: str = "redis") -> None:
        self.name = name
        self.server = ServerInfo()
        self.answered_at = -math.inf
        """When its last replies were complete, on Trio's clock."""
        self._lookout = Lookout()
        self._stream = stream
        self._close_now = _closers(stream)
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._open = True
        self._busy = False
        self._reader = hiredis.Reader(replyError=error_from_reply, notEnoughData=_MORE)

    @classmethod
    async def open(
        cls, endpoint: Endpoint, *, connect_timeout: float, read_timeout: float, client_name: str
    ) -> Connection:
        """Connect and shake hands: RESP3 where the server knows it, user and password, client name, database.

        Args:
            connect_timeout: seconds for name resolution, TCP or unix connect, and TLS together.
            read_timeout: seconds for each round trip of the handshake.
            client_name: what CLIENT LIST shows; printable ASCII without spaces.

        Raises `NotSent` when there is no way to the server, `ServerNotReady` when it asks to come later,
        `ServerUnusable` when it will not let us in, `ConfigError` when a TLS file or the name cannot be used.
        """
        if not re.fullmatch(r"[!-~]+", client_name):
            raise ConfigError(f"client name {client_name!r}: use printable ASCII characters without spaces")
        try:
            with trio.fail_after(max(0.0, connect_timeout)):
                stream = await _dial(endpoint)
        except trio.TooSlowError:
            awaited = "TLS handshake" if endpoint.tls else "answer"
            raise NotSent(
                f"cannot connect to {endpoint}: no {awaited} within {connect_timeout:g} s"
            ) from None
        except (OSError, UnicodeError, trio.BrokenResourceError) as exc:
            raise NotSent(f"cannot connect to {endpoint}: {_reason(exc)}") from exc
        connection = cls(stream, name=endpoint.display)
        try:
            connection.server = await _shake_hands(connection, endpoint, client_name, read_timeout)
        except BaseException as exc:
            connection.abort()
            if not isinstance(exc, Indeterminate):
                raise
            # Only the handshake was on its way; no command of any caller was.
            hint = "" if endpoint.tls else " (a port that speaks TLS? then use rediss://)"
            raise NotSent(f"cannot connect to {endpoint}: handshake failed: {exc}{hint}") from exc
        return connection

    @property
    def usable(self) -> bool:
        """False once closed or aborted; it never becomes True again."""
        return self._open

    async def execute(self, *args: Argument, timeout: float) -> Reply:
        """Send one command and give its reply; an error reply is raised. Otherwise as `exchange`."""
        reply: Reply | ServerError = (await self.exchange(pack_command(args), 1, timeout))[0]
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def pipeline(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float
    ) -> list[Reply | ServerError]:
        """Send several commands at once, and give their replies in order; an error reply is a value in the list."""
        return await self.exchange(b"".join(map(pack_command, commands)), len(commands), timeout)

    async def exchange(
        self,
        payload: bytes,
        replies: int,
        timeout: float,
        meanwhile: Callable[[], None] | None = None,
        *,
        look: bool = False,
        busy: bool = False,
    ) -> list[Any]:
        """Send packed commands and give `replies` replies. The hot path; `execute` and `pipeline` stand on it.

        Args:
            payload: commands packed by `pack_command`.
            replies: how many replies they bring. Push messages are skipped and do not count.
            timeout: seconds for all of it; for a blocking command its own timeout must be part of this.
            meanwhile: called when the commands are sent, before waiting for a reply.
            look: look for the reply for some turns of the event loop before sleeping until it is there, if that
                promises to find it. Not with `meanwhile`, which is the better use of that time.
            busy: other tasks have work to do now. Let them, and look for the reply, before sleeping. As little with
                `meanwhile`.

        Raises `NotSent` if no byte was handed to the stream, `Indeterminate` (or its `ProtocolError`) from then on.
        After either, and after a cancellation, the connection is closed.
        """
        if self._busy or not self._open or not 0 < timeout < math.inf:
            self._refuse(timeout)
        if not self._at_rest():
            self.abort()
            raise ProtocolError(f"{self.name} sent something that no command asked for")
        self._busy = True
        received: list[Any] = []
        began = trio.current_time()
        found, turns = False, 0
        try:
            rest = await self._send_at_once(payload)
            if not rest and meanwhile is None:
                turns = BUSY_TURNS if busy else TURNS if look and self._lookout.promising(began) else 0
            found = turns > 0 and await self._look(replies, received, turns)
            if len(received) < replies:
                with trio.CancelScope(deadline=began + timeout):
                    if rest:
                        await self._stream.send_all(rest)
                    if meanwhile is not None:
                        meanwhile()
                    await self._receive(replies, received)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise Indeterminate(
                f"the connection to {self.name} broke before its reply came: {_reason(exc)}"
            ) from exc
        finally:
            self._busy = False
            if len(received) < replies:
                self.abort()
        if len(received) < replies:
            raise Indeterminate(f"no reply from {self.name} within {timeout:g} s")
        self.answered_at = now = trio.current_time()
        self._lookout.answered(now - began, now, looked=turns == TURNS, found=found)
        return received

    async def _send_at_once(self, payload: bytes) -> bytes | memoryview:
        """Send what goes out without waiting; what is left is returned."""
        # Trio's own send gives way to other tasks even where the kernel takes everything at once, and that costs a turn
        # of the event loop for every command. Waiting for the reply gives way to them anyway.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._socket is None:
            return payload
        try:
            sent = os.write(self._socket.fileno(), payload)
        except BlockingIOError:
            return payload
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        return memoryview(payload)[sent:]

    async def _look(self, replies: int, received: list[Any], turns: int) -> bool:
        """Take what comes within some turns of the event loop, in which other tasks run. Whether anything came.

        It needs no deadline, being over soon, so a reply that is found costs no cancel scope either.
        """
        assert self._socket is not None  # to others nothing is sent at once
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
            try:
                data = os.read(self._socket.fileno(), _RECEIVE_SIZE)
            except BlockingIOError:
                continue  # not yet
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc
            self._take(data, replies, received)
            return True
        return False

    async def _receive(self, replies: int, received: list[Any]) -> None:
        while len(received) < replies:
            self._take(await self._stream.receive_some(_RECEIVE_SIZE), replies, received)

    def _take(self, data: bytes | bytearray, replies: int, received: list[Any]) -> None:
        """Add the replies that are whole. Raises Indeterminate at the end of the stream, and ProtocolError."""
        if not data:
            raise Indeterminate(f"{self.name} closed the connection before its reply was complete")
        gets = self._reader.gets
        try:
            self._reader.feed(data)  # type: ignore[arg-type]  # takes a bytearray as well
            while len(received) < replies and (reply := gets()) is not _MORE:
                if type(reply) is not hiredis.PushNotification:
                    received.append(reply)
        except Exception as exc:
            # Also TypeError (a list as the key of a map) and MemoryError (a length nobody can mean).
            raise ProtocolError(f"{self.name} does not speak RESP: {_reason(exc)}") from exc

    def _at_rest(self) -> bool:
        """Whether the reader holds nothing but whole push messages: no reply, no part of one.

        hiredis cannot say whether it has parsed half of something (its `has_data` counts bytes not yet looked at), so
        a marker is put in: nothing is pending exactly when it comes out alone. Costs a fraction of a microsecond.
        """
        gets = self._reader.gets
        try:
            self._reader.feed(b":7\r\n")
            while type(reply := gets()) is hiredis.PushNotification:
                pass
            return bool(reply == 7) and gets() is _MORE
        except Exception:  # noqa: BLE001  # whatever the reader stumbled over, it is not at rest
            return False

    def _refuse(self, timeout: float) -> NoReturn:
        if self._busy:
            raise InternalError(f"two tasks use the connection to {self.name} at once")
        if not self._open:
            raise NotSent(f"the connection to {self.name} is closed")
        if timeout <= 0:
            raise NotSent(f"no time was left to ask {self.name}")
        raise InternalError(f"a command without a deadline (timeout={timeout!r})")

    def stale(self) -> bool:
        """Whether the peer hung up, or spoke unasked, while the connection was idle. Never waits, costs a system call.

        Ask before using a connection that lay idle for a while: sending into one that the peer has closed could only
        end as `Indeterminate`. Always False for a memory stream.
        """
        if not self._open:
            return True
        lowest = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if not isinstance(lowest, trio.SocketStream):
            return False
        poll = select.poll()
        poll.register(lowest.socket, select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close at once, without a word to the peer and without giving way to another task. Safe to repeat."""
        self._open = False
        for close in self._close_now:
            close()

    async def aclose(self) -> None:
        """Close politely (over TLS this says goodbye) within a bounded time; cancelled, it closes all the same."""
        if not self._open:
            await trio.lowlevel.checkpoint()
            return
        self._open = False
        try:
            with trio.move_on_after(_CLOSE_TIMEOUT_S):
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it was broken already: nobody is left to say goodbye to
        finally:
            self.abort()


def _closers(stream: object) -> tuple[Callable[[], object], ...]:
    """How to close a stream without awaiting: Trio's own `aclose` lets other tasks run before it is done."""
    if isinstance(stream, trio.SSLStream):
        return _closers(stream.transport_stream)
    if isinstance(stream, trio.SocketStream):
        return (stream.socket.close,)
    if isinstance(stream, trio.StapledStream):
        return _closers(stream.send_stream) + _closers(stream.receive_stream)
    close = getattr(stream, "close", None)
    if close is None:
        raise InternalError(
            f"a {type(stream).__name__} cannot be closed at once, so it cannot carry a connection"
        )
    return (close,)


# --- dialing and shaking hands ---------------------------------------------------------------------------------------


async def _dial(endpoint: Endpoint) -> trio.abc.Stream:
    if endpoint.path is not None:
        return await trio.open_unix_socket(endpoint.path)
    context = endpoint.ssl_context() if endpoint.tls else None
    tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    try:
        # Raises if the peer has hung up already.
        if tcp.socket.getsockname() == tcp.socket.getpeername():
            # A closed port in the range of outgoing ones, tried often enough: TCP lets a socket connect to itself.
            raise OSError("Connection refused (the socket met itself)")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    except OSError:
        tcp.socket.close()
        raise
    if context is None:
        return tcp
    tls = trio.SSLStream(tcp, context, server_hostname=endpoint.tls_server_hostname or endpoint.host)
    try:
        await tls.do_handshake()
    except BaseException:
        tcp.socket.close()
        raise
    return tls


async def _shake_hands(
    connection: Connection, endpoint: Endpoint, client_name: str, timeout: float
) -> ServerInfo:
    """HELLO 3 with everything in one round trip, or AUTH and CLIENT SETNAME where HELLO is not to be had."""
    login: tuple[Argument, ...] = ()
    if endpoint.username is not None or endpoint.password is not None:
        login = ("AUTH", endpoint.username or "default", endpoint.password or "")
    (reply,) = await connection.pipeline([("HELLO", 3, *login, "SETNAME", client_name)], timeout)
    if isinstance(reply, dict):
        info = _server_info(reply)
    elif not isinstance(reply, ServerError):
        raise ProtocolError(f"{endpoint} is not a Redis server: HELLO was answered with {reply!r:.60}")
    elif isinstance(reply, ServerNotReady) or reply.code in ("NOAUTH", "WRONGPASS", "DENIED"):
        raise explained(reply, endpoint)
    else:
        info = ServerInfo()
        await _shake_hands_resp2(connection, endpoint, client_name, timeout)
    if endpoint.db:
        (reply,) = await connection.pipeline([("SELECT", endpoint.db)], timeout)
        if isinstance(reply, ServerError):
            raise explained(
                reply, endpoint, f"database {endpoint.db} cannot be selected", "choose another db"
            )
    return info


async def _shake_hands_resp2(
    connection: Connection, endpoint: Endpoint, client_name: str, timeout: float
) -> None:
    if endpoint.password is not None or endpoint.username is not None:
        user = () if endpoint.username is None else (endpoint.username,)
        (reply,) = await connection.pipeline([("AUTH", *user, endpoint.password or "")], timeout)
        if isinstance(reply, ServerError):
            raise explained(reply, endpoint, "the server refused to log us in", "correct user and password")
    (reply,) = await connection.pipeline([("CLIENT", "SETNAME", client_name)], timeout)
    # A server that knows no names, or forbids us to set one, can be worked with all the same.
    if isinstance(reply, ServerNotReady | ServerUnusable) and reply.code != "NOPERM":
        raise explained(reply, endpoint)


def _server_info(hello: dict[bytes, Any]) -> ServerInfo:
    def text(key: bytes) -> str:
        value = hello.get(key, b"")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    return ServerInfo(text(b"server") or "unknown", text(b"version"), 3, text(b"mode"), text(b"role"))


def explained(
    error: ServerError,
    endpoint: Endpoint,
    what: str = "the server refused the handshake",
    advice: str = "see its log",
) -> ServerError:
    """The server's refusal as one line that says who was refused and what to do; keeps `ServerNotReady` as it is."""
    user = repr(endpoint.username or "default")
    match error.code:
        case "NOAUTH":
            what, advice = (
                "the server wants a password",
                "add user and password to the URL, redis://user:password@host",
            )
        case "WRONGPASS":
            what, advice = (
                f"user {user} is unknown or disabled, or the password is wrong",
                "correct them in the URL",
            )
        case "NOPERM":
            what, advice = f"user {user} lacks a permission", "grant it on the server with ACL SETUSER"
        case _ if isinstance(error, ServerNotReady):
            return ServerNotReady(error.code, f"{endpoint}: not ready yet: {error}")
    return ServerUnusable(error.code, f"{endpoint}: {what} ({error}): {advice}")


def _reason(exc: BaseException) -> str:
    """The cause at the bottom of what Trio wrapped around it, in a few words."""
    if isinstance(exc, BaseExceptionGroup):
        return ", ".join(dict.fromkeys(map(_reason, exc.exceptions)))
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its TLS certificate was refused, {exc.verify_message}: check tls_ca_file and tls_server_hostname"
    if isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS there: use redis:// or the TLS port"
    if exc.__cause__ is not None:
        return _reason(exc.__cause__)
    if type(exc) is not socket.gaierror and isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno)  # Trio's text repeats the address
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
