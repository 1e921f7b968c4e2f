"""Calls that happen once: a sequence number for each, one call at a time, the same number when it is sent again.

The server keeps a session's last number and reply (see `lua/lib/session.lua`), so a call whose reply was lost is
answered, not repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from queue_trio.errors import InternalError, ServerError
from queue_trio.redis.client import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queue_trio.errors import CircuitOpen
    from queue_trio.redis.client import Client
    from queue_trio.redis.scripts import Script


class Session:
    """One stream of calls. Not for two tasks at once: each stream has one owner."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.on_trouble: Callable[[CircuitOpen], None] | None = None
        """See `Call.on_trouble`."""
        self._seq = 0
        self._doubtful = False
        self.refused_in_doubt = False
        """The last call that the server refused had an attempt before that it may have acted on."""
        self.unanswered: Call | None = None
        """The call that was cancelled on its way, if any. Whether it happened is not known here."""

    async def call(self, script: Script, keys: tuple[str, ...], args: Sequence[Any]) -> Any:
        """Run `script` once; its first argument is the sequence number.

        A call that is still unanswered is given up: whether it happened will never be known. Use `again` to know.
        """
        self.begin(script, keys, args)
        return await self.again()

    async def again(self) -> Any:
        """Ask for the unanswered call's reply. If it never happened, it happens now."""
        if self.unanswered is None:
            raise InternalError("no call is unanswered")
        try:
            reply = await self.client.run(self.unanswered)
        except ServerError as error:
            reply = error
        return self.end(reply)

    def begin(self, script: Script, keys: tuple[str, ...], args: Sequence[Any]) -> Call:
        """A new call, for the caller to run; then `end` must be given its reply."""
        self._doubtful = self._doubtful or (self.unanswered is not None and self.unanswered.maybe_sent)
        self._seq += 1
        self.unanswered = call = Call(script, keys, (self._seq, *args), self.on_trouble)
        return call

    def end(self, reply: Any) -> Any:
        """The reply to the unanswered call; an error is raised."""
        assert self.unanswered is not None
        maybe_sent = self.unanswered.maybe_sent
        self._doubtful = self._doubtful or maybe_sent
        self.unanswered = None
        if isinstance(reply, ServerError):
            # An answer too: this attempt has changed nothing. Of an earlier one without a reply it says nothing.
            self.refused_in_doubt = maybe_sent
            raise reply
        return reply

    @property
    def forgettable(self) -> bool:
        """Whether the server may forget it: it was used, and no copy of a request can still be on its way there."""
        return self._seq > 0 and self.unanswered is None and not self._doubtful


class SharedSession:
    """A session for any number of tasks: their calls go one after the other. `key` is where the server keeps it."""

    def __init__(self, client: Client, key: str) -> None:
        self.key = key
        self.session = Session(client)
        self._turn = trio.Lock()

    async def call(self, script: Script, keys: tuple[str, ...], args: Sequence[Any]) -> Any:
        """See `Session.call`."""
        async with self._turn:
            return await self.session.call(script, keys, args)
