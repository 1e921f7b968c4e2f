"""The Lua files keep their contracts: a header each, keys that exist, nothing touched that is not in KEYS."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

import pytest

import queue_trio
from queue_trio.core.job import Lane
from queue_trio.errors import InternalError
from queue_trio.redis import scripts
from queue_trio.redis.keys import LANE_KEYS, READY_KEYS, LaneKeys

LUA = files("queue_trio.redis") / "lua"
SOURCES = {
    Path(str(file)).stem: file.read_text("utf-8") for file in LUA.iterdir() if file.name.endswith(".lua")
}
LIBRARIES = {
    Path(str(file)).stem: file.read_text("utf-8")
    for file in (LUA / "lib").iterdir()
    if file.name.endswith(".lua")
}

OWN_KEYS = {
    "session": "s",
    "trail": "t",
    "hash_or_zset": "h",
    "limit": "l",
    "ready": "r",
    "inbox": "i",
    **{f"inbox:{rank}": f"i{rank}" for rank in range(4)},
}
"""Keys that belong to one caller: it names them itself."""

FORBIDDEN = (
    "KEYS",
    "SCAN",
    "FLUSHALL",
    "FLUSHDB",
    "RANDOMKEY",
    "DBSIZE",
    "EVAL",
    "SELECT",
    "SWAPDB",
    "MIGRATE",
)

every_script = pytest.mark.parametrize("name", scripts.NAMES)


def code(source: str) -> str:
    """The source without comments."""
    return re.sub(r"--(?!#).*", "", source)


def test_the_files_and_the_list_of_scripts_are_the_same() -> None:
    assert sorted(SOURCES) == sorted(scripts.NAMES)
    assert len(set(scripts.NAMES)) == len(scripts.NAMES)


def test_every_script_is_used() -> None:
    root = Path(queue_trio.__file__).parent if queue_trio.__file__ else Path(next(iter(queue_trio.__path__)))
    loaded = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                function = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if function == "load":
                    loaded.add(node.args[0].value)
    assert set(scripts.NAMES) <= loaded


@every_script
def test_the_header_says_what_goes_in_and_what_comes_out(name: str) -> None:
    lines = SOURCES[name].splitlines()
    assert lines[0].startswith(f"-- {name}: ")
    header = "\n".join(line for line in lines if line.startswith("-- "))
    for part in ("KEYS", "ARGV", "Output"):
        assert re.search(rf"^-- {part}  \S", header, re.MULTILINE), f"{name}.lua does not say its {part}"


@every_script
def test_the_keys_named_are_keys_of_the_lane_or_the_callers_own(name: str) -> None:
    script = scripts.load(name)
    unknown = set(script.key_names) - {*LANE_KEYS, *READY_KEYS, *OWN_KEYS}
    assert not unknown
    lane = LaneKeys(Lane("q", 3))
    for key_name, key in zip(script.key_names, script.keys(lane, OWN_KEYS), strict=True):
        assert key == OWN_KEYS.get(key_name, f"qt:{{q.3}}:{key_name}")


@every_script
def test_every_key_a_command_touches_came_in_as_a_key(name: str) -> None:
    """So that the script runs on a cluster. A key is a local name taken from KEYS, or given to a function as one."""
    for where, source in ((name, SOURCES[name]), *((part, LIBRARIES[part]) for part in _includes(name))):
        for command, first in re.findall(
            r"redis\.p?call\(\s*(['\"]\w+['\"]|\w+)\s*(?:,\s*([^,)]+))?", code(source)
        ):
            if command.strip("'\"").upper() == "TIME":
                continue
            assert not first.startswith(("'", '"', "ARGV")), f"{where}: {command} {first}"
            assert ".." not in first, f"{where}: {command} makes the key {first} itself"


@every_script
def test_no_script_looks_through_the_keyspace(name: str) -> None:
    commands = re.findall(r"redis\.p?call\(\s*['\"](\w+)['\"]", code(scripts.load(name).text))
    assert not {command.upper() for command in commands} & set(FORBIDDEN)


@every_script
def test_every_position_of_keys_is_named(name: str) -> None:
    source, script = code(SOURCES[name]), scripts.load(name)
    fixed = [int(number) for number in re.findall(r"KEYS\[(\d+)", source)]
    unpacked = [int(last) for last in re.findall(r"unpack\(KEYS, \d+, (\d+)\)", source)]
    assert max([*fixed, *unpacked], default=1) <= len(script.key_names)
    for names, first, last in re.findall(r"local ([A-Z_, ]+) = unpack\(KEYS, (\d+), (\d+)\)", source):
        count = int(last) - int(first) + 1
        assert len(names.split(",")) == count, f"{name}.lua: {names}"
        described = [part.upper() for part in script.key_names[int(first) - 1 : int(last)]]
        for local, key in zip((part.strip() for part in names.split(",")), described, strict=True):
            assert local in {key, key.removeprefix("WORKER_")}, f"{name}.lua: {local} is {key} in the header"


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_is_included_by_some_script_and_says_what_it_is(name: str) -> None:
    assert any(name in _includes(script) for script in scripts.NAMES)
    assert LIBRARIES[name].startswith("-- ")
    assert "KEYS" not in code(LIBRARIES[name])


@every_script
def test_a_script_includes_what_it_uses_and_nothing_else(name: str) -> None:
    source = code(SOURCES[name])
    included = _includes(name)
    needed = set()
    todo = [source]
    while todo:
        text = todo.pop()
        for part, library in LIBRARIES.items():
            defined = re.findall(r"^local function (\w+)", library, re.MULTILINE)
            if part not in needed and any(re.search(rf"\b{function}\(", text) for function in defined):
                needed.add(part)
                todo.append(code(library))
    assert needed <= set(included), f"{name}.lua lacks {needed - set(included)}"
    # A library may hold more functions than one script needs, and one of those may stand on another library.
    assert all(part in needed for part in included), f"{name}.lua includes {set(included) - needed} in vain"


def test_included_text_replaces_its_line_and_the_digest_is_of_the_whole() -> None:
    script = scripts.load("renew")
    assert "#include" not in script.text
    assert "local function now_ms()" in script.text
    assert re.fullmatch(r"[0-9a-f]{40}", script.sha)
    assert scripts.load("renew") is script


def test_a_script_that_does_not_exist_is_an_error() -> None:
    with pytest.raises((InternalError, FileNotFoundError)):
        scripts.load("nothing")


def _includes(name: str) -> list[str]:
    return [
        part
        for line in re.findall(r"^--#include (.+)$", SOURCES[name], re.MULTILINE)
        for part in line.split()
    ]
