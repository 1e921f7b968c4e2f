"""`queue-trio check`: asks a worker whether it is ready, for probes that run a command. Exit code 0 or 1."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from queue_trio.cli.errors import EXIT_BROKEN, EXIT_OK
from queue_trio.cli.output import write, write_json
from queue_trio.cli.state import read_settings
from queue_trio.errors import UsageError

if TYPE_CHECKING:
    from queue_trio.core.settings import HttpSettings

ANSWER_BYTES_MAX: Final = 1_000_000
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # asked for, not bound to


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(check)


def check(
    ctx: typer.Context,
    alive: Annotated[bool, typer.Option("--alive", help="Ask /healthz instead of /readyz.")] = False,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Instead of http.port.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Instead of http.host.")] = None,
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds for the answer.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> int:
    """Exit with 0 if the worker of these settings is ready, with 1 if it is not, or does not answer."""
    settings = read_settings(ctx, {"http.port": port, "http.host": host}).http
    path = "/healthz" if alive else "/readyz"
    target = _target(settings)
    where = f"http://{f'[{target[0]}]' if ':' in target[0] else target[0]}:{target[1]}{path}"
    try:
        status, body = _ask(target, path, settings, timeout)
    except (OSError, http.client.HTTPException) as error:
        status, body = 0, f"no answer from {where}: {str(error) or type(error).__name__}"
    ok = status == http.client.OK
    answer = _answer(body)
    if as_json:
        write_json({"ok": ok, "url": where, "status": status or None, "answer": answer})
    else:
        _show(ok, answer, "alive" if alive else "ready")
    return EXIT_OK if ok else EXIT_BROKEN


def _target(settings: HttpSettings) -> tuple[str, int]:
    if not settings.port:
        why = "is not set: such a worker cannot be asked" if settings.port is None else "is 0, any free port"
        raise UsageError(f"http.port {why}; set it, or give the port the worker logged with --port")
    return _ANY_ADDRESS.get(settings.host, settings.host), settings.port


def _ask(target: tuple[str, int], path: str, settings: HttpSettings, timeout_s: float) -> tuple[int, str]:
    headers = {}
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    connection = http.client.HTTPConnection(*target, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    finally:
        connection.close()


def _answer(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.strip()


def _show(ok: bool, answer: Any, word: str) -> None:
    write(word if ok else f"not {word}")
    checks = answer.get("checks") if isinstance(answer, dict) else None
    if not isinstance(checks, dict):
        write(f"  {answer}")
        return
    for name, one in checks.items():
        if not isinstance(one, dict) or not {"ok", "why", "since"} <= one.keys():
            write(f"  {name}: {one}")  # whoever answers there is none of ours
            continue
        mark = "ok" if one["ok"] else "no"
        write(f"  {name:<11} {mark}  {one['why']}" + ("" if one["ok"] else f" (since {one['since']})"))
