"""What was fetched and accepted, put in its place: whole, or as it was.

- A bundle and its signature are two files, and two renames. In between the signature file holds
  both signatures, the new and the old one, so that whichever bundle is there has its own: a service
  that starts in that moment, or after a loss of power in it, has a bundle that it takes.
- In a directory each file is whole, and all are written beside before the first gets its name; what
  can fail for want of room fails before anything has changed. Only a crash between two renames
  leaves some old and some new ones, and the next turn, which compares all of them, mends it.
- Files that the last turn put there and that are gone are removed, unless somebody has changed
  them. What somebody else has put there stays. One of the same name is replaced, as by `tar`.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from authz.bundles.signature_file import MAX_SIGNATURE_FILE
from authz.core.policy_bounds import MAX_FILE, is_policy_file
from authz.stores.files import replace, settle
from authz.sync.errors import Cause, SyncFailed
from authz.sync.state import writing

#: What a file has that is not in place yet; nobody who reads policies looks at it.
_DRAFT: Final = ".sync-new"
#: Anybody may read policies, as the ones of a ConfigMap; the directory says who gets to them.
_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


class Changes(NamedTuple):
    """What was done in a directory, by name."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    #: Were put there by us and changed by somebody since, so they stay although they are gone.
    kept: tuple[str, ...]


def digest_of(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def holds(path: Path, digest: str, limit: int) -> bool:
    """A file has this content."""
    try:
        with path.open("rb") as stream:
            return digest_of(stream.read(limit + 1)) == digest
    except OSError:
        return False


def put_bundle(bundle: Path, signature_file: Path, data: bytes, signature: bytes | None) -> None:
    """Replace a bundle and its signature.

    Args:
        signature: None: there is none, and so there will be no such file.

    Raises:
        SyncFailed: it could not be written; there is a pair that fits, the old or the new one.
    """
    if signature is None:
        with writing("POLICY_BUNDLE", bundle):
            replace(bundle, data, _MODE)
        with writing("POLICY_BUNDLE_SIGNATURE", signature_file):
            signature_file.unlink(missing_ok=True)
        return
    with writing("POLICY_BUNDLE_SIGNATURE", signature_file):
        replace(signature_file, _both(signature, _old(signature_file)), _MODE)
    with writing("POLICY_BUNDLE", bundle):
        replace(bundle, data, _MODE)
    with writing("POLICY_BUNDLE_SIGNATURE", signature_file):
        replace(signature_file, signature, _MODE)


def _old(signature_file: Path) -> bytes:
    try:
        with signature_file.open("rb") as stream:
            return stream.read(MAX_SIGNATURE_FILE)
    except OSError:
        return b""


def _both(new: bytes, old: bytes) -> bytes:
    """A signature file with both; just the new one where they are not lines (cosign's JSON)."""
    lines = [text.strip() for text in (new, old)]
    if not lines[1] or lines[0] == lines[1] or any(b"{" in line for line in lines):
        return new
    return b"\n".join(dict.fromkeys(b"\n".join(lines).split(b"\n"))) + b"\n"


def policies_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of an archive's files those that a directory of policies has: YAML, no hidden ones."""
    return {name: data for name, data in files.items() if is_policy_file(name)}


def put_files(root: Path, files: Mapping[str, bytes], before: Mapping[str, str]) -> Changes:
    """Make a directory have these files, each with its bytes, and no other one of `before`.

    Args:
        files: by name, with slashes, as `authz.bundles.archive` lets it pass.
        before: what the last turn put there, and the SHA-256 of each.

    Raises:
        SyncFailed: it could not be written. Where that was before the first rename, nothing has
            changed.
    """
    with writing("POLICIES_DIR", root):
        root.mkdir(parents=True, exist_ok=True, mode=_DIRECTORY_MODE)
    if os.path.lexists(root / "..data"):
        raise SyncFailed(
            Cause.DISK,
            f"POLICIES_DIR: {root} is a mounted ConfigMap, which cannot be written; mount a volume"
            " there, or change the ConfigMap",
        )
    wanted = {
        name: data
        for name, data in files.items()
        if not holds(root / name, digest_of(data), len(data))
    }
    drafts: dict[str, str] = {}
    try:
        for name, data in wanted.items():
            with writing("POLICIES_DIR", root / name):
                drafts[name] = _write_beside(root, PurePosixPath(name), data)
        for name, draft in drafts.items():
            with writing("POLICIES_DIR", root / name), _directory(root, name) as directory:
                os.replace(
                    draft, PurePosixPath(name).name, src_dir_fd=directory, dst_dir_fd=directory
                )
    except BaseException:
        _discard(root, drafts)
        raise
    removed, kept = _remove(root, {name: before[name] for name in before.keys() - files.keys()})
    for parent in sorted({(root / name).parent for name in (*wanted, *removed)}):
        with writing("POLICIES_DIR", parent), contextlib.suppress(FileNotFoundError):
            settle(parent)
    return Changes(tuple(wanted), removed, kept)


def sweep(root: Path, names: Mapping[str, object]) -> None:
    """Remove what a turn that was killed has left beside the files."""
    for parent in {root, *((root / name).parent for name in names)}:
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(_DRAFT):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108 - what scandir gives


def _write_beside(root: Path, name: PurePosixPath, data: bytes) -> str:
    draft = f".{name.name[:64]}.{secrets.token_hex(8)}{_DRAFT}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _directory(root, str(name), make=True) as directory:
        handle = os.open(draft, flags, _MODE, dir_fd=directory)
        try:
            with open(handle, "wb") as stream:  # noqa: PTH123 - it is open already
                stream.write(data)
                stream.flush()
                os.fsync(handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise
    return draft


@contextlib.contextmanager
def _directory(root: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """The directory that a file is in, open; a link on the way below the root leads nowhere.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(root, flags)
    try:
        for part in PurePosixPath(name).parent.parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, _DIRECTORY_MODE, dir_fd=handle)
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _discard(root: Path, drafts: Mapping[str, str]) -> None:
    for name, draft in drafts.items():
        with contextlib.suppress(OSError), _directory(root, name) as directory:
            os.unlink(draft, dir_fd=directory)


def _remove(root: Path, gone: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    removed, kept = [], []
    for name, digest in sorted(gone.items()):
        path = root / name
        if not os.path.lexists(path):
            continue
        if path.is_symlink() or not holds(path, digest, MAX_FILE):
            kept.append(name)
            continue
        with writing("POLICIES_DIR", path), _directory(root, name) as directory:
            os.unlink(path.name, dir_fd=directory)
        removed.append(name)
        parent = path.parent
        while parent != root:
            # A directory that nothing is left in.
            try:
                parent.rmdir()
            except OSError:
                break
            parent = parent.parent
    return tuple(removed), tuple(kept)
