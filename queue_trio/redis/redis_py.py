"""What the clients for threads and for asyncio use of redis-py: its connections, with everything else of it turned off.

Also what its errors are in our terms. Imported lazily: redis-py is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queue_trio.errors import Indeterminate, InfrastructureError, NotSent, ProtocolError
from queue_trio.redis.endpoint import Endpoint, parse_url
from queue_trio.redis.error_replies import error_from_reply

if TYPE_CHECKING:
    from queue_trio.core.settings import RedisSettings


def endpoint_from(settings: RedisSettings) -> Endpoint:
    """The server that the settings name. Raises ConfigError, also for TLS files that cannot be loaded."""
    endpoint = parse_url(
        settings.url.get_secret_value(),
        tls_ca_file=settings.tls_ca_file,
        tls_cert_file=settings.tls_cert_file,
        tls_key_file=settings.tls_key_file,
        tls_verify=None if settings.tls_verify else False,
    )
    if endpoint.tls:
        endpoint.ssl_context()
    return endpoint


def connection_options(endpoint: Endpoint, connect_timeout_s: float, read_timeout_s: float) -> dict[str, Any]:
    """What redis-py's connection classes are made with: an address and timeouts.

    Everything that redis-py would do by itself is off (retries, health checks, naming the library, maintenance
    notifications), and so is its handshake: `Foreign` logs in, so that a refusal reads the same in all clients.
    """
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": read_timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), retries=0),
        "driver_info": None,
        "protocol": 2,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if endpoint.path is not None:
        return options | {"path": endpoint.path}
    options |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.tls:
        options |= {
            "ssl_ca_certs": endpoint.tls_ca_file,
            "ssl_certfile": endpoint.tls_cert_file,
            "ssl_keyfile": endpoint.tls_key_file,
            "ssl_cert_reqs": "required" if endpoint.tls_verify else "none",
            "ssl_check_hostname": endpoint.tls_verify,
        }
    return options


def translate(error: Exception, display: str, *, connecting: bool = False) -> InfrastructureError:
    """Our error for one of redis-py's, or for an OSError below it.

    redis-py takes the code off the replies it knows and keeps it as `status_code`; together they are the reply again.
    """
    from redis.exceptions import InvalidResponse, RedisError, ResponseError

    code = getattr(error, "status_code", None)
    if isinstance(error, RedisError) and (code or isinstance(error, ResponseError)):
        return error_from_reply(f"{code} {error}" if code else str(error))
    reason = str(error) or type(error).__name__
    if connecting:
        return NotSent(f"cannot connect to {display}: {reason}")
    if isinstance(error, InvalidResponse):
        return ProtocolError(f"{display} does not speak RESP: {reason}")
    return Indeterminate(f"no reply from {display}: {reason}")
