"""What `make run` prints once everything is up: a token, and requests to copy."""

import http.client
import json
import time
from typing import Final

from authz import dev_secrets
from authz.core.identity import mint
from authz.core.timestamps import rfc3339
from authz.settings import Settings
from authz.unix_http import UnixConnection

DEMO_AGENT: Final = "demo-agent"


def banner(settings: Settings, *, unready: str = "") -> str:
    """The text, with a token for an agent that the sample policies know as a code reviewer.

    Args:
        unready: what keeps the service from being ready, as `readiness` says it.
    """
    agent = settings.agent_id or DEMO_AGENT
    now = time.time()
    expires = rfc3339(now + settings.jwt_ttl_s, "milliseconds")
    token = mint(
        settings.jwt_secret.get_secret_value(),
        agent_id=agent,
        now=now,
        ttl_s=settings.jwt_ttl_s,
        tier="verified",
        tags=("code-review",),
    )
    host = settings.reachable_host
    scheme = "http" if settings.tls_cert_file is None else "https"
    base = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
    upstream = settings.upstream
    rule = "─" * 72
    state = f"up, but NOT READY ({unready})," if unready else "ready"
    return f"""
{rule}
 authz is {state} at {base}, mode {settings.mode}
 upstream: {upstream.scheme}://{upstream.authority}{upstream.prefix}
 policies: {settings.policy_bundle or settings.policies_dir}    audit: {settings.audit_db_path}
{rule}
 A token for agent {agent}, valid until {expires}:

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

 All that it answers, to be tried in a browser: {base}/api/docs
 The admin token is ADMIN_TOKEN, or else stands in {settings.run_dir / dev_secrets.FILE}

 Ctrl-C stops it.
{rule}"""


def readiness(settings: Settings) -> str:
    """What `/ready` has to say against being ready; empty when it is."""
    connection: http.client.HTTPConnection
    if settings.tls_cert_file is None:
        connection = http.client.HTTPConnection(settings.reachable_host, settings.port, timeout=5)
    else:
        # Envoy may want a certificate of its clients, and we have none.
        connection = UnixConnection(settings.http_socket, timeout_s=5)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        checks = json.loads(answer.read()).get("checks", {})
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
