"""An environment of the user's own: what a command line must say of it, and which scenarios can run there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from chaos.cli.environment import read_environment
from chaos.cli.main import main
from chaos.driving.given_redis import by_way_of, login_of, place_of
from chaos.judging.bounds import bounds_of
from chaos.playing.environment import Environment, Given, GivenProxy, needs, read_given
from chaos.playing.staging import worker_ids
from chaos.result import shown_command
from chaos.scenario.faults import NetworkFault
from chaos.scenario.loading import find_scenario, load_all
from queue_trio.errors import ConfigError
from tests.chaos.histories import scenario

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "redis://ops:s3cret@redis.staging:6380/2"
SAID: dict[str, Any] = {
    "toxiproxy": "http://127.0.0.1:8474",
    "proxies": ("redis",),
    "redis": URL,
    "owned": True,
}


def given(**said: Any) -> Given:
    found = read_given(**(SAID | said))
    assert found is not None
    return found


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    for name in ("b.journal", "a.journal", "notes.txt", "c.journal", "d.journal"):
        (tmp_path / name).touch()
    return tmp_path


METRICS = tuple(f"http://127.0.0.1:{port}" for port in (1, 2, 3, 4))


# --- what is said ----------------------------------------------------------------------------------------------------


def test_without_a_word_of_it_everything_is_private() -> None:
    assert read_given(toxiproxy=None, proxies=(), redis=None, owned=False) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"owned": False}, "did not start.*--i-own-this-redis"),
        ({"proxies": ()}, "give --proxy too"),
        ({"redis": None}, "give --redis too"),
        ({"toxiproxy": None}, "give --toxiproxy too"),
        ({"toxiproxy": "127.0.0.1:8474"}, "address of its API"),
        ({"redis": "unix:///run/redis.sock"}, "unix socket"),
        ({"redis": "rediss://redis.staging"}, "TLS"),
        ({"redis": "http://redis.staging"}, "--redis: not a Redis URL"),
        ({"proxies": ("workers=",)}, "POSITION=NAME"),
        ({"prefix": "qt"}, "must be qt-chaos or begin with qt-chaos-"),
        ({"metrics": ("http://127.0.0.1:1",)}, "give --journals too"),
    ],
)
def test_what_is_missing_or_dangerous_is_refused_in_one_line(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as told:
        given(**said)
    assert "\n" not in str(told.value)
    assert "s3cret" not in str(told.value)


def test_proxies_have_positions_and_may_be_published_elsewhere() -> None:
    found = given(proxies=("workers=a", "clients=b@127.0.0.1:7000"))
    assert found.proxies == {"workers": GivenProxy("a"), "clients": GivenProxy("b", ("127.0.0.1", 7000))}
    assert found.proxy("others") is None
    assert given().proxy("others") == GivenProxy("redis")


def test_a_url_keeps_its_login_and_database_by_way_of_a_proxy() -> None:
    assert by_way_of(URL, ("127.0.0.1", 7000)) == "redis://ops:s3cret@127.0.0.1:7000/2"
    assert by_way_of("redis://localhost", ("::1", 7000)) == "redis://[::1]:7000"
    assert place_of(URL) == "redis.staging:6380"
    assert login_of(URL) == b"*3\r\n$4\r\nAUTH\r\n$3\r\nops\r\n$6\r\ns3cret\r\n"
    assert login_of("redis://localhost") == b""


@pytest.fixture
def untouched() -> Iterator[int]:
    """A port on which nobody has called by the end of the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("command", [["run", "short-outage"], ["suite"]])
def test_a_redis_that_is_not_ours_is_not_touched_unless_it_is_said_that_it_may_be(
    command: list[str], untouched: int, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"redis://:s3cret@127.0.0.1:{untouched}/0"
    environment = ["--toxiproxy", f"http://127.0.0.1:{untouched}", "--proxy", "redis", "--redis", url]
    assert main([*command, *environment]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "--i-own-this-redis" in told.err
    assert len(told.err.splitlines()) == 1


def test_what_does_not_fit_is_refused_before_anything_is_touched(
    untouched: int, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"redis://127.0.0.1:{untouched}/0"
    environment = ["--toxiproxy", f"http://127.0.0.1:{untouched}", "--proxy", "redis", "--redis", url]
    assert main(["run", "redis-killed-always", *environment, "--i-own-this-redis"]) == 3
    assert "needs a Redis that the harness started" in capsys.readouterr().err


def test_the_command_that_runs_it_again_names_the_environment_and_no_password() -> None:
    options: dict[str, Any] = {
        "prefix": "qt-chaos-2",
        "journals": None,
        "metrics": None,
        "app": None,
        "jobs": None,
        "job_seconds": 1.0,
    }
    found = read_environment(**(SAID | {"proxies": ["workers=a", "clients=b"]} | options))
    assert shown_command(found.words) == (
        "--toxiproxy http://127.0.0.1:8474 --proxy workers=a --proxy clients=b "
        "--redis 'redis://***@redis.staging:6380/2' --i-own-this-redis --prefix qt-chaos-2"
    )
    assert "s3cret" not in repr(found.given)


# --- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [found.name for found in load_all()])
def test_a_scenario_runs_where_the_list_says(name: str, journals: Path) -> None:
    wanted = needs(find_scenario(name))
    two = ("workers=a", "clients=b")
    elsewhere = {"journals": journals, "metrics": METRICS}

    def fits(**said: Any) -> bool:
        fitting, left_out = Environment(given(**said)).those_that_fit([find_scenario(name)])
        assert len(fitting) + len(left_out) == 1
        assert all(why.startswith(name) for why in left_out)
        return bool(fitting)

    assert fits(proxies=two) is bool(wanted)
    assert fits() is (bool(wanted) and "two proxies" not in wanted)
    assert fits(proxies=two, **elsewhere) is (bool(wanted) and "workers started here" not in wanted)


def test_one_proxy_for_all_is_hit_once_and_hits_everybody() -> None:
    both = scenario({"kind": "latency", "latency": 900, "for": 1.0, "proxies": ["workers", "clients"]})
    fitted = Environment(given()).fit(both)
    assert fitted.processes.proxies == ("workers",)
    (fault,) = fitted.faults.values()
    assert isinstance(fault, NetworkFault)
    assert fault.proxies == ("workers",)
    assert bounds_of(fitted).faults["latency"].hits == bounds_of(both).faults["latency"].hits


def test_what_is_cut_off_alone_needs_a_proxy_for_each() -> None:
    apart = scenario({"kind": "latency", "latency": 900, "for": 1.0, "proxies": ["clients"]})
    with pytest.raises(ConfigError, match="--proxy workers=NAME --proxy clients=NAME"):
        Environment(given()).fit(apart)
    with pytest.raises(ConfigError, match="needs a proxy for each"):
        Environment(given(proxies=("workers=a", "clients=a"))).fit(apart)
    with pytest.raises(ConfigError, match="give --proxy clients=NAME"):
        Environment(given(proxies=("workers=a",))).fit(apart)
    assert Environment(given(proxies=("workers=a", "clients=b"))).fit(apart) == apart


def test_workers_elsewhere_are_as_many_as_write_journals(journals: Path) -> None:
    found = given(journals=journals, metrics=METRICS)
    assert [file.name for file in found.journal_files] == [f"{name}.journal" for name in "abcd"]
    assert Environment(found).fit(find_scenario("short-outage")).processes.workers == 4
    (journals / "d.journal").unlink()
    (journals / "c.journal").unlink()
    with pytest.raises(ConfigError, match="waits for 24 handlers at once, and these workers run 16"):
        Environment(given(journals=journals, metrics=METRICS[:2])).fit(find_scenario("redis-outage"))
    with pytest.raises(ConfigError, match="give --metrics 2 times"):
        given(journals=journals, metrics=("http://127.0.0.1:1",))
    with pytest.raises(ConfigError, match=r"no \*\.journal in it"):
        given(journals=journals / "..", metrics=())


def test_who_wrote_a_journal_is_known_from_it() -> None:
    line = b'{"type":"run","at_s":1,"id":"j","phase":"start","worker":"%s","pid":1,"attempt":1,"fence":1}\n'
    assert worker_ids(line % b"one" + line % b"two" + line % b"one") == {"one", "two"}
