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
    APPROVED = "approved", 200
    BYPASSED = "bypassed", 200
    # Of rows about the sidecar itself, not about a request.
    CHANGED = "changed", 200
    # Of rows about what an agent says that it did; nobody decided anything.
    REPORTED = "reported", 202

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
    TOKEN_UNKNOWN_KEY = "token_unknown_key", 401
    AGENT_REVOKED = "agent_revoked", 401
    # Of rows about the admin API.
    ADMIN_REFUSED = "admin_refused", 401

    # The caller is known, and may not.
    RULE_DENIED = "rule_denied", 403
    DEFAULT_DENIED = "default_denied", 403
    NO_POLICY = "no_policy", 403
    APPROVAL_REQUIRED = "approval_required", 403
    COOLING_OFF = "cooling_off", 403
    PENDING_UNKNOWN = "pending_unknown", 403
    PENDING_MISMATCH = "pending_mismatch", 403
    PENDING_REJECTED = "pending_rejected", 403
    PENDING_EXPIRED = "pending_expired", 403
    PENDING_USED = "pending_used", 403
    PENDING_OUTDATED = "pending_outdated", 403
    INTENT_MISMATCH = "intent_mismatch", 403
    INTENT_UNMAPPED = "intent_unmapped", 403
    ACTION_TOKEN_REQUIRED = "action_token_required", 403
    ACTION_TOKEN_MALFORMED = "action_token_malformed", 403
    ACTION_TOKEN_BAD_SIGNATURE = "action_token_bad_signature", 403
    ACTION_TOKEN_EXPIRED = "action_token_expired", 403
    ACTION_TOKEN_NOT_YET_VALID = "action_token_not_yet_valid", 403
    ACTION_TOKEN_MISMATCH = "action_token_mismatch", 403
    ACTION_TOKEN_OUTDATED = "action_token_outdated", 403
    ACTION_TOKEN_REPLAYED = "action_token_replayed", 403
    INSUFFICIENT_TRUST_TIER = "insufficient_trust_tier", 403
    DELEGATION_MALFORMED = "delegation_malformed", 403
    DELEGATION_BAD_SIGNATURE = "delegation_bad_signature", 403
    DELEGATION_UNKNOWN = "delegation_unknown", 403
    DELEGATION_NOT_AUTHORITY = "delegation_not_authority", 403
    DELEGATION_WRONG_DELEGATE = "delegation_wrong_delegate", 403
    DELEGATION_BROKEN = "delegation_broken", 403
    DELEGATION_SELF_ISSUED = "delegation_self_issued", 403
    DELEGATION_CYCLE = "delegation_cycle", 403
    DELEGATION_TOO_DEEP = "delegation_too_deep", 403
    DELEGATION_EXPIRED = "delegation_expired", 403
    DELEGATION_NOT_YET_VALID = "delegation_not_yet_valid", 403
    DELEGATION_REVOKED = "delegation_revoked", 403
    DELEGATION_OUT_OF_SCOPE = "delegation_out_of_scope", 403
    DELEGATION_OVER_CEILING = "delegation_over_ceiling", 403
    DELEGATION_WIDENED = "delegation_widened", 403
    DELEGATOR_TIER_TOO_LOW = "delegator_tier_too_low", 403
    DELEGATOR_LOST_PERMISSION = "delegator_lost_permission", 403
    FUSE_OPEN = "fuse_open", 403
    PROVENANCE_MALFORMED = "provenance_malformed", 403
    PROVENANCE_TOO_LOW = "provenance_too_low", 403
    PROVENANCE_LABEL = "provenance_label", 403
    COST_MALFORMED = "cost_malformed", 403
    WALLET_EXHAUSTED = "wallet_exhausted", 403

    # It may, and has done so too often.
    RATE_LIMITED = "rate_limited", 429

    # The request cannot be read.
    MALFORMED = "malformed", 400

    # We could not decide.
    UNFINISHED = "unfinished", 503
    INTERNAL = "internal", 503
    AUDIT_UNAVAILABLE = "audit_unavailable", 503
    OVERLOADED = "overloaded", 503
    # Sent by Envoy on our behalf when no answer came in time (`envoy_config`).
    CIRCUIT_OPEN = "circuit_open", 503


class AuditUnavailable(Exception):
    """The audit store did not take the rows; none of them is durable."""
