"""`authz delegation`: who may act for whom, and the chains that prove it elsewhere."""

import json
import time
from typing import Annotated, Any

import typer

from authz.cli.shared import AsJson, Database, print_entry, print_table

app = typer.Typer(help="Delegations: let an agent act for another one.", no_args_is_help=True)

RelationshipId = Annotated[str, typer.Argument(metavar="ID", help="As the list prints it: rel_….")]


@app.callback()
def group() -> None:
    """Delegations: let an agent act for another one, and end that."""


@app.command()
def issue(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The agent that lets act.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The agent that acts.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help="Actions, such as `read:*`; may be repeated.")
    ],
    resource: Annotated[
        list[str] | None,
        typer.Option("--resource", help="Resources; may be repeated. Any when left out."),
    ] = None,
    ceiling: Annotated[
        list[str] | None,
        typer.Option(
            "--ceiling",
            help="Actions that TO may pass on in turn; may be repeated. As --scope when left out.",
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(help="How many further agents it may be passed on through.")
    ] = 0,
    ttl: Annotated[
        str,
        typer.Option(
            help="How long it holds: 30s, 15m, 24h, 7d. 1h when left out, or as long as the parent."
        ),
    ] = "",
    approval: Annotated[
        bool, typer.Option("--approval", help="A person has to approve each action.")
    ] = False,
    parent: Annotated[
        str, typer.Option(help="The delegation to FROM that is passed on: rel_….")
    ] = "",
    org: Annotated[str, typer.Option(help="Organisation id.")] = "",
    chain: Annotated[
        bool,
        typer.Option("--chain", help="Print the signed chain in place of the id."),
    ] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let agent TO act for agent FROM, and print the delegation's id.

    TO sends the id as X-MeshGuard-Delegation to sidecars that have this
    database, and what --chain prints to those that only trust its key. It can
    do what both agents may do, and no more than the scope. FROM must be
    registered, of tier verified or above.
    """
    from authz.cli import records
    from authz.cli.policy.shared import load_valid
    from authz.core.delegation import relationship
    from authz.core.delegation.issue import Terms
    from authz.core.text import visible

    ttl_s = records.seconds_of("--ttl", ttl or "1h")
    with records.changing(database, snapshot=load_valid(None).snapshot) as there:
        if chain or as_json:
            # Before anything is made that could not be signed then.
            there.delegations.signer()
        expires_at = time.time() + ttl_s
        above = there.state.relationships.get(parent)
        if above is not None and not ttl:
            expires_at = min(expires_at, above.expires_at)
        terms = Terms(
            target=target,
            scope=scope,
            expires_at=expires_at,
            resources=resource or (),
            ceiling=ceiling or None,
            max_depth=depth,
            requires_approval=approval,
            org_id=org,
        )
        made = there.operations.delegate(terms, source, by=records.by(), parent=parent)
        shown: dict[str, Any] = {}
        note = there.operations.unregistered(made)
        if as_json:
            shown["relationship"] = relationship.entry(made, there.now)
            shown["receipt"] = there.operations.receipt(made)
        if chain:
            shown["chain"] = there.operations.chain(made)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(shown.get("chain", made.id))
    if note:
        typer.echo(visible(f"authz: {note}"), err=True)


@app.command("list")
def list_delegations(
    agent: Annotated[str, typer.Option(help="Only from or to this agent.")] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List delegations, newest first; those that have ended are kept for 30 days.

    LEFT is how long one holds still. What is `broken` was passed on from one
    that has ended, or names an agent that was revoked: BROKEN BY is where.
    """
    from authz.cli import records

    with records.reading(database) as there:
        now, standing = there.now, there.operations.standing()
        every = sorted(there.state.relationships.values(), key=lambda edge: -edge.created_at)
        found = [edge for edge in every if agent in ("", edge.source, edge.target)]
    if as_json:
        shown = [standing.entry(edge) for edge in found]
        typer.echo(json.dumps({"relationships": shown}, indent=2))
        return
    rows = []
    for edge in found:
        status = standing.status(edge)
        left = records.until(edge.expires_at, now) if status == "active" else ""
        scope = ", ".join(edge.scope)
        row = [edge.id, status, left or "-", edge.source, edge.target, scope]
        rows.append([*row, standing.broken_by(edge) or "-"])
    headings = ["ID", "STATUS", "LEFT", "FROM", "TO", "SCOPE", "BROKEN BY"]
    if not any(standing.broken_by(edge) for edge in found):
        headings.pop()
        rows = [row[:-1] for row in rows]
    print_table(headings, rows, wrap=("FROM", "TO", "SCOPE"))


@app.command()
def show(
    relationship_id: RelationshipId, database: Database = None, as_json: AsJson = False
) -> None:
    """Show everything that is known of a delegation."""
    from authz.cli import records

    with records.reading(database) as there:
        found = there.operations.relationship(relationship_id)
        print_entry(there.operations.standing().entry(found), as_json=as_json)


@app.command()
def chain(
    relationship_id: RelationshipId, database: Database = None, as_json: AsJson = False
) -> None:
    """Print a delegation as a signed chain, which needs no database where its key is trusted.

    Whoever has no database does not hear that it was revoked, so let it expire
    soon.
    """
    from authz.cli import records

    with records.reading(database) as there:
        found = there.operations.relationship(relationship_id)
        signed = there.operations.chain(found)
    typer.echo(json.dumps({"chain": signed}) if as_json else signed)


@app.command()
def revoke(
    relationship_id: RelationshipId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """End a delegation: what was passed on from it ends with it, from the next request on."""
    from authz.cli import records
    from authz.core.delegation import relationship

    with records.changing(database) as there:
        ended = there.operations.revoke_relationship(
            relationship_id, by=records.by(), reason=reason
        )
        shown = relationship.entry(ended, there.now)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(f"{ended.id} is {shown['status']}")


@app.command()
def key(database: Database = None, as_json: AsJson = False) -> None:  # noqa: ARG001 - it is JSON
    """Print the public key of this sidecar's chains, to be a DELEGATION_JWKS_FILE of others.

    The key is made where there is none yet.
    """
    from authz.cli import records

    typer.echo(json.dumps(records.delegation_keys(database), indent=2))
