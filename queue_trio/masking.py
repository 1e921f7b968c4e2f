"""What must never be shown: passwords in texts, and the secrets of the settings wherever they turn up.

Knows neither logs nor the command line; both send what they write through here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from queue_trio.core.settings import Settings

MASK: Final = "***"

SECRET_LENGTH_MIN: Final = 4
"""A shorter secret is not looked for: replacing every "a" would hide nothing and spoil every line."""

# What stands between "://" and the last "@" before a space or a quote is somebody's login.
_URL_LOGIN: Final = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s'\"]*(?=@)")
_NAMED: Final = re.compile(
    r"((?:password|passwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token|http[_.-]token)['\"]?\s*[=:]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
    re.IGNORECASE,
)
# A scheme and its credentials, with the header's name or without.
_AUTHORIZATION: Final = re.compile(
    r"\b(authorization['\"]?\s*[=:]\s*['\"]?(?:[A-Za-z][\w-]*\s+)?|bearer\s+(?=\S{4})|basic\s+(?=[A-Za-z0-9+/]{16}))"
    r"[^\s,;'\"})\]]+",
    re.IGNORECASE,
)
_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token|http[_.-]token|authorization",
    re.IGNORECASE,
)

_known: list[str] = []


def learn(settings: Settings) -> None:
    """From now on hide the secrets of these settings in every text: the Redis password, tokens, header values."""
    found = [header.get_secret_value() for header in settings.tracing.headers.values()]
    if settings.http.token is not None:
        found.append(settings.http.token.get_secret_value())
    for url in (settings.redis.url.get_secret_value(), settings.tracing.endpoint):
        found += _passwords(url)
    # A header is often a scheme and a secret; either may be quoted alone.
    found += [word for value in found for word in value.split()[1:]]
    remember(found)


def remember(secrets: list[str]) -> None:
    """Hide these texts from now on, unless they are too short to be told from others."""
    new = {secret for secret in secrets if len(secret) >= SECRET_LENGTH_MIN}
    # The longest first, or a part of it would be replaced and the rest shown. One assignment: threads are reading.
    _known[:] = sorted(new.union(_known), key=lambda secret: (-len(secret), secret))


def mask(text: str) -> str:
    """`text` without the passwords of URLs, of `password=...`, of Authorization headers, and of our settings."""
    text = _hide_known(text)
    if "://" in text:
        text = _URL_LOGIN.sub(rf"\1:{MASK}", text)
    text = _NAMED.sub(rf"\1{MASK}", text)
    return _AUTHORIZATION.sub(rf"\1{MASK}", text)


def mask_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """A log event without secrets at any depth, neither in values nor in keys."""
    return {_hide_known(key): masked_entry(key, value) for key, value in event.items()}


def masked_entry(key: object, value: Any) -> Any:
    """`value`, masked at any depth, and altogether if `key` says that it is a secret."""
    if isinstance(value, str | bytes) and isinstance(key, str) and _SECRET_KEY.search(key):
        return MASK
    return masked(value)


def masked(value: Any) -> Any:
    """`value` with every text in it masked; what is neither text, number nor collection becomes its masked repr."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {_masked_key(key): masked_entry(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask(repr(value))


def _masked_key(key: object) -> object:
    return _hide_known(key) if isinstance(key, str) else key


def _hide_known(text: str) -> str:
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def _passwords(url: str) -> list[str]:
    """As written and decoded, both by the standard's reading and by the one that lets a password hold "@" or "/"."""
    found = [match.partition(":")[2] for match in re.findall(r"://([^\s'\"]*:[^\s'\"]*)@", url)]
    with suppress(ValueError):  # the other reading has it
        found.append(urlsplit(url).password or "")
    # redis-py also takes it from the query.
    found += re.findall(r"[?&]password=([^&#]*)", url)
    return [form for password in found for form in (password, unquote(password))]
