"""Both stores, each in its world. Whatever a test did, its lane must pass the audit at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.worlds import World, memory_world, redis_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[World]:
    """An empty store. A test passes only if its lane passes the audit afterwards."""
    if request.param == "memory":
        memory = memory_world()
        yield memory
        await memory.check()
    else:
        async with redis_world(redis_url) as redis:
            yield redis
            await redis.check()
            await redis.client.ask("FLUSHALL")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[World]:
    """A Redis store only; the test may leave its lane as it likes."""
    async with redis_world(redis_url) as found:
        yield found
        await found.client.ask("FLUSHALL")
