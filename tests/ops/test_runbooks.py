"""The runbooks: every command in them exists, with its options; links lead somewhere; each tells what it must."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from markdown_it import MarkdownIt

from queue_trio.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runbooks"
RUNBOOKS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
CONTROL = {"|", "||", "&&", ";", ">", "&"}


def console_commands(document: Path) -> Iterator[str]:
    """What follows the prompt in its ```console blocks."""
    for token in MarkdownIt().parse(document.read_text("utf-8")):
        if token.type == "fence" and token.info.strip() == "console":
            for line in token.content.splitlines():
                if line.startswith("$ "):
                    yield line.removeprefix("$ ")


def own_arguments(command: str) -> list[str] | None:
    """What `queue-trio` is called with in a line of shell, or None if it is not."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    words = list(lexer)
    if "queue-trio" not in words:
        return None
    rest = words[words.index("queue-trio") + 1 :]
    end = next((at for at, word in enumerate(rest) if word in CONTROL), len(rest))
    return rest[:end]


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does, and stop before anything runs. Raises what the program would say."""
    command: Any = typer.main.get_command(cli)
    context = command.make_context("queue-trio", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        assert rest, f"queue-trio {shlex.join(arguments)}: which command?"
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def own_command_lines() -> Iterator[tuple[str, list[str]]]:
    """(runbook, arguments) of every line of ours, in blocks and in the text."""
    for path in [FOLDER / "README.md", *RUNBOOKS]:
        in_text = re.findall(r"`(queue-trio [^`]+)`", path.read_text("utf-8"))
        for line in sorted({*console_commands(path), *in_text}):
            arguments = own_arguments(line)
            if arguments is not None:
                yield path.stem, arguments


OWN = [
    pytest.param(arguments, id=f"{name}: {shlex.join(arguments)}") for name, arguments in own_command_lines()
]


@pytest.mark.parametrize("arguments", OWN)
def test_each_command_line_is_one_that_the_program_understands(arguments: list[str]) -> None:
    parse(arguments)


@pytest.mark.parametrize(
    "arguments", [["admin", "stat"], ["admin", "stats", "--nonsense"], ["admin", "inspect"], ["admin"]]
)
def test_a_command_line_that_is_wrong_is_noticed(arguments: list[str]) -> None:
    with pytest.raises((typer.TyperException, AssertionError)):
        parse(arguments)


def test_commands_are_found_behind_others_and_before_pipes() -> None:
    assert own_arguments("timeout 3 queue-trio admin stats --json | cut -c1-80") == [
        "admin",
        "stats",
        "--json",
    ]
    assert own_arguments("curl -s localhost:9464/readyz") is None


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_each_runbook_has_symptoms_checks_acts_and_how_to_verify(runbook: Path) -> None:
    headings = re.findall(r"^## (\w+)", runbook.read_text("utf-8"), re.MULTILINE)
    wanted = [name for name in headings if name in {"Symptoms", "Check", "Act", "Verify"}]
    assert list(dict.fromkeys(wanted)) == ["Symptoms", "Check", "Act", "Verify"]


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_every_block_of_commands_shows_what_they_say(runbook: Path) -> None:
    for token in MarkdownIt().parse(runbook.read_text("utf-8")):
        if token.type == "fence":
            assert token.info.strip() == "console", token.content
            lines = token.content.splitlines()
            assert lines[0].startswith("$ ")
            assert any(not line.startswith("$ ") for line in lines), token.content


@pytest.mark.parametrize("document", [FOLDER / "README.md", *RUNBOOKS], ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target
