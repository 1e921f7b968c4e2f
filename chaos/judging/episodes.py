"""Faults that overlap are one episode: nobody can be expected to recover before the last of them is gone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.judging.bounds import Bound, FaultRule
    from chaos.judging.causes import Case
    from chaos.judging.facts import Window


@dataclass(slots=True)
class Episode:
    """Disruptions that overlap, from the first one's begin until the last one is gone."""

    members: list[tuple[Window, FaultRule]]
    begin_s: float
    over_s: float
    name: str

    @property
    def allowed(self) -> Bound:
        """The longest of what its faults are allowed."""
        found = [rule.first_success for _, rule in self.members if rule.first_success is not None]
        return max(found, key=lambda bound: bound.seconds)


def episodes(case: Case) -> Iterator[Episode]:
    """Disruptions in order of time, those that overlap in one."""
    windows = [(w, rule) for w, rule in case.rules if rule.disrupts and not math.isinf(case.over_s(w, rule))]
    current: Episode | None = None
    for window, rule in sorted(windows, key=lambda pair: pair[0].begin_s):
        over_s = case.over_s(window, rule)
        if current is not None and window.begin_s <= current.over_s:
            current.members.append((window, rule))
            current.over_s = max(current.over_s, over_s)
            current.name += f", {case.called(window)}"
            continue
        if current is not None:
            yield current
        current = Episode([(window, rule)], window.begin_s, over_s, case.called(window))
    if current is not None:
        yield current
