"""`authz bundle verify`: whether a sidecar would take a bundle, by the rules that it has."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from authz.cli.bundle.policies import problems_of, tell
from authz.cli.bundle.shared import (
    Bundle,
    key_files,
    manifest_entry,
    read,
    read_bundle,
    signature_file,
)
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note

if TYPE_CHECKING:
    from authz.bundles.accept import Accepted

#: The reason of what is a good bundle of policies that are not.
POLICIES: Final = "policies"


def verify(
    bundle: Bundle,
    key: Annotated[
        list[Path],
        typer.Option("--key", help="A public key, or a directory of *.pub and *.pem; repeat."),
    ],
    signature: Annotated[
        Path | None, typer.Option("--signature", help="FILE.sig when left out.")
    ] = None,
    floor: Annotated[
        int | None,
        typer.Option("--floor", help="Refuse a lower version, and a bundle without one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a bundle is what one of the keys signed, whole, and of its time.

    Signature, archive, manifest, its times, the version, and then the policies: what the service
    looks at. Nobody else is asked: no transparency log (Rekor), no certificates (Fulcio).

    Exit code 0 when it would be loaded, 1 when not, 2 for arguments.
    """
    import hashlib

    from authz.bundles.accept import Floor, accept
    from authz.bundles.errors import BundleError
    from authz.bundles.signature import PublicKeys
    from authz.bundles.signature_file import MAX_SIGNATURE_FILE
    from authz.stores.policies import member_path

    try:
        keys = PublicKeys.parse(key_files("--key", key))
    except BundleError as error:
        fail([f"--key: {error}"], BAD_ARGUMENTS)
    data = read_bundle(bundle)
    path = signature_file(bundle, signature)
    # One that is named must be there; that there is none at all is what the answer is about.
    named = signature is not None or path.exists()
    said = read(path, MAX_SIGNATURE_FILE, "--signature") if named else None
    # Which bundle had the lowest version that is taken is not known here, so it may be this one.
    lowest = None if floor is None else Floor(floor, hashlib.sha256(data).hexdigest())
    try:
        accepted = accept(data, said, keys, now=time.time(), floor=lowest, require_signed=True)
    except BundleError as error:
        _refuse(bundle, error.reason, str(error), as_json=as_json)
    problems, is_any = problems_of(accepted.contents.files, lambda name: member_path(bundle, name))
    # Warnings are for whoever builds one.
    if errors := tell(problem for problem in problems if problem.severity == "error"):
        count = "1 error" if errors == 1 else f"{errors} errors"
        _refuse(bundle, POLICIES, f"{count} in its policies", as_json=as_json)
    if not is_any:
        _refuse(bundle, POLICIES, "there is no policy in it", as_json=as_json)
    _tell(bundle, accepted, as_json=as_json)


def _refuse(bundle: Path, reason: str, sentence: str, *, as_json: bool) -> NoReturn:
    if not as_json:
        fail([f"{bundle}: {sentence}"], FAILED)
    body = {"file": str(bundle), "verified": False, "reason": reason, "error": sentence}
    typer.echo(json.dumps(body, indent=2))
    raise typer.Exit(FAILED)


def _tell(bundle: Path, accepted: "Accepted", *, as_json: bool) -> None:
    manifest = accepted.contents.manifest
    if as_json:
        body = {
            "file": str(bundle),
            "verified": True,
            "key": accepted.key_id,
            "sha256": accepted.digest,
            "manifest": manifest_entry(manifest),
            "files": len(accepted.contents.files),
            "warnings": list(accepted.warnings),
        }
        typer.echo(json.dumps(body, indent=2))
        return
    version = f"version {manifest.version}" if manifest else "no manifest"
    typer.echo(
        f"{bundle}: {version}, {len(accepted.contents.files)} files,"
        f" signed by key {(accepted.key_id or '')[:16]}"
    )
    typer.echo("the bundle verifies")
    for warning in accepted.warnings:
        note(warning)
