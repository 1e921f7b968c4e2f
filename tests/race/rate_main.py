"""One of many processes that take permits of one rate limit as fast as they get them, and tell of each.

    python -m tests.race.rate_main URL KIND LIMIT-AS-JSON CALLERS

Prints "ready" when it is connected; reads from standard input until when (server time, microseconds) to go on; then
prints, as one JSON list, the moment each permit was for and the moment it was used at, both in server microseconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from typing import Any

import redis
import trio
from pydantic import SecretStr

from queue_trio import App, RateLimit, Settings
from queue_trio.core.settings import RedisSettings
from queue_trio.redis.client import Client
from queue_trio.redis.foreign import Foreign, run_blocking
from queue_trio.redis.foreign_limiter import acquire as acquire_foreign
from queue_trio.redis.limiter import RedisLimiter, acquire

OUTAGE_S = 10.0


class Taker:
    """What all kinds of clients share: the limit, the end, the log."""

    def __init__(self, url: str, limit: RateLimit) -> None:
        self.url = url
        self.limit = limit
        self.rng = random.Random()
        self.until_us = 0
        self.log: list[tuple[int, int]] = []

    def ready(self) -> None:
        print("ready", flush=True)
        self.until_us = int(sys.stdin.readline())

    def settings(self) -> Settings:
        return Settings(redis=RedisSettings(url=SecretStr(self.url), max_connections=4))

    async def over_trio(self, callers: int) -> None:
        client = Client.from_settings(self.settings().redis, name="rate")
        limiter = RedisLimiter(client, "qt")
        await client.connect()
        self.ready()

        async def take() -> None:
            now_us = 0
            while now_us < self.until_us:
                permit = await acquire(
                    limiter, self.limit, count=1, patience_s=None, outage_s=OUTAGE_S, rng=self.rng
                )
                seconds, micros = await client.ask("TIME")
                now_us = int(seconds) * 1_000_000 + int(micros)
                self.log.append((permit.at_us, now_us))

        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(take)
        await client.aclose()

    async def _take_foreign(self, foreign: Foreign) -> None:
        now_us = 0
        while now_us < self.until_us:
            permit = await acquire_foreign(
                foreign, self.limit, count=1, patience_s=None, outage_s=OUTAGE_S, rng=self.rng
            )
            seconds, micros = await foreign.ask("TIME", deadline=foreign.port.now() + OUTAGE_S)
            now_us = int(seconds) * 1_000_000 + int(micros)
            self.log.append((permit.at_us, now_us))

    async def over_asyncio(self, callers: int) -> None:
        async with App("rate", settings=self.settings()).asyncio_client() as client:
            await client.connect()
            self.ready()
            await asyncio.gather(*(self._take_foreign(client._foreign) for _ in range(callers)))

    def over_threads(self, callers: int) -> None:
        with App("rate", settings=self.settings()).sync_client() as client:
            client.connect()
            self.ready()

            def take() -> None:
                run_blocking(self._take_foreign(client._foreign))

            threads = [threading.Thread(target=take) for _ in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def main(url: str, kind: str, limit: str, callers: str) -> None:
    numbers: dict[str, Any] = json.loads(limit)
    taker = Taker(url, RateLimit(**numbers))
    with redis.Redis.from_url(url) as server:
        server.ping()
    if kind == "trio":
        trio.run(taker.over_trio, int(callers))
    elif kind == "asyncio":
        asyncio.run(taker.over_asyncio(int(callers)))
    else:
        taker.over_threads(int(callers))
    json.dump(taker.log, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
