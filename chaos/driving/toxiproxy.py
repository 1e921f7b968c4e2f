"""Drives a Toxiproxy through toxiproxy-python: toxics, proxies up and down, and what went through them.

The library is synchronous, has no deadlines, passes over server errors, and believes what it asked for. So each call
runs in a thread, one at a time, with a deadline; its status is checked; and every change is read back from the server
before the method returns. Knows nothing of the process that serves (see `toxiproxy_server`) or of what a fault means.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import toxiproxy.api  # type: ignore[import-untyped]
import trio
from prometheus_client.parser import text_string_to_metric_families
from toxiproxy import Toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists  # type: ignore[import-untyped]

from chaos.errors import ApiHangs, HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
Stream = Literal["upstream", "downstream"]

CALL_S: Final = 3.0
"""For one call of the control API, waiting for the one before it included."""
HEAL_S: Final = 15.0
_REQUEST_S: Final = 1.5
"""For one request. Shorter than CALL_S, so that the thread of a call that was given up ends by itself."""

ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "latency": frozenset({"latency", "jitter"}),
    "bandwidth": frozenset({"rate"}),
    "slow_close": frozenset({"delay"}),
    "timeout": frozenset({"timeout"}),
    "reset_peer": frozenset({"timeout"}),
    "slicer": frozenset({"average_size", "size_variation", "delay"}),
    "limit_data": frozenset({"bytes"}),
}
"""Every toxic and its attributes, all of them whole numbers. The server ignores names it does not know."""


class _Requests:
    """Takes the place of the module `requests` inside the library: the one place where a timeout can be put in.

    A session for each request, so that no connection stays open, and without the environment's HTTP proxies.
    """

    def get(self, url: str, **options: Any) -> Any:
        return self._checked("GET", url, options)

    def post(self, url: str, **options: Any) -> Any:
        return self._checked("POST", url, options)

    def delete(self, url: str, **options: Any) -> Any:
        return self._checked("DELETE", url, options)

    def _checked(self, method: str, url: str, options: dict[str, Any]) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            response = session.request(method, url, timeout=_REQUEST_S, **options)
        if response.status_code >= 500 or response.status_code in {401, 403, 405}:
            raise requests.HTTPError(f"{method} {url}: {response.status_code} {response.text[:200].strip()}")
        return response  # the library knows what 400, 404 and 409 mean


toxiproxy.api.requests = _Requests()

_library_in_use = threading.Lock()
"""The library keeps the server's address in a class: two servers, in two threads, must take turns."""


@dataclass(frozen=True, slots=True)
class Toxic:
    """One toxic. The same `name` may not be twice on one proxy."""

    name: str
    kind: str
    stream: Stream
    attributes: dict[str, int] = field(default_factory=dict)
    toxicity: float = 1.0

    def check(self) -> None:
        """Raises HarnessError for what the server would ignore, or be crashed by."""
        known = ATTRIBUTES.get(self.kind)
        if known is None:
            raise HarnessError(f"toxic {self.kind!r}: there are {', '.join(ATTRIBUTES)}")
        for name, value in self.attributes.items():
            if name not in known:
                raise HarnessError(
                    f"toxic {self.kind}: no attribute {name!r}: there are {', '.join(sorted(known))}"
                )
            if type(value) is not int or not 0 <= value < 2**31:
                raise HarnessError(
                    f"toxic {self.kind}: {name}={value!r}: give a whole number from 0 to 2**31 - 1"
                )

    def same_as(self, told: Mapping[str, Any]) -> bool:
        """Whether the server says so too; it adds attributes that were left out."""
        return (
            told.get("type") == self.kind
            and told.get("stream") == self.stream
            and told.get("toxicity") == self.toxicity
            and self.attributes.items() <= told.get("attributes", {}).items()
        )

    def __str__(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.kind} {self.stream} {told}".strip()


class Traffic(NamedTuple):
    """What went through a proxy. Bytes are counted when a connection ends: one that is open counts nothing yet."""

    received: dict[str, int]
    sent: dict[str, int]

    @property
    def dropped(self) -> dict[str, int]:
        """Bytes that came in and never left, by stream."""
        return {stream: self.received[stream] - self.sent[stream] for stream in self.received}


class Api:
    """A Toxiproxy server's control API. `url`: such as http://127.0.0.1:8474. Safe for many tasks; they take turns."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise HarnessError(f"{url!r} is no address of a Toxiproxy: give http://HOST:PORT")
        self.host = parts.hostname
        self.port = parts.port or 8474
        self._limiter = trio.CapacityLimiter(1)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def call(self, what: str, work: Callable[[Any], T]) -> T:
        """`work` with the library's API class, in a thread. Raises ApiHangs after CALL_S, else HarnessError.

        Given up or cancelled, it may still be done; later calls wait until that is decided.
        """

        def turn() -> T:
            with _library_in_use:
                Toxiproxy().update_api_consumer(self.host, self.port)
                return work(toxiproxy.api.APIConsumer)

        try:
            with trio.fail_after(CALL_S):
                return await trio.to_thread.run_sync(turn, abandon_on_cancel=True, limiter=self._limiter)
        except (trio.TooSlowError, requests.Timeout):
            raise ApiHangs(f"Toxiproxy at {self.url} did not answer in time: {what}") from None
        except (
            requests.RequestException,
            InvalidToxic,
            NotFound,
            ProxyExists,
            ValueError,
            KeyError,
        ) as error:
            raise HarnessError(f"Toxiproxy at {self.url}: {what}: {_text(error)}") from error

    async def ping(self) -> None:
        """Raises HarnessError unless it answers."""
        await self.call("version", lambda api: api.get("/version"))

    async def state(self) -> dict[str, dict[str, Any]]:
        """Every proxy as the server itself says it is."""
        found = await self.call("list", lambda api: api.get("/proxies").json())
        assert isinstance(found, dict)
        return found

    async def create(self, name: str, *, upstream: str, listen: str) -> Proxy:
        """A new proxy that is up. Both addresses are HOST:PORT. Raises HarnessError, as for a port that is taken."""
        await self.call(
            f"create {name}", lambda _: Toxiproxy().create(upstream, name, listen=listen, enabled=True)
        )
        proxy = await self.adopt(name)
        proxy.verify(await proxy.told(), f"create {name}")
        return proxy

    async def adopt(self, name: str) -> Proxy:
        """A proxy that somebody else has made. Raises HarnessError if there is none."""
        told = (await self.state()).get(name)
        if told is None:
            raise HarnessError(f"Toxiproxy at {self.url} has no proxy {name!r}")
        return Proxy(self, name, listen=told["listen"], upstream=told["upstream"])

    async def reset(self) -> None:
        """Every proxy up, and no toxic anywhere."""
        await self.call("reset", lambda _: Toxiproxy().reset())
        for name, told in (await self.state()).items():
            if told["toxics"] or not told["enabled"]:
                raise HarnessError(f"Toxiproxy at {self.url}: {name} is not clean after a reset: {told}")


class Proxy:
    """One proxy. What it should be is remembered here, so that it can be made again on another server.

    Every change raises HarnessError unless the server, asked again, says that it has happened.
    """

    login: bytes = b""
    """What to say first to the Redis behind it, to be answered with OK."""

    def __init__(self, api: Api, name: str, *, listen: str, upstream: str) -> None:
        self.api = api
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.enabled = True
        self.toxics: dict[str, Toxic] = {}
        # Faults may overlap on a proxy: a change and its read-back must not meet another's.
        self._turn = trio.Lock()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    async def told(self) -> dict[str, Any]:
        """What the server says of it."""
        told = (await self.api.state()).get(self.name)
        if told is None:
            raise HarnessError(f"Toxiproxy at {self.api.url} has no proxy {self.name!r} any more")
        return told

    async def disable(self) -> str:
        """Closes its connections and does not listen any more. Returns how that is known, as all of these do."""
        async with self._turn:
            self.enabled = False
            return await self._change("disable", lambda proxy: proxy.disable())

    async def enable(self) -> str:
        """Listens again."""
        async with self._turn:
            return await self._enable()

    async def add(self, toxic: Toxic) -> str:
        """Puts a toxic on it. Open connections get it too, except `reset_peer` and `limit_data`; see the catalogue."""
        toxic.check()
        if toxic.name in self.toxics:
            raise HarnessError(f"proxy {self.name} has a toxic {toxic.name!r} already")
        async with self._turn:
            self.toxics[toxic.name] = toxic
            return await self._change(
                f"add {toxic}",
                lambda proxy: proxy.add_toxic(
                    name=toxic.name,
                    type=toxic.kind,
                    stream=toxic.stream,
                    toxicity=toxic.toxicity,
                    attributes=toxic.attributes,
                ),
            )

    async def remove(self, *names: str) -> str:
        """Takes toxics off. This call may deadlock the API; and removing `timeout` closes connections."""
        async with self._turn:
            # All of them before the first call: a server that takes its place when this one hangs must have none.
            for name in names:
                self.toxics.pop(name, None)
            for name in names:
                await self._call(f"remove {name}", lambda proxy: proxy.destroy_toxic(name))  # noqa: B023, done here
            return self.verify(await self.told(), f"remove {', '.join(names)} on {self.name}")

    async def update(self, toxic: Toxic) -> str:
        """Gives the toxic of that name other attributes; connections stay as they are."""
        toxic.check()
        path = f"/proxies/{self.name}/toxics/{toxic.name}"
        change = {"attributes": toxic.attributes}
        async with self._turn:
            self.toxics[toxic.name] = toxic
            await self.api.call(f"update {toxic} on {self.name}", lambda api: api.post(path, json=change))
            return self.verify(await self.told(), f"update {toxic} on {self.name}")

    async def redirect(self, upstream: str) -> str:
        """Goes to another upstream, or back to its own; closes its connections. It remembers its own."""
        what = f"redirect {self.name} to {upstream}"
        async with self._turn:
            change = {"listen": self.listen, "upstream": upstream, "enabled": self.enabled}
            await self.api.call(what, lambda api: api.post(f"/proxies/{self.name}", json=change))
            told = await self.told()
            if told["upstream"] != upstream:
                raise HarnessError(f"Toxiproxy says otherwise after {what}: {told}")
            return f"{self.verify(told, what)}, upstream {upstream}"

    async def heal(self) -> str:
        """Up, and without toxics, whatever it was before and though we be cancelled. Raises HarnessError."""
        with trio.CancelScope(shield=True, relative_deadline=HEAL_S):
            async with self._turn:
                self.toxics.clear()
                for toxic in (await self.told())["toxics"]:
                    name = toxic["name"]
                    await self._call(f"remove {name}", lambda proxy: proxy.destroy_toxic(name))  # noqa: B023, done here
                return await self._enable()
        raise ApiHangs(f"proxy {self.name} was not healed within {HEAL_S:g} s")

    async def traffic(self) -> Traffic:
        """Bytes so far. Only of a server that was started with -proxy-metrics; 0 else."""
        answer = await self.api.call("metrics", lambda api: api.get("/metrics"))
        text = answer.text if answer.status_code == 200 else ""
        found = {"received": {"upstream": 0, "downstream": 0}, "sent": {"upstream": 0, "downstream": 0}}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for way, counts in found.items():
                    if (
                        sample.name == f"toxiproxy_proxy_{way}_bytes_total"
                        and sample.labels["proxy"] == self.name
                    ):
                        counts[sample.labels["direction"]] = int(sample.value)
        return Traffic(found["received"], found["sent"])

    async def _enable(self) -> str:
        self.enabled = True
        return await self._change("enable", lambda proxy: proxy.enable())

    async def _change(self, what: str, work: Callable[[Any], object]) -> str:
        await self._call(what, work)
        return self.verify(await self.told(), f"{what} on {self.name}")

    async def _call(self, what: str, work: Callable[[Any], object]) -> None:
        def find_and_change(_: Any) -> object:
            proxy = Toxiproxy().get_proxy(self.name)
            if proxy is None:
                raise NotFound(f"no proxy {self.name}")
            return work(proxy)

        await self.api.call(f"{what} on {self.name}", find_and_change)

    def verify(self, told: Mapping[str, Any], what: str) -> str:
        """Compare `told` with what should be. Raises HarnessError."""
        there = {toxic["name"]: toxic for toxic in told["toxics"]}
        good = (
            told["enabled"] is self.enabled
            and there.keys() == self.toxics.keys()
            and all(toxic.same_as(there[name]) for name, toxic in self.toxics.items())
        )
        if not good:
            raise HarnessError(f"Toxiproxy says otherwise after {what}: {dict(told)}")
        toxics = ", ".join(map(str, self.toxics.values())) or "no toxics"
        return f"read back: proxy {self.name} is {'up' if self.enabled else 'down'}, {toxics}"


def _text(error: Exception) -> str:
    told = error.args[0] if error.args else error
    return (
        told.decode(errors="replace").strip()
        if isinstance(told, bytes)
        else f"{type(error).__name__}: {told}"
    )
