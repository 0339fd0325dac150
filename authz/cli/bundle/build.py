"""`authz bundle build`: a directory of policies as one file, the same whenever it is built again.

- What is read once is what is checked and what is packed.
- Its errors are those of the service's own loader, and a bundle with errors is not built.
"""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from authz.cli.bundle.policies import problems_of, tell
from authz.cli.bundle.shared import PUBLIC, manifest_entry, write
from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note

if TYPE_CHECKING:
    from authz.bundles.archive import Contents

#: The time that builds that can be repeated agree on (reproducible-builds.org).
_EPOCH: Final = "SOURCE_DATE_EPOCH"


def build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Of policies: *.yaml, *.yml.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle; what is there is replaced.")
    ],
    version: Annotated[
        int,
        typer.Option(
            "--version",
            help="Higher than of any bundle before: $(date -u +%Y%m%d%H%M%S), or a build's number.",
            show_default=False,
        ),
    ] = 0,
    not_after: Annotated[
        str,
        typer.Option(
            "--not-after",
            help="Until when it may be loaded: 30d from --created on, or a time.",
            show_default=False,
        ),
    ] = "",
    revision: Annotated[
        str, typer.Option("--revision", help="What it is made of: a commit.", show_default=False)
    ] = "",
    created: Annotated[
        str,
        typer.Option(
            "--created", help=f"A time; {_EPOCH}, else now, when left out.", show_default=False
        ),
    ] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="No manifest, as `tar czf` makes it: no version.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build it though its policies have errors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pack the policies of a directory, with a manifest: version, times, digests.

    Files of other kinds are left out, and so is what begins with a dot.

    Exit code 0 when it is built, 1 when the policies have errors, 2 for arguments.
    """
    from authz.bundles import archive
    from authz.bundles import build as building
    from authz.bundles.errors import BundleError
    from authz.bundles.manifest import MAX_VERSION

    if plain and (version or not_after or revision):
        fail(
            ["--plain: --version, --not-after and --revision stand in the manifest, which it has"
             " not"],
            BAD_ARGUMENTS,
        )  # fmt: skip
    if not plain and not 1 <= version <= MAX_VERSION:
        fail(
            [f"--version: say which version it is, from 1 to {MAX_VERSION}, and higher than of any"
             " bundle before; --plain makes one without"],
            BAD_ARGUMENTS,
        )  # fmt: skip
    made = _created(created)
    until = _until(not_after, made)
    if until is not None and until <= made:
        fail(["--not-after: it must be later than --created, which is now when left out"],
             BAD_ARGUMENTS)  # fmt: skip
    files = _files(directory)
    problems, _ = problems_of(files, lambda name: directory / name)
    errors = tell(problems)
    if errors and not force:
        fail(["the policies have errors, so nothing is built; --force builds it"], FAILED)
    try:
        if plain:
            data = building.build_plain(files, created=made)
        else:
            data = building.build(
                files, version=version, created=made, not_after=until, revision=revision
            )
    except BundleError as error:
        fail([str(error)], FAILED)
    write("--output", output, data, mode=PUBLIC, replace=True)
    _tell(output, data, archive.unpack(data), (errors, len(problems) - errors), as_json=as_json)


def _tell(
    output: Path,
    data: bytes,
    contents: "Contents",
    problems: tuple[int, int],
    *,
    as_json: bool,
) -> None:
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    if as_json:
        body = {
            "file": str(output),
            "bytes": len(data),
            "sha256": digest,
            "manifest": manifest_entry(contents.manifest),
            "files": len(contents.files),
            "errors": problems[0],
            "warnings": problems[1],
        }
        typer.echo(json.dumps(body, indent=2))
        return
    version = f"version {contents.manifest.version}" if contents.manifest else "no manifest"
    typer.echo(f"{output}: {version}, {len(contents.files)} files, {len(data)} bytes")
    typer.echo(f"sha256 {digest}")


def _created(said: str) -> float:
    from authz.bundles.manifest import MAX_TIME
    from authz.core.timestamps import seconds_of

    if said:
        try:
            return seconds_of(said)
        except (ValueError, OverflowError):
            fail(["--created: not a time; write 2026-01-31T12:00:00Z"], BAD_ARGUMENTS)
    epoch = os.environ.get(_EPOCH, "")
    if not epoch:
        return time.time()
    if not epoch.isascii() or not epoch.isdigit() or int(epoch) > MAX_TIME:
        fail([f"{_EPOCH}: not a number of seconds since 1970"], BAD_ARGUMENTS)
    return int(epoch)


def _until(said: str, created: float) -> float | None:
    from authz.core.durations import parse_duration
    from authz.core.timestamps import seconds_of

    if not said:
        return None
    try:
        return created + parse_duration(said)
    except ValueError as error:
        try:
            return seconds_of(said)
        except (ValueError, OverflowError):
            fail([f"--not-after: {error}; or a time: 2026-01-31T12:00:00Z"], BAD_ARGUMENTS)


def _files(directory: Path) -> dict[str, bytes]:
    """What the bundle is to hold, by relative name."""
    from authz.cli.bundle.shared import read
    from authz.core.policy_file import MAX_FILE
    from authz.stores.policies import list_files

    if not directory.is_dir():
        fail([f"{directory}: there is no such directory"], BAD_ARGUMENTS)
    listing = list_files(directory)
    if listing.problems:
        fail(map(str, listing.problems), BAD_ARGUMENTS)
    files = {path.relative_to(directory).as_posix(): read(path, MAX_FILE) for path in listing.files}
    if not files:
        fail([f"{directory}: there is no policy in it: no *.yaml and no *.yml"], BAD_ARGUMENTS)
    others = sorted(
        name
        for path in directory.rglob("*")
        if (name := path.relative_to(directory).as_posix()) not in files
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    if others:
        note(f"left out, as they are no policies: {', '.join(others[:5])}"
             f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}")  # fmt: skip
    return files
