"""`authz bundle keygen`: what `cosign generate-key-pair` does, for whoever has no cosign."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from authz.bundles.kinds import Algorithm
from authz.cli.bundle.shared import PASSWORD_VARIABLE, PRIVATE, PUBLIC, password, write
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, fail, note


def keygen(
    output: Annotated[
        str,
        typer.Option("--output-key-prefix", "-o", help="PREFIX.key and PREFIX.pub are written."),
    ] = "cosign",
    algorithm: Annotated[
        Algorithm, typer.Option("--algorithm", help="cosign's own is ECDSA on P-256.")
    ] = Algorithm.ECDSA,
    force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key pair, encrypted as cosign encrypts its own.

    Its password is COSIGN_PASSWORD, else asked for, else the first line of standard input.

    Exit code 0 when it is made, 2 when there is one.
    """
    from authz.bundles import cosign_key

    private, public = Path(f"{output}.key"), Path(f"{output}.pub")
    there = [path for path in (private, public) if os.path.lexists(path)]
    if there and not force:
        fail([f"{path} is there; --force replaces it" for path in there], BAD_ARGUMENTS)
    secret = password(private, new=True)
    if not secret:
        note(f"{private} is encrypted with an empty password; {PASSWORD_VARIABLE} gives it another")
    key = cosign_key.generate(algorithm)
    encrypted = cosign_key.encrypted(key, secret)
    write("--output-key-prefix", private, encrypted, mode=PRIVATE, replace=force)
    write("--output-key-prefix", public, key.public, mode=PUBLIC, replace=force)
    if as_json:
        said = {"private": str(private), "public": str(public), "key": key.key_id,
                "algorithm": key.algorithm}  # fmt: skip
        typer.echo(json.dumps(said, indent=2))
        return
    typer.echo(f"{private}: keep it with whoever signs, and its password elsewhere")
    typer.echo(f"{public}: for every sidecar; key {key.key_id[:16]}")
