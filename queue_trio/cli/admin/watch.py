"""`queue-trio admin stats --watch`: looks again and again, through outages too, until Ctrl-C.

On a terminal the table is redrawn in its place; in a pipe there is one block of text for each look, or with --json one
line. Rates are what the counters did between two looks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final, Protocol

from queue_trio.cli.admin.reaching import Reach, open_client, where_text
from queue_trio.cli.admin.stats import read_stats, remarks, stats_json, tables
from queue_trio.cli.errors import mask, one_line
from queue_trio.cli.output import plain_table, rich_table, write, write_json
from queue_trio.errors import InfrastructureError, ServerUnusable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from queue_trio.core.settings import Settings
    from queue_trio.core.store import LaneStats

LOOK_S_MIN: Final = 2.0
"""A look that takes longer, or longer than the interval, counts as an outage."""


@dataclass(slots=True)
class Look:
    """What one look found. `reason`: why it found nothing. `rates`: per lane, enqueued and completed per second."""

    at: datetime
    found: list[LaneStats] = field(default_factory=list)
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    reason: str | None = None


class Rates:
    """What counters did per second since the last look, by time that is passed in."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, int]] = {}

    def update(self, found: Sequence[LaneStats], now_s: float) -> dict[str, tuple[float, float]]:
        """By lane, enqueued and completed per second; not for a lane seen first, or whose counters went back."""
        rates = {}
        for one in found:
            before = self._before.get(one.lane)
            if before is not None:
                past_s = now_s - before[0]
                enqueued, completed = one.enqueued - before[1], one.completed - before[2]
                if past_s > 0 and enqueued >= 0 and completed >= 0:
                    rates[one.lane] = (enqueued / past_s, completed / past_s)
        self._before = {one.lane: (now_s, one.enqueued, one.completed) for one in found}
        return rates


class Show(Protocol):
    """Shows looks, one after the other."""

    def __call__(self, look: Look, /) -> None: ...


def run(settings: Settings, queue: str | None, *, interval_s: float, as_json: bool) -> None:
    """Watch until interrupted. Raises at once if Redis cannot be reached at the beginning."""
    import trio

    with _shown(settings, as_json=as_json) as show:
        trio.run(watch, settings, queue, interval_s, show)


async def watch(settings: Settings, queue: str | None, interval_s: float, show: Show) -> None:
    """Look and `show`, for ever. What the first look finds wrong is raised; later an outage is shown."""
    import trio

    from queue_trio.cli.enqueue import reach

    rates = Rates()
    async with open_client(settings) as client:
        redis = Reach(client, settings.redis.prefix)
        await reach(client.connect)
        next_s = trio.current_time()
        for first in chain([True], repeat(False)):
            look = Look(datetime.now(UTC))
            try:
                with trio.fail_after(max(interval_s, LOOK_S_MIN)):
                    # Tried once, where the reads below would wait for Redis and not say why.
                    await client.connect()
                    look.found = await read_stats(redis, queue)
                look.rates = rates.update(look.found, trio.current_time())
            except ServerUnusable:
                raise
            except UsageError:
                if first:
                    raise
                # The queue is gone with the rest: this Redis came back empty.
            except (InfrastructureError, trio.TooSlowError) as error:
                look.reason = str(error) or "no answer in time"
            show(look)
            # From the last look's time, so that the interval is exact; but never a rush to catch up.
            next_s = max(next_s + interval_s, trio.current_time())
            await trio.sleep_until(next_s)


# --- three ways to show it -----------------------------------------------------------------------------------------


def _shown(settings: Settings, *, as_json: bool) -> AbstractContextManager[Show]:
    from contextlib import nullcontext

    if as_json:
        return nullcontext(_write_line)
    if sys.stdout.isatty():
        return _Drawn(settings)
    return nullcontext(_write_block)


def _write_line(look: Look) -> None:
    at = look.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if look.reason is not None:
        write_json({"at": at, "queues": None, "unreachable": mask(look.reason)}, indent=None)
        return
    queues = [{**stats_json(one), **_rates_json(look, one.lane)} for one in look.found]
    write_json({"at": at, "queues": queues, "unreachable": None}, indent=None)


def _rates_json(look: Look, lane: str) -> dict[str, Any]:
    enqueued, completed = look.rates.get(lane, (None, None))
    return {"enqueued_per_s": enqueued, "completed_per_s": completed}


def _write_block(look: Look) -> None:
    lines = [f"{look.at:%Y-%m-%dT%H:%M:%SZ}"]
    if look.reason is not None:
        lines[0] += f"  Redis is unreachable: {one_line(mask(look.reason))}"
    elif not look.found:
        lines[0] += "  no queues yet"
    else:
        for columns, rows in tables(look.found, _texts(look)):
            lines += [*plain_table(columns, rows), ""]
        lines += remarks(look.found)
    write("\n".join(lines).rstrip("\n") + "\n")


def _texts(look: Look) -> dict[str, tuple[str, str]]:
    return {lane: (f"{first:.1f}", f"{second:.1f}") for lane, (first, second) in look.rates.items()}


class _Drawn:
    """The table on a terminal, redrawn in its place when we say so: no thread of rich's own."""

    def __init__(self, settings: Settings) -> None:
        from rich.console import Console
        from rich.live import Live

        # Outages are told in the table; log lines would tear it apart.
        from queue_trio.core.settings import LogSettings
        from queue_trio.ops.logging import configure_logging

        configure_logging(LogSettings(level="error"))
        self._where = where_text(settings)
        self._live = Live(console=Console(file=sys.stdout), auto_refresh=False)
        self._last: Look | None = None

    def __enter__(self) -> Show:
        self._live.start()
        return self._draw

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def _draw(self, look: Look) -> None:
        if look.reason is None:
            self._last = look
        self._live.update(self._picture(look), refresh=True)

    def _picture(self, look: Look) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        head = Text(f"{look.at.astimezone():%H:%M:%S}  {self._where}  (Ctrl-C ends)", style="dim")
        parts: list[RenderableType] = [head]
        if look.reason is not None:
            reason = Text(f"Redis is unreachable: {one_line(mask(look.reason))}", style="bold red")
            parts.append(reason)
            if self._last is not None:
                parts.append(Text(f"as it was at {self._last.at.astimezone():%H:%M:%S}:", style="dim"))
        shown = look if look.reason is None else self._last
        if shown is not None and shown.found:
            parts += [rich_table(columns, rows) for columns, rows in tables(shown.found, _texts(shown))]
            parts += [Text(remark) for remark in remarks(shown.found)]
        elif shown is not None:
            parts.append(Text("no queues yet"))
        return Group(*parts)
