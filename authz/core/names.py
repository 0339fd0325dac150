"""Names on the wire that both the service and Envoy's configuration must agree on (CONTRACT §3)."""

from typing import Final

#: Requests below it are governed, and forwarded without it.
PROXY_PREFIX: Final = "/proxy/"
#: Headers that govern us and are no business of the upstream.
GOVERNANCE_PREFIX: Final = "x-meshguard-"
#: On every answer that comes from a decision, and on no other.
DECISION_HEADER: Final = "x-meshguard-decision"
ADMIN_HEADER: Final = "x-admin-token"
#: Seconds after which a caller may ask again when we could not decide: longer than a supervised
#: restart takes, short enough for an agent that waits.
RETRY_AFTER_S: Final = 1
