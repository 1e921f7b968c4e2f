"""What fits a task's signature, what is said about what does not, and that every value comes back as it went in."""

# Annotations are strings here, as in most users' modules.
from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PlainSerializer

from queue_trio.context import JobContext
from queue_trio.errors import InvalidArguments, UsageError
from queue_trio.signature import NO_ARGUMENTS, Signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Context as OnlyForTypeCheckers


class Color(enum.Enum):
    RED = "Red"
    BLUE = "Blue"


@dataclass
class Point:
    x: float
    y: float
    note: bytes = b""


class Model(BaseModel):
    name: str
    when: datetime | None = None


def sign(function: Callable[..., Any], **names: Any) -> Signature:
    return Signature("t", function, names)


def refusal(function: Callable[..., Any]) -> str:
    with pytest.raises(UsageError) as caught:
        sign(function)
    return str(caught.value)


def mistake(signature: Signature, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        signature.encode(args, kwargs)
    return str(caught.value)


# --- functions -----------------------------------------------------------------------------------------------------


def test_parameters_without_a_name_are_refused() -> None:
    def many(*paths: str) -> None: ...
    def named(**options: str) -> None: ...
    def positional(path: str, /) -> None: ...

    for function in (many, named, positional):
        assert "has no name a record could store it under" in refusal(function)


def test_annotations_that_cannot_be_had_are_refused() -> None:
    def unknown(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def unimported(x: OnlyForTypeCheckers) -> None: ...
    def unsupported(x: json.JSONDecoder) -> None: ...

    assert "name 'Missing' is not defined" in refusal(unknown)
    assert "must be imported when the program runs" in refusal(unimported)
    assert "pydantic cannot check its arguments" in refusal(unsupported)


def test_the_return_annotation_need_not_resolve() -> None:
    def f(x: int) -> OnlyForTypeCheckers: ...  # type: ignore[empty-body]

    assert sign(f).encode((1,), {}) == b'{"x":1}'


def test_local_types_resolve_through_given_names() -> None:
    class Local(BaseModel):
        n: int

    def f(x: Local) -> None: ...

    assert sign(f, Local=Local).decode(b'{"x":{"n":3}}') == {"x": Local(n=3)}


def test_the_context_is_no_argument() -> None:
    def first(job: JobContext, path: str) -> None: ...
    def last(path: str, *, job: JobContext) -> None: ...
    def optional(path: str, job: JobContext | None = None) -> None: ...
    def annotated(path: str, job: Annotated[JobContext, "the job"]) -> None: ...
    def twice(a: JobContext, b: JobContext) -> None: ...

    for function in (first, last, optional, annotated):
        signature = sign(function)
        assert signature.context_parameter == "job"
        assert signature.encode(("a",), {}) == b'{"path":"a"}'
        assert "is not a parameter of this task" in mistake(signature, "a", job=1)
    assert [sign(f).context_position for f in (first, last, optional)] == [0, None, 1]
    assert "two parameters are annotated JobContext" in refusal(twice)


# --- what fits -----------------------------------------------------------------------------------------------------


def test_names_defaults_and_order() -> None:
    def f(path: str, width: int = 640, *, force: bool = False) -> None: ...

    signature = sign(f)
    assert signature.encode(("a",), {}) == b'{"path":"a"}'
    assert signature.encode(("a", 3), {"force": True}) == b'{"path":"a","width":3,"force":true}'
    assert signature.decode(signature.encode((), {"width": 3, "path": "a"})) == {"path": "a", "width": 3}
    assert sign(lambda: None).encode((), {}) == NO_ARGUMENTS
    assert sign(lambda: None).decode(memoryview(NO_ARGUMENTS)) == {}


def test_mistakes_name_the_parameter() -> None:
    def f(path: str, width: int = 640, *, color: Color = Color.RED) -> None: ...

    signature = sign(f)
    assert mistake(signature) == "task t: 'path' is missing (parameters: path, width, color)"
    assert mistake(signature, "a", "wide") == (
        "task t: 'width': input should be a valid integer, unable to parse string as an integer"
    )
    unknown = "is not a parameter of this task"
    assert mistake(signature, "a", widht=1) == f"task t: 'widht' {unknown}, did you mean 'width'?"
    assert mistake(signature, "a", zoom=1) == f"task t: 'zoom' {unknown} (parameters: path, width, color)"
    assert mistake(sign(lambda: None), zoom=1) == f"task t: 'zoom' {unknown} (parameters: none)"
    assert mistake(signature, "a", 1, Color.RED) == "task t: 3 positional arguments given, at most 2 fit"
    assert mistake(signature, "a", path="b") == "task t: argument 'path' is given twice"
    assert mistake(signature, 1, color="Green") == (
        "task t: 'path': input should be a valid string; 'color': input should be 'Red' or 'Blue'"
    )


def test_old_records_meet_new_signatures() -> None:
    def f(path: str, width: int = 640) -> None: ...

    signature = sign(f)
    assert signature.decode(b'{"width":1,"path":"a"}') == {"path": "a", "width": 1}
    for raw, what in (
        (b'{"width":1}', "'path' is missing"),
        (b'{"path":"a","gone":1}', "'gone' is not a parameter"),
        (b"[]", "'arguments'"),
        (b"{", "'arguments': invalid JSON"),
        (b'{"path":null}', "'path': input should be a valid string"),
    ):
        with pytest.raises(InvalidArguments, match=what):
            signature.decode(raw)


def test_constraints_in_annotations_count() -> None:
    def f(n: Annotated[int, Field(ge=1)], mode: Literal["a", "b"] = "a") -> None: ...

    assert "greater than or equal to 1" in mistake(sign(f), 0)
    assert "input should be 'a' or 'b'" in mistake(sign(f), 1, "c")


def test_what_json_cannot_hold_is_refused() -> None:
    def f(x: Any = None, s: str = "") -> None: ...

    signature = sign(f)
    assert "'x' cannot be stored as JSON" in mistake(signature, object(), "fine")
    assert "'s' cannot be stored as JSON" in mistake(signature, 1, s="\ud800")
    assert "cannot be stored as JSON" in mistake(signature, "\ud800")
    loop: list[Any] = []
    loop.append(loop)
    assert "cannot be stored as JSON" in mistake(signature, loop)


def test_odd_parameter_names() -> None:
    def f(self: int, model_config: int, _private: int, items: int, schema: int = 1) -> None: ...

    given_ = {"self": 1, "model_config": 2, "_private": 3, "items": 4}
    assert sign(f).decode(sign(f).encode((), given_)) == given_


# --- there and back ------------------------------------------------------------------------------------------------

VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (float, st.floats(allow_nan=False)),
    (str, st.text()),
    (bytes, st.binary()),
    (bool, st.booleans()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=st.just(UTC))),
    (datetime, st.datetimes()),
    (timedelta, st.timedeltas(timedelta(days=-10**6), timedelta(days=10**6))),
    (UUID, st.uuids()),
    (Path, st.text("abc/.", min_size=1).map(Path)),
    (Color, st.sampled_from(Color)),
    (Point, st.builds(Point, st.floats(allow_nan=False), st.floats(allow_nan=False), st.binary())),
    (Model, st.builds(Model, name=st.text(), when=st.none() | st.datetimes(timezones=st.just(UTC)))),
    (tuple[int, str], st.tuples(st.integers(), st.text())),
    (set[int], st.sets(st.integers())),
    (frozenset[str], st.frozensets(st.text())),
    (list[bytes | None], st.lists(st.binary() | st.none())),
    (list[list[str]], st.lists(st.lists(st.text()))),
    (int | None, st.integers() | st.none()),
    (list[bool], st.lists(st.booleans())),
    (dict[str, list[float]], st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False)))),
    (dict[int, Color], st.dictionaries(st.integers(), st.sampled_from(Color))),
    (int | float, st.integers() | st.floats(allow_nan=False)),
    (int | str | None, st.integers() | st.text() | st.none()),
    (Any, st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )),
]  # fmt: skip


def _signed(hint: Any) -> Signature:
    def f(value: Any) -> None: ...

    f.__annotations__["value"] = hint
    return sign(f)


@pytest.mark.parametrize(("hint", "values"), VALUES, ids=[str(hint) for hint, _ in VALUES])
def test_values_come_back_as_they_were(hint: Any, values: st.SearchStrategy[Any]) -> None:
    signature = _signed(hint)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
    @given(values)
    def there_and_back(value: Any) -> None:
        try:
            raw = signature.encode((value,), {})
        except InvalidArguments as error:
            # Refused clearly is well; only what is accepted must come back. Numbers of thousands of digits are.
            assert "value" in str(error)  # noqa: PT017
            return
        # As part of a record, and as JSON that anyone can read.
        record = msgspec.json.encode({"args": msgspec.Raw(raw)})
        back = signature.decode(msgspec.json.decode(record, type=dict[str, msgspec.Raw])["args"])["value"]
        assert back == value
        assert type(back) is type(value)
        json.loads(raw)

    there_and_back()


@pytest.mark.parametrize("hint", [float, float | None, list[float], Point])
def test_nan_and_infinity_do_not_become_null(hint: Any) -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        value = [number] if hint == list[float] else Point(number, number) if hint is Point else number
        signature = _signed(hint)
        raw = signature.encode((value,), {})
        assert b"null" not in raw
        assert repr(signature.decode(raw)["value"]) == repr(value)


@settings(deadline=None)
@given(st.integers(), st.text(), st.booleans(), st.none() | st.lists(st.integers()))
def test_plain_arguments_are_written_as_pydantic_would(a: int, b: str, c: bool, d: list[int] | None) -> None:
    def plain(a: int, b: str, c: bool, d: list[int] | None = None) -> None: ...
    def other(a: int, b: str, c: bool, d: list[int] | None = None, e: float = 0.0) -> None: ...

    assert sign(plain)._plain
    assert not sign(other)._plain
    given_ = {"a": a, "b": b, "c": c, "d": d}
    assert sign(plain).encode((), given_) == sign(other).encode((), given_)


def test_who_has_a_way_of_its_own_to_be_written_keeps_it() -> None:
    hex_ = Annotated[int, PlainSerializer(hex)]
    for hint, value, raw in (
        (hex_, 17, b'"0x11"'),
        (list[hex_], [17], b'["0x11"]'),
        (hex_ | None, 17, b'"0x11"'),
    ):
        assert _signed(hint).encode((value,), {}) == b'{"value":%b}' % raw


def test_huge_numbers_come_back_or_are_refused() -> None:
    signature = _signed(int)
    assert signature.decode(signature.encode((10**1000,), {})) == {"value": 10**1000}
    raw = None
    try:
        raw = signature.encode((10**5000,), {})
    except InvalidArguments:
        return
    assert signature.decode(raw) == {"value": 10**5000}
