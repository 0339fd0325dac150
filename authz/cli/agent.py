"""`authz agent`: who is registered, with what trust and tags, and who was revoked."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from authz.cli.completion import agents_like, tiers_like
from authz.cli.options import AsJson, RemoteCommand
from authz.cli.run import DevSecrets
from authz.cli.shared import (
    BAD_ARGUMENTS,
    FAILED,
    Database,
    fail,
    note,
    print_entry,
    print_table,
)
from authz.core.text import visible
from authz.core.tiers import TIERS, rank

app = typer.Typer(help="Agents: register, change and revoke them.", no_args_is_help=True)

AgentId = Annotated[
    str, typer.Argument(metavar="ID", help="The agent's id.", autocompletion=agents_like)
]
Trust = Annotated[
    str,
    typer.Option("--trust", help=f"Trust tier: {', '.join(TIERS)}.", autocompletion=tiers_like),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")]
Ttl = Annotated[
    str,
    typer.Option(help="Lifetime of the token: 30s, 15m, 24h, 7d. JWT_EXPIRES_IN when left out."),
]


@app.callback()
def group() -> None:
    """Agents: register, change and revoke them. A running sidecar follows at its next decision."""


@app.command("list", cls=RemoteCommand)
def list_agents(
    trust: Annotated[
        str, typer.Option(help="Only those of this trust tier.", autocompletion=tiers_like)
    ] = "",
    status: Annotated[Literal["active", "revoked"] | None, typer.Option(help="Only these.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List the agents that are registered, newest first."""
    from authz.cli.books import opened
    from authz.cli.words import at, cell

    if trust and rank(trust) is None:
        fail([f"--trust: unknown tier; write one of {', '.join(TIERS)}"], BAD_ARGUMENTS)
    with opened(database) as there:
        found, _ = there.agents(trust=trust, status=status or "")
    found.sort(key=lambda agent: (cell(agent, "createdAt"), cell(agent, "id")), reverse=True)
    if as_json:
        typer.echo(json.dumps({"agents": found}, indent=2))
        return
    print_table(
        ("ID", "NAME", "TRUST", "STATUS", "CREATED"),
        [
            (*(cell(agent, name) for name in ("id", "name", "trustTier", "status")),
             at(agent, "createdAt"))
            for agent in found
        ],
        wrap=("NAME",),
    )  # fmt: skip


@app.command(cls=RemoteCommand)
def create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    agent_id: Annotated[
        str, typer.Option("--id", help="Its id, a token's `sub`; made up when left out.")
    ] = "",
    trust: Trust = "verified",
    tag: Tags = None,
    org: Annotated[str, typer.Option(help="Organisation id.")] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    ttl: Ttl = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the token to this file, readable by you alone."),
    ] = None,
    database: Database = None,
    as_json: AsJson = False,
    insecure_dev_secrets: DevSecrets = False,
) -> None:
    """Register an agent, and print its id and, on a second line, its token.

    The token is shown this once and kept nowhere; `authz agent token` makes
    another. There is none where JWT_SECRET is not set.
    """
    from authz.cli.books import opened
    from authz.cli.words import cell, duration

    if ttl:
        duration("--ttl", ttl)
    fields = {
        "id": agent_id,
        "name": name,
        "trustTier": trust,
        "tags": tuple(tag or ()),
        "orgId": org,
        "description": description,
    }
    with _draft_of(output) as draft, opened(database, dev_secrets=insecure_dev_secrets) as there:
        made = there.create_agent(fields, ttl=ttl, needs_token=bool(output or ttl))
        lines = [cell(made, "id")]
        if output is not None:
            _put(draft, output, str(made.pop("token")), lines[0])
        elif "token" in made:
            lines.append(str(made["token"]))
    said = made.pop("note", "")
    typer.echo(json.dumps(made, indent=2) if as_json else "\n".join(map(visible, lines)))
    if said:
        note(str(said))


@app.command(cls=RemoteCommand)
def show(agent_id: AgentId, database: Database = None, as_json: AsJson = False) -> None:
    """Show everything that is known of an agent."""
    from authz.cli.books import opened

    with opened(database) as there:
        found = there.agent(agent_id)
    print_entry(found, as_json=as_json)


@app.command(cls=RemoteCommand)
def update(
    agent_id: AgentId,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    trust: Annotated[
        str | None,
        typer.Option("--trust", help=f"Trust tier: {', '.join(TIERS)}.", autocompletion=tiers_like),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="A tag, in place of those before; may be repeated."),
    ] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all its tags away.")] = False,
    org: Annotated[str | None, typer.Option(help="Organisation id.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Change what is known of an agent; what is not named stays.

    It counts from the agent's next request on, whatever its token says.
    """
    from authz.cli.books import opened

    if tag and no_tags:
        fail(["give --tag or --no-tags, not both"], BAD_ARGUMENTS)
    given = {
        "name": name,
        "trustTier": trust,
        "tags": () if no_tags else tuple(tag) if tag else None,
        "orgId": org,
        "description": description,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        fail(["nothing to change: give --name, --trust, --tag, --no-tags, --org or --description"],
             BAD_ARGUMENTS)  # fmt: skip
    with opened(database) as there:
        changed = there.update_agent(agent_id, changes)
    print_entry(changed, as_json=as_json)


@app.command(cls=RemoteCommand)
def revoke(
    agent_id: AgentId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Also if it is not registered: its tokens come from"
                     " elsewhere."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Revoke an agent for ever: from its next request on each one is refused.

    Delegations that it gave or was given end with it.
    """
    from authz.cli.books import opened

    with opened(database) as there:
        if not yes and sys.stdin.isatty():
            at = f" at {there.where}" if there.where else ""
            typer.confirm(visible(f"Revoke agent {agent_id}{at} for ever?"), abort=True, err=True)
        revoked = there.revoke_agent(agent_id, reason=reason, unknown=unknown)
    if as_json:
        typer.echo(json.dumps(revoked, indent=2))
    else:
        typer.echo(visible(f"agent {agent_id} is revoked"))


@app.command(cls=RemoteCommand)
def token(
    agent_id: AgentId,
    ttl: Ttl = "",
    database: Database = None,
    as_json: AsJson = False,
    insecure_dev_secrets: DevSecrets = False,
) -> None:
    """Print a new token for an agent that is registered, and nothing else."""
    from authz.cli.books import opened
    from authz.cli.words import duration

    if ttl:
        duration("--ttl", ttl)
    with opened(database, dev_secrets=insecure_dev_secrets) as there:
        made = there.new_token(agent_id, ttl=ttl)
    typer.echo(json.dumps(made) if as_json else visible(str(made["token"])))


@contextlib.contextmanager
def _draft_of(output: Path | None) -> Iterator[str]:
    """A file beside the one to be written, for its owner alone, before anything is made.

    Whoever reads the file then sees the whole token or what was there before.
    """
    if output is None:
        yield ""
        return
    if os.path.lexists(output) and not output.is_file():
        fail([f"--output: {output} is not a regular file"], BAD_ARGUMENTS)
    try:
        descriptor, draft = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        fail([f"--output: {output} cannot be written: {error.strerror}"], FAILED)
    os.close(descriptor)
    try:
        yield draft
    finally:
        Path(draft).unlink(missing_ok=True)


def _put(draft: str, output: Path, text: str, agent_id: str) -> None:
    try:
        Path(draft).write_text(f"{text}\n", encoding="ascii")
        Path(draft).replace(output)
    except OSError as error:
        said = f"--output: {output} cannot be written: {error.strerror}; agent {agent_id} is made,"
        fail([f"{said} and `authz agent token {agent_id}` prints another token"], FAILED)
