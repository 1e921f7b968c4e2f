"""What a mutant is, and how it comes into being: a copy of queue_trio in which a few pieces of text are replaced.

Nothing of the product is changed, and nothing is patched in memory: the processes of one run import the copy instead of
the source, from their first line on, Lua scripts included. Knows neither which mutants there are nor how one is judged.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import queue_trio
from chaos.errors import HarnessError

if TYPE_CHECKING:
    from chaos.result import Result

PRODUCT: Final = Path(queue_trio.__file__).parent


class Edit(msgspec.Struct, frozen=True):
    """In `file`, a path inside queue_trio, `old` becomes `new`. `old` is there exactly once, or the edit is refused."""

    file: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One bug that somebody could have written. Without a fault it must not show."""

    name: str
    broken: str
    """What is wrong, in one line."""
    promise: str
    """The letter of the promise that it breaks first; "" if it breaks none, but a bound in time."""
    signs: tuple[str, ...]
    """How a reason begins that this bug explains. A run that fails for any other reason has not found it."""
    edits: tuple[Edit, ...]

    def sign_of(self, result: Result) -> str | None:
        """The first reason of the verdict that has to do with this bug, or None."""
        return next((reason for reason in result.judgement.reasons if reason.startswith(self.signs)), None)


def edited(mutant: Mutant, product: Path = PRODUCT) -> dict[str, str]:
    """Every file that is edited, by its path inside queue_trio, with its new text.

    Raises HarnessError if the text to be replaced is not there exactly once, or what comes out is not Python.
    """
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        file = product / edit.file
        if not file.is_file():
            raise HarnessError(f"mutant {mutant.name}: there is no file queue_trio/{edit.file} any more")
        before = texts.get(edit.file) or file.read_text("utf-8")
        if before.count(edit.old) != 1:
            raise HarnessError(
                f"mutant {mutant.name}: queue_trio/{edit.file} does not have once what is to be replaced, but "
                f"{before.count(edit.old)} times: {edit.old.strip().splitlines()[0].strip()!r}; adapt the mutant to it"
            )
        texts[edit.file] = before.replace(edit.old, edit.new)
    for name, text in texts.items():
        if name.endswith(".py"):
            _check_python(mutant, name, text)
    return texts


def _check_python(mutant: Mutant, name: str, text: str) -> None:
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise HarnessError(
            f"mutant {mutant.name}: queue_trio/{name}:{error.lineno} is not Python: {error.msg}"
        ) from None


def write_mutant(mutant: Mutant, folder: Path, product: Path = PRODUCT) -> Path:
    """Put a copy of queue_trio that has this bug into `folder`; the result goes first on PYTHONPATH.

    Raises HarnessError, see `edited`.
    """
    texts = edited(mutant, product)
    home = folder / f"mutant-{mutant.name}"
    copy = home / "queue_trio"
    shutil.copytree(product, copy)
    for name, text in texts.items():
        (copy / name).write_text(text, "utf-8")
    return home
