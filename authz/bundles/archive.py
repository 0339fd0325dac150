"""The files of a bundle, from its bytes: in memory, never on a disk (the seed's policies.tar.gz).

- A name is a relative path that every program reads alike: no `..`, no `.` but at its beginning, no
  backslash, nothing that is not printable, and no two that a file system could take for one.
- Everything is bounded before it is read: the packed size, the unpacked, their ratio, the number of
  members, each file, each name.
- Nothing is skipped: what is not understood is refused, and the sentence names the member.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from authz.bundles import manifest as manifests
from authz.bundles.errors import BundleError, Reason
from authz.bundles.inflating import Inflating
from authz.bundles.manifest import Manifest
from authz.bundles.tar_members import MAX_NAME, Member, members
from authz.core.policy_bounds import MAX_FILE
from authz.core.text import visible

#: Bytes of a bundle, packed. A ConfigMap or Secret, from which many are mounted, has at most 1 MiB.
MAX_BUNDLE: Final = 8 << 20
#: Directories below each other, as in POLICIES_DIR.
MAX_LEVELS: Final = 16
#: Bytes of one part of a path, as file systems have it.
MAX_PART: Final = 255


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle holds."""

    #: By relative name, `/` between its parts, sorted; without the manifest.
    files: Mapping[str, bytes]
    #: None in an archive that was made by `tar` alone.
    manifest: Manifest | None


def unpack(data: bytes) -> Contents:
    """The files and the manifest of a bundle, each file as the manifest says.

    Raises:
        BundleError: it is no whole bundle, or not a safe one; one sentence that names the member.
    """
    if len(data) > MAX_BUNDLE:
        raise BundleError(f"the bundle is larger than {MAX_BUNDLE} bytes", Reason.SIZE)
    stream = Inflating(data)
    names = _Names()
    files: dict[str, bytes] = {}
    manifest = None
    largest = max(MAX_FILE, manifests.MAX_MANIFEST)
    for member in members(stream, largest):
        name = _checked(member)
        if not name:
            continue
        names.add(name, is_directory=member.is_directory)
        if member.is_directory:
            continue
        if name.casefold() == manifests.NAME:
            manifest = _manifest(name, member, is_first=not files)
            continue
        if len(member.content) > MAX_FILE:
            raise BundleError(
                f"{visible(name)}: has {len(member.content)} bytes, and a file may have {MAX_FILE}",
                Reason.SIZE,
            )
        files[name] = member.content
    stream.finish()
    if manifest is not None:
        manifests.check(manifest, files)
    return Contents(MappingProxyType(dict(sorted(files.items()))), manifest)


def check_name(name: str) -> None:
    """That a file of this name may be in a bundle.

    Raises:
        BundleError: it may not.
    """
    shown = visible(name[:200])
    if name.startswith("/"):
        raise _bad(shown, "is an absolute path")
    if "\\" in name:
        raise _bad(shown, "has a backslash in its name")
    if not name.isprintable():
        raise _bad(shown, "has characters in its name that are not printable")
    if len(name.encode()) > MAX_NAME:
        raise _bad(shown, f"has a name of over {MAX_NAME} bytes")
    parts = name.split("/")
    if ".." in parts:
        raise _bad(shown, "has `..` in its name")
    if "" in parts or "." in parts:
        raise _bad(shown, "has an empty part or `.` in its name")
    if len(parts) > MAX_LEVELS:
        raise _bad(shown, f"is more than {MAX_LEVELS} directories deep")
    if any(len(part.encode()) > MAX_PART for part in parts):
        raise _bad(shown, f"has a part of over {MAX_PART} bytes in its name")


class _Names:
    """Names that were seen, so that no two are one: `A.yaml` and `a.yaml` on some file systems."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._files: set[str] = set()
        self._above: set[str] = set()

    def add(self, name: str, *, is_directory: bool) -> None:
        key = _folded(name)
        if key in self._seen:
            other = self._seen[key]
            said = "is there twice" if other == name else f"is the same name as {visible(other)}"
            raise _bad(visible(name), f"{said}, for some file systems")
        self._seen[key] = name
        if not is_directory:
            self._files.add(key)
            if key in self._above:
                raise _bad(visible(name), "is a file, and a directory of other members")
        while "/" in key:
            key = key.rpartition("/")[0]
            if key in self._files:
                raise _bad(visible(name), "is below a member that is a file")
            self._above.add(key)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _checked(member: Member) -> str:
    """The member's name without what `tar` puts around it; empty for the root itself."""
    name = member.name
    if member.is_directory:
        name = name.removesuffix("/")
        if name == ".":
            return ""
    name = name.removeprefix("./")
    check_name(name)
    return name


def _manifest(name: str, member: Member, *, is_first: bool) -> Manifest:
    if name != manifests.NAME:
        raise _bad(visible(name), f"could be taken for {manifests.NAME}")
    if not is_first:
        raise BundleError(
            f"{name}: is not the first file of the archive; build it with `authz bundle build`",
            Reason.MANIFEST,
        )
    return manifests.parse(member.content)


def _bad(shown: str, what: str) -> BundleError:
    return BundleError(f"{shown}: {what}", Reason.ARCHIVE)
