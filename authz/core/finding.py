"""What a stage found. There is no third kind: a stage that cannot tell raises."""

from typing import NamedTuple

from authz.core.errors import Code


class Deny(NamedTuple):
    """The stage objects, and says everything the audit row and the caller need to know."""

    code: Code
    reason: str
    rule: str
    policy: str = ""
    #: 0-based place in the policy; None when no rule decided.
    rule_index: int | None = None
    #: How grave the policy's author calls it; empty where nothing is said.
    alert: str = ""


class Pass(NamedTuple):
    """The stage has no objection.

    A bare `Pass()` allows nothing by itself: only a code that may pass does, and only the policy
    stage gives one, so a chain that lost its policy stage cannot allow.
    """

    code: Code = Code.UNFINISHED
    policy: str = ""
    rule: str = ""
    rule_index: int | None = None
    reason: str = ""
    alert: str = ""
    #: What a policy in dry run objects to; recorded as the decision, and not enforced.
    would: Deny | None = None


Finding = Pass | Deny
