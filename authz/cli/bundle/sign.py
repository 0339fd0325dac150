"""`authz bundle sign`: what `cosign sign-blob --key` does, without a network and without cosign."""

import json
from pathlib import Path
from typing import Annotated

import typer

from authz.bundles.kinds import Format
from authz.cli.bundle.shared import (
    PASSWORD_VARIABLE,
    PUBLIC,
    Bundle,
    password,
    read,
    read_bundle,
    write,
)
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail


def sign(
    bundle: Bundle,
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            help="cosign.key, or PKCS #8 in PEM: ECDSA on P-256, or Ed25519. Its password:"
            f" {PASSWORD_VARIABLE}, else a prompt.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="FILE.sig or FILE.sigstore.json when left out; what is there is replaced.",
        ),
    ] = None,
    layout: Annotated[
        Format,
        typer.Option(
            "--format", help="sig: base64, as `cosign sign-blob` prints; bundle: a Sigstore bundle."
        ),
    ] = Format.SIG,
    append: Annotated[
        bool,
        typer.Option(
            "--append", help="Add a line to the signatures that are there: of a key to come."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle, so that whoever has the public key knows it unchanged.

    Exit code 0 when it is signed, 1 when it is no bundle, 2 for arguments.
    """
    from authz.bundles import archive, cosign_key, signature_file
    from authz.bundles.errors import BundleError
    from authz.bundles.signing import signature_of

    if append and layout is Format.BUNDLE:
        fail(["--append: a Sigstore bundle has one signature; --format sig has lines"],
             BAD_ARGUMENTS)  # fmt: skip
    data = read_bundle(bundle)
    ending = "sig" if layout is Format.SIG else "sigstore.json"
    path = output or Path(f"{bundle}.{ending}")
    try:
        archive.unpack(data)
    except BundleError as error:
        fail([f"{bundle}: {error}"], FAILED)
    before = read(path, signature_file.MAX_SIGNATURE_FILE, "--append") if append else b""
    text = read(key, cosign_key.MAX_KEY_FILE, "--key")
    given: list[bytes] = []

    def ask() -> bytes:
        given.append(password(key))
        return given[0]

    try:
        private = cosign_key.read(str(key), text, ask)
        written = signature_of(data, private, layout)
        if append:
            written = before.rstrip(b"\r\n") + b"\n" + written
            signature_file.read(written)
    except BundleError as error:
        if error.reason == "key" and given == [b""]:
            fail([f"--key: {key}: it is encrypted, and no password was given; set"
                  f" {PASSWORD_VARIABLE}"], BAD_ARGUMENTS)  # fmt: skip
        fail([f"--key: {error}" if error.reason == "key" else f"{path}: {error}"], BAD_ARGUMENTS)
    write("--output", path, written, mode=PUBLIC, replace=True)
    said = {"file": str(bundle), "signature": str(path), "key": private.key_id,
            "algorithm": private.algorithm}  # fmt: skip
    typer.echo(json.dumps(said, indent=2) if as_json else f"{path}: by key {private.key_id[:16]}")
