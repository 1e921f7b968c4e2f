"""Endpoints and their URLs: what is read, what is refused, and that no message shows a password."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.errors import ConfigError
from queue_trio.redis.endpoint import Endpoint, FixedResolver, parse_url

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", None),
        ("redis://localhost", Endpoint()),
        ("redis://cache.example:7000/3", Endpoint(host="cache.example", port=7000, db=3)),
        ("redis://cache.example/3/", Endpoint(host="cache.example", db=3)),
        ("redis://cache.example?db=4", Endpoint(host="cache.example", db=4)),
        ("redis://:s3cret@h", Endpoint(host="h", password="s3cret")),
        ("redis://alice:s%2Fc%40r@h", Endpoint(host="h", username="alice", password="s/c@r")),
        ("redis://h?username=alice&password=pw", Endpoint(host="h", username="alice", password="pw")),
        ("redis://[::1]:6380", Endpoint(host="::1", port=6380)),
        ("rediss://h:6390/1", Endpoint(host="h", port=6390, db=1, tls=True)),
        ("rediss://h?ssl_cert_reqs=none", Endpoint(host="h", tls=True, tls_verify=False)),
        ("rediss://h?ssl_cert_reqs=required", Endpoint(host="h", tls=True)),
        ("rediss://h?ssl_ca_certs=/ca.pem", Endpoint(host="h", tls=True, tls_ca_file="/ca.pem")),
        ("unix:///run/redis.sock", Endpoint(path="/run/redis.sock")),
        (
            "unix://alice:pw@/run/r.sock?db=2",
            Endpoint(path="/run/r.sock", username="alice", password="pw", db=2),
        ),
    ],
)
def test_urls_that_are_read(url: str, expected: Endpoint | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="names no host"):
            parse_url(url)
    else:
        assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("localhost:6379", "use redis://"),
        ("hunter2@h", "use redis://"),
        ("http://:hunter2@h", r"starts with http://.*use redis://"),
        ("redis://:hunter2@h:6379\n", "white space"),
        ("redis://:hunter 2@h:6379", "white space"),
        ("redis://:hunter2@h:notaport", "percent-encode"),
        ("redis://:hunter2@h:99999", "percent-encode"),
        ("redis://:hunter2@h:0", "port 0"),
        ("redis://:hunter2@h/zero", "database number"),
        ("redis://:hunter2@h/1/2", "database number"),  # redis-py reads database 12
        ("redis://:hunter2@h/-1", "database number"),
        ("redis://:hunter2@h?db=one", "database number"),
        ("redis://:hunter2@h?pasword=x", "did you mean password"),
        ("redis://:hunter2@h?zzz=hunter2", "number 1 is unknown"),
        ("redis://:hunter2@h?ssl_cert_reqs=none", "use a rediss://"),
        ("rediss://:hunter2@h?ssl_cert_reqs=maybe", "required or none"),
        ("rediss://:hunter2@h?ssl_keyfile=/k.pem", "without tls_cert_file"),
        ("redis://:hun/ter2@h", "percent-encode"),
        ("redis://:hun#ter2@h", "percent-encode"),
        ("redis://:hun?ter2@h", "percent-encode"),
        ("redis://:1/hunter2@h", "percent-encode"),  # redis-py reads port 1 and drops the rest
        ("redis://:1?hunter2=2@h", "percent-encode"),
        ("redis://:hunter2@[::1", "percent-encode"),
        ("redis://:hunter2\u2100@h", "percent-encode"),
        ("unix://run/redis.sock", "three slashes"),  # redis-py reads /redis.sock
        ("unix://:hunter2@", "three slashes"),
    ],
)
def test_urls_that_are_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        parse_url(url, setting="QUEUE_TRIO_REDIS__URL")
    message = str(caught.value)
    assert message.startswith("QUEUE_TRIO_REDIS__URL: ")
    assert "\n" not in message
    for secret in ("hunter", "ter2"):
        assert secret not in message
    # A traceback shows the chain as well.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@given(st.text(alphabet=":/?#[]@!$&'()*+,;=%ab1\u2100", max_size=12))
def test_any_password_is_read_or_refused_and_never_shown(middle: str) -> None:
    password = f"Xq7{middle}Zk9"
    try:
        endpoint = parse_url(f"redis://u:{password}@h:6379/0")
    except ConfigError as exc:
        shown = str(exc)
    else:
        shown = f"{endpoint} {endpoint!r} {endpoint.display}"
    assert "Xq7" not in shown
    assert "Zk9" not in shown


@pytest.mark.parametrize(
    ("endpoint", "display"),
    [
        (Endpoint(), "redis://localhost:6379/0"),
        (Endpoint(host="::1", port=1, db=2), "redis://[::1]:1/2"),
        (Endpoint(host="h", username="alice", password="pw", tls=True), "rediss://alice:***@h:6379/0"),
        (Endpoint(host="h", password=""), "redis://:***@h:6379/0"),
        (Endpoint(host="h", username="a@b"), "redis://a%40b@h:6379/0"),
        (Endpoint(path="/run/r.sock", password="pw", db=3), "unix://:***@/run/r.sock?db=3"),
    ],
)
def test_display(endpoint: Endpoint, display: str) -> None:
    assert endpoint.display == str(endpoint) == display
    assert "pw" not in repr(endpoint)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"path": ""}, "needs a path"),
        ({"path": "/run/r.sock", "tls": True}, "TLS is for"),
        ({"host": ""}, "not a host name"),
        ({"host": "a b"}, "not a host name"),
        ({"port": 0}, "port 0"),
        ({"db": -1}, "-1"),
        ({"tls_ca_file": "/ca.pem"}, "rediss://"),
        ({"tls": True, "tls_key_file": "/k.pem"}, "without tls_cert_file"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Endpoint(**values)


def test_options_win_over_the_url() -> None:
    endpoint = parse_url(
        "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/url.pem",
        tls_ca_file="/option.pem",
        tls_verify=True,
        tls_server_hostname="redis.internal",
    )
    assert endpoint.tls_ca_file == "/option.pem"
    assert endpoint.tls_verify
    assert endpoint.tls_server_hostname == "redis.internal"


def test_tls_options_want_an_encrypted_url() -> None:
    with pytest.raises(ConfigError, match=r"tls_ca_file is set.*rediss://"):
        parse_url("redis://h", tls_ca_file="/ca.pem")


# --- TLS files -----------------------------------------------------------------------------------------------------


def test_ssl_context_verifies_unless_told_not_to() -> None:
    strict = Endpoint(tls=True).ssl_context()
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert strict.check_hostname
    lax = Endpoint(tls=True, tls_verify=False).ssl_context()
    assert lax.verify_mode is ssl.CERT_NONE
    assert not lax.check_hostname


def test_ssl_context_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    endpoint = Endpoint(tls=True, tls_ca_file=str(ca_file))
    first = endpoint.ssl_context()
    assert endpoint.ssl_context() is first
    authority = trustme.CA(organization_name="renewed")
    authority.cert_pem.write_to_path(str(ca_file))
    renewed = endpoint.ssl_context()
    assert "renewed" in str(renewed.get_ca_certs())


def test_ssl_context_takes_certificate_and_key(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("client.example")
    both, cert_file, key_file = (tmp_path / name for name in ("both.pem", "cert.pem", "key.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(both))
    certificate.cert_chain_pems[0].write_to_path(str(cert_file))
    certificate.private_key_pem.write_to_path(str(key_file))
    Endpoint(tls=True, tls_cert_file=str(both)).ssl_context()
    Endpoint(tls=True, tls_cert_file=str(cert_file), tls_key_file=str(key_file)).ssl_context()


def with_file(field: str, file: Path) -> Endpoint:
    values: dict[str, Any] = {field: str(file)}
    return Endpoint(tls=True, **values)


@pytest.mark.parametrize("field", ["tls_ca_file", "tls_cert_file"])
def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(ConfigError, match=r"missing\.pem.*No such file"):
        with_file(field, missing).ssl_context()
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not PEM at all")
    with pytest.raises(ConfigError, match=r"garbage\.pem.* cannot be loaded"):
        with_file(field, garbage).ssl_context()


async def test_fixed_resolver() -> None:
    endpoint = Endpoint(host="h")
    assert await FixedResolver(endpoint).resolve() is endpoint
