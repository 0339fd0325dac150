"""`authz token`: agent tokens."""

import time
from pathlib import Path
from typing import Annotated

import typer

from authz.cli.options import AsJson, LocalCommand
from authz.cli.run import DevSecrets
from authz.cli.shared import environment, fail
from authz.core.tiers import TIERS, rank

app = typer.Typer(help="Agent tokens.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Agent tokens."""


@app.command(cls=LocalCommand)
def mint(
    agent: Annotated[str, typer.Option(help="Agent id, the token's `sub`.")],
    tier: Annotated[
        str, typer.Option(help=f"{', '.join(TIERS[:-1])} or {TIERS[-1]}.")
    ] = "verified",
    tag: Annotated[list[str] | None, typer.Option(help="Tag; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="Display name; the agent id when left out.")] = "",
    org: Annotated[str, typer.Option(help="Organisation id.")] = "",
    ttl: Annotated[
        str, typer.Option(help="Lifetime: 30s, 15m, 24h, 7d. JWT_EXPIRES_IN when left out.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the token to this file, readable by you alone."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file.")] = False,
    as_json: AsJson = False,
    insecure_dev_secrets: DevSecrets = False,
) -> None:
    """Print a signed agent token, and nothing else; with --output nothing at all."""
    import json

    from authz.cli.whole_file import whole_file
    from authz.core import identity
    from authz.core.durations import parse_duration
    from authz.core.timestamps import rfc3339
    from authz.settings import SettingsError, settings_of

    env = environment(dev_secrets=insecure_dev_secrets)
    if env.get("JWKS_FILE", "").strip() and not env.get("JWT_SECRET", "").strip():
        fail(
            ["JWT_SECRET: not set, and the keys in JWKS_FILE only verify: nothing to mint with"], 2
        )
    try:
        settings = settings_of(env, "JWT_SECRET", "JWT_EXPIRES_IN")
    except SettingsError as error:
        fail(error.problems, 2)
    if rank(tier) is None:
        fail([f"--tier: unknown tier; write one of {', '.join(TIERS)}"], 2)
    now = time.time()
    try:
        ttl_s = parse_duration(ttl) if ttl else settings.jwt_ttl_s
    except ValueError as error:
        fail([f"--ttl: {error}"], 2)
    try:
        minted = identity.mint(
            settings.jwt_secret.get_secret_value(),
            agent_id=agent,
            now=now,
            ttl_s=ttl_s,
            name=name,
            tier=tier,
            tags=tuple(tag or ()),
            org_id=org,
        )
    except ValueError as error:
        fail([str(error)], 2)
    if output is not None:
        with whole_file("--output", output, replace=force) as file:
            file.write(f"{minted}\n".encode("ascii"))
        if as_json:
            typer.echo(json.dumps({"expiresAt": rfc3339(int(now) + ttl_s)}))
    elif as_json:
        typer.echo(json.dumps({"token": minted, "expiresAt": rfc3339(int(now) + ttl_s)}))
    else:
        typer.echo(minted)
