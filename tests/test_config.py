"""Settings from YAML and the environment: what wins, and what is said about what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from queue_trio.config.load import NOT_SETTINGS, inspect_settings, load_settings
from queue_trio.config.schema import sections
from queue_trio.core.dequeue import DEFAULT_WEIGHTS, Priority
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "queue-trio.yaml"
        file.write_text(text)
        return file

    return write


def problems(path: Path | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ=environ)
    return str(caught.value).splitlines()


# --- what wins -----------------------------------------------------------------------------------------------------


def test_defaults_when_there_is_nothing() -> None:
    assert load_settings(environ={}) == Settings()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "worker:\n", "worker: {}\nlog:\n"])
def test_an_empty_file_or_section_changes_nothing(write: Write, text: str) -> None:
    assert load_settings(write(text), environ={}) == Settings()


def test_the_file_in_this_folder_is_found(write: Write) -> None:
    write("worker:\n  concurrency: 8\n")
    assert load_settings(environ={}).worker.concurrency == 8


def test_a_file_named_by_the_variable_or_the_caller(tmp_path: Path, write: Write) -> None:
    write("worker:\n  concurrency: 8\n")
    other = tmp_path / "other.yaml"
    other.write_text("worker:\n  concurrency: 9\n")
    assert load_settings(environ={"QUEUE_TRIO_CONFIG": str(other)}).worker.concurrency == 9
    assert load_settings(other, environ={"QUEUE_TRIO_CONFIG": "missing"}).worker.concurrency == 9


def test_the_environment_wins_setting_by_setting(write: Write) -> None:
    file = write("worker:\n  concurrency: 8\n  threads: 5\n")
    settings = load_settings(file, environ={"QUEUE_TRIO_WORKER__CONCURRENCY": "32"})
    assert (settings.worker.concurrency, settings.worker.threads) == (32, 5)


def test_the_process_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TRIO_LOG__LEVEL", "debug")
    assert load_settings().log.level == "debug"


def test_lists_and_mappings_in_variables() -> None:
    settings = load_settings(
        environ={
            "QUEUE_TRIO_PRODUCER__INCLUDE": "**/*.py, *.txt",
            "QUEUE_TRIO_PRODUCER__EXCLUDE": '["a", "b"]',
            "QUEUE_TRIO_PRODUCER__PRIORITIES": '{".py": "high"}',
            "QUEUE_TRIO_WORKER__WEIGHTS__HIGH": "9",
            "QUEUE_TRIO_REDIS__TLS_CA_FILE": "null",
        }
    )
    assert settings.producer.include == ("**/*.py", "*.txt")
    assert settings.producer.exclude == ("a", "b")
    assert settings.producer.priorities == {".py": Priority.HIGH}
    assert settings.worker.weights == dict(DEFAULT_WEIGHTS) | {Priority.HIGH: 9}
    assert settings.redis.tls_ca_file is None


def test_variables_of_other_meaning_and_of_others_are_left_alone() -> None:
    others = dict.fromkeys(NOT_SETTINGS[1:], "x") | {"QUEUE_TRIO_FLAVOUR": "mint", "PATH": "y"}
    assert load_settings(environ=others) == Settings()


# --- what is said --------------------------------------------------------------------------------------------------


def test_every_mistake_is_named_at_once_with_its_place(write: Write) -> None:
    file = write("worker:\n  concurency: 3\n  lease: soon\nredsi:\n  url: x\nclient: 5\nlog: {level: loud}\n")
    assert sorted(problems(file, QUEUE_TRIO_WORKER__THREADS="0")) == [
        f"client ({file}:6): is 5, but must hold settings, such as timeout: ...",
        f"log.level ({file}:7): is 'loud', should be 'debug', 'info', 'warning' or 'error'",
        f"redsi ({file}:4): there is no such section: did you mean redis?",
        f"worker.concurency ({file}:2): there is no such setting: did you mean concurrency?",
        f"worker.lease ({file}:3): is 'soon', should be a number from 0.3 to 86400",
        "worker.threads (QUEUE_TRIO_WORKER__THREADS): is '0', should be a whole number from 1 to 10000, or null",
    ]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("QUEUE_TRIO_WORKER__CONCURENCY", "did you mean QUEUE_TRIO_WORKER__CONCURRENCY?"),
        ("QUEUE_TRIO_REDSI__URL", "did you mean QUEUE_TRIO_REDIS__URL?"),
        ("QUEUE_TRIO_WORKER_CONCURRENCY", "did you mean QUEUE_TRIO_WORKER__CONCURRENCY?"),
        ("QUEUE_TRIO_CONFG", "did you mean QUEUE_TRIO_CONFIG?"),
        (
            "QUEUE_TRIO_XYZ__URL",
            "choose one of redis, worker, client, producer, log, http, metrics, tracing",
        ),
        ("QUEUE_TRIO_LOG__XYZ", "choose one of level, format, repeat_limit, repeat_window"),
    ],
)
def test_a_misspelt_variable_gets_a_suggestion(variable: str, hint: str) -> None:
    (problem,) = problems(None, **{variable: "1"})
    assert problem.startswith(f"{variable}: ")
    assert problem.endswith(hint)


def test_settings_that_contradict_each_other(write: Write) -> None:
    file = write("worker: {retry_base: 9, retry_cap: 5}\nredis: {backoff_base: 5}\n")
    first, second = problems(file)
    assert first.startswith(
        f"worker.retry_base ({file}:1): retry_base (9 s) must be no more than retry_cap (5 s)"
    )
    assert second.startswith(
        f"redis.backoff_base ({file}:2): backoff_base (5 s) must be no more than backoff_cap"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker:\n  a: [\n", ":3: not YAML: expected the node content"),
        ("a: b: c\n", ":1: not YAML: mapping values are not allowed here"),
        ("- a\n- b\n", ":1: must hold sections"),
        ("just words\n", ":1: must hold sections"),
        ("a: !!python/object/apply:os.getcwd []\n", ":1: not YAML: could not determine a constructor"),
        ("? [a, b]\n: 3\n", ":1: not YAML: found unhashable key"),
        ("x: 2024-99-99\n", ": not YAML: month must be in 1..12"),
        ("worker:\n  lease: 9\n  lease: 8\n", ":3): is there twice, first in line 2"),
        ("1: 2\n", ":1): there is no such section"),
        ("worker: {2024-01-01: 3}\n", ":1): there is no such setting"),
        ("worker: {!!binary eA==: 3}\n", ":1): there is no such setting"),
        ("worker: {.nan: 3}\n", ":1): there is no such setting"),
        ("producer: {priorities: {1: high}}\n", ":1): there is no such name: it must be text"),
        ("worker: &a\n  lease: *a\n", "should be a number from 0.3"),
        ("a: " + "[" * 3000, ": not YAML: "),
    ],
)
def test_files_that_are_not_settings(write: Write, text: str, problem: str) -> None:
    (found,) = problems(write(text))
    assert problem in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems(tmp_path / "missing.yaml") == [
        f"{tmp_path / 'missing.yaml'}: cannot be read: No such file or directory"
    ]
    assert problems(QUEUE_TRIO_CONFIG="gone.yaml") == [
        "gone.yaml: cannot be read (named by QUEUE_TRIO_CONFIG): No such file or directory"
    ]
    (tmp_path / "latin.yaml").write_bytes(b"log: {level: \xff}\n")
    assert problems(tmp_path / "latin.yaml") == [f"{tmp_path / 'latin.yaml'}: is not UTF-8 text"]


def test_a_variable_for_a_whole_mapping_and_one_for_a_part() -> None:
    (problem,) = problems(QUEUE_TRIO_WORKER__LEASE="30", QUEUE_TRIO_WORKER__LEASE__X="1")
    assert (
        problem == "QUEUE_TRIO_WORKER__LEASE__X: a shorter variable already sets all of it: keep one of them"
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "http://me:hunter2@host",
        "[hunter2]",
        "redis://:hunter2/x@host",
        "hunter2",
    ],
)
def test_no_secret_is_shown(write: Write, url: str) -> None:
    for found in (
        problems(write(f"redis:\n  url: {url}\n  prefix: 'a b'\n")),
        problems(QUEUE_TRIO_REDIS__URL=url),
    ):
        assert any(line.startswith("redis.url (") for line in found)
        assert "hunter2" not in "\n".join(found)


def test_tls_files_are_looked_at(tmp_path: Path, write: Write) -> None:
    file = write(f"redis: {{url: 'rediss://host', tls_ca_file: {tmp_path / 'no.pem'}}}\n")
    (problem,) = problems(file)
    assert "no.pem" in problem
    (problem,) = problems(write("redis: {tls_cert_file: x.pem}\n"))
    assert problem.endswith("tls_cert_file is set, but the connection is not encrypted: use a rediss:// URL")


def test_a_wrong_value_hides_no_other_mistake(write: Write) -> None:
    file = write("worker:\n  lease: soon\n  retry_base: 700\n")
    assert problems(file, QUEUE_TRIO_REDIS__URL="http://x") == [
        f"worker.lease ({file}:2): is 'soon', should be a number from 0.3 to 86400",
        f"worker.retry_base ({file}:3): retry_base (700 s) must be no more than retry_cap (600 s)",
        "redis.url (QUEUE_TRIO_REDIS__URL): not a Redis URL (it starts with http://): use redis://, rediss:// (TLS) or unix://",
    ]


def test_what_is_compared_with_a_wrong_value_is_no_mistake_of_its_own(write: Write) -> None:
    (problem,) = problems(write("worker: {retry_base: 700, retry_cap: 15m}\n"))
    assert problem.startswith("worker.retry_cap (")


def test_a_file_that_cannot_be_used_hides_no_misspelt_variable(tmp_path: Path) -> None:
    first, second = problems(
        tmp_path / "no.yaml", QUEUE_TRIO_WORKER__LEESE="1", QUEUE_TRIO_WORKER__RETRY_BASE="700"
    )
    assert first == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"
    assert second.startswith("QUEUE_TRIO_WORKER__LEESE: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("log: {level: Wraning}", "'warning' or 'error': did you mean warning?"),
        ("worker: {dequeue_strategy: fair}", "is 'fair', should be 'strict', 'weighted' or 'looped'"),
        ("worker: {concurrency: yes}", "is True, should be a whole number from 1 to 10000"),
        (
            "worker: {weights: {high: true}}",
            "worker.weights.high (FILE:1): is True, should be a whole number, 1 or more",
        ),
        (
            "worker: {weights: {hihg: 2}}",
            "worker.weights.hihg (FILE:1): there is no such name: did you mean high?",
        ),
        ("redis: {prefix: 7}", "is 7, should be 1 to 64 letters, digits, '_', '-', '.' or ':'"),
        ("tracing: {service_name: 7}", "is 7, should be text, not empty: write it in quotes"),
        ("lease: 9", "lease (FILE:1): there is no such section: did you mean worker.lease?"),
        ("timeout: 9", "did you mean worker.timeout or client.timeout or tracing.timeout?"),
        (
            "worker: {batch: 9}",
            "worker.batch (FILE:1): there is no such setting: did you mean producer.batch?",
        ),
        ("http: {port: 99999}", "is 99999, should be a whole number from 0 to 65535, or null"),
        (
            "http: {host: 'http://x'}",
            "is 'http://x', use a host name or an address, without scheme, port and brackets",
        ),
        ("http: {token: ''}", "http.token (FILE:1): use 1 or more visible ASCII characters"),
        ("tracing: {headers: {x y: z}}", "'x y' cannot be a header's name"),
        ("tracing: {headers: {a: z, A: y}}", "tracing.headers.a (FILE:1): is there twice, first in line 1"),
        (
            "tracing: {endpoint: 'collector:4318'}",
            "is 'collector:4318', should be an http:// or https:// URL",
        ),
        ("metrics: {tasks: send}", "is 'send', should be a list of text, or null"),
    ],
)
def test_what_is_allowed_is_told(write: Write, text: str, problem: str) -> None:
    file = write(text)
    (found,) = problems(file)
    assert problem.replace("FILE", str(file)) in found


@pytest.mark.parametrize(
    "text",
    [
        "redis: SECRET",
        "redis: redis://:SECRET@host/0",
        "redis: {url: [SECRET]}",
        "redis: {url: {a: SECRET}}",
        "http: SECRET",
        "http: {token: [SECRET]}",
        "http: {token: SECRET and more}",
        "http: {token: *SECRET}",
        "http: {token: !SECRET x}",
        "http: {token: &SECRET [}",
        "tracing: SECRET",
        "tracing: {headers: SECRET}",
        "tracing: {headers: [SECRET]}",
        "tracing: {headers: {a: [SECRET]}}",
        "tracing: {headers: {a: 'SECRET '}}",
        "tracing: {headers: {a: {b: SECRET}}}",
    ],
)
def test_no_secret_is_quoted_wherever_it_is_written(write: Write, text: str) -> None:
    file = write(text.replace("SECRET", "hunter2"))
    found = problems(file)
    assert found
    assert "hunter2" not in "\n".join(found)
    assert "hunter2" not in repr(inspect_settings(file, environ={}))


# --- secrets and mappings ------------------------------------------------------------------------------------------


def test_secrets_come_from_the_file_and_from_variables(write: Write) -> None:
    file = write(
        "http:\n  token: from-file\ntracing:\n  headers:\n    X-Api-Key: from-file\n    Tenant: blue\n"
    )
    settings = load_settings(file, environ={"QUEUE_TRIO_TRACING__HEADERS__X_API_KEY": "from-variable"})
    assert settings.http.token is not None
    assert settings.http.token.get_secret_value() == "from-file"
    headers = {name: value.get_secret_value() for name, value in settings.tracing.headers.items()}
    assert headers == {"x-api-key": "from-variable", "tenant": "blue"}
    assert "from-" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_headers_in_one_variable_and_in_several() -> None:
    settings = load_settings(
        environ={
            "QUEUE_TRIO_TRACING__HEADERS": "{Tenant: blue, x-api-key: old}",
            "QUEUE_TRIO_TRACING__HEADERS__X_API_KEY": "new",
        }
    )
    headers = {name: value.get_secret_value() for name, value in settings.tracing.headers.items()}
    assert headers == {"x-api-key": "new", "tenant": "blue"}


def test_an_empty_variable_does_not_take_the_token_away(write: Write) -> None:
    file = write("http: {token: from-file}\n")
    (problem,) = problems(file, QUEUE_TRIO_HTTP__TOKEN="")
    assert problem.startswith("http.token (QUEUE_TRIO_HTTP__TOKEN): use 1 or more visible ASCII characters")
    assert load_settings(file, environ={"QUEUE_TRIO_HTTP__TOKEN": "null"}).http.token is None


def test_settings_built_in_code_quote_no_input_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"http": {"token": ["hunter2"]}, "tracing": {"headers": "hunter2"}})
    assert "hunter2" not in str(caught.value)


# --- what is said of all of it -------------------------------------------------------------------------------------


def test_a_reading_tells_where_each_value_was_written(write: Write) -> None:
    file = write("worker:\n  lease: 60\n  weights: {high: 5}\n")
    reading = inspect_settings(file, environ={"QUEUE_TRIO_LOG__LEVEL": "debug"})
    assert reading.problems == []
    assert reading.settings == load_settings(file, environ={"QUEUE_TRIO_LOG__LEVEL": "debug"})
    assert str(reading.origin("worker", "lease")) == f"{file}:2"
    assert str(reading.origin("worker", "weights", "high")) == f"{file}:3"
    assert str(reading.origin("log", "level")) == "QUEUE_TRIO_LOG__LEVEL"
    assert reading.origin("worker", "threads") is None


def test_what_is_right_is_kept_beside_what_is_wrong(write: Write) -> None:
    reading = inspect_settings(write("worker: {lease: 60, threads: no}\nredis: 5\n"), environ={})
    assert len(reading.problems) == 2
    assert reading.settings is not None
    assert (reading.settings.worker.lease, reading.settings.worker.threads) == (60, None)


NAMES = st.sampled_from(
    [name for model in sections().values() for name in model.model_fields] + ["nothing", "a\nb"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**9),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
    st.just(b"x"),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES | SCALARS, inner, max_size=2),
    max_leaves=4,
)
FILES = st.dictionaries(
    st.sampled_from([*sections(), "nothing"]) | SCALARS,
    st.dictionaries(NAMES | st.integers(), VALUES) | VALUES,
)
VARIABLES = st.dictionaries(
    st.builds(
        "QUEUE_TRIO_{}__{}{}".format,
        st.sampled_from([*sections()]),
        NAMES,
        st.sampled_from(["", "__a", "__a__b"]),
    ),
    st.text(max_size=8) | st.sampled_from(["[", "{a: b}", "1", "true", "null", "2024-99-99"]),
    max_size=3,
)


@given(FILES | VALUES, VARIABLES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_whatever_is_written_there_every_mistake_is_one_line(
    tmp_path: Path, content: object, variables: dict[str, str]
) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(yaml.safe_dump(content))
    reading = inspect_settings(file, environ={name.upper(): value for name, value in variables.items()})
    assert all(len(str(problem).splitlines()) == 1 for problem in reading.problems)
    assert reading.problems or reading.settings is not None
    if reading.settings is not None:
        assert Settings.model_validate(reading.settings.model_dump(exclude_unset=True)) == reading.settings
