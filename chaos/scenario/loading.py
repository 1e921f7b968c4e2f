"""Reads scenarios from YAML, and says everything that is wrong with one at once: one line each, with file and line.

What a scenario may be is `scenario` and `faults`; this module knows where things were written and how to say it.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from chaos.scenario.faults import Healing, Model
from chaos.scenario.model import RUN_SETTINGS, Scenario, contradictions, missing
from queue_trio.config.problems import Origin, Problem, explain
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]

FOLDER: Final = Path(__file__).parents[1] / "scenarios"
SUFFIX: Final = ".yaml"
_SHOWN_MAX: Final = 60


def find_scenario(name: str, folder: Path = FOLDER) -> Scenario:
    """The scenario of that name, or in that file. Raises ConfigError, with the nearest name if there is none."""
    if name.endswith(SUFFIX):
        return load_scenario(Path(name))
    known = [file.stem for file in folder.glob(f"*{SUFFIX}")]
    if name not in known:
        raise ConfigError(
            f"{name}: there is no such scenario{_hint(name, known, 'see `python -m chaos list`')}"
        )
    return load_scenario(folder / f"{name}{SUFFIX}")


def load_all(folder: Path = FOLDER) -> list[Scenario]:
    """Every scenario of a folder, by name. Raises ConfigError for all that is wrong in any of them."""
    found: list[Scenario] = []
    wrong: list[str] = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found.append(load_scenario(file))
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return found


def load_scenario(file: Path) -> Scenario:
    """The scenario in `file`, which has its name. Raises ConfigError, one line for each thing that is wrong."""
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    scenario = parse_scenario(text, file)
    if scenario.name != file.stem:
        raise ConfigError(f"name ({file}): is {scenario.name!r}, must be {file.stem!r} as the file")
    return scenario


def parse_scenario(text: str, file: Path) -> Scenario:
    """As `load_scenario`, from the text of `file`."""
    source = _Source(text, file)
    problems = [*source.twice, *_settings(source)]
    values = {name: value for name, value in source.values.items() if name != "settings"}
    scenario: Scenario | None
    try:
        # Without the settings: those that are wrong have been told above.
        scenario = Scenario.model_validate(values)
    except ValidationError as error:
        problems += [_explain(found, source) for found in error.errors(include_url=False)]
        scenario = _what_is_left(values, error)
    else:
        problems += [Problem("", Origin(file), reason) for reason in missing(scenario)]
    if scenario is not None:
        problems += _contradictions(scenario, source)
    if problems:
        problems.sort(key=lambda problem: (problem.origin.line or 0) if problem.origin else 0)
        raise ConfigError("\n".join(dict.fromkeys(map(str, problems))))
    return Scenario.model_validate(source.values)


class _Source:
    """A YAML file: its values, and in which line each was written. Raises ConfigError if there are none."""

    def __init__(self, text: str, file: Path) -> None:
        self.file = file
        self.twice: list[Problem] = []
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.values: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
            reason = ", ".join(part for part in (error.problem, error.context) if part)
            raise ConfigError(f"{file}{line}: not YAML: {reason}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(self.values, dict) or not all(isinstance(name, str) for name in self.values):
            raise ConfigError(f"{file}:1: must hold a scenario, beginning with `name:`")
        self._find_twice(self._root, ())

    def origin(self, place: Place) -> Origin:
        """Where what is at `place`, or else what it is in, was written."""
        node, line = self._root, 1
        for part in _written(place):
            match node:
                case yaml.MappingNode():
                    found = [pair for pair in node.value if pair[0].value == str(part)]
                    if found:
                        line, node = found[0][0].start_mark.line + 1, found[0][1]
                case yaml.SequenceNode() if isinstance(part, int) and part < len(node.value):
                    node = node.value[part]
                    line = node.start_mark.line + 1
                case _:
                    break
        return Origin(self.file, line)

    def _find_twice(self, node: yaml.Node | None, at: Place) -> None:
        if len(at) > 12:  # an alias may make a mapping contain itself
            return
        if isinstance(node, yaml.SequenceNode):
            for number, inner in enumerate(node.value):
                self._find_twice(inner, (*at, number))
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, inner in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in seen:
                    reason = f"is there twice, first in line {seen[name]}"
                    self.twice.append(Problem(_words((*at, name)), Origin(self.file, line), reason))
                seen.setdefault(name, line)
                self._find_twice(inner, (*at, name))


# --- settings ------------------------------------------------------------------------------------------------------


def _settings(source: _Source) -> Iterator[Problem]:
    """What is wrong with the overrides, in the words that a settings file would get."""
    given = source.values.get("settings", {})
    if not isinstance(given, dict):
        yield Problem(
            "settings", source.origin(("settings",)), "must hold sections, such as worker: {lease: 2}"
        )
        return
    merged: dict[Any, Any] = {section: dict(values) for section, values in RUN_SETTINGS.items()}
    origins: dict[tuple[str, ...], Origin] = {}
    for section, values in given.items():
        origins[(str(section),)] = source.origin(("settings", str(section)))
        if not isinstance(values, dict):
            merged[section] = values
            continue
        for name in values:
            origins[str(section), str(name)] = source.origin(("settings", str(section), str(name)))
        merged[section] = merged.get(section, {}) | values
    try:
        Settings.model_validate(merged)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            problem = explain(found, origins)
            yield Problem(f"settings.{problem.key}", problem.origin, problem.reason)


# --- shapes --------------------------------------------------------------------------------------------------------


def _explain(found: ErrorDetails, source: _Source) -> Problem:
    place = tuple(found["loc"])
    return Problem(_words(place), source.origin(place), _reason(found, place))


def _reason(found: ErrorDetails, place: Place) -> str:
    context = found.get("ctx", {})
    message = found["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    match found["type"]:
        case "extra_forbidden":
            model = _model_at(place[:-1])
            known = _names(model) if model else []
            return f"there is no such key{_hint(str(place[-1]), known, 'choose one of ' + ', '.join(known))}"
        case "union_tag_invalid":
            known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            return f"there is no such fault{_hint(str(context['tag']), known, 'choose one of ' + ', '.join(known))}"
        case "union_tag_not_found":
            return "must say its kind, such as kind: proxy_down"
        case "missing":
            return "is missing"
        case "literal_error" | "enum":
            known = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
            close = get_close_matches(str(found["input"]), known, n=1)
            return f"is {_shown(found['input'])}, {message}" + (
                f": did you mean {close[0]}?" if close else ""
            )
        case "model_type" | "dict_type" | "tuple_type" | "list_type":
            return f"is {_shown(found['input'])}, {message}"
        case "value_error" if isinstance(found["input"], dict):
            return message
        case _:
            return f"is {_shown(found['input'])}, {message}"


def _what_is_left(values: dict[str, Any], error: ValidationError) -> Scenario | None:
    """The scenario without what is wrong with it, so that the rest can be compared too; None if too little is left."""
    left = dict(values)
    bad_steps = {
        found["loc"][1] for found in error.errors() if found["loc"][0] == "steps" and len(found["loc"]) > 1
    }
    for found in error.errors():
        if found["loc"][0] != "steps":
            left.pop(str(found["loc"][0]), None)
    if isinstance(left.get("steps"), list):
        # What takes their place keeps the numbers of the others.
        left["steps"] = [
            {"wait": {"seconds": 1}} if n in bad_steps else step for n, step in enumerate(left["steps"])
        ]
    try:
        return Scenario.model_validate({"name": "a", "title": "a", "promises": "N"} | left)
    except ValidationError:
        return None


def _contradictions(scenario: Scenario, source: _Source) -> Iterator[Problem]:
    for place, reason, wrong, right in contradictions(scenario):
        hint = "" if wrong is None else _hint(wrong, right, "choose one of " + ", ".join(right))
        yield Problem(_words(place), source.origin(place), f"{reason}{hint}")


def _model_at(place: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that the value at `place` should be."""
    at: Any = Scenario
    for part in place:
        at = _inside(at, part)
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _inside(at: Any, part: str | int) -> Any:
    if isinstance(at, type) and issubclass(at, BaseModel):
        fields = at.model_fields.items()
        return next((f.annotation for name, f in fields if part in (name, f.alias)), None)
    options = list(_models(at))
    tagged = [
        m for m in options if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
    ]
    if tagged:
        return tagged[0]
    if isinstance(part, int):
        return next(iter(get_args(at)), None)
    return _inside(options[0], part) if options else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union) or type(annotation).__name__ == "UnionType":
        for inner in get_args(annotation):
            yield from _models(inner)


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


# --- words ---------------------------------------------------------------------------------------------------------


def _written(place: Iterable[str | int]) -> Place:
    """`place` as the file has it: without the kind of a fault, which pydantic puts after `fault`."""
    parts = tuple(place)
    tagged = len(parts) > 3 and parts[0] == "steps" and parts[2] == "fault" and parts[3] in _KINDS
    return (*parts[:3], *parts[4:]) if tagged else parts


def _words(place: Iterable[str | int]) -> str:
    """`steps`, 3, `fault`, `latency`, `jitter` is "step 4, fault.jitter"."""
    parts = _written(place)
    if len(parts) > 1 and parts[0] == "steps" and isinstance(parts[1], int):
        rest = ".".join(map(str, parts[2:]))
        return f"step {parts[1] + 1}" + (f", {rest}" if rest else "")
    return ".".join(map(str, parts))


def _kinds(model: type[Model]) -> Iterator[str]:
    for below in model.__subclasses__():
        if "kind" in below.model_fields:
            yield from get_args(below.model_fields["kind"].annotation)
        yield from _kinds(below)


_KINDS: Final = frozenset(_kinds(Healing))


def _hint(wrong: str, known: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(wrong.lower(), list(known), n=1)
    return f": did you mean {close[0]}?" if close else f": {otherwise}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
