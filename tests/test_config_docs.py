"""The schema, the example file and docs/configuration.md say what the loader does, and are what the code writes now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from queue_trio.config.docs import DOCUMENT, EXAMPLE_FILE, document, example, write_all, yaml_text
from queue_trio.config.load import load_settings
from queue_trio.config.schema import allowed, descriptions, is_secret, json_schema, plain, sections, variable
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
HINT = "run `python -m queue_trio.config.docs` and commit what it writes"


def every_setting() -> Iterator[tuple[str, str]]:
    for section, model in sections().items():
        for setting in model.model_fields:
            yield section, setting


def uncommented(text: str) -> str:
    """The example with every setting set."""
    return re.sub(r"^  # ([a-z_]+: .*)$", r"  \1", text, flags=re.MULTILINE)


def loads(file: Path, text: str) -> bool:
    file.write_text(text)
    try:
        load_settings(file, environ={})
    except ConfigError:
        return False
    return True


# --- drift ---------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_writes() -> None:
    assert (ROOT / EXAMPLE_FILE).read_text("utf-8") == example(), HINT
    assert (ROOT / DOCUMENT).read_text("utf-8") == document(), HINT


def test_both_are_written_where_wanted(tmp_path: Path) -> None:
    assert write_all(tmp_path) == [tmp_path / EXAMPLE_FILE, tmp_path / DOCUMENT]
    assert (tmp_path / EXAMPLE_FILE).read_text("utf-8") == example()


def test_every_setting_is_described_and_bounded() -> None:
    missing = [
        key for key in every_setting() if not descriptions().get(key, "").endswith(".") or not allowed(key)
    ]
    assert missing == []
    assert all(descriptions()[name,] for name in sections())


# --- the example ---------------------------------------------------------------------------------------------------


def test_the_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    assert loads(tmp_path / "queue-trio.yaml", example())
    assert load_settings(tmp_path / "queue-trio.yaml", environ={}) == Settings()


def test_the_example_uncommented_holds_every_setting_with_its_default(tmp_path: Path) -> None:
    text = uncommented(example())
    values = yaml.safe_load(text)
    assert {(section, setting) for section in values for setting in values[section]} == set(every_setting())
    assert loads(tmp_path / "queue-trio.yaml", text)
    assert load_settings(tmp_path / "queue-trio.yaml", environ={}) == Settings()


def test_the_example_fits_a_page() -> None:
    assert max(map(len, example().splitlines())) <= 120


def test_the_document_has_a_row_for_every_setting_and_names_the_variables() -> None:
    text = document()
    for section, setting in every_setting():
        assert f"\n| `{setting}` | `" in text.partition(f"### {section}\n")[2].partition("\n### ")[0]
    named = set(re.findall(r"QUEUE_TRIO_[A-Z_]+", text))
    known = {variable(*key) for key in every_setting()} | {variable(name, "") for name in sections()}
    assert named - known == {
        "QUEUE_TRIO_CONFIG",
        "QUEUE_TRIO_WORKER__WEIGHTS__HIGH",
        "QUEUE_TRIO_TRACING__HEADERS__X_API_KEY",
    }


def test_what_the_document_writes_as_variables_can_be_set() -> None:
    rows = re.findall(r"\| `(QUEUE_TRIO_\w+)=(.*)` \|$", document(), flags=re.MULTILINE)
    assert len(rows) == 6
    settings = load_settings(environ={name: value.strip("'") for name, value in rows})
    assert settings.redis.url.get_secret_value() == "redis://redis.internal:6379/0"
    assert settings.tracing.enabled
    assert settings.producer.include == ("**/*.py", "*.txt")
    assert {name: str(value) for name, value in settings.producer.priorities.items()} == {
        ".py": "high",
        ".md": "low",
    }


@pytest.mark.parametrize(
    "value", ["a", "a b", "a: b", "#", "a #b", "yes", "1", "", "*x", "'", "a,b", "null", "é", "\n"]
)
def test_what_is_written_as_yaml_is_read_back(value: str) -> None:
    assert yaml.safe_load(f"key: {yaml_text(value)}") == {"key": value}


# --- the schema ----------------------------------------------------------------------------------------------------


def test_the_schema_is_one_and_closed_and_describes_everything() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert "$ref" not in str(schema)
    assert schema["additionalProperties"] is False
    for section, setting in every_setting():
        node = schema["properties"][section]["properties"][setting]
        assert node["description"]
        assert node["default"] == plain(getattr(getattr(Settings(), section), setting))
    assert all(node["additionalProperties"] is False for node in schema["properties"].values())
    schema["properties"].clear()
    assert json_schema()["properties"], "what is given is a copy"


def test_only_secrets_are_secret() -> None:
    assert {key for key in every_setting() if is_secret(key)} == {
        ("redis", "url"),
        ("http", "token"),
        ("tracing", "headers"),
    }
    assert [name for name in (*sections(), "nothing") if is_secret((name,))] == [
        "redis",
        "http",
        "tracing",
        "nothing",
    ]


GOOD = [
    "",
    "worker:",
    "{}",
    uncommented(example()),
    "redis: {url: 'rediss://:pw@host:6380/1', prefix: 'a.b:c-d_e'}",
    "redis: {url: 'unix:///run/redis.sock', tls_verify: true, breaker_failure_ratio: 1}",
    "worker: {queues: 'a, b', concurrency: 10000, threads: null, lease: 0.3, shutdown_grace: 0}",
    "worker: {queues: 'a:3,b:1', dequeue_strategy: weighted, weights: {high: 9}}",
    "worker: {concurrency: 8.0}",
    "client: {max_length: 0, on_full: wait, on_outage: fail}",
    "producer: {include: [], exclude: [a], priorities: {.py: high}}",
    "log: {level: debug, format: json}",
    "http: {port: 0, host: '::1', token: 'a-token'}\nmetrics: {tasks: [a, b], jitter: 0}",
    "metrics: {tasks: null}\ntracing: {enabled: true, headers: {X-Key: 'a b'}, sample_ratio: 0}",
]

BAD = [
    "[]",
    "words",
    "worker: []",
    "worker: 5",
    "wroker: {}",
    "worker: {leese: 9}",
    "redis: {url: 'http://host'}",
    "redis: {prefix: 'a b'}",
    "redis: {breaker_failure_ratio: 0}",
    "redis: {connect_timeout: 0}",
    "redis: {backoff_cap: .inf}",
    "worker: {queues: 'a b'}",
    "worker: {queues: 'a:3,b'}",
    "worker: {queues: 'a:0'}",
    "worker: {concurrency: 0}",
    "worker: {concurrency: 1.5}",
    "worker: {concurrency: true}",
    "worker: {concurrency: null}",
    "worker: {lease: soon}",
    "worker: {weights: {urgent: 1}}",
    "worker: {weights: {high: 0}}",
    "worker: {weights: {high: yes}}",
    "worker: {dequeue_strategy: fair}",
    "client: {on_full: drop}",
    "producer: {include: a}",
    "producer: {priorities: {.py: urgent}}",
    "producer: {batch: 501}",
    "log: {level: 3}",
    "http: {port: 65536}",
    "http: {host: ''}",
    "http: {host: 'http://x'}",
    "http: {token: ''}",
    "http: {token: 12345}",
    "metrics: {tasks: [1]}",
    "metrics: {jitter: 0.95}",
    "tracing: {endpoint: 'collector:4318'}",
    "tracing: {headers: {'a b': c}}",
    "tracing: {headers: {a: ''}}",
    "tracing: {headers: {a: 1}}",
    "tracing: {service_name: ''}",
]


@pytest.mark.parametrize(("text", "good"), [(text, True) for text in GOOD] + [(text, False) for text in BAD])
def test_schema_and_loader_agree(tmp_path: Path, text: str, good: bool) -> None:
    values: Any = yaml.safe_load(text)
    errors = [error.message for error in Draft202012Validator(json_schema()).iter_errors(values)]
    assert (errors == [], loads(tmp_path / "queue-trio.yaml", text)) == (good, good), errors
