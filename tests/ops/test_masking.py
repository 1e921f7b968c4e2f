"""Nothing that is written anywhere shows a secret: in texts of every shape, and over whole runs of the programs."""

from __future__ import annotations

import io
import json
import logging
import string
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from queue_trio import masking
from queue_trio.core.settings import HttpSettings, LogSettings, RedisSettings, Settings, TracingSettings
from queue_trio.masking import mask
from queue_trio.ops.logging import configure_logging
from tests.cli.conftest import command, environment, run_process
from tests.support import connect, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.embedded import EmbeddedRedis


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("authorization=abcdefgh, next", "authorization=***, next"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ('{"authorization": "Bearer abcdef"}', '{"authorization": "Bearer ***"}'),
        ("sent Bearer abcdef and more", "sent Bearer *** and more"),
        ("http.token=abcdef", "http.token=***"),
        ("QUEUE_TRIO_HTTP_TOKEN=abcdef", "QUEUE_TRIO_HTTP_TOKEN=***"),
        ("auth_token: abcdef", "auth_token: ***"),
        ("token=ab12:7", "token=ab12:7"),
        ("the basic idea of a bearer of news", "the basic idea of a bearer of news"),
        ("basic training", "basic training"),
    ],
)
def test_headers_and_tokens(text: str, shown: str) -> None:
    assert mask(text) == shown


def planted(password: str) -> Settings:
    return Settings(
        redis=RedisSettings(url=SecretStr(f"redis://me:{quote(password, safe='')}@host:1/0")),
        http=HttpSettings(token=SecretStr("t0k3n-of-http")),
        tracing=TracingSettings(
            endpoint="https://me:end-p0int@collector/v1/traces",
            headers={"X-Key": SecretStr("k3y-of-tracing"), "Authorization": SecretStr("Bearer b3arer-of-it")},
        ),
    )


def test_the_secrets_of_the_settings_are_hidden_wherever_they_turn_up() -> None:
    masking.learn(planted("pl@nted/p:ss"))
    stream = io.StringIO()
    configure_logging(LogSettings(format="json"), stream)
    secrets = [
        "pl@nted/p:ss",
        "pl%40nted%2Fp%3Ass",
        "t0k3n-of-http",
        "k3y-of-tracing",
        "b3arer-of-it",
        "end-p0int",
    ]
    for secret in secrets:
        structlog.get_logger().info(f"it is {secret}", **{f"key {secret}": [{"deep": f"<{secret}>"}]})
        logging.getLogger("library").warning("it is %s", secret.encode())
        try:
            raise ValueError(f"bad: {secret}")
        except ValueError:
            logging.getLogger("library").exception("failed")
            structlog.get_logger().exception("failed")
    written = stream.getvalue()
    assert len(written.splitlines()) == 4 * len(secrets)
    assert not [secret for secret in secrets if secret in written]
    assert all(json.loads(line) for line in written.splitlines())


def test_short_secrets_are_not_looked_for() -> None:
    masking.remember(["a", "abc"])
    assert mask("abc and a") == "abc and a"


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    masking.remember(["hunter", "hunter-and-more"])
    assert mask("hunter-and-more") == "***"


@given(st.text(string.printable, min_size=4, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_remembered_secret_is_in_no_text(secret: str, before: str, after: str) -> None:
    known = masking._known[:]
    try:
        masking._known.clear()
        masking.remember([secret])
        # What is put in its place must not make it anew.
        if secret not in before + masking.MASK + after:
            assert secret not in mask(before + secret + after)
    finally:
        masking._known[:] = known


# --- whole programs ------------------------------------------------------------------------------------------------

PASSWORD = "pl4nted-Pa55"

TASKS = """\
import os
from queue_trio import App
app = App("leaky")

@app.task(name="leak", max_retries=0)
async def leak() -> None:
    import logging, structlog
    url = os.environ["QUEUE_TRIO_REDIS__URL"]
    structlog.get_logger().info("connecting", to=url, password="pl4nted-Pa55", bare="pl4nted-Pa55")
    logging.getLogger("mine").warning("connecting to %s with %s", url, "pl4nted-Pa55")
    raise ConnectionError(f"no {url}, tried pl4nted-Pa55")
"""


def outputs(folder: Path, url: str, *commands: tuple[str, ...], **more: str) -> str:
    """What these commands write, all of it."""
    written = ""
    for arguments in commands:
        ended = run_process(folder, *arguments, env={"QUEUE_TRIO_REDIS__URL": url, **more})
        assert ended.code != 70, ended.err
        written += ended.out + ended.err
    return written


@pytest.mark.parametrize(
    "url",
    [
        f"redis://me:{PASSWORD}@127.0.0.1:1/0",
        f"redis://:{PASSWORD}@127.0.0.1:notaport/0",
        f"redis://:{PASSWORD}@[::1/0",
        f"http://:{PASSWORD}@127.0.0.1:1",
        f"redis://127.0.0.1:1/0?password={PASSWORD}",
        f"unix://me:{PASSWORD}@/nowhere/redis.sock",
        f"redis://me:{PASSWORD}@",
    ],
)
def test_a_password_is_in_no_output_when_redis_cannot_be_reached(url: str, tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(TASKS)
    written = outputs(
        tmp_path,
        url,
        ("admin", "stats", "default"),
        ("--debug", "enqueue", "leaky:app", "leak"),
        ("config", "show"),
        QUEUE_TRIO_CLIENT__TIMEOUT="0.2",
        QUEUE_TRIO_REDIS__CONNECT_TIMEOUT="0.2",
    )
    assert written
    assert PASSWORD not in written


async def test_a_password_is_in_no_output_of_a_run(tmp_path: Path, private_redis: EmbeddedRedis) -> None:
    """With the right password and with a wrong one; the handler does its best to spread it."""
    (tmp_path / "leaky.py").write_text(TASKS)
    url = f"redis://:{PASSWORD}@127.0.0.1:{private_redis.port}/0"
    with connect(private_redis.unix_socket) as client:
        client.config_set("requirepass", PASSWORD)
    log = tmp_path / "worker.log"
    for number, form in enumerate(("json", "console"), start=1):
        with log.open("ab") as stderr:
            process = await trio.lowlevel.open_process(
                command("--debug", "worker", "leaky:app", "--log-level", "debug", "--log-format", form),
                cwd=tmp_path,
                env=environment(QUEUE_TRIO_REDIS__URL=url),
                stdout=stderr,
                stderr=stderr,
            )
        await trio.to_thread.run_sync(outputs, tmp_path, url, ("enqueue", "leaky:app", "leak"))
        await eventually(lambda wanted=number: log.read_text().count("job.dead") == wanted)  # type: ignore[misc]
        process.terminate()
        assert await process.wait() == 0
    assert log.read_text().count("connecting") == 4
    assert PASSWORD not in log.read_text()

    look = ("admin", "stats", "default"), ("admin", "peek", "dead"), ("config", "show")
    shown = await trio.to_thread.run_sync(outputs, tmp_path, url, *look)
    assert "leak" in shown
    assert PASSWORD not in shown
    wrong = url.replace(PASSWORD, f"{PASSWORD}-wrong")
    try_it = (
        ("admin", "stats", "default"),
        ("--debug", "enqueue", "leaky:app", "leak"),
        ("worker", "leaky:app"),
    )
    assert PASSWORD not in await trio.to_thread.run_sync(outputs, tmp_path, wrong, *try_it)
