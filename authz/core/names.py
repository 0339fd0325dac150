"""Names on the wire that both the service and Envoy's configuration must agree on (CONTRACT §3)."""

from typing import Final

#: Requests below it are governed, and forwarded without it.
PROXY_PREFIX: Final = "/proxy/"
#: Headers that govern us and are no business of the upstream.
GOVERNANCE_PREFIX: Final = "x-meshguard-"
#: On every answer that comes from a decision, and on no other.
DECISION_HEADER: Final = "x-meshguard-decision"
#: The id of a decision, on answers that are not Envoy's to make: its access log has it from there.
DECISION_ID_HEADER: Final = "x-meshguard-decision-id"
ADMIN_HEADER: Final = "x-admin-token"
#: In these some SDKs send the agent's token to endpoints of ours (CONTRACT §3). The first is also
#: where some upstreams want their own key.
API_KEY_HEADER: Final = "x-api-key"
#: For the first proxy, and that is us (RFC 9110 §11.7.2).
PROXY_AUTHORIZATION_HEADER: Final = "proxy-authorization"
OUR_API_KEY_HEADER: Final = "x-meshguard-api-key"
#: Bytes of a request's body that the service reads: a batch of a hundred actions with two
#: kilobytes each, and room. Envoy refuses more before it gets here.
MAX_BODY: Final = 256 * 1024
#: Seconds after which a caller may ask again when we could not decide: longer than a supervised
#: restart takes, short enough for an agent that waits.
RETRY_AFTER_S: Final = 1
#: Where a route tells the service which listener a call came by; no client can write there.
VIA: Final = "via"
