"""Writes a scenario as the YAML that `loading` reads, in the form that the files in `scenarios` have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from chaos.scenario.model import Scenario

_LINES: Final = ("name", "title", "promises", "rows", "smoke", "kills", "settings", "processes", "redis")
_WIDTH: Final = 10_000
"""A step is one line, however long."""


def plain(scenario: Scenario) -> dict[str, Any]:
    """What a file would say of it: names, numbers, lists and mappings, without what is left at its default."""
    told = scenario.model_dump(by_alias=True, exclude_unset=True, mode="json")
    for step in told["steps"]:
        if "fault" in step:
            step["fault"] = {"kind": step["fault"].pop("kind"), **step["fault"]}
    for part in ("counts", "completed_during"):
        if amounts := getattr(scenario.expect, part):
            told["expect"][part] = {name: str(amount) for name, amount in amounts.items()}
    return told


def to_yaml(scenario: Scenario, comment: str = "") -> str:
    """The text of its file, which must be called as it is. `comment`: lines for people, at the top."""
    told = plain(scenario)
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [_line(name, told[name]) for name in _LINES if name in told]
    lines.append("steps:")
    lines += [f"  - {_line(*next(iter(step.items())))}" for step in told["steps"]]
    if told.get("expect"):
        lines.append(_line("expect", told["expect"]))
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    written: str = yaml.safe_dump({name: value}, default_flow_style=True, sort_keys=False, width=_WIDTH)
    return written.strip()[1:-1]
