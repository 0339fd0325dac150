"""`authz bundle inspect`: what a bundle says of itself; nothing is verified, no key is needed."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from authz.cli.bundle.shared import (
    Bundle,
    manifest_entry,
    read,
    read_bundle,
    signature_file,
)
from authz.cli.options import AsJson
from authz.cli.shared import FAILED, fail, note, print_entry, print_table


def inspect(
    bundle: Bundle,
    signature: Annotated[
        Path | None, typer.Option("--signature", help="FILE.sig when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the manifest, the files and the signature of a bundle, as they are: unverified.

    Exit code 0, 1 when it is no bundle that could be loaded, 2 for arguments.
    """
    from authz.bundles.archive import unpack
    from authz.bundles.errors import BundleError

    data = read_bundle(bundle)
    try:
        contents = unpack(data)
        signed = _signature(bundle, signature, data)
    except BundleError as error:
        fail([f"{bundle}: {error}"], FAILED)
    files = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.files.items()
    ]
    body: dict[str, Any] = {
        "file": str(bundle),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "manifest": manifest_entry(contents.manifest),
        "signature": signed,
        "files": files,
    }
    if as_json:
        typer.echo(json.dumps(body, indent=2))
        return
    note("nothing was verified; `authz bundle verify --key` does")
    print_entry(_told(body))
    typer.echo()
    print_table(
        ["FILE", "BYTES", "SHA-256"],
        [[str(value) for value in one.values()] for one in files],
    )


def _told(body: dict[str, Any]) -> dict[str, Any]:
    head = {name: body[name] for name in ("file", "bytes", "sha256")}
    said = body["manifest"] or {"manifest": "none, so there is no version"}
    said = {name: "-" if value in (None, "") else value for name, value in said.items()}
    signed = body["signature"]
    if signed is None:
        return head | said | {"signature": "none"}
    name = signed["key"] or "a key that is not named"
    count = "" if signed["signatures"] == 1 else f"{signed['signatures']} of "
    return head | said | {"signature": f"{count}{signed['form']}, by {name}"}


def _signature(bundle: Path, said: Path | None, data: bytes) -> dict[str, Any] | None:
    from authz.bundles import signature_file as files

    path = signature_file(bundle, said)
    if said is None and not path.exists():
        return None
    found = files.read(read(path, files.MAX_SIGNATURE_FILE, "--signature"))
    found.check_digest(data)
    return {
        "file": str(path),
        "form": found.form,
        "signatures": len(found.signatures),
        "key": found.key_id or None,
    }
