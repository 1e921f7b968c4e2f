"""Is this server fit to hold jobs? Asked once per connection, before the first job is entrusted to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from queue_trio.errors import ServerUnusable

if TYPE_CHECKING:
    from queue_trio.redis.connection import Connection
    from queue_trio.redis.endpoint import Endpoint

MIN_VERSION: Final = (6, 2)
EVICTS: Final = "EVICTS"


async def check_server(connection: Connection, endpoint: Endpoint, *, timeout_s: float) -> None:
    """Ask the server, and `judge` its answer."""
    text = await connection.execute("INFO", timeout=timeout_s)
    assert isinstance(text, bytes)
    judge(parse_info(text), endpoint.display)


def judge(info: dict[str, str], display: str) -> None:
    """Raises ServerUnusable, in one line with the remedy, if the server is too old or may evict jobs."""
    version = info.get("redis_version", "0")  # Valkey also reports the Redis version it is compatible with
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MIN_VERSION:
        raise ServerUnusable(
            "TOOOLD", f"{display} is Redis {version}; queue_trio needs Redis 6.2 or Valkey 7.2, or newer"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ServerUnusable(
            EVICTS,
            f"{display} has maxmemory-policy {policy}, which would throw jobs away when memory is full; "
            "set it to noeviction",
        )


def parse_info(text: bytes) -> dict[str, str]:
    """The fields of an INFO reply."""
    lines = text.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
