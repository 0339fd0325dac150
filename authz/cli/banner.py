"""What `make run` prints once everything is up: a token, and requests to copy."""

import time
from typing import Final

from authz.core.identity import mint
from authz.settings import Settings

DEMO_AGENT: Final = "demo-agent"


def banner(settings: Settings) -> str:
    """The text, with a token for an agent that the sample policies know as a code reviewer."""
    token = mint(
        settings.jwt_secret.get_secret_value(),
        agent_id=settings.agent_id or DEMO_AGENT,
        now=time.time(),
        ttl_s=settings.jwt_ttl_s,
        tier="verified",
        tags=("code-review",),
    )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    upstream = settings.upstream
    rule = "─" * 72
    return f"""
{rule}
 authz is ready at {base}, mode {settings.mode}
 upstream: {upstream.scheme}://{upstream.authority}{upstream.prefix}
 policies: {settings.policies_dir}    audit: {settings.audit_db_path}
{rule}
 An agent's token, valid for {settings.jwt_ttl_s // 60} minutes:

TOKEN={token}

 Allowed, and forwarded:

curl -i -H "Authorization: Bearer $TOKEN" {base}/proxy/docs/intro

 Denied, with the reason:

curl -i -X DELETE -H "Authorization: Bearer $TOKEN" -H "X-MeshGuard-Action: write:delete" \
{base}/proxy/docs/intro

 A whole plan at once:

curl -s -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \
-d '{{"actions":[{{"action":"read:docs"}},{{"action":"admin:delete"}}]}}' \
{base}/api/v1/governance/batch

 Ctrl-C stops it.
{rule}"""
