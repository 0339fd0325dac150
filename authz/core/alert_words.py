"""The words of alerts: what raises them, how grave they are, where they go (CONTRACT §11)."""

from collections.abc import Mapping, Sequence
from typing import Final

from authz.core.incident import Kind

#: From the least grave.
SEVERITIES: Final = ("info", "warning", "critical")
#: What `rules[].alert` says in other words; `high` is for a person to see today, not at night.
OTHER_WORDS: Final[Mapping[str, str]] = {"low": "info", "medium": "warning", "high": "warning"}

#: What raises an alert, with what each is for people. The first three are CONTRACT's default.
TRIGGERS: Final[tuple[str, ...]] = (
    "deny", "error", "rate_limit", "would_deny", "auth", "approval", "fuse", "wallet", "rule",
    "admin", "mode", "policies", "records", "audit", *Kind,
)  # fmt: skip
MEANINGS: Final[Mapping[str, str]] = {
    "deny": "a request was denied (401, 403 or 400)",
    "error": "a request could not be decided (503)",
    "rate_limit": "a request was over a rate limit (429)",
    "would_deny": "audit mode or a dry run let pass what would have been denied",
    "auth": "of the denials: whoever asked had no usable token",
    "approval": "of the denials: it waits for a person or for time to pass",
    "fuse": "of the denials: a delegation failed too often and is shut",
    "wallet": "of the denials: the risk points are spent",
    "rule": "a rule with `alert` has decided something that is in no other group",
    "admin": "somebody asked the admin API without its token",
    "mode": "the mode has changed",
    "policies": "other policies are in force, or one was written or deleted",
    "records": "an agent, a delegation, an approval, a wallet or a fuse was changed by a person",
    "audit": "the audit trail was changed by somebody else, or has another key",
    Kind.BUNDLE_REFUSED: "a policy bundle was refused",
    Kind.BUNDLE_EXPIRED: "the policy bundle in force is past its time",
    Kind.SYNC_PULL_FAILED: "policies cannot be fetched",
    Kind.SYNC_PUSH_FAILED: "the audit trail cannot be delivered",
    Kind.INGEST_REFUSED: "an uploaded audit database was refused",
    Kind.ALERT_FAILED: "a destination of alerts does not take them",
}
#: Words that stand for several.
GROUPS: Final[Mapping[str, Sequence[str]]] = {"incident": tuple(Kind), "all": TRIGGERS}
#: The one of `authz alerts test`, which nothing else raises.
TEST: Final = "test"
#: ALERT_ON where nothing is said.
DEFAULT_ON: Final = ("deny", "error", "rate_limit")

#: What documents call the destinations that the environment has.
DESTINATIONS: Final = ("webhook", "slack", "email")


def expanded(words: Sequence[str]) -> frozenset[str]:
    """Triggers, with each group as what it stands for."""
    return frozenset(one for written in words for one in GROUPS.get(written, (written,)))
