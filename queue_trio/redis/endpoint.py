"""Where a Redis server is and how to be let in: `Endpoint`, the URL it comes from, and who answers that question.

It knows addresses, credentials and TLS files. It opens nothing: `connection.py` dials. A `Resolver` is asked before
every connect, so Sentinel and Cluster can give a new answer after a failover without any caller noticing.
"""

from __future__ import annotations

import functools
import re
import ssl
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

from queue_trio.errors import ConfigError

_QUERY_PARAMETERS = frozenset(
    {"db", "username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
)
_ENCODE_HINT = "percent-encode the characters / ? # @ : % in a password (%2F %3F %23 %40 %3A %25)"


@dataclass(frozen=True)
class Endpoint:
    """One server address with everything needed to be let in.

    Either `path` (a unix socket) or `host` and `port`. The password is in no repr, str or error message; `display`
    is the name to show. Raises `ConfigError` for values that cannot work together.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: bool = False
    tls_ca_file: str | None = None
    """PEM file of the authorities to trust; None trusts the system's."""
    tls_cert_file: str | None = None
    """PEM file of our own certificate, for servers that ask clients for one."""
    tls_key_file: str | None = None
    """Its key, unless the certificate's file holds it too."""
    tls_verify: bool = True
    tls_server_hostname: str | None = None
    """The name the server's certificate must bear, where that is not `host`."""

    def __post_init__(self) -> None:
        if self.path is not None and (not self.path or self.tls):
            raise ConfigError(
                "a unix socket needs a path, and TLS is for redis hosts only: use unix:///path or rediss://"
            )
        if self.path is None and (
            not self.host or not self.host.isprintable() or re.search(r"\s", self.host)
        ):
            raise ConfigError(f"host {self.host!r} is not a host name or an IP address")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range: use 1 to 65535")
        if self.db < 0:
            raise ConfigError(f"database number {self.db} is negative: use 0 or more")
        given = [name for name in ("tls_ca_file", "tls_cert_file", "tls_key_file") if getattr(self, name)]
        if given and not self.tls:
            raise ConfigError(f"{given[0]} is set, but the connection is not encrypted: use a rediss:// URL")
        if self.tls_key_file and not self.tls_cert_file:
            raise ConfigError("tls_key_file is set without tls_cert_file: name the certificate it belongs to")

    @property
    def display(self) -> str:
        """The URL with the password masked, for messages."""
        user = quote(self.username or "", safe="")
        login = f"{user}:***@" if self.password is not None else f"{user}@" if user else ""
        if self.path is not None:
            return f"unix://{login}{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{login}{host}:{self.port}/{self.db}"

    def __str__(self) -> str:
        return self.display

    def ssl_context(self) -> ssl.SSLContext:
        """The TLS settings, ready to use; read again only when a file has changed, so renewed certificates count.

        Raises `ConfigError` when a file is missing or is not what it should be.
        """
        files = (self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        try:
            stamps = tuple(Path(file).stat().st_mtime_ns if file else 0 for file in files)
        except OSError as exc:
            raise ConfigError(f"TLS file {exc.filename} for {self}: {exc.strerror}") from exc
        return _load_ssl_context(files, stamps, self.tls_verify)


@functools.lru_cache(maxsize=8)
def _load_ssl_context(
    files: tuple[str | None, str | None, str | None], stamps: tuple[int, ...], verify: bool
) -> ssl.SSLContext:
    """Loading the system's authorities takes tens of milliseconds of the event loop, hence the cache."""
    ca_file, cert_file, key_file = files
    loading = ca_file
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if cert_file:
            loading = cert_file
            # A password callback, or OpenSSL would ask the terminal and block the process.
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        key = f" (key {key_file})" if key_file and loading == cert_file else ""
        raise ConfigError(f"TLS file {loading}{key} cannot be loaded as unencrypted PEM: {reason}") from exc
    return context


def parse_url(
    url: str,
    *,
    tls_ca_file: str | None = None,
    tls_cert_file: str | None = None,
    tls_key_file: str | None = None,
    tls_verify: bool | None = None,
    tls_server_hostname: str | None = None,
    setting: str = "redis.url",
) -> Endpoint:
    """Read `redis://`, `rediss://` and `unix://` URLs as redis-py does, and refuse what it would quietly drop.

    Args:
        url: `redis[s]://[[user]:password@]host[:port][/db]` or `unix://[[user]:password@]/path[?db=N]`; redis-py's
            query parameters db, username, password, ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs count.
        tls_ca_file, tls_cert_file, tls_key_file, tls_verify, tls_server_hostname: as in `Endpoint`; where given,
            they win over the URL's.
        setting: where the URL came from, for messages.

    Raises `ConfigError`, whose message never shows any part of the URL that might be a password.
    """
    try:
        values = _read_url(url)
        options: dict[str, Any] = {
            "tls_ca_file": tls_ca_file,
            "tls_cert_file": tls_cert_file,
            "tls_key_file": tls_key_file,
            "tls_verify": tls_verify,
            "tls_server_hostname": tls_server_hostname,
        }
        return Endpoint(**values | {name: value for name, value in options.items() if value is not None})
    except ConfigError as exc:
        raise ConfigError(f"{setting}: {exc}") from None


def _read_url(url: str) -> dict[str, Any]:
    _check_url(url)
    # Imported here: redis-py takes longer to import than everything else together.
    from redis.connection import SSLConnection
    from redis.connection import parse_url as redis_parse_url

    found: dict[str, Any] = redis_parse_url(url)  # type: ignore[no-untyped-call]
    tls = found.get("connection_class") is SSLConnection
    if not tls and (misplaced := [name for name in found if name.startswith("ssl_")]):
        raise ConfigError(f"parameter {misplaced[0]} is for encrypted connections: use a rediss:// URL")
    values: dict[str, Any] = {
        name: found[name] for name in ("host", "port", "path", "username", "password", "db") if name in found
    }
    for parameter, name in (
        ("ssl_ca_certs", "tls_ca_file"),
        ("ssl_certfile", "tls_cert_file"),
        ("ssl_keyfile", "tls_key_file"),
    ):
        if parameter in found:
            values[name] = found[parameter]
    match found.get("ssl_cert_reqs", "required"):
        case "required":
            pass
        case "none":
            values["tls_verify"] = False
        case _:
            raise ConfigError("ssl_cert_reqs must be required or none")
    return values | {"tls": tls}


def _check_url(url: str) -> None:
    """Refuse what redis-py would drop or misread in silence: a wrong database is worse than an error.

    No exception of urllib is chained or quoted here: with a password that holds a `/` they show its first half.
    """
    if re.search(r"\s", url) or not url.isprintable():
        raise ConfigError(
            "the URL holds white space or control characters (a newline at its end?): remove them"
        )
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        shown = (
            f" (it starts with {scheme}://)"
            if separator and re.fullmatch(r"[A-Za-z][\w+.-]{0,19}", scheme)
            else ""
        )
        raise ConfigError(f"not a Redis URL{shown}: use redis://, rediss:// (TLS) or unix://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ConfigError(
            f"the URL cannot be read: is the port a number up to 65535? {_ENCODE_HINT}"
        ) from None
    if (
        parts.fragment
        or "#" in url
        or (scheme != "unix" and "@" in parts.path + parts.query)
        or "@" in (host or "")
    ):
        raise ConfigError(f"the URL cannot be read: {_ENCODE_HINT}")
    if scheme == "unix" and (host or port or not parts.path):
        raise ConfigError(
            "a unix socket needs an absolute path after three slashes: unix:///path/to/redis.sock"
        )
    if scheme != "unix":
        if not host:
            raise ConfigError(f"the URL names no host: use {scheme}://localhost:6379/0")
        if port == 0:
            raise ConfigError("port 0 is out of range: use 1 to 65535")
        if not re.fullmatch(r"/?|/[0-9]{1,9}/?", parts.path):
            raise ConfigError(f"what follows the host must be a database number: {scheme}://host:port/0")
    _check_query(query)


def _check_query(query: list[tuple[str, str]]) -> None:
    for number, (name, value) in enumerate(query):
        if name not in _QUERY_PARAMETERS:
            close = get_close_matches(name, _QUERY_PARAMETERS, n=1)
            if close:
                raise ConfigError(f"unknown URL parameter {name!r}: did you mean {close[0]}?")
            # Not shown: it may be the second half of a password that holds a question mark.
            raise ConfigError(
                f"URL parameter number {number + 1} is unknown: use {', '.join(sorted(_QUERY_PARAMETERS))}"
            )
        if name == "db" and not re.fullmatch(r"[0-9]{1,9}", value):
            raise ConfigError("URL parameter db must be a database number, 0 or more")


class Resolver(Protocol):
    """Says where the server that takes writes is now. Asked before every connect."""

    async def resolve(self) -> Endpoint:
        """The endpoint to connect to. Raises `NotSent` when nobody can say."""
        ...


class FixedResolver:
    """The answer is always the same endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def resolve(self) -> Endpoint:
        return self._endpoint
