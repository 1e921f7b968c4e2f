"""What a run does not make itself: a Toxiproxy and a Redis that somebody else runs, workers elsewhere, the user's jobs.

Says which scenarios can run there, and makes them fit. Nothing is opened and nothing asked: that is `staging`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from chaos.actors.own_tasks import with_own_tasks
from chaos.history import SUFFIX
from chaos.judging.expectations import KILLERS
from chaos.result import without_logins
from chaos.scenario import faults
from chaos.scenario.reshape import changed, resized, told
from queue_trio.errors import ConfigError
from queue_trio.redis.endpoint import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from chaos.actors.own_tasks import OwnTasks
    from chaos.scenario.model import Scenario

PREFIX: Final = "qt-chaos"
"""Every key of a run in a Redis that is not its own begins so."""
OWNED: Final = "--i-own-this-redis"

_PROXY: Final = re.compile(
    r"(?:(?P<position>[a-z0-9][a-z0-9-]*)=)?(?P<name>[^=@\s]+)(?:@(?P<host>\[[^\]]+\]|[^:@\s]+):(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class GivenProxy:
    """A proxy by the name that Toxiproxy has for it. `address`: where to reach it, if not where it says it listens."""

    name: str
    address: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A Toxiproxy and a Redis that others run.

    `proxies`: by position, such as workers and clients; one that is there for all has the position "".
    `journals`: a folder into which workers elsewhere write; without it the run starts workers of its own.
    `metrics`: addresses of those workers, in the order of their journals' names.
    """

    toxiproxy: str
    redis: str = field(repr=False)
    proxies: dict[str, GivenProxy]
    prefix: str = PREFIX
    journals: Path | None = None
    metrics: tuple[str, ...] = ()

    def proxy(self, position: str) -> GivenProxy | None:
        return self.proxies.get(position) or self.proxies.get("")

    @property
    def journal_files(self) -> list[Path]:
        """Those of the workers elsewhere: the first is worker-1's."""
        return [] if self.journals is None else sorted(self.journals.glob(f"*{SUFFIX}"))


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with whose jobs a scenario runs. `words`: of the command line that says so, for running it again."""

    given: Given | None = None
    own: OwnTasks | None = None
    words: tuple[str, ...] = ()

    def fit(self, scenario: Scenario) -> Scenario:
        """The scenario as it can run here. Raises ConfigError, which says why, if it cannot."""
        if self.own is not None:
            scenario = with_own_tasks(scenario, self.own)
        return scenario if self.given is None else _fitted(scenario, self.given)

    def those_that_fit(self, scenarios: Iterable[Scenario]) -> tuple[list[Scenario], list[str]]:
        """Scenarios as they can run here; and why each of the others cannot."""
        fitting: list[Scenario] = []
        left_out: list[str] = []
        for scenario in scenarios:
            try:
                fitting.append(self.fit(scenario))
            except ConfigError as error:
                left_out.append(str(error))
        return fitting, left_out


HERE: Final = Environment()
"""Everything is private to the run, and started by it."""


def read_given(
    *,
    toxiproxy: str | None,
    proxies: Sequence[str],
    redis: str | None,
    owned: bool,
    prefix: str = PREFIX,
    journals: Path | None = None,
    metrics: Sequence[str] = (),
) -> Given | None:
    """What a command line says of them; None if it says nothing. Raises ConfigError, before anything is touched."""
    asked = {"--toxiproxy": toxiproxy, "--proxy": proxies, "--redis": redis, "--journals": journals}
    if not any((*asked.values(), *metrics)):
        return None
    missing = [option for option in ("--toxiproxy", "--proxy", "--redis") if not asked[option]]
    if missing or toxiproxy is None or redis is None:
        raise ConfigError(
            f"an environment of your own takes --toxiproxy, --proxy and --redis: give {missing[0]} too"
        )
    if not owned:
        raise ConfigError(
            "--redis names a Redis that this run did not start: it writes, runs scripts and deletes there; "
            f"say {OWNED} if nobody minds"
        )
    endpoint = parse_url(redis, setting="--redis")
    if endpoint.path is not None:
        raise ConfigError("--redis: a unix socket has no place for a proxy: give redis://HOST:PORT")
    if endpoint.tls:
        raise ConfigError("--redis: TLS is not supported here: what goes through the proxies is looked at")
    parts = urlsplit(toxiproxy)
    if parts.scheme != "http" or parts.hostname is None or parts.path.strip("/"):
        raise ConfigError(
            f"--toxiproxy {without_logins(toxiproxy)!r}: give the address of its API, http://HOST:8474"
        )
    if prefix != PREFIX and not prefix.startswith(f"{PREFIX}-"):
        raise ConfigError(
            f"--prefix {prefix!r}: must be {PREFIX} or begin with {PREFIX}-, so that it is nobody's else"
        )
    if journals is None and metrics:
        raise ConfigError("--metrics is for workers elsewhere: give --journals too")
    given = Given(toxiproxy, redis, dict(map(_read_proxy, proxies)), prefix, journals, tuple(metrics))
    _check_elsewhere(given)
    return given


def _read_proxy(text: str) -> tuple[str, GivenProxy]:
    found = _PROXY.fullmatch(text)
    if found is None:
        raise ConfigError(f"--proxy {text!r}: write NAME, POSITION=NAME or NAME@HOST:PORT")
    address = (found["host"].strip("[]"), int(found["port"])) if found["host"] else None
    return found["position"] or "", GivenProxy(found["name"], address)


def _check_elsewhere(given: Given) -> None:
    if given.journals is None:
        return
    count = len(given.journal_files)
    if not count:
        raise ConfigError(
            f"--journals {given.journals}: there is no *{SUFFIX} in it: no worker has started to write there"
        )
    if len(given.metrics) != count:
        raise ConfigError(
            f"--journals {given.journals}: {count} workers write there, so give --metrics {count} times"
        )


# --- what fits -------------------------------------------------------------------------------------------------------


def needs(scenario: Scenario) -> str:
    """What it needs of an environment that is not its own, in a few words; "" if it can run in none."""
    if any(
        isinstance(fault, faults.RedisFault | faults.ToxiproxyStopped) for fault in scenario.faults.values()
    ):
        return ""
    wanted = ["two proxies"] if any(_cuts_apart(scenario)) else []
    wanted += ["workers started here"] if any(_on_workers(scenario)) else []
    return ", ".join(wanted) or "any"


def _cuts_apart(scenario: Scenario) -> Iterator[tuple[str, ...]]:
    """Positions that some fault hits while it spares others."""
    everything = set(scenario.processes.proxies)
    for fault in scenario.faults.values():
        if isinstance(fault, faults.NetworkFault) and fault.proxies and set(fault.proxies) != everything:
            yield fault.proxies


def _on_workers(scenario: Scenario) -> Iterator[str]:
    """What the scenario does to workers that only whoever has started them can do."""
    if any(isinstance(fault, faults.WorkerFault) for fault in scenario.faults.values()):
        yield "it does something to workers"
    if any(step.start is not None for step in scenario.steps):
        yield "it starts one more"
    if any(load.kind in KILLERS for load in scenario.loads):
        yield "its jobs kill workers"
    if scenario.settings.keys() & {"worker", "redis"}:
        yield "it gives workers settings of its own"


def _fitted(scenario: Scenario, given: Given) -> Scenario:
    name = scenario.name
    for fault in scenario.faults.values():
        if isinstance(fault, faults.RedisFault):
            raise ConfigError(f"{name} needs a Redis that the harness started: it has the fault {fault.kind}")
        if isinstance(fault, faults.ToxiproxyStopped):
            raise ConfigError(
                f"{name} needs a Toxiproxy that the harness started: it has the fault {fault.kind}"
            )
    if given.journals is not None:
        for why in _on_workers(scenario):
            raise ConfigError(f"{name} needs workers that the harness started: {why}")
        scenario = resized(scenario, workers=len(given.journal_files))
        wanted, slots = _handlers_at_once(scenario), _slots(scenario)
        if wanted > slots:
            raise ConfigError(f"{name} waits for {wanted} handlers at once, and these workers run {slots}")
    return _rerouted(scenario, given)


def _handlers_at_once(scenario: Scenario) -> int:
    """The most that some step waits for."""
    waits = [step.wait for step in scenario.steps] + [fault.until for fault in scenario.faults.values()]
    return max((wait.running or 0 for wait in waits if wait is not None), default=0)


def _slots(scenario: Scenario) -> int:
    return scenario.processes.workers * scenario.all_settings().worker.concurrency


def _rerouted(scenario: Scenario, given: Given) -> Scenario:
    """Positions that share a proxy become one."""
    name, positions = scenario.name, scenario.processes.proxies
    shared: dict[str, list[str]] = {}
    for position in positions:
        proxy = given.proxy(position)
        if proxy is None:
            raise ConfigError(
                f"{name} has a proxy for {position}: give --proxy {position}=NAME, or one for all"
            )
        shared.setdefault(proxy.name, []).append(position)
    first = {position: group[0] for group in shared.values() for position in group}
    for apart in _cuts_apart(scenario):
        torn = next(
            (group for group in shared.values() if 0 < len(set(group) & set(apart)) < len(group)), None
        )
        if torn is not None:
            each = " ".join(f"--proxy {position}=NAME" for position in torn)
            raise ConfigError(
                f"{name} cuts off {' and '.join(apart)} alone, so it needs a proxy for each: {each}"
            )
    if all(position == one for position, one in first.items()):
        return scenario
    other = told(scenario)
    processes = scenario.processes
    everyone = (*processes.worker_names, *processes.producer_names)
    routes = {process: processes.route(process) for process in ("workers", "producers", *everyone)}
    other.setdefault("processes", {})["routes"] = {
        who: first.get(route, route) for who, route in routes.items()
    }
    for step in other["steps"]:
        fault: dict[str, Any] = step.get("fault") or {}
        if fault.get("proxies"):
            fault["proxies"] = list(dict.fromkeys(first[position] for position in fault["proxies"]))
    return changed(other, f"{name}, with these proxies")
