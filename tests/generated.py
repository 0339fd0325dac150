"""Files made from the code: their text, and `python -m tests.generated`, which writes them.

`test_generated.py` holds what is checked in against it.
"""

import json
from pathlib import Path
from typing import Final

from authz import envoy_config
from authz.core.errors import Code
from authz.core.mode import Mode
from authz.core.policy_schema import json_schema
from authz.envoy_config import EnvoyOptions
from authz.settings import described, parse_upstream

ROOT: Final = Path(__file__).parents[1]

_NOTE: Final = (
    "# Made by `make generated` from authz/envoy_config.py; `authz run` writes its own.\n"
)
_DEFAULTS: Final = EnvoyOptions(
    host="0.0.0.0",
    port=3100,
    mode=Mode.ENFORCE,
    upstream=parse_upstream("https://httpbin.org"),
    run_dir=Path("/run/authz"),
    ca_file=Path("/etc/ssl/certs/ca-certificates.crt"),
    decision_timeout_ms=100,
)


def files() -> dict[Path, str]:
    """Every generated file with the text it must have."""
    return {
        ROOT / "envoy/envoy.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.bootstrap(_DEFAULTS, _DEFAULTS.run_dir)),
        ROOT / "envoy/ext_authz.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.ext_authz_discovery(Mode.ENFORCE, 100)),
        ROOT / "envoy/ext_authz.audit.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.ext_authz_discovery(Mode.AUDIT, 100)),
        ROOT / "docs/configuration.md": _configuration(),
        ROOT / "docs/codes.md": _codes(),
        ROOT / "docs/policy.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }


def _configuration() -> str:
    rows = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.help} |"
        for row in described()
    ]
    return (
        "# Configuration\n\n"
        "Everything is an environment variable, read once at the start; all mistakes are reported\n"
        "together, by name and never with the value. `authz settings` prints this table.\n"
        "Policies and `MODE_FILE` are read again when they change, and on SIGHUP.\n"
        "An empty variable counts as unset. `DB_PATH` is read where `AUDIT_DB_PATH` is not set.\n\n"
        "| Variable | Default | |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "The `OTEL_*` variables are read already; what they switch is not part of this version.\n"
    )


def _codes() -> str:
    sections = [f"## {code}\n\n{code.status}. {_MEANING[code]}\n" for code in Code]
    return (
        "# Codes\n\n"
        "Why a request got its answer: the `code` of every answer that comes from a decision, and\n"
        "of its row in the audit trail. The number is the HTTP status in enforce mode; in audit\n"
        "mode the request is forwarded and the row says what would have happened.\n\n"
        + "\n".join(sections)
        + "\n## Answers without a code\n\n"
        "Where nothing was decided, `error` says what happened. The service: `bad_request`,\n"
        "`not_found`, `method_not_allowed`, `too_large`, `internal`. Envoy: `request_refused` (it\n"
        "does not carry such a request) and `upstream_unreachable`, with its own word for the\n"
        "cause in `detail`.\n"
    )


_MEANING: Final = {
    Code.RULE_ALLOWED: "A rule allows the action; the answer names policy and rule.",
    Code.DEFAULT_ALLOWED: "No rule matches, and the deciding policy's `defaultEffect` is allow.",
    Code.BYPASSED: "MODE is bypass. Nothing was evaluated and nothing is recorded.",
    Code.CHANGED: "No request: the row says that the policies in force, or the mode, changed.",
    Code.TOKEN_MISSING: "The request has no `Authorization: Bearer` token.",
    Code.TOKEN_MALFORMED: "The credential is not a JWT, or longer than 8192 characters.",
    Code.TOKEN_BAD_SIGNATURE: "The token was not signed with this sidecar's `JWT_SECRET`.",
    Code.TOKEN_WRONG_ALGORITHM: "The token is not signed with HS256.",
    Code.TOKEN_EXPIRED: "The token's `exp` has passed. There is no leeway.",
    Code.TOKEN_NOT_YET_VALID: "The token's `nbf` or `iat` lies over 60 seconds in the future.",
    Code.TOKEN_WRONG_ISSUER: "The token has an `iss`, and it is not `meshguard`.",
    Code.TOKEN_BAD_CLAIM: "The token lacks `sub` or `exp`, or a claim is not of its kind.",
    Code.TOKEN_WRONG_AGENT: "The token is not for the agent in `SIDECAR_AGENT_ID`.",
    Code.RULE_DENIED: "A rule denies the action; the answer names policy and rule.",
    Code.DEFAULT_DENIED: "No rule matches, and the deciding policy's `defaultEffect` is deny.",
    Code.NO_POLICY: "No policy applies to this agent, or none could be loaded.",
    Code.APPROVAL_REQUIRED: "A policy wants a person's approval, and none can be given yet.",
    Code.INSUFFICIENT_TRUST_TIER: "A policy allows the action only from a higher trust tier on.",
    Code.MALFORMED: "The action, resource or path cannot be judged; the message says why.",
    Code.UNFINISHED: "The chain ended without a decision. This is a bug; nothing was forwarded.",
    Code.INTERNAL: "Deciding failed inside the service; its log has the details.",
    Code.AUDIT_UNAVAILABLE: "The decision could not be recorded, so it does not count.",
    Code.OVERLOADED: "Too many calls waited for a decision. One row tells how many, for all.",
    Code.CIRCUIT_OPEN: "No decision within `DECISION_TIMEOUT_MS`, or nobody to make it; Envoy"
    " answers this.",
}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
