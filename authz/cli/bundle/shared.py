"""What several `authz bundle` commands need: reading files, passwords, and writing for others.

- A file that cannot be read, or a key that cannot be used, is a mistake in the arguments: exit
  code 2. What is wrong with a bundle or its signature is the answer that was asked for: 1.
"""

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from authz.cli.shared import BAD_ARGUMENTS, fail
from authz.cli.whole_file import whole_file

if TYPE_CHECKING:
    from authz.bundles.manifest import Manifest

#: What cosign reads a password from, so that nobody is asked.
PASSWORD_VARIABLE: Final = "COSIGN_PASSWORD"  # noqa: S105 - the name of it
#: Permissions of what is for others to read.
PUBLIC: Final = 0o644
PRIVATE: Final = 0o600
#: Bytes of a password from standard input.
_MAX_PASSWORD: Final = 4096

Bundle = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle: policies.tar.gz.")]


def read_bundle(path: Path) -> bytes:
    """The bytes of a bundle; exits when there are none, or too many to be one."""
    from authz.bundles.archive import MAX_BUNDLE

    return read(path, MAX_BUNDLE)


def read(path: Path, limit: int, option: str = "") -> bytes:
    """The content of a file; exits when it cannot be read, or is larger than `limit` bytes."""
    named = f"{option}: {path}" if option else str(path)
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                fail([f"{named} is not a regular file"], BAD_ARGUMENTS)
            content = stream.read(limit + 1)
    except OSError as error:
        fail([f"{named} cannot be read: {error.strerror}"], BAD_ARGUMENTS)
    if len(content) > limit:
        fail([f"{named} is larger than {limit} bytes"], BAD_ARGUMENTS)
    return content


def write(option: str, path: Path, content: bytes, *, mode: int, replace: bool) -> None:
    """Write a file, whole or not at all."""
    with whole_file(option, path, replace=replace) as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)


def password(of: Path, *, new: bool = False) -> bytes:
    """The password of a key, as cosign has it: from COSIGN_PASSWORD, a terminal, or a pipe.

    Args:
        new: the key is being made, so a typed one is asked for twice.
    """
    said = os.environ.get(PASSWORD_VARIABLE)
    if said is not None:
        return said.encode()
    if sys.stdin.isatty():
        typed: str = typer.prompt(
            f"Password of {of}",
            hide_input=True,
            confirmation_prompt=new,
            default="",
            show_default=False,
            err=True,
        )
        return typed.encode()
    return sys.stdin.buffer.readline(_MAX_PASSWORD).rstrip(b"\r\n")


def key_files(option: str, paths: Iterable[Path]) -> list[tuple[str, bytes]]:
    """The files of public keys, and those in directories (`*.pub`, `*.pem`), with their names."""
    from authz.bundles.signature import MAX_KEY_FILE
    from authz.stores.bundle_files import KEY_SUFFIXES

    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        # As the service has it (`POLICY_BUNDLE_KEYS`).
        inside = sorted(
            one
            for one in path.iterdir()
            if one.suffix in KEY_SUFFIXES and not one.name.startswith(".")
        )
        if not inside:
            fail([f"{option}: {path} has no file *.pub or *.pem"], BAD_ARGUMENTS)
        files += inside
    return [(str(path), read(path, MAX_KEY_FILE, option)) for path in files]


def signature_file(bundle: Path, said: Path | None) -> Path:
    """Where the signature of a bundle lies."""
    return said or Path(f"{bundle}.sig")


def manifest_entry(manifest: "Manifest | None") -> dict[str, Any] | None:
    """A manifest as JSON shows it."""
    from authz.core.timestamps import rfc3339

    if manifest is None:
        return None
    until = manifest.not_after
    return {
        "version": manifest.version,
        "created": rfc3339(manifest.created),
        "notAfter": None if until is None else rfc3339(until),
        "revision": manifest.revision,
    }
