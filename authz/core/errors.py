"""Why a request got its answer: the closed list.

A code is the verdict's reason, the audit column, the metric label and the heading in the docs,
so a code is added here or nowhere. Its HTTP status belongs to it, and the status tells the three
families apart: below 400 the request may pass, 4xx it may not, 5xx we could not decide. "Could
not decide" is never reported as a denial (503, not 403), and never becomes an allow in enforce
mode.
"""

from enum import StrEnum


class Code(StrEnum):
    """A reason. `status` is the HTTP status it answers with when it is enforced."""

    status: int

    def __new__(cls, value: str, status: int) -> "Code":
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        return member

    # May pass.
    RULE_ALLOWED = "rule_allowed", 200
    DEFAULT_ALLOWED = "default_allowed", 200
    BYPASSED = "bypassed", 200
    # Of rows about the sidecar itself, not about a request.
    CHANGED = "changed", 200

    # The caller has no usable credential.
    TOKEN_MISSING = "token_missing", 401
    TOKEN_MALFORMED = "token_malformed", 401
    TOKEN_BAD_SIGNATURE = "token_bad_signature", 401
    TOKEN_WRONG_ALGORITHM = "token_wrong_algorithm", 401
    TOKEN_EXPIRED = "token_expired", 401
    TOKEN_NOT_YET_VALID = "token_not_yet_valid", 401
    TOKEN_WRONG_ISSUER = "token_wrong_issuer", 401
    TOKEN_BAD_CLAIM = "token_bad_claim", 401
    TOKEN_WRONG_AGENT = "token_wrong_agent", 401

    # The caller is known, and may not.
    RULE_DENIED = "rule_denied", 403
    DEFAULT_DENIED = "default_denied", 403
    NO_POLICY = "no_policy", 403
    APPROVAL_REQUIRED = "approval_required", 403
    INSUFFICIENT_TRUST_TIER = "insufficient_trust_tier", 403

    # The request cannot be read.
    MALFORMED = "malformed", 400

    # We could not decide.
    UNFINISHED = "unfinished", 503
    INTERNAL = "internal", 503
    AUDIT_UNAVAILABLE = "audit_unavailable", 503
    OVERLOADED = "overloaded", 503
    # Sent by Envoy on our behalf when no answer came in time (`envoy_config.py`).
    CIRCUIT_OPEN = "circuit_open", 503


class AuditUnavailable(Exception):
    """The audit store did not take the rows; none of them is durable."""
