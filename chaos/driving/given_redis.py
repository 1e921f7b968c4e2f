"""A Redis that others run: questions to it past every proxy, and what its URL says. No part of a login is shown."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.driving.redis_server import ASK_S
from chaos.errors import HarnessError
from queue_trio.redis.connection import pack_command
from queue_trio.redis.endpoint import parse_url


class GivenRedis:
    """Answers questions past every proxy. Each has a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def command(self, *command: str) -> Any:
        """The reply to one command, sent once. Raises HarnessError, without the URL's login."""
        try:
            return await self.ask(self.url, *command)
        except redis.RedisError as error:
            raise HarnessError(f"Redis at {place_of(self.url)}: {command[0]}: {error}") from None

    async def ask(self, url: str, *command: str) -> Any:
        """The same by another way to it. Raises redis.RedisError."""
        return await trio.to_thread.run_sync(functools.partial(_ask, url, command), abandon_on_cancel=True)

    async def told(self, *command: str) -> dict[str, Any]:
        """What a user without leave for the command does not get: then it is empty."""
        try:
            found = await self.ask(self.url, *command)
        except redis.RedisError:
            return {}
        return found if isinstance(found, dict) else {}


def _ask(url: str, command: tuple[str, ...]) -> Any:
    client = redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=ASK_S,
        socket_connect_timeout=ASK_S,
        retry=Retry(NoBackoff(), retries=0),
    )
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


def place_of(url: str) -> str:
    """HOST:PORT of a URL: what may be shown of it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"


def by_way_of(url: str, address: tuple[str, int]) -> str:
    """The same Redis, login and database, at the address of a proxy."""
    host, port = address
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    shown_host = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{login}{at}{shown_host}:{port}").geturl()


def login_of(url: str) -> bytes:
    """What a connection has to say first; nothing if the server asks nobody who they are."""
    endpoint = parse_url(url)
    if endpoint.password is None:
        return b""
    words = [endpoint.password] if endpoint.username is None else [endpoint.username, endpoint.password]
    return pack_command(("AUTH", *words))
