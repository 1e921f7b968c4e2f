"""`queue-trio admin trail`: who changed what, when, and what became of it, from the audit trail. See `acts`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from queue_trio.cli.admin.consent import JsonOption
from queue_trio.cli.admin.reaching import Reach, ask, prepare
from queue_trio.cli.errors import EXIT_OK
from queue_trio.cli.output import Column, write, write_json, write_table

_SHOWN_APART = frozenset(
    ("act", "phase", "at", "begun", "ended", "who", "login", "pid", "what", "outcome", "unreadable")
)


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(trail)


def trail(
    ctx: typer.Context,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=5000, metavar="N", help="So many, the newest.")
    ] = 20,
    as_json: JsonOption = False,
) -> int:
    """Who changed what with this program, the newest last. Changes nothing."""
    settings = prepare(ctx)

    async def read(redis: Reach) -> list[bytes]:
        return await redis.operations.trail(count=2 * count)  # an act has two entries

    acts = merged(ask(settings, read))[-count:]
    if as_json:
        write_json({"acts": acts})
    elif acts:
        columns = (
            Column("when", whole=True),
            Column("who"),
            Column("what"),
            Column("about"),
            Column("outcome"),
        )
        write_table(columns, [_row(act) for act in acts])
    else:
        write("nobody changed anything yet")
    return EXIT_OK


def merged(entries: list[bytes]) -> list[dict[str, Any]]:
    """The acts of these entries, by when they began. `ended` is None for one of which only the beginning is known."""
    acts: dict[str, dict[str, Any]] = {}
    for number, raw in enumerate(entries):
        try:
            entry = json.loads(raw)
            phase, at = _when(entry)
            known = acts.setdefault(str(entry["act"]), {"begun": None, "ended": None})
        except (ValueError, LookupError, TypeError, AttributeError):
            acts[f"unreadable {number}"] = {"unreadable": repr(raw)}
            continue
        known |= {key: value for key, value in entry.items() if key not in ("phase", "at")}
        known[phase] = at
    return list(acts.values())


def _when(entry: dict[str, Any]) -> tuple[str, str]:
    phase = entry["phase"]
    if phase not in ("begun", "ended"):
        raise ValueError(f"no such phase: {phase!r}")
    return phase, str(entry["at"])


def _row(act: dict[str, Any]) -> list[str]:
    if "unreadable" in act:
        return ["?", "?", "?", act["unreadable"], "?"]
    when = str(act["begun"] or act["ended"]).replace("T", " ").removesuffix("Z")
    outcome = str(act.get("outcome", "unknown")) if act["ended"] else "cut off, or under way"
    who = str(act.get("who", "?")) + (f" ({act['login']})" if "login" in act else "")
    # The counts first: a plain table cuts off what is too long.
    facts = {key: act[key] for key in ("queue", "counts") if key in act} | act
    about = " ".join(f"{key}={_short(value)}" for key, value in facts.items() if key not in _SHOWN_APART)
    return [when, who, str(act.get("what", "?")), about, outcome]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}:{inner}" for key, inner in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
