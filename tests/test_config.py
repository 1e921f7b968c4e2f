"""Settings from YAML and the environment: what wins, and what is said about what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queue_trio.config import NOT_SETTINGS, load_settings
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
        f"worker.lease ({file}:3): is 'soon', should be a valid number, unable to parse string as a number",
        "worker.threads (QUEUE_TRIO_WORKER__THREADS): is '0', should be greater than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("QUEUE_TRIO_WORKER__CONCURENCY", "did you mean QUEUE_TRIO_WORKER__CONCURRENCY?"),
        ("QUEUE_TRIO_REDSI__URL", "did you mean QUEUE_TRIO_REDIS__URL?"),
        ("QUEUE_TRIO_WORKER_CONCURRENCY", "did you mean QUEUE_TRIO_WORKER__CONCURRENCY?"),
        ("QUEUE_TRIO_CONFG", "did you mean QUEUE_TRIO_CONFIG?"),
        ("QUEUE_TRIO_XYZ__URL", "choose one of redis, worker, client, producer, log"),
        ("QUEUE_TRIO_LOG__XYZ", "choose one of level, format"),
    ],
)
def test_a_misspelt_variable_gets_a_suggestion(variable: str, hint: str) -> None:
    (problem,) = problems(None, **{variable: "1"})
    assert problem.startswith(f"{variable}: ")
    assert problem.endswith(hint)


def test_settings_that_contradict_each_other(write: Write) -> None:
    file = write("worker: {retry_base: 9, retry_cap: 5}\nredis: {backoff_base: 5}\n")
    first, second = problems(file)
    assert first.startswith(f"redis ({file}:2): backoff_base (5 s) must be no more than backoff_cap")
    assert second.startswith(f"worker ({file}:1): retry_base (9 s) must be no more than retry_cap (5 s)")


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
        ("worker: &a\n  lease: *a\n", "should be a valid number"),
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
    assert problems(QUEUE_TRIO_CONFIG="gone.yaml") == ["gone.yaml: cannot be read: No such file or directory"]
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
