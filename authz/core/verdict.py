"""From case to verdict: the chain runs, then the mode is applied, once.

- A verdict starts as "could not decide" and becomes an allow only when a stage has allowed and
  every stage has passed. An empty chain, one without the policy stage or a stage that raises
  leave it there.
- Neither the mode nor a dry run changes what was decided. `enforced` says what is done about it.
- Audit mode never blocks: not for a denial, not for a missing token, not for our own failure.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from authz.core.case import Case
from authz.core.errors import Code
from authz.core.finding import NO_OBJECTION, Deny, More, Pass, together
from authz.core.mode import Mode
from authz.core.stages.stage import Stage


class Decision(StrEnum):
    """What was decided, and in the row's other column what was enforced."""

    ALLOW = "allow"
    DENY = "deny"
    #: We could not decide. Enforced as 503, never as a denial.
    ERROR = "error"


class Verdict(NamedTuple):
    """A decision with everything that explains it."""

    decision: Decision
    #: The stage that decided; empty when the chain was not run.
    stage: str
    code: Code
    reason: str
    policy: str = ""
    rule: str = ""
    rule_index: int | None = None
    #: How grave the policy's author calls it; empty where nothing is said.
    alert: str = ""
    #: A denial that only a policy or rule in dry run would have made.
    dry_run: bool = False
    #: What it changes, and what else is told of it.
    more: More | None = None


_UNFINISHED: Final = Verdict(
    Decision.ERROR, "", Code.UNFINISHED, "the chain ended without a decision"
)
BYPASSED: Final = Verdict(Decision.ALLOW, "", Code.BYPASSED, "MODE is bypass: nothing is evaluated")


def judge(case: Case, chain: Sequence[Stage]) -> Verdict:
    """Run the chain; the first objection ends it.

    A stage's exception is the caller's to handle (`failed`): here it would lose its traceback.
    """
    if case.call.defect:
        return Verdict(Decision.DENY, "", Code.MALFORMED, case.call.defect, rule="malformed")
    allowed: tuple[Stage, Pass] | None = None
    would: tuple[Stage, Deny] | None = None
    found: list[More] = []
    for stage in chain:
        finding = stage.judge(case)
        if finding is NO_OBJECTION:
            continue  # what most stages say of most calls
        if isinstance(finding, More):
            found.append(finding)
            continue
        if isinstance(finding, Deny):
            # What earlier stages would have changed they do not; what they saw is kept.
            seen = [More(notes=more.notes) for more in found]
            if finding.more is not None:
                seen.append(finding.more)
            return _said(Decision.DENY, stage, finding, together(seen))
        if finding.more is not None:
            found.append(finding.more)
        if finding.code.status < 400:
            allowed = stage, finding
        if finding.would is not None and would is None:
            would = stage, finding.would
    if allowed is None:
        found = [More(notes=more.notes) for more in found]
        return _UNFINISHED._replace(more=together(found))
    if would is not None:
        # What is not allowed anyway is no dry run.
        return _said(Decision.DENY, *would, together(found))._replace(dry_run=True)
    return _said(Decision.ALLOW, *allowed, together(found))


def _said(decision: Decision, stage: Stage, finding: Pass | Deny, more: More | None) -> Verdict:
    # In the order of the fields, as `row_of`.
    return Verdict(
        decision,
        stage.name,
        finding.code,
        finding.reason,
        finding.policy,
        finding.rule,
        finding.rule_index,
        finding.alert,
        False,
        more,
    )


def failed(code: Code, reason: str) -> Verdict:
    """The verdict when deciding or recording broke: an error, in no stage's name."""
    return Verdict(Decision.ERROR, "", code, reason, rule=str(code))


def enforced(verdict: Verdict, mode: Mode) -> Decision:
    """What is done about a verdict: the only place where the mode, or a dry run, changes that."""
    if mode is not Mode.ENFORCE or verdict.dry_run:
        return Decision.ALLOW
    return verdict.decision
