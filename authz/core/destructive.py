"""The destructive gate: actions whose name says that they cannot be undone (CONTRACT §8).

Off unless DESTRUCTIVE_GATE=true. An action is put in lower case, every run of what is neither a
letter nor a digit becomes `_`, and each pattern is searched in that: `delete:account` is
`delete_account`, and so is `deleteAccount`, as many tools are called. What is found waits, or needs
a person, however a policy would have it.
"""

import functools
import re
from typing import Final, Literal, NamedTuple

Severity = Literal["low", "medium", "high", "critical"]

#: Longest that anything has to cool off, seconds (CONTRACT §8 maxCoolingOffMs).
MAX_COOLING_S: Final = 300


class Destructive(NamedTuple):
    """A kind of destructive action."""

    id: str
    pattern: re.Pattern[str]
    category: str
    severity: Severity
    cooling_s: int
    #: A person has to approve it; else it only waits.
    needs_person: bool


def _of(
    pattern_id: str,
    pattern: str,
    category: str,
    severity: Severity,
    cooling_s: int,
    *,
    needs_person: bool,
) -> Destructive:
    compiled = re.compile(pattern, re.ASCII)
    return Destructive(
        pattern_id, compiled, category, severity, min(cooling_s, MAX_COOLING_S), needs_person
    )


#: The published patterns (CONTRACT §8), the gravest first; critical ones always need a person.
PATTERNS: Final = (
    _of(
        "drop-database",
        r"(?:drop|delete|truncate)_(?:database|db|schema)",
        "data_deletion",
        "critical",
        300,
        needs_person=True,
    ),
    _of(
        "terminate-production",
        r"terminate_production|shutdown_prod|kill_prod",
        "resource_termination",
        "critical",
        300,
        needs_person=True,
    ),
    _of(
        "rotate-all-secrets",
        r"rotate_all_secrets|invalidate_all_tokens",
        "credential_invalidation",
        "critical",
        300,
        needs_person=True,
    ),
    _of(
        "delete-account",
        r"delete_account|destroy_account|close_account",
        "account_action",
        "critical",
        300,
        needs_person=True,
    ),
    _of(
        "suspend-organisation",
        r"suspend_org|disable_organization",
        "access_revocation",
        "critical",
        180,
        needs_person=True,
    ),
    _of(
        "drop-table",
        r"(?:drop|delete|truncate)_table",
        "data_deletion",
        "high",
        120,
        needs_person=True,
    ),
    _of(
        "terminate-instance",
        r"terminate_(?:vm|instance|server)",
        "resource_termination",
        "high",
        120,
        needs_person=True,
    ),
    _of(
        "bulk-delete",
        r"bulk_delete|mass_delete|delete_all|purge",
        "data_deletion",
        "high",
        60,
        needs_person=False,
    ),
    _of(
        "revoke-credential",
        r"revoke_api_key|invalidate_token",
        "credential_invalidation",
        "high",
        60,
        needs_person=False,
    ),
)

_SEPARATORS: Final = re.compile(r"[^a-z0-9]+")
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@functools.lru_cache(maxsize=256)
def destructive(action: str) -> Destructive | None:
    """The gravest kind that an action is of, or None."""
    # With and without its humps: `dRop_table` has them where none is meant.
    spellings = (action.lower(), _HUMPS.sub("_", action).lower())
    names = " ".join(_SEPARATORS.sub("_", spelling) for spelling in spellings)
    return next((kind for kind in PATTERNS if kind.pattern.search(names)), None)
