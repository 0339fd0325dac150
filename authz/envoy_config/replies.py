"""What Envoy answers itself: JSON, because SDKs decode every body they get (CONTRACT §16.2)."""

from typing import Any

from authz.core.errors import Code
from authz.core.names import DECISION_HEADER, RETRY_AFTER_S
from authz.envoy_config.clusters import SERVICE
from authz.envoy_config.parts import Config, where


def local_replies(decision_timeout_ms: int, *, outward: bool = False) -> Config:
    """JSON for what Envoy refuses itself: SDKs decode every body they get (CONTRACT §16.2).

    Args:
        outward: the agent chooses the host, and there are some that nobody may reach.
    """

    def when(expression: str, body: Config, **more: Any) -> Config:
        return {
            "filter": where(expression),
            "body_format_override": {"json_format": body},
            **more,
        }

    # What the service answered carries its decision, and keeps the body it came with.
    not_ours = f'!("{DECISION_HEADER}" in response.headers)'
    no_decision = (
        "the authorization service is not running or gave no decision within"
        f" {decision_timeout_ms} ms; the request was not forwarded"
    )
    denied = [
        when(
            f'{not_ours} && (response.code_details.startsWith("rbac_access_denied")'
            ' || response.code_details.startsWith("dns_resolution_failure{address_denied"))',
            {
                "error": "destination_denied",
                "message": "the host's address is one that FORWARD_DENY_CIDRS keeps out of reach",
            },
            status_code=403,
        )
    ]
    return {
        "mappers": [
            *(denied if outward else []),
            when(
                f'{not_ours} && (response.code_details == "ext_authz_error"'
                f' || xds.cluster_name == "{SERVICE}" && response.code >= 500)',
                {"error": "unavailable", "code": str(Code.CIRCUIT_OPEN), "message": no_decision},
                headers_to_add=[
                    {"header": {"key": "retry-after", "value": str(RETRY_AFTER_S)}},
                ],
            ),
            when(
                f"{not_ours} && response.code >= 500",
                {
                    "error": "upstream_unreachable",
                    "message": "the upstream could not be reached, or broke off",
                    "detail": "%RESPONSE_CODE_DETAILS%",
                },
            ),
            when(
                not_ours,
                {
                    "error": "request_refused",
                    "message": "Envoy does not carry this request; it was not decided",
                    "detail": "%RESPONSE_CODE_DETAILS%",
                },
            ),
        ]
    }
