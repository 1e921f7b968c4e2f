"""Deliberately broken variants of queue_trio, and the proof that the suite finds every one. They are never installed.

`python -m chaos mutants` runs each against the scenarios that name it in `kills`. The product knows nothing of them.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from chaos.mutants.in_redis import IN_REDIS
from chaos.mutants.in_runtime import IN_RUNTIME
from chaos.mutants.mutant import Mutant, write_mutant
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MUTANTS", "Mutant", "apply_mutant", "find_mutant"]

MUTANTS: Final = {mutant.name: mutant for mutant in (*IN_REDIS, *IN_RUNTIME)}


def find_mutant(name: str) -> Mutant:
    """The mutant of that name. Raises ConfigError, with the nearest name if there is none."""
    if name in MUTANTS:
        return MUTANTS[name]
    close = get_close_matches(name, MUTANTS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(MUTANTS)}"
    raise ConfigError(f"{name}: there is no such mutant: {hint}")


def apply_mutant(name: str, folder: Path) -> Path:
    """Put a copy of queue_trio that has this bug into `folder`; the result goes first on a process's PYTHONPATH.

    Raises ConfigError for a name that is not there, HarnessError if the product's text is not what the mutant changes.
    """
    return write_mutant(find_mutant(name), folder)
