"""Lets tests of any kind use the drivers, which are async and Trio's: they run in a thread of their own.

Whoever calls is blocked until the driver is done, be it a plain test or an event loop of whatever make. That is why
one kind of handle serves them all; and a driver never waits for the loop that it blocks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from queue_trio.errors import QueueTrioError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from anyio.from_thread import BlockingPortal

P = ParamSpec("P")
T = TypeVar("T")


class Driver:
    """Made by `open_driver`. Any thread may call."""

    def __init__(self, portal: BlockingPortal, messenger: ThreadPoolExecutor) -> None:
        self._portal = portal
        # Trio does not let one of its own threads call into another: a Trio test sends somebody.
        self._messenger = messenger

    def call(self, work: Callable[P, Awaitable[T]], *args: P.args, **options: P.kwargs) -> T:
        """Do it there and wait for what it returns or raises."""
        __tracebackhide__ = True

        async def done() -> T:
            return await work(*args, **options)

        future = self._messenger.submit(self._portal.start_task_soon, done).result()
        try:
            return future.result()
        except QueueTrioError as error:
            # Its message says it all; where in the driver it was raised would bury the line of the test.
            raise error.with_traceback(None) from None
        finally:
            # When Ctrl-C or a timeout has ended the wait, nobody wants it any more. Else it is done, and this nothing.
            future.cancel()

    @contextmanager
    def enter(self, block: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Keep an async block open there. It does not hear of what is raised in here."""
        opened = self._portal.wrap_async_context_manager(block)
        value = self._messenger.submit(opened.__enter__).result()
        try:
            yield value
        finally:
            self._messenger.submit(opened.__exit__, None, None, None).result()


@contextmanager
def open_driver() -> Iterator[Driver]:
    """Run Trio in a new thread inside the block."""
    with (
        start_blocking_portal("trio") as portal,
        ThreadPoolExecutor(1, thread_name_prefix="chaos messenger") as messenger,
    ):
        yield Driver(portal, messenger)
