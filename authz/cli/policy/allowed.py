"""`authz policy allowed`: what an agent may do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.options import AsJson
from authz.cli.policy import shared
from authz.cli.shared import note, print_table
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.core.allowed import Allowed, Permission
    from authz.core.identity import Identity
    from authz.core.snapshot import Snapshot


def allowed(
    agent_id: Annotated[str, typer.Argument(metavar="AGENT_ID", help="The agent's id.")],
    tier: Annotated[
        str, typer.Option("--tier", "--trust", help="Its trust tier, if not that of its record.")
    ] = "",
    tag: shared.Tags = None,
    org: shared.Org = "",
    policy: shared.PolicyPaths = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what it may not do.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which actions an agent may do: the patterns of its policies, each with its answer.

    It counts what the policies, privilege floors and provenance gates say of an agent with
    nothing spent, approved or delegated before. ONLY says what a request has to bring, or what has
    to hold of it; EXCEPT what is taken out of a pattern. The last line, `*`, is whatever no other
    pattern is for.
    """
    from authz.core.allowed import allowed as allowed_by

    snapshot, known = _asked_about(agent_id, policy)
    standing = shared.Standing(tier, tag, org)
    if known is None and not (policy or any(standing)):
        shared.note_unknown(agent_id)
    identity = known
    if identity is None or any(standing):
        identity = shared.asked(agent_id, "any", standing.filled(known)).identity
    found = allowed_by(snapshot, identity)
    shown = [one for one in found.permissions if everything or one.may]
    if as_json:
        typer.echo(json.dumps(_object(identity, found, shown), indent=2))
        return
    tags = f", tags {', '.join(sorted(identity.tags))}" if identity.tags else ""
    typer.echo(visible(f"{identity.agent_id}: tier {identity.tier}{tags}"))
    typer.echo(visible(f"policies: {', '.join(found.policies) or 'none is for it'}"))
    if shown:
        print_table(
            ("ACTIONS", "ANSWER", "POLICY", "RULE", "ONLY", "EXCEPT"),
            [_cells(one) for one in shown],
            wrap=("ONLY", "EXCEPT"),
        )
    else:
        typer.echo("it may do nothing")
    if found.is_cut:
        note("there are more patterns than are compared; some exceptions are missing")


def _asked_about(agent_id: str, paths: list[Path] | None) -> "tuple[Snapshot, Identity | None]":
    """The policies, and the agent by its record, if it has one."""
    from authz.cli.policy.documents import opened

    if paths:
        return shared.load_valid(paths).snapshot, None
    with opened() as there:
        return there.snapshot(), there.agent(agent_id)


def _cells(one: "Permission") -> tuple[str, ...]:
    answer = one.answer.replace("_", " ")
    if one.answer == "would_deny":
        answer = "allow (dry run: would be deny)"
    rule = one.rule or str(one.code)
    return (
        one.pattern,
        answer,
        one.policy or "-",
        rule,
        "; ".join(one.only) or "-",
        ", ".join(one.unless) or "-",
    )


def _object(identity: "Identity", found: "Allowed", shown: "list[Permission]") -> dict[str, Any]:
    return {
        "agentId": identity.agent_id,
        "trustTier": identity.tier,
        "tags": sorted(identity.tags),
        **({"orgId": identity.org_id} if identity.org_id else {}),
        "policies": list(found.policies),
        "incomplete": found.is_cut,
        "permissions": [
            {
                "actions": one.pattern,
                "decision": one.answer,
                "code": str(one.code),
                **({"policy": one.policy} if one.policy else {}),
                **({"rule": one.rule} if one.rule else {}),
                "only": list(one.only),
                "except": list(one.unless),
            }
            for one in shown
        ],
    }
