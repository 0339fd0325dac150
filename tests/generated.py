"""Files made from the code: their text, and `python -m tests.generated`, which writes them.

`test_generated.py` holds what is checked in against it.
"""

import dataclasses
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from authz import __version__, envoy_config
from authz.core.errors import Code
from authz.core.mode import Mode
from authz.core.policy_schema import json_schema
from authz.edges.http.reference import OPENAPI
from authz.edges.metrics.catalogue import CHAPTERS, Family
from authz.envoy_config import EnvoyOptions
from authz.envoy_config.target import Target
from authz.envoy_config.tls import ListenerTls, Pair, TargetTls
from authz.reference.build import document
from authz.settings import Endpoint, described, parse_upstream
from tests.edges.world import World

ROOT: Final = Path(__file__).parents[1]
OBSERVABILITY: Final = ROOT / "docs/observability.md"

_NOTE: Final = "# Made by `make generated` from authz/envoy_config/; `authz run` writes its own.\n"
_DEFAULTS: Final = EnvoyOptions(
    host="0.0.0.0",
    port=3100,
    mode=Mode.ENFORCE,
    upstream=parse_upstream("https://httpbin.org"),
    run_dir=Path("/run/authz"),
    ca_file=Path("/etc/ssl/certs/ca-certificates.crt"),
    decision_timeout_ms=100,
)
#: With the ways out to any host.
_OUTWARD: Final = replace(
    _DEFAULTS,
    forward=("127.0.0.1", 3128),
    capture=(("127.0.0.1", 15001), ("::1", 15001)),
)

#: The other example: an Envoy that other hosts reach, and a service on another one.
_PRODUCTION: Final = dataclasses.replace(
    _DEFAULTS,
    run_dir=Path("/etc/envoy"),
    tls=ListenerTls(
        Pair(Path("/etc/envoy/certs/tls.crt"), Path("/etc/envoy/certs/tls.key")),
        Path("/etc/envoy/certs/clients.pem"),
    ),
    target=Target(
        Endpoint("authz.example", 9191),
        Endpoint("authz.example", 9192),
        TargetTls(
            Path("/etc/envoy/certs/services.pem"),
            Pair(Path("/etc/envoy/certs/sidecar.crt"), Path("/etc/envoy/certs/sidecar.key")),
        ),
    ),
    workers=2,
    access_log=True,
)


@functools.cache
def files() -> dict[Path, str]:
    """Every generated file with the text it must have."""
    return {
        ROOT / "envoy/envoy.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.bootstrap(_DEFAULTS, _DEFAULTS.run_dir)),
        ROOT / "envoy/envoy.outward.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.bootstrap(_OUTWARD, _OUTWARD.run_dir)),
        ROOT / "envoy/ext_authz.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.ext_authz_discovery(Mode.ENFORCE, 100)),
        ROOT / "envoy/ext_authz.audit.yaml": _NOTE
        + envoy_config.to_yaml(envoy_config.ext_authz_discovery(Mode.AUDIT, 100)),
        **{
            ROOT / "envoy/production" / name: _NOTE + envoy_config.to_yaml(content)
            for name, content in envoy_config.documents(_PRODUCTION, _PRODUCTION.run_dir).items()
        },
        ROOT / "docs/configuration.md": _configuration(),
        ROOT / "docs/codes.md": _codes(),
        OBSERVABILITY: _observability(),
        ROOT / "docs/policy.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        OPENAPI: _openapi(),
    }


def _openapi() -> str:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            made = document(world.app, __version__)
        finally:
            world.close()
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _observability() -> str:
    """The page as it is, with the tables of the catalogue in their place."""
    before, mark, rest = OBSERVABILITY.read_text().partition("catalogue.py -->\n")
    _, end, after = rest.partition("<!-- end -->")
    tables = []
    for chapter, families in CHAPTERS.items():
        rows = [f"| {_series(family)} | {family.kind} | {family.help} |" for family in families]
        tables.append(f"### {chapter}\n\n| Metric | Kind | |\n|---|---|---|\n" + "\n".join(rows))
    return before + mark + "\n" + "\n\n".join(tables) + "\n\n" + end + after


def _series(family: Family) -> str:
    labels = "{" + ",".join(family.labels) + "}" if family.labels else ""
    return f"`{family.name}{labels}`"


def _configuration() -> str:
    rows = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.help} |"
        for row in described()
    ]
    return (
        "# Configuration\n\n"
        "Everything is an environment variable, read once at the start; all mistakes are reported\n"
        "together, by name and never with the value. `authz settings` prints this table.\n"
        "Policies, `MODE_FILE`, `JWKS_FILE`, `DELEGATION_JWKS_FILE` and the files of `TLS_*` are\n"
        "read again when they change, and on SIGHUP.\n"
        "An empty variable counts as unset. `DB_PATH` is read where `AUDIT_DB_PATH` is not set.\n"
        "A name that is none of these and one letter off is warned of in the log.\n\n"
        "| Variable | Default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _codes() -> str:
    sections = [f"## {code}\n\n{code.status}. {_MEANING[code]}\n" for code in Code]
    return (
        "# Codes\n\n"
        "Why a request got its answer: the `code` of every answer that comes from a decision, and\n"
        "of its row in the audit trail. The number is the HTTP status in enforce mode; in audit\n"
        "mode the request is forwarded and the row says what would have happened.\n"
        "The forward proxy answers 407 for 401, and capture 403 ([capture.md](capture.md)).\n"
        "[chain.md](chain.md) has them by the stage that they are of.\n\n"
        + "\n".join(sections)
        + "\n## Answers without a code\n\n"
        "Where nothing was decided, `error` says what happened. The service: `bad_request`,\n"
        "`unauthorized`, `Forbidden`, `not_found`, `method_not_allowed`, `conflict`, `too_large`,\n"
        "`unavailable`, `internal`. Envoy: `request_refused` (it does not carry such a request)\n"
        "and `upstream_unreachable`, with its own word for the cause in `detail`; and\n"
        "`destination_denied` (`FORWARD_DENY_CIDRS`), whatever was decided before.\n"
    )


_MEANING: Final = {
    Code.RULE_ALLOWED: "A rule allows the action; the answer names policy and rule.",
    Code.DEFAULT_ALLOWED: "No rule matches, and the deciding policy's `defaultEffect` is allow.",
    Code.APPROVED: "A person has approved what a policy asks one about; this was the one retry.",
    Code.BYPASSED: "MODE is bypass. Nothing was evaluated and nothing is recorded.",
    Code.CHANGED: "No request: the row says that the policies in force, the mode or a record (an"
    " agent, a relationship, a pending action, a wallet, a fuse) was changed.",
    Code.REPORTED: "No decision: the row says what an agent told of what it did"
    " ([api.md](api.md)); nobody here has seen it.",
    Code.TOKEN_MISSING: "The request has no `Authorization: Bearer` token.",
    Code.TOKEN_MALFORMED: "The credential is not a JWT, is longer than 8192 characters, or has a"
    " `crit`.",
    Code.TOKEN_BAD_SIGNATURE: "It was not signed with `JWT_SECRET`, or with the key of `JWKS_FILE`"
    " that it names.",
    Code.TOKEN_WRONG_ALGORITHM: "The token is signed with another algorithm than its key is for:"
    " HS256 for `JWT_SECRET`; EdDSA, ES256 or RS256 for a key of `JWKS_FILE`, by its type.",
    Code.TOKEN_EXPIRED: "The token's `exp` has passed. There is no leeway.",
    Code.TOKEN_NOT_YET_VALID: "The token's `nbf` or `iat` lies over 60 seconds in the future.",
    Code.TOKEN_WRONG_ISSUER: "The token has an `iss`, and it is not `meshguard`.",
    Code.TOKEN_BAD_CLAIM: "The token lacks `sub` or `exp`, or a claim is not of its kind.",
    Code.TOKEN_WRONG_AGENT: "The token is not for the agent in `SIDECAR_AGENT_ID`.",
    Code.TOKEN_UNKNOWN_KEY: "The token names a key that `JWKS_FILE` does not hold, or names"
    " none where not exactly one is for its algorithm.",
    Code.AGENT_REVOKED: "The agent was revoked, which is for ever; its tokens are worth nothing.",
    Code.ADMIN_REFUSED: "The admin API was asked without its token. The row tells how often since"
    " the one before it, and of the last one; there is at most one a minute.",
    Code.RULE_DENIED: "A rule denies the action; the answer names policy and rule.",
    Code.DEFAULT_DENIED: "No rule matches, and the deciding policy's `defaultEffect` is deny.",
    Code.NO_POLICY: "No policy applies to this agent, or none could be loaded.",
    Code.APPROVAL_REQUIRED: "A policy, a delegation or the destructive gate wants a person's"
    " approval first; see `pendingId`.",
    Code.COOLING_OFF: "The action is destructive and has to wait; `waitMs` says how long.",
    Code.PENDING_UNKNOWN: "`X-MeshGuard-Pending-ID` names nothing that is pending for this agent.",
    Code.PENDING_MISMATCH: "The pending action is for another action, resource, method, path,"
    " context or delegation.",
    Code.PENDING_REJECTED: "A person rejected the pending action.",
    Code.PENDING_EXPIRED: "Nobody answered in time, or the retry came too late.",
    Code.PENDING_USED: "The one retry that an approval is good for has been made.",
    Code.PENDING_OUTDATED: "The policies have changed since the action became pending.",
    Code.INTENT_MISMATCH: "The declared action is not what method, host and path show"
    " (`INTENT_VERIFICATION`).",
    Code.INTENT_UNMAPPED: "No route of a `RouteMap` that wants all requests mapped fits this one.",
    Code.ACTION_TOKEN_REQUIRED: "A rule allows this only with an action token, and there is none.",
    Code.ACTION_TOKEN_MALFORMED: "`X-MeshGuard-Action-Token` is no action token.",
    Code.ACTION_TOKEN_BAD_SIGNATURE: "The action token was not signed by this sidecar.",
    Code.ACTION_TOKEN_EXPIRED: "The action token's time, at most 300 seconds, is over.",
    Code.ACTION_TOKEN_NOT_YET_VALID: "The action token's `iat` lies in the future.",
    Code.ACTION_TOKEN_MISMATCH: "The action token is for another agent, action or resource.",
    Code.ACTION_TOKEN_OUTDATED: "The policies have changed since the action token was minted.",
    Code.ACTION_TOKEN_REPLAYED: "The action token has been used; it is good for one request.",
    Code.INSUFFICIENT_TRUST_TIER: "A policy or a floor lets only a higher trust tier do this.",
    Code.DELEGATION_MALFORMED: "`X-MeshGuard-Delegation` is neither an id nor a signed chain,"
    " or too large.",
    Code.DELEGATION_BAD_SIGNATURE: "A receipt in the chain was not signed by a key that is"
    " trusted here.",
    Code.DELEGATION_UNKNOWN: "No relationship has this id here.",
    Code.DELEGATION_NOT_AUTHORITY: "The relationship is of a type that carries no authority.",
    Code.DELEGATION_WRONG_DELEGATE: "The last hop of the chain is not for this agent.",
    Code.DELEGATION_BROKEN: "The hops do not follow one another, or the chain does not begin"
    " at its root.",
    Code.DELEGATION_SELF_ISSUED: "An agent delegates to itself.",
    Code.DELEGATION_CYCLE: "An agent stands twice in the chain.",
    Code.DELEGATION_TOO_DEEP: "The chain has more hops than allowed, by the limit of 5 or by"
    " one of its hops.",
    Code.DELEGATION_EXPIRED: "A hop of the chain has expired.",
    Code.DELEGATION_NOT_YET_VALID: "A hop of the chain was issued in the future.",
    Code.DELEGATION_REVOKED: "A hop of the chain, or an agent in it, was revoked.",
    Code.DELEGATION_OUT_OF_SCOPE: "A hop's scope does not cover the action or resource.",
    Code.DELEGATION_OVER_CEILING: "A hop's permission ceiling does not cover the action.",
    Code.DELEGATION_WIDENED: "A hop passes on more than the hop above it gave.",
    Code.DELEGATOR_TIER_TOO_LOW: "A delegator is below tier verified.",
    Code.DELEGATOR_LOST_PERMISSION: "A delegator may not do this itself, or not any more.",
    Code.FUSE_OPEN: "The delegation failed too often; it stays shut for a while, or until it"
    " is reset.",
    Code.PROVENANCE_MALFORMED: "`X-MeshGuard-Provenance` cannot be read.",
    Code.PROVENANCE_TOO_LOW: "What influenced the action is of a lower lane than the gate asks"
    " for.",
    Code.PROVENANCE_LABEL: "A label that the gate forbids is there, or one that it asks for is"
    " not.",
    Code.COST_MALFORMED: "`X-MeshGuard-Cost` is not a whole number of points within bounds.",
    Code.WALLET_EXHAUSTED: "The wallet does not hold what the action costs; `Retry-After` says"
    " when it may.",
    Code.RATE_LIMITED: "The agent has made as many requests as a policy or rule allows it for now,"
    " or has used as many action tokens as are kept of one agent.",
    Code.MALFORMED: "The action, resource or path cannot be judged; the message says why.",
    Code.UNFINISHED: "The chain ended without a decision. This is a bug; nothing was forwarded.",
    Code.INTERNAL: "Deciding failed inside the service; its log has the details.",
    Code.AUDIT_UNAVAILABLE: "The decision could not be recorded, so it does not count.",
    Code.OVERLOADED: "Too many calls waited for a decision, and one row tells how many, for all;"
    " or the ledger is full.",
    Code.CIRCUIT_OPEN: "No decision within `DECISION_TIMEOUT_MS`, or nobody to make it; Envoy"
    " answers this.",
}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
