"""What is doubted about valid settings: each rule, where it begins, and that the defaults raise none."""

from __future__ import annotations

from typing import Any

import pytest

from queue_trio.core.advice import doubts, is_set
from queue_trio.core.settings import Settings

TOKEN = "t0ken-that-nobody-guesses"


def doubted(**sections: dict[str, Any]) -> list[str]:
    """The first setting of each doubt."""
    return [doubt.settings[0] for doubt in doubts(Settings.model_validate(sections))]


def test_defaults_raise_no_doubt_not_even_when_they_are_written_down() -> None:
    assert doubts(Settings()) == ()
    written = Settings().model_dump()
    for name in ("weights", "looped_wait"):  # which are there for another strategy
        del written["worker"][name]
    assert doubts(Settings.model_validate(written)) == ()


@pytest.mark.parametrize(
    ("sections", "doubt"),
    [
        ({"worker": {"lease": 14.2}}, "worker.lease"),
        ({"worker": {"lease": 30}, "redis": {"read_timeout": 9}}, "worker.lease"),
        ({"worker": {"sweep_interval": 11}}, "worker.sweep_interval"),
        ({"worker": {"stall_limit": 11}, "http": {"stall_limit": 20}}, "worker.stall_limit"),
        ({"worker": {"concurrency": 4, "threads": 5}}, "worker.threads"),
        ({"worker": {"concurrency": 4, "processes": 5}}, "worker.processes"),
        ({"worker": {"weights": {"high": 9}}}, "worker.weights"),
        ({"worker": {"looped_wait": 1, "dequeue_strategy": "weighted"}}, "worker.looped_wait"),
        ({"worker": {"shutdown_grace": 0.5}}, "worker.shutdown_grace"),
        (
            {"tracing": {"enabled": True, "shutdown_timeout": 5}, "worker": {"shutdown_grace": 4}},
            "tracing.shutdown_timeout",
        ),
        ({"redis": {"url": "redis://u:Pass%77ord@h/0"}}, "redis.url"),
        ({"redis": {"url": "rediss://h/0", "tls_verify": False}}, "redis.tls_verify"),
        ({"redis": {"max_connections": 3}}, "redis.max_connections"),
        ({"client": {"timeout": 4}}, "client.timeout"),
        ({"client": {"on_full": "wait"}}, "client.on_full"),
        ({"http": {"port": 0, "host": "0.0.0.0"}}, "http.token"),
        ({"http": {"port": 80, "host": "example.org", "token": "short"}}, "http.token"),
        ({"http": {"stall_limit": 0.5}}, "http.stall_limit"),
        ({"http": {"port": 80}, "metrics": {"interval": 61}}, "metrics.interval"),
        ({"metrics": {"tasks": ["a", "b", "c"], "max_tasks": 1}}, "metrics.tasks"),
        (
            {"tracing": {"enabled": True, "endpoint": "http://otel:4318/v1/traces", "headers": {"key": "x"}}},
            "tracing.endpoint",
        ),
        ({"producer": {"include": []}}, "producer.include"),
    ],
)
def test_one_thing_is_doubted(sections: dict[str, Any], doubt: str) -> None:
    assert doubted(**sections) == [doubt]


@pytest.mark.parametrize(
    "sections",
    [
        {"worker": {"lease": 14.25}},
        {"worker": {"sweep_interval": 10, "stall_limit": 10}},
        {"worker": {"concurrency": 1}},  # fewer than the default of processes, which nobody asked for
        {"worker": {"concurrency": 5, "threads": 5, "processes": 5}},
        {"worker": {"weights": {"high": 9}, "dequeue_strategy": "weighted"}},
        {"worker": {"shutdown_grace": 1}},
        {"redis": {"url": "redis://u:8f2c71d0aa@h/0"}},
        {"redis": {"tls_verify": False}},  # which counts for rediss:// only
        {"client": {"timeout": 4, "on_outage": "fail"}},
        {"client": {"on_full": "wait", "max_length": 10}},
        {"http": {"port": 80, "host": "127.0.0.9"}},
        {"http": {"host": "0.0.0.0"}},
        {"http": {"port": 80, "host": "0.0.0.0", "token": TOKEN}},
        {"metrics": {"interval": 61}},
        {"tracing": {"enabled": True, "endpoint": "http://[::1]:4318/v1/traces", "headers": {"key": "x"}}},
        {"tracing": {"enabled": True, "endpoint": "https://otel/v1/traces", "headers": {"key": "x"}}},
    ],
)
def test_nothing_is_doubted(sections: dict[str, Any]) -> None:
    assert doubted(**sections) == []


def test_a_short_lease_alone_is_not_blamed_for_the_defaults_beside_it() -> None:
    assert doubted(worker={"lease": 2}) == ["worker.lease"]


def test_a_doubt_is_one_line_with_keys_numbers_and_the_remedy() -> None:
    (doubt,) = doubts(Settings.model_validate({"worker": {"lease": 9}}))
    assert str(doubt) == (
        "worker.lease, redis.read_timeout, redis.backoff_cap, redis.breaker_open_wait: leases are renewed every 3 s, a "
        "third of the lease, but it may take 4.75 s to get through after a failure (read_timeout + backoff_cap + 1.5 × "
        "breaker_open_wait): one failed renewal can lose jobs to other workers; a lease of 14.25 s or more outlasts it"
    )


def test_no_doubt_tells_a_secret() -> None:
    settings = Settings.model_validate(
        {
            "redis": {"url": "redis://:changeme@h/0"},
            "http": {"port": 1, "host": "::", "token": "short-one"},
            "tracing": {"enabled": True, "endpoint": "http://otel:4318/", "headers": {"key": "hidden"}},
        }
    )
    text = " ".join(map(str, doubts(settings)))
    assert len(doubts(settings)) == 3
    assert not [secret for secret in ("changeme", "short-one", "hidden") if secret in text]


def test_what_was_set_is_known_even_if_it_is_the_default() -> None:
    settings = Settings.model_validate({"worker": {"lease": 30}})
    assert is_set(settings, "worker.lease")
    assert not is_set(settings, "worker.threads")
    assert not is_set(settings, "redis.url")
