"""The environment: defaults of the seed, every form of a value, sentences without values."""

import contextlib
import ipaddress
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from authz.core.durations import parse_duration
from authz.core.mode import Mode
from authz.settings import (
    Settings,
    SettingsError,
    Upstream,
    described,
    parse_upstream,
    read_jwks_file,
    read_mode_file,
    trusted_ca_file,
)
from tests.signers import Signer, jwks

SECRET = "s" * 32


def _settings(**env: str) -> Settings:
    return Settings.from_env({"JWT_SECRET": SECRET} | env)


def _problems(**env: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        _settings(**env)
    return raised.value.problems


def test_the_defaults_are_the_seeds() -> None:
    defaults = {row.name: row.default for row in described()}
    assert (
        defaults
        | {
            "MODE": "enforce",
            "PORT": "3100",
            "HOST": "0.0.0.0",
            "PROXY_TARGET": "https://httpbin.org",
            "ADMIN_TOKEN": "",
            "JWT_SECRET": "",
            "JWT_EXPIRES_IN": "24h",
            "POLICIES_DIR": "policies",
            "POLICY_VERSION_LIMIT": "10",
            "AUDIT_DB_PATH": "data/audit.db",
            "OTEL_ENABLED": "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
            "OTEL_SERVICE_NAME": "meshguard-gateway",
        }
        == defaults
    )
    settings = _settings()
    assert settings.mode is Mode.ENFORCE
    assert (settings.host, settings.port) == ("0.0.0.0", 3100)
    assert settings.upstream == Upstream("https", "httpbin.org", 443, "")
    assert settings.jwt_ttl_s == 86_400
    assert settings.admin_token is None


def test_what_the_table_says_is_what_an_empty_environment_gives() -> None:
    named = {row.name: row.default for row in described() if row.default}
    assert _settings(**named) == _settings()


def test_secrets_are_starred_wherever_settings_are_shown() -> None:
    settings = _settings(
        ADMIN_TOKEN="a" * 16, PROXY_AUTHORIZATION="Bearer sk-1", PROXY_TARGET="http://a"
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in shown
        assert "a" * 16 not in shown
        assert "sk-1" not in shown


def test_an_empty_variable_counts_as_unset() -> None:
    assert _settings(MODE="", PORT=" ", ADMIN_TOKEN="") == _settings()
    assert _problems(JWT_SECRET="") == ["JWT_SECRET: not set; make one with: openssl rand -hex 32"]


def test_db_path_is_the_older_name() -> None:
    assert _settings(DB_PATH="/old.db").audit_db_path == Path("/old.db")
    assert _settings(DB_PATH="/old.db", AUDIT_DB_PATH="/new.db").audit_db_path == Path("/new.db")


@pytest.mark.parametrize("value", ["enforce", "ENFORCE", " Audit ", "bypass"])
def test_a_mode_in_any_case(value: str) -> None:
    assert _settings(MODE=value).mode == value.strip().lower()


@pytest.mark.parametrize(
    ("value", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("90", 90)]
)
def test_durations(value: str, seconds: int) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "h", "1.5h", "-1s", "0s", "10w", "1h30m", "400d", "9" * 30])
def test_bad_durations(value: str) -> None:
    with pytest.raises(ValueError, match=r"duration|between"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "expected", "authority"),
    [
        ("http://a", Upstream("http", "a", 80, ""), "a"),
        ("https://a/", Upstream("https", "a", 443, ""), "a"),
        ("https://a:8443/v1/", Upstream("https", "a", 8443, "/v1"), "a:8443"),
        ("HTTP://A.Example:80/x/y", Upstream("http", "a.example", 80, "/x/y"), "a.example"),
        ("http://[::1]:9", Upstream("http", "::1", 9, ""), "[::1]:9"),
        ("https://[2001:DB8::0:1]", Upstream("https", "2001:db8::1", 443, ""), "[2001:db8::1]"),
        ("http://127.0.0.1:80", Upstream("http", "127.0.0.1", 80, ""), "127.0.0.1"),
        ("http://my_host", Upstream("http", "my_host", 80, ""), "my_host"),
        ("http://bücher.example", Upstream("http", "xn--bcher-kva.example", 80, ""),
         "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_upstreams(value: str, expected: Upstream, authority: str) -> None:
    assert parse_upstream(value) == expected
    assert expected.authority == authority


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("httpbin.org", "must start with http:// or https://"),
        ("ftp://a", "must start with http:// or https://"),
        ("unix:///x", "must start with http:// or https://"),
        ("http://", "has no host"),
        ("http://:80", "has no host"),
        ("http://a:0", "the port must be between 1 and 65535"),
        ("http://a:99999", "not a URL; write http://host:port or https://host"),
        ("http://a:b", "not a URL; write http://host:port or https://host"),
        ("http://[::1", "not a URL; write http://host:port or https://host"),
        ("http://u:p@a", "must not contain a user or password; use PROXY_AUTHORIZATION"),
        ("http://a?x=1", "must not contain a query or fragment"),
        ("http://a/#x", "must not contain a query or fragment"),
        ("http://a/../b", "the path must not contain empty, . or .. segments"),
        ("http://a//b", "the path must not contain empty, . or .. segments"),
        ("http://a/%2e", "the path may only contain plain ASCII characters, no % escapes"),
        ("http://a b/", "the host is not a DNS name"),
        ("http://-a/", "the host is not a DNS name"),
        ("http://1.2.3/", "the host is not an IPv4 address"),
        ("http://[fe80::1%25eth0]/", "an IPv6 zone is not supported"),
        ("http://" + "a" * 300, "the host is not a DNS name"),
    ],
)
def test_a_wrong_upstream_is_one_sentence(value: str, sentence: str) -> None:
    assert _problems(PROXY_TARGET=value) == [f"PROXY_TARGET: {sentence}"]


@pytest.mark.parametrize(("value", "expected"), [("localhost", "127.0.0.1"), ("[::]", "::")])
def test_hosts(value: str, expected: str) -> None:
    assert _settings(HOST=value).host == expected


def test_the_upstreams_credential_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("Bearer sk-from-file\n")
    secret = _settings(
        PROXY_AUTHORIZATION_FILE=str(file), PROXY_TARGET="http://a"
    ).proxy_authorization
    assert secret is not None
    assert secret.get_secret_value() == "Bearer sk-from-file"
    assert _problems(PROXY_AUTHORIZATION_FILE=str(tmp_path / "none")) == [
        "PROXY_AUTHORIZATION_FILE: cannot be read: No such file or directory"
    ]
    assert _problems(
        PROXY_AUTHORIZATION_FILE=str(file), PROXY_AUTHORIZATION="x", PROXY_TARGET="http://a"
    ) == ["PROXY_AUTHORIZATION: also set by PROXY_AUTHORIZATION_FILE; give one of them"]


def test_a_header_cannot_be_injected_by_a_setting() -> None:
    assert _problems(PROXY_AUTHORIZATION="Bearer x\r\nX-Evil: 1") == [
        "PROXY_AUTHORIZATION: may only contain printable ASCII characters"
    ]


def test_a_credential_is_not_sent_to_an_upstream_that_nobody_chose() -> None:
    assert _problems(PROXY_AUTHORIZATION="Bearer sk-1") == [
        "PROXY_AUTHORIZATION: given without PROXY_TARGET, so the default upstream would get it"
    ]


def test_the_two_secrets_must_differ() -> None:
    assert _problems(ADMIN_TOKEN=SECRET) == ["ADMIN_TOKEN: must differ from JWT_SECRET"]


def test_trusted_certificates_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        trusted_ca_file(_settings(SSL_CERT_FILE=str(tmp_path / "none.pem")))


# The mode from a file.


def test_the_mode_of_a_file_overrides_that_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "mode"
    for content in ("audit", " AUDIT\r\n", "\n\naudit\n\n"):
        file.write_text(content)
        assert _settings(MODE_FILE=str(file)).mode is Mode.AUDIT
        assert _settings(MODE_FILE=str(file), MODE="enforce").mode is Mode.AUDIT
        assert _settings(MODE_FILE=str(file), MODE="nonsense").mode is Mode.AUDIT
    assert _settings(MODE_FILE=str(file)).mode_file == file
    assert _settings(MODE_FILE="").mode_file is None


NO_MODE = "must hold enforce, audit or bypass"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", NO_MODE),
        (b" \n", NO_MODE),
        (b"enforced", NO_MODE),
        (b"en force", NO_MODE),
        (b"audit\nenforce", NO_MODE),
        (b"# the mode\naudit", NO_MODE),
        (b"audit\x00", NO_MODE),
        (b"\xef\xbb\xbfaudit", NO_MODE),
        ("audit".encode("utf-16"), NO_MODE),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}udit".encode(), NO_MODE),
        (b"audit" * 1_000_000, NO_MODE),
        (b" " * 1_000_000, NO_MODE),
        pytest.param(
            b"audit" + b" " * 100 + b"is what it was once", NO_MODE
        ),
    ],
)  # fmt: skip
def test_a_mode_file_that_holds_none_is_one_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "mode"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^MODE_FILE: ") as raised:
        read_mode_file(file)
    assert str(raised.value) == f"MODE_FILE: {file} {sentence}"
    assert _problems(MODE_FILE=str(file)) == [f"MODE_FILE: {file} {sentence}"]
    # And it does not hide what else is wrong.
    assert len(_problems(MODE_FILE=str(file), PORT="0", MODE="nonsense")) == 3


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("nothing", "No such file or directory"),
        ("directory", "Is a directory"),
        ("file above", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_mode_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, make: str, why: str
) -> None:
    file = tmp_path / "mode"
    match make:
        case "directory":
            file.mkdir()
        case "file above":
            file.touch()
            file /= "mode"
        case "loop":
            file.symlink_to("mode")
    assert _problems(MODE_FILE=str(file)) == [f"MODE_FILE: {file} cannot be read: {why}"]


def test_a_mode_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "mode"
    os.mkfifo(file)
    said: list[str] = []

    def read() -> None:
        with contextlib.suppress(ValueError):
            said.append(str(read_mode_file(file)))
        said.append("read")

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(2.0)
    waits = reader.is_alive()
    if waits:
        os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))
    reader.join()
    assert not waits
    assert said == ["read"]


# The public keys of tokens from a file.


def test_public_keys_take_the_secrets_place_or_stand_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(Signer("a"), Signer("b")))
    assert _settings().jwks_file is None
    beside = _settings(JWKS_FILE=str(file))
    assert (beside.jwks_file, beside.jwt_secret.get_secret_value()) == (file, SECRET)
    for nothing in ("", " "):
        alone = _settings(JWKS_FILE=str(file), JWT_SECRET=nothing)
        assert (alone.jwks_file, alone.jwt_secret.get_secret_value()) == (file, "")
        unset = "JWT_SECRET: not set; make one with: openssl rand -hex 32"
        assert _problems(JWKS_FILE=nothing, JWT_SECRET="") == [unset]
        assert _problems(JWKS_FILE=nothing, JWT_SECRET="", PORT="0") == [
            unset, "PORT: must be from 1 to 65535",
        ]  # fmt: skip
    assert len(read_jwks_file(file)) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", ": not JSON from line 1, column 1 on"),
        (b'{"keys": []}', ": 0 keys, where 1 to 64 must be"),
        (jwks({"kty": "oct", "k": SECRET}),
         ": keys[0] is a shared secret; only public keys belong here"),
        (b" " * 1_000_000, ": larger than 65536 bytes"),
        ("nothing", " cannot be read: No such file or directory"),
        ("directory", " cannot be read: Is a directory"),
        ("pipe", " is not a regular file"),
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_file_without_good_keys_is_one_sentence_among_the_others(
    tmp_path: Path, content: bytes | str, sentence: str
) -> None:
    file = tmp_path / "jwks.json"
    match content:
        case "nothing":
            pass
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case bytes():
            file.write_bytes(content)
    said = f"JWKS_FILE: {file}{sentence}"
    with pytest.raises(ValueError, match=r"^JWKS_FILE: ") as raised:
        read_jwks_file(file)
    assert str(raised.value) == said
    for secret in ("", SECRET):
        assert _problems(JWKS_FILE=str(file), JWT_SECRET=secret) == [said]
    assert _problems(JWKS_FILE=str(file), PORT="0", JWT_SECRET="short") == [
        said,
        "JWT_SECRET: shorter than 32 characters; make one with: openssl rand -hex 32",
        "PORT: must be from 1 to 65535",
    ]


def test_without_a_file_of_keys_nothing_is_imported_for_them() -> None:
    code = (
        "import sys; from authz.settings import Settings;"
        f"Settings.from_env({{'JWT_SECRET': '{SECRET}'}});"
        "print({'jwt', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("", 30),
        ("1s", 1),
        ("90", 90),
        ("5m", 300),
        pytest.param("0s", 0),
        pytest.param(" 0 ", 0),
    ],
)
def test_how_often_to_look_for_policies(value: str, seconds: int) -> None:
    assert _settings(POLICIES_POLL_INTERVAL=value).policies_poll_s == seconds


@pytest.mark.parametrize(
    ("value", "ms"), [("", 100), ("10", 10), (" 250 ", 250), ("10000", 10_000)]
)
def test_how_long_envoy_waits_for_a_decision(value: str, ms: int) -> None:
    assert _settings(DECISION_TIMEOUT_MS=value).decision_timeout_ms == ms


@pytest.mark.parametrize(
    "value",
    ["0", "9", "10001", "-5", "1e3", "100ms", "0x64", "1_000", "100.0", "\u0661\u0660\u0660"],
)
def test_how_long_envoy_waits_may_not_be_anything(value: str) -> None:
    [problem] = _problems(DECISION_TIMEOUT_MS=value)
    assert problem.startswith("DECISION_TIMEOUT_MS: ")
    assert "from 10 to 10000" in problem


@pytest.mark.parametrize("value", ["never", "-1s", "1.5s", "10ms", "400d"])
def test_how_often_may_not_be_anything(value: str) -> None:
    [problem] = _problems(POLICIES_POLL_INTERVAL=value)
    assert problem.startswith("POLICIES_POLL_INTERVAL: ")


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    assert _problems(ADMIN_TOKEN="sixteen or more ")


# The audit trail.


@pytest.mark.parametrize(
    ("value", "sync"), [("", "normal"), ("normal", "normal"), (" FULL ", "full")]
)
def test_how_long_a_commit_waits(value: str, sync: str) -> None:
    assert _settings(AUDIT_SYNC=value).audit_sync == sync


@pytest.mark.parametrize(("value", "days"), [("", 90), ("0", 0), ("1", 1), (" 36500 ", 36_500)])
def test_how_long_rows_are_kept(value: str, days: int) -> None:
    assert _settings(AUDIT_RETENTION_DAYS=value).audit_retention_days == days


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("AUDIT_SYNC", "off", "must be normal or full"),
        ("AUDIT_SYNC", "1", "must be normal or full"),
        ("AUDIT_RETENTION_DAYS", "-1", "not a whole number from 0 to 36500"),
        ("AUDIT_RETENTION_DAYS", "90d", "not a whole number from 0 to 36500"),
        ("AUDIT_RETENTION_DAYS", "1.5", "not a whole number from 0 to 36500"),
        ("AUDIT_RETENTION_DAYS", "36501", "must be from 0 to 36500"),
    ],
)
def test_settings_of_the_trail_may_not_be_anything(name: str, value: str, sentence: str) -> None:
    assert _problems(**{name: value}) == [f"{name}: {sentence}"]


def test_the_key_of_the_trail_is_another_file_than_the_trail() -> None:
    assert _settings().audit_key_file is None
    assert _settings(AUDIT_KEY_FILE="/secrets/a.key").audit_key_file == Path("/secrets/a.key")
    for database, key in (("a.db", "a.db"), ("a.pub", "a.key"), ("a.pub", "a")):
        assert _problems(AUDIT_DB_PATH=database, AUDIT_KEY_FILE=key) == [
            "AUDIT_KEY_FILE: it, or its public half in .pub, would be AUDIT_DB_PATH"
        ]


# Who answers Envoy, and where.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:9191", ("127.0.0.1", 9191)),
        ("127.255.0.1:1", ("127.255.0.1", 1)),
        ("localhost:65535", ("127.0.0.1", 65_535)),
        ("[::1]:9191", ("::1", 9191)),
        ("::1:9191", ("::1", 9191)),
        ("", None),
        (" ", None),
    ],
)
def test_where_envoy_asks(value: str, expected: tuple[str, int] | None) -> None:
    for transport in ("h2c", "grpc"):
        settings = _settings(EXT_AUTHZ_ADDRESS=value, EXT_AUTHZ_TRANSPORT=transport)
        assert settings.ext_authz_address == expected


@pytest.mark.parametrize(
    "value",
    ["9191", ":9191", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "example.org:1",
     "127.0.0.1:9e3", "127.0.0.1:-1", "127.0.0.1:\u0661", "unix:/run/s", "127.0.0.1:1:", "[::1]",
     "127.0.0.1: 9191"],
)  # fmt: skip
def test_where_envoy_asks_may_not_be_anything(value: str) -> None:
    [problem] = _problems(EXT_AUTHZ_ADDRESS=value)
    assert problem.startswith("EXT_AUTHZ_ADDRESS: not an ")


@pytest.mark.parametrize(
    ("value", "expected"), [("", "h2c"), ("h2c", "h2c"), (" H2C ", "h2c"), ("GRPC", "grpc")]
)
def test_who_answers_envoy(value: str, expected: str) -> None:
    assert _settings(EXT_AUTHZ_TRANSPORT=value).ext_authz_transport == expected


def test_who_answers_envoy_is_one_of_two() -> None:
    assert _problems(EXT_AUTHZ_TRANSPORT="http") == ["EXT_AUTHZ_TRANSPORT: must be h2c or grpc"]


TLS = {"EXT_AUTHZ_TLS_CERT_FILE": "/c.pem", "EXT_AUTHZ_TLS_KEY_FILE": "/k.pem"}
#: An IPv4 address in IPv6's clothes, as this Python writes it.
MAPPED = str(ipaddress.ip_address("::ffff:10.0.0.1"))
NOT_ALONE = "EXT_AUTHZ_TLS_CERT_FILE: a certificate and EXT_AUTHZ_TLS_KEY_FILE go together"
NO_EFFECT = "EXT_AUTHZ_TLS_CLIENT_CA_FILE: has no effect without a certificate"
CLEARTEXT = "EXT_AUTHZ_TRANSPORT: h2c is cleartext; use grpc with a certificate"
OTHERS = (
    "EXT_AUTHZ_ADDRESS: 0.0.0.0 can be reached from other hosts, and cleartext is for this one"
    " alone; set EXT_AUTHZ_TRANSPORT=grpc, EXT_AUTHZ_TLS_CERT_FILE and EXT_AUTHZ_TLS_KEY_FILE, or"
    " use 127.0.0.1"
)


@pytest.mark.parametrize(
    ("env", "problems"),
    [
        ({"EXT_AUTHZ_TLS_CERT_FILE": "/c"}, [NOT_ALONE]),
        ({"EXT_AUTHZ_TLS_KEY_FILE": "/k"}, [NOT_ALONE]),
        ({"EXT_AUTHZ_TLS_CLIENT_CA_FILE": "/a"}, [NO_EFFECT]),
        ({"EXT_AUTHZ_TLS_KEY_FILE": "/k", "EXT_AUTHZ_TLS_CLIENT_CA_FILE": "/a"},
         [NOT_ALONE, NO_EFFECT]),
        (TLS, [CLEARTEXT]),
        (TLS | {"EXT_AUTHZ_TRANSPORT": "h2c", "EXT_AUTHZ_ADDRESS": "0.0.0.0:1"}, [CLEARTEXT]),
        ({"EXT_AUTHZ_ADDRESS": "0.0.0.0:1"}, [OTHERS]),
        ({"EXT_AUTHZ_ADDRESS": "0.0.0.0:1", "EXT_AUTHZ_TRANSPORT": "grpc"}, [OTHERS]),
        ({"EXT_AUTHZ_ADDRESS": "[::]:1"}, [OTHERS.replace("0.0.0.0", "::")]),
        ({"EXT_AUTHZ_ADDRESS": f"[{MAPPED}]:1"}, [OTHERS.replace("0.0.0.0", MAPPED)]),
        ({"EXT_AUTHZ_ADDRESS": "10.0.0.1:1", "EXT_AUTHZ_TLS_CERT_FILE": "/c"},
         [NOT_ALONE, OTHERS.replace("0.0.0.0", "10.0.0.1")]),
    ],
)  # fmt: skip
def test_cleartext_is_for_this_host_and_certificates_for_grpc(
    env: dict[str, str], problems: list[str]
) -> None:
    assert _problems(**env) == problems


def test_with_a_certificate_any_address_is_served() -> None:
    for more in ({}, {"EXT_AUTHZ_TLS_CLIENT_CA_FILE": "/a.pem"}):
        settings = _settings(
            EXT_AUTHZ_TRANSPORT="grpc", EXT_AUTHZ_ADDRESS="0.0.0.0:9191", **TLS, **more
        )
        assert settings.ext_authz_address == ("0.0.0.0", 9191)
        assert settings.ext_authz_cert_file == Path("/c.pem")
        assert settings.ext_authz_key_file == Path("/k.pem")
        assert settings.ext_authz_client_ca_file == (Path("/a.pem") if more else None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("authz.example:9191", ("authz.example", 9191)),
        ("Authz.Example:1", ("authz.example", 1)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65_535)),
        ("192.0.2.1:9191", ("192.0.2.1", 9191)),
        ("localhost:9191", ("127.0.0.1", 9191)),
    ],
)
def test_a_service_elsewhere_is_a_host_and_a_port(value: str, expected: tuple[str, int]) -> None:
    settings = _settings(
        EXT_AUTHZ_TARGET=value, HTTP_TARGET=value, EXT_AUTHZ_TARGET_CA_FILE="/ca.pem"
    )
    assert settings.ext_authz_target == settings.http_target == expected


@pytest.mark.parametrize(
    "value",
    ["sidecar.example", ":9191", "a:0", "a:65536", "a:b", "http://a:1", "a:1/x", "u@a:1", "a:1?x",
     "2001:db8::1:9191", "a b:1", "a:1#", "-a:1", "[::1", "1.2.3:4"],
)  # fmt: skip
def test_what_is_no_service_elsewhere(value: str) -> None:
    [problem] = _problems(
        EXT_AUTHZ_TARGET=value, HTTP_TARGET="a:1", EXT_AUTHZ_TARGET_CA_FILE="/ca.pem"
    )
    assert problem.startswith("EXT_AUTHZ_TARGET: ")
    assert value not in problem


ELSEWHERE = {"EXT_AUTHZ_TARGET": "a.example:1", "HTTP_TARGET": "a.example:2"}


@pytest.mark.parametrize(
    ("env", "problems"),
    [
        ({"TLS_CERT_FILE": "/c"}, ["TLS_CERT_FILE: a certificate and TLS_KEY_FILE go together"]),
        ({"TLS_KEY_FILE": "/k"}, ["TLS_CERT_FILE: a certificate and TLS_KEY_FILE go together"]),
        ({"TLS_CLIENT_CA_FILE": "/a"},
         ["TLS_CLIENT_CA_FILE: has no effect without a certificate"]),
        ({"EXT_AUTHZ_TARGET": "127.0.0.1:1"},
         ["HTTP_TARGET: is needed beside EXT_AUTHZ_TARGET; a service has both"]),
        ({"HTTP_TARGET": "[::1]:1"},
         ["EXT_AUTHZ_TARGET: is needed beside HTTP_TARGET; a service has both"]),
        (ELSEWHERE,
         [f"{name}: a.example is another host, and cleartext is for this one alone; set"
          " EXT_AUTHZ_TARGET_CA_FILE" for name in ELSEWHERE]),
        ({"EXT_AUTHZ_TARGET_CA_FILE": "/a"},
         ["EXT_AUTHZ_TARGET_CA_FILE: has no effect without EXT_AUTHZ_TARGET"]),
        ({**ELSEWHERE, "EXT_AUTHZ_TARGET_CA_FILE": "/a", "EXT_AUTHZ_TARGET_KEY_FILE": "/k"},
         ["EXT_AUTHZ_TARGET_CERT_FILE: a certificate and EXT_AUTHZ_TARGET_KEY_FILE go together"]),
        ({"HTTP_ADDRESS": "0.0.0.0:1"},
         [OTHERS.replace("EXT_AUTHZ_ADDRESS", "HTTP_ADDRESS")]),
        ({"ENVOY_WORKERS": "0"}, ["ENVOY_WORKERS: must be from 1 to 64"]),
        ({"ENVOY_WORKERS": "65"}, ["ENVOY_WORKERS: must be from 1 to 64"]),
        ({"ENVOY_ADMIN": "tcp"}, ["ENVOY_ADMIN: must be socket or off"]),
        ({"ACCESS_LOG": "text"}, ["ACCESS_LOG: must be off or json"]),
    ],
)  # fmt: skip
def test_what_envoy_cannot_have_in_production(env: dict[str, str], problems: list[str]) -> None:
    assert _problems(**env) == problems


def test_ingested_trails_have_a_file_of_their_own(tmp_path: Path) -> None:
    assert _settings(AUDIT_DB_PATH="a/b.db").audit_ingest_path == Path("a/b.db.ingested")
    assert _settings(AUDIT_INGEST_DB_PATH="c").audit_ingest_path == Path("c")
    assert _problems(AUDIT_DB_PATH="a.db", AUDIT_INGEST_DB_PATH="a.db") == [
        "AUDIT_INGEST_DB_PATH: must be another file than AUDIT_DB_PATH"
    ]
    assert _problems(AUDIT_INGEST_KEYS="/none.pub") == [
        "AUDIT_INGEST_KEYS: /none.pub: there is no such file"
    ]
    keys = [tmp_path / "a.pub", tmp_path / "b.pub"]
    for key in keys:
        key.touch()
    named = ", ".join(map(str, keys))
    assert _settings(AUDIT_INGEST_KEYS=named).audit_ingest_keys == tuple(keys)
    assert _problems(AUDIT_INGEST_MAX_BYTES="9") == [
        "AUDIT_INGEST_MAX_BYTES: must be from 65536 to 536870912"
    ]
