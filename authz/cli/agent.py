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

from authz.cli.run import DevSecrets
from authz.cli.shared import (
    BAD_ARGUMENTS,
    FAILED,
    AsJson,
    Database,
    fail,
    print_entry,
    print_table,
)
from authz.core.tiers import TIERS, rank

app = typer.Typer(help="Agents: register, change and revoke them.", no_args_is_help=True)

AgentId = Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")]
Trust = Annotated[str, typer.Option("--trust", help=f"Trust tier: {', '.join(TIERS)}.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")]
Ttl = Annotated[
    str,
    typer.Option(help="Lifetime of the token: 30s, 15m, 24h, 7d. JWT_EXPIRES_IN when left out."),
]


@app.callback()
def group() -> None:
    """Agents: register, change and revoke them. A running sidecar follows at its next decision."""


@app.command("list")
def list_agents(
    trust: Annotated[str, typer.Option(help="Only those of this trust tier.")] = "",
    status: Annotated[Literal["active", "revoked"] | None, typer.Option(help="Only these.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List the agents that are registered, newest first."""
    from authz.cli import records
    from authz.core import agents

    wanted = rank(trust) if trust else None
    if trust and wanted is None:
        fail([f"--trust: unknown tier; write one of {', '.join(TIERS)}"], BAD_ARGUMENTS)
    with records.reading(database) as there:
        every = sorted(there.state.agents.values(), key=lambda agent: -agent.created_at)
        found = [
            agent
            for agent in every
            if wanted in (None, agent.rank)
            and (status is None or (status == "revoked") is (agent.revoked_at is not None))
        ]
    if as_json:
        typer.echo(json.dumps({"agents": [agents.entry(agent) for agent in found]}, indent=2))
        return
    print_table(
        ("ID", "NAME", "TRUST", "STATUS", "CREATED"),
        [
            (
                agent.agent_id,
                agent.name or "-",
                agent.tier,
                agents.entry(agent)["status"],
                records.at(agent.created_at),
            )
            for agent in found
        ],
        wrap=("NAME",),
    )


@app.command()
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
    from authz.cli import records
    from authz.core import agents
    from authz.core.timestamps import rfc3339

    ttl_s = records.seconds_of("--ttl", ttl) if ttl else None
    with (
        _draft_of(output) as draft,
        records.changing(database, make=True, dev_secrets=insecure_dev_secrets) as there,
    ):
        if (output or ttl) and not there.can_sign:
            fail(["JWT_SECRET: not set, so there is nothing to sign a token with"], BAD_ARGUMENTS)
        made = there.operations.create_agent(
            by=records.by(),
            agent_id=agent_id,
            name=name,
            tier=trust,
            tags=tuple(tag or ()),
            org_id=org,
            description=description,
        )
        shown, lines = agents.entry(made), [made.agent_id]
        if there.can_sign:
            token = there.operations.new_token(made.agent_id, by=records.by(), ttl_s=ttl_s)
            if output is None:
                shown["token"] = token.token
                lines.append(token.token)
            else:
                _put(draft, output, token.token, made.agent_id)
            shown["expiresAt"] = rfc3339(token.expires_at)
    typer.echo(json.dumps(shown, indent=2) if as_json else "\n".join(lines))
    if not there.can_sign:
        typer.echo("authz: JWT_SECRET is not set, so no token was made", err=True)


@app.command()
def show(agent_id: AgentId, database: Database = None, as_json: AsJson = False) -> None:
    """Show everything that is known of an agent."""
    from authz.cli import records
    from authz.core import agents

    with records.reading(database) as there:
        found = there.state.agents.get(agent_id)
    if found is None:
        fail([f"there is no agent {agent_id}"], FAILED)
    print_entry(agents.entry(found), as_json=as_json)


@app.command()
def update(
    agent_id: AgentId,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    trust: Annotated[
        str | None, typer.Option("--trust", help=f"Trust tier: {', '.join(TIERS)}.")
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
    from authz.cli import records
    from authz.core import agents

    if tag and no_tags:
        fail(["give --tag or --no-tags, not both"], BAD_ARGUMENTS)
    given = {
        "name": name,
        "tier": trust,
        "tags": () if no_tags else tuple(tag) if tag else None,
        "org_id": org,
        "description": description,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        fail(["nothing to change: give --name, --trust, --tag, --no-tags, --org or --description"],
             BAD_ARGUMENTS)  # fmt: skip
    with records.changing(database) as there:
        changed = there.operations.update_agent(agent_id, changes, by=records.by())
    print_entry(agents.entry(changed), as_json=as_json)


@app.command()
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
    from authz.cli import records
    from authz.core import agents
    from authz.core.text import visible
    from authz.operations import Unknown

    if not yes and sys.stdin.isatty():
        typer.confirm(f"Revoke agent {visible(agent_id)} for ever?", abort=True, err=True)
    with records.changing(database, make=unknown) as there:
        try:
            revoked = there.operations.revoke_agent(
                agent_id, by=records.by(), reason=reason, known=not unknown
            )
        except Unknown as error:
            said = f"{error}; with --unknown an id that is not registered is revoked too"
            fail([said], FAILED)
    if as_json:
        typer.echo(json.dumps(agents.entry(revoked), indent=2))
    else:
        typer.echo(visible(f"agent {agent_id} is revoked"))


@app.command()
def token(
    agent_id: AgentId,
    ttl: Ttl = "",
    database: Database = None,
    as_json: AsJson = False,
    insecure_dev_secrets: DevSecrets = False,
) -> None:
    """Print a new token for an agent that is registered, and nothing else."""
    from authz.cli import records
    from authz.core.timestamps import rfc3339

    ttl_s = records.seconds_of("--ttl", ttl) if ttl else None
    with records.changing(database, dev_secrets=insecure_dev_secrets) as there:
        if not there.can_sign:
            fail(["JWT_SECRET: not set, so there is nothing to sign a token with"], BAD_ARGUMENTS)
        made = there.operations.new_token(agent_id, by=records.by(), ttl_s=ttl_s)
    if as_json:
        typer.echo(json.dumps({"token": made.token, "expiresAt": rfc3339(made.expires_at)}))
    else:
        typer.echo(made.token)


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
