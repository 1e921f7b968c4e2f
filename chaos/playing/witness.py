"""Asks Redis questions on the routes that a fault is on, before it and while it is there, and writes down what came.

Each question is an ECHO on a connection of its own: what happens to it happens to whoever takes the route. Nothing is
judged here; what must be seen of which fault is `bites`, and whether it was is `proofs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import trio

from chaos.history import Dropped, Probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.driving.toxiproxy import Proxy
    from chaos.history import Journal
    from chaos.judging.bites import Bite

EVERY_S: Final = 0.2
BEFORE_S: Final = 0.5
"""For the question before a fault: it must not put the fault off for long, though another one is there."""
SOUND_S: Final = 0.02
BEFORE_TIMES: Final = 3
"""What is later than that before the fault is asked again, so that a busy moment is not taken for a slow route."""
_COUNTED_S: Final = 0.3
"""A proxy counts the bytes of a connection when that ends, which a heal brings about."""


@dataclass(slots=True)
class Answer:
    """What one question met. `got`: bytes, in `pieces`. `closing_s`: until the other end closed after ours."""

    outcome: Literal["answered", "refused", "cut", "silent"] = "silent"
    took_s: float = 0.0
    got: int = 0
    pieces: int = 0
    closing_s: float | None = None


def question(payload: int, login: bytes = b"") -> tuple[bytes, int]:
    """An ECHO of so many bytes, after a `login` if there is one, and how long the answer is."""
    text = b"x" * payload
    return (
        b"%s*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (login, payload, text),
        len(b"+OK\r\n" if login else b"") + len(b"$%d\r\n" % payload) + payload + 2,
    )


async def ask(
    address: tuple[str, int], payload: int, answer: Answer, *, closing: bool, login: bytes = b""
) -> None:
    """Ask once; `answer` tells at each moment how far it has come, so cancel at will. `closing`: wait for that too."""
    began = trio.current_time()
    try:
        sent, length = question(payload, login)
        try:
            stream = await trio.open_tcp_stream(*address)
        except OSError:
            answer.outcome = "refused"
            return
        async with stream:
            try:
                await stream.send_all(sent)
                whole = await _receive(stream, length, answer)
            except trio.BrokenResourceError:
                whole = False
            answer.outcome = "answered" if whole else "cut"
            answer.took_s = trio.current_time() - began
            if whole and closing:
                await _close(stream, answer)
    finally:
        answer.took_s = answer.took_s or trio.current_time() - began


async def _receive(stream: trio.SocketStream, length: int, answer: Answer) -> bool:
    while answer.got < length:
        data = await stream.receive_some(length)
        if not data:
            return False
        answer.got += len(data)
        answer.pieces += 1
        if answer.pieces == 1 and data.startswith(b"-"):
            return True  # refused by the server, and so answered
    return True


async def _close(stream: trio.SocketStream, answer: Answer) -> None:
    began = trio.current_time()
    try:
        await stream.send_eof()
        while await stream.receive_some(1024):
            pass
    except trio.BrokenResourceError:
        pass  # an end too
    answer.closing_s = trio.current_time() - began


@dataclass
class Witness:
    """Of one occurrence of a fault."""

    fault: str
    routes: Mapping[str, Proxy]
    bite: Bite
    journal: Journal
    _lost: dict[str, int] = field(default_factory=dict)
    """By route: bytes of our own questions and answers that it may have dropped."""
    _before: dict[str, int] = field(default_factory=dict)
    """By route: bytes it had dropped before."""

    async def before(self) -> None:
        """A question or a few on each route, and what has been dropped so far. Raises HarnessError."""
        if not self.bite.route:
            return
        async with trio.open_nursery() as nursery:
            for route in self.routes:
                nursery.start_soon(self._ask_before, route)
        if self.bite.drops:
            for route in self.routes:
                self._before[route] = await self._dropped(route)

    async def during(self) -> None:
        """One question after the other on each route, until it is cancelled."""
        if not self.bite.route:
            return
        async with trio.open_nursery() as nursery:
            for route in self.routes:
                nursery.start_soon(self._ask_again, route)

    async def after(self) -> None:
        """What has been dropped, beside our own. Raises HarnessError."""
        if not self.bite.drops:
            return
        for route in self.routes:
            bytes_ = 0
            with trio.move_on_after(_COUNTED_S):
                while (bytes_ := await self._theirs(route)) <= 0:  # noqa: ASYNC110, another process is asked
                    await trio.sleep(EVERY_S / 10)
            if bytes_ > 0:
                self.journal.append(Dropped(self.journal.clock(), self.fault, route, bytes_))

    async def _ask_before(self, route: str) -> None:
        for _ in range(BEFORE_TIMES):
            answer = await self._ask(route, True)
            if answer.outcome != "answered" or answer.took_s <= SOUND_S:
                return

    async def _ask_again(self, route: str) -> None:
        while True:
            await self._ask(route, False)
            await trio.sleep(EVERY_S)

    async def _ask(self, route: str, before: bool) -> Answer:
        answer, at_s = Answer(), self.journal.clock()
        closing = self.bite.route == "slow to close"
        try:
            with trio.move_on_after(min(self.bite.patience_s, BEFORE_S) if before else self.bite.patience_s):
                await ask(
                    self.routes[route].address,
                    self.bite.payload,
                    answer,
                    closing=closing,
                    login=self.routes[route].login,
                )
        finally:
            self._note(route, before, answer, at_s)
        return answer

    def _note(self, route: str, before: bool, answer: Answer, at_s: float) -> None:
        if not before and answer.outcome != "answered":
            sent, length = question(self.bite.payload, self.routes[route].login)
            ways = {"upstream": len(sent), "downstream": length, "both": len(sent) + length}
            self._lost[route] = self._lost.get(route, 0) + ways.get(self.bite.drops, 0)
        self.journal.append(
            Probe(
                at_s,
                self.fault,
                route,
                answer.outcome,
                answer.took_s,
                before=before,
                got=answer.got,
                pieces=answer.pieces,
                closing_s=answer.closing_s,
            )
        )

    async def _dropped(self, route: str) -> int:
        dropped = (await self.routes[route].traffic()).dropped
        return sum(dropped[stream] for stream in dropped if self.bite.drops in (stream, "both"))

    async def _theirs(self, route: str) -> int:
        return await self._dropped(route) - self._before[route] - self._lost.get(route, 0)
