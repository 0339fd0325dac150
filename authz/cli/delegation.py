"""`authz delegation`: who may act for whom, and the chains that prove it elsewhere."""

import json
from typing import Annotated

import typer

from authz.cli.completion import agents_like
from authz.cli.options import AsJson, RemoteCommand
from authz.cli.shared import Database, note, print_entry, print_table
from authz.core.text import visible

app = typer.Typer(help="Delegations: let an agent act for another one.", no_args_is_help=True)

RelationshipId = Annotated[str, typer.Argument(metavar="ID", help="As the list prints it: rel_….")]


@app.callback()
def group() -> None:
    """Delegations: let an agent act for another one, and end that."""


@app.command(cls=RemoteCommand)
def issue(
    source: Annotated[
        str,
        typer.Argument(metavar="FROM", help="The agent that lets act.", autocompletion=agents_like),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="The agent that acts.", autocompletion=agents_like),
    ],
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
    from authz.cli.books import opened
    from authz.cli.words import cell, duration

    if ttl:
        duration("--ttl", ttl)
    terms = {
        "sourceAgentId": source,
        "targetAgentId": target,
        "scope": scope,
        "resources": resource,
        "permissionCeiling": ceiling,
        "maxDepth": depth,
        "requiresApproval": approval,
        "parentRelationshipId": parent,
        "orgId": org,
    }
    with opened(database) as there:
        made = there.delegate(terms, ttl=ttl, signed=as_json, chain=chain)
    said = made.pop("note", "")
    if as_json:
        typer.echo(json.dumps(made, indent=2))
    else:
        typer.echo(visible(str(made.get("chain") or cell(made["relationship"], "id"))))
    if said:
        note(str(said))


@app.command("list", cls=RemoteCommand)
def list_delegations(
    agent: Annotated[
        str, typer.Option(help="Only from or to this agent.", autocompletion=agents_like)
    ] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List delegations, newest first; those that have ended are kept for 30 days.

    LEFT is how long one holds still. What is `broken` was passed on from one
    that has ended, or names an agent that was revoked: BROKEN BY is where.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell, left

    with opened(database) as there:
        found, now = there.relationships(agent=agent)
    found.sort(key=lambda edge: (cell(edge, "createdAt"), cell(edge, "id")), reverse=True)
    if as_json:
        typer.echo(json.dumps({"relationships": found}, indent=2))
        return
    rows = [
        [
            cell(edge, "id"),
            cell(edge, "status"),
            left(edge, "expiresAt", now) if edge.get("status") == "active" else "-",
            *(cell(edge, name) for name in ("sourceAgentId", "targetAgentId", "scope", "brokenBy")),
        ]
        for edge in found
    ]
    headings = ["ID", "STATUS", "LEFT", "FROM", "TO", "SCOPE", "BROKEN BY"]
    if not any(edge.get("brokenBy") for edge in found):
        headings.pop()
        rows = [row[:-1] for row in rows]
    print_table(headings, rows, wrap=("FROM", "TO", "SCOPE"))


@app.command(cls=RemoteCommand)
def show(
    relationship_id: RelationshipId, database: Database = None, as_json: AsJson = False
) -> None:
    """Show everything that is known of a delegation."""
    from authz.cli.books import opened

    with opened(database) as there:
        found = there.relationship(relationship_id)
    print_entry(found, as_json=as_json)


@app.command(cls=RemoteCommand)
def chain(
    relationship_id: RelationshipId, database: Database = None, as_json: AsJson = False
) -> None:
    """Print a delegation as a signed chain, which needs no database where its key is trusted.

    Whoever has no database does not hear that it was revoked, so let it expire
    soon.
    """
    from authz.cli.books import opened

    with opened(database) as there:
        signed = there.chain(relationship_id)
    typer.echo(json.dumps({"chain": signed}) if as_json else visible(signed))


@app.command(cls=RemoteCommand)
def revoke(
    relationship_id: RelationshipId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """End a delegation: what was passed on from it ends with it, from the next request on."""
    from authz.cli.books import opened
    from authz.cli.words import cell

    with opened(database) as there:
        ended = there.revoke_relationship(relationship_id, reason=reason)
    if as_json:
        typer.echo(json.dumps(ended, indent=2))
    else:
        typer.echo(visible(f"{relationship_id} is {cell(ended, 'status')}"))


@app.command(cls=RemoteCommand)
def key(database: Database = None, as_json: AsJson = False) -> None:  # noqa: ARG001 - it is JSON
    """Print the public key of a sidecar's chains, to be a DELEGATION_JWKS_FILE of others.

    The key is made where there is none yet.
    """
    from authz.cli.books import opened

    with opened(database) as there:
        typer.echo(json.dumps(there.delegation_keys(), indent=2))
