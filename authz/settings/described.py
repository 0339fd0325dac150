"""Every variable, as the documentation shows it."""

from typing import Final, NamedTuple

from pydantic import AliasChoices

from authz.core.alert_words import DEFAULT_ON
from authz.settings.model import DENIED_NETWORKS, Settings


class Variable(NamedTuple):
    """A variable as the documentation shows it."""

    name: str
    #: As one would write it; empty when it is unset by default.
    default: str
    help: str


def described() -> list[Variable]:
    """Every variable: those of `Settings` itself, then those of its groups."""
    rows = []
    own = Settings.__annotations__
    for _, field in sorted(Settings.model_fields.items(), key=lambda item: item[0] not in own):
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
    "AUDIT_INGEST_KEYS": "",
    "FORWARD_DENY_CIDRS": ",".join(map(str, DENIED_NETWORKS)),
    "DESTRUCTIVE_GATE": "false",
    "ACCESS_LOG_PROBES": "false",
    "METRICS_ENABLED": "false",
    "OTEL_ENABLED": "false",
    "SYNC_ALLOW_HTTP": "false",
    "SYNC_INTERVAL": "60s",
    "SYNC_PULL": "true",
    "SYNC_PUSH": "true",
    "POLICY_BUNDLE_KEYS": "",
    "REQUIRE_SIGNED_POLICIES": "false",
    "ALERT_ON": ",".join(DEFAULT_ON),
    "ALERT_EMAIL_ENABLED": "false",
    "ALERT_EMAIL_TO": "",
}
