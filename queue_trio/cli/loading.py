"""Finds the App that `module:app` names. Every way this can fail is one line that says what to change."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import queue_trio
from queue_trio.app import App
from queue_trio.errors import AppLoadError, ConfigError

if TYPE_CHECKING:
    from types import ModuleType

DEFAULT_NAME: Final = "app"

_OURS: Final = str(Path(queue_trio.__file__).parent)


def load_app(target: str) -> App:
    """The App at `module:name`, or `module:app` if only the module is given; the current folder counts as importable.

    Raises AppLoadError; ConfigError if the module asks for settings that are wrong.
    """
    module_name, _, name = target.partition(":")
    name = name or DEFAULT_NAME
    if module_name.endswith(".py") or not all(map(str.isidentifier, module_name.split("."))):
        raise AppLoadError(f"{target!r} is not module:app{_path_hint(module_name)}")
    module = _import(module_name)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppLoadError(
                f"module {module_name!r} has no {name!r}: {_apps_hint(module, name)}"
            ) from None
    if not isinstance(found, App):
        raise AppLoadError(f"{module_name}:{name} is {_kind(found)}, not an App: {_apps_hint(module, name)}")
    if not found.tasks:
        raise AppLoadError(
            f"{module_name}:{name} has no tasks: declare some with @{name.rpartition('.')[2]}.task, in {module_name} "
            "or in a module it imports"
        )
    return found


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(
            0, here
        )  # as python -m does, and uvicorn, and celery: the project is where one stands
    try:
        return importlib.import_module(name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            where = f"in {here} or on the Python path"
            raise AppLoadError(f"module {name!r} not found {where}{_module_hint(name)}") from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> AppLoadError:
    where = _place(error)
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    advice = (
        "install it or correct the name" if isinstance(error, ModuleNotFoundError) else "correct the module"
    )
    return AppLoadError(f"module {name!r} fails on import: {what} ({where}): {advice}")


def _place(error: BaseException) -> str:
    """file:line of the deepest frame in the user's own code, which is where something can be changed."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")
    ]
    theirs = [frame for frame in frames if not frame.filename.startswith(_foreign())]
    for frame in reversed(theirs or frames):
        return f"{_short(frame.filename)}:{frame.lineno}"
    return "no line is known"


def _foreign() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return (_OURS, *(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")))


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _path_hint(text: str) -> str:
    if text.endswith(".py"):
        module = ".".join(Path(text).with_suffix("").parts).strip("./")
        return f": name the module, not its file: {module}:{DEFAULT_NAME}"
    return ": give a module's dotted name, a colon and the App's name, such as myproject.tasks:app"


def _module_hint(name: str) -> str:
    here = Path.cwd()
    known = [path.stem for path in here.glob("*.py")] + [
        path.parent.name for path in here.glob("*/__init__.py")
    ]
    close = get_close_matches(name, known, n=1)
    return (
        f": did you mean {close[0]}?"
        if close
        else ": run this in the project's folder, or install the project"
    )


def _apps_hint(module: ModuleType, name: str) -> str:
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    if not apps:
        return f"{module.__name__} holds no App: add `{DEFAULT_NAME} = App(...)`, or name another module"
    best = (get_close_matches(name, apps, n=1) or apps)[:1]
    others = [app for app in apps if app not in best]
    more = f" (or {', '.join(others)})" if others else ""
    return f"did you mean {module.__name__}:{best[0]}{more}?"
