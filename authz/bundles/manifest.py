"""The manifest of a bundle: what makes one bundle newer than another, and the digest of each file.

- It lies in the archive, as its first member, so that a signature of the archive is one of it. Its
  name begins with a dot, so that whoever extracts the archive into POLICIES_DIR has policies alone.
- It is complete: a file that it does not name, or names with another digest, is refused.
- What is not understood is refused: unknown keys, keys that appear twice, another format.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from authz.bundles.errors import BundleError, Reason
from authz.core.json_keys import distinct
from authz.core.text import visible, word
from authz.core.timestamps import rfc3339, seconds_of

#: The member that it is.
NAME: Final = ".manifest.json"
#: What `format` says; a later one may mean something else by the same keys.
FORMAT: Final = 1
#: Bytes of it: 10,000 files, each with a digest and a name of a hundred characters.
MAX_MANIFEST: Final = 2 << 20
#: The largest version: what every reader of JSON keeps exact (RFC 8259 §6). Seconds since the
#: epoch, and a date written as 20260131120000, are far below it.
MAX_VERSION: Final = 2**53 - 1
#: Characters of `revision`: a commit, a tag, an URL of either.
MAX_REVISION: Final = 256
#: Seconds since the epoch of the end of the year 9999, after which RFC 3339 has no times.
MAX_TIME: Final = 253_402_300_799

_KEYS: Final = ("format", "version", "created", "notAfter", "revision", "files")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself."""

    #: 1 to `MAX_VERSION`; what the floor compares.
    version: int
    #: Seconds since the epoch.
    created: float
    #: Until when it may be taken, seconds since the epoch; None: for ever.
    not_after: float | None
    #: Free text: the commit that it was built from.
    revision: str
    #: SHA-256, hexadecimal, of each file by its name; sorted, and without the manifest itself.
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse what could not be read again.

        Raises:
            BundleError: a field that no manifest may have.
        """
        if isinstance(self.version, bool) or not 1 <= self.version <= MAX_VERSION:
            raise _wrong("version", f"must be a whole number from 1 to {MAX_VERSION}")
        for field, moment in (("created", self.created), ("notAfter", self.not_after)):
            if moment is not None and not 0 <= moment <= MAX_TIME:
                raise _wrong(field, "must be a time from 1970 to 9999")
        if self.not_after is not None and self.not_after <= self.created:
            raise _wrong("notAfter", "must be later than `created`")
        if len(self.revision) > MAX_REVISION or not self.revision.isprintable():
            raise _wrong(
                "revision", f"must be one line of at most {MAX_REVISION} printable characters"
            )


def dump(manifest: Manifest) -> bytes:
    """The manifest as a bundle holds it: the same for equal manifests."""
    said: dict[str, Any] = {
        "format": FORMAT,
        "version": manifest.version,
        "created": _time(manifest.created),
    }
    if manifest.not_after is not None:
        said["notAfter"] = _time(manifest.not_after)
    said |= {"revision": manifest.revision, "files": dict(sorted(manifest.files.items()))}
    return json.dumps(said, indent=1, ensure_ascii=False).encode() + b"\n"


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: it is none; the sentence names the field.
    """
    said = _object(data)
    unknown = next((key for key in said if key not in _KEYS), None)
    if said.get("format") != FORMAT or isinstance(said["format"], bool):
        raise _wrong("format", f"must be {FORMAT}; a newer `authz` may know this one")
    if unknown is not None:
        raise BundleError(f"{NAME}: unknown key `{word(unknown)}`", Reason.MANIFEST)
    version, revision, files = said.get("version"), said.get("revision", ""), said.get("files")
    if not isinstance(version, int):
        raise _wrong("version", "must be a whole number")
    if not isinstance(revision, str):
        raise _wrong("revision", "must be a text")
    if not isinstance(files, dict):
        raise _wrong("files", "must be an object of file names and SHA-256 digests")
    for name, digest in files.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleError(
                f"{NAME}: `files`: {visible(name[:80])} must have a SHA-256 digest of 64"
                " hexadecimal digits",
                Reason.MANIFEST,
            )
    created = _moment("created", said.get("created"))
    not_after = _moment("notAfter", said["notAfter"]) if "notAfter" in said else None
    ordered = MappingProxyType(dict(sorted(files.items())))
    return Manifest(version, created, not_after, revision, ordered)


def check(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """That the manifest names exactly these files.

    Raises:
        BundleError: it does not; the sentence names the file.
    """
    for name, content in files.items():
        if name not in manifest.files:
            raise BundleError(
                f"{visible(name)}: is in the archive and not in {NAME}; build the bundle again",
                Reason.MANIFEST,
            )
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise BundleError(
                f"{visible(name)}: has another digest than {NAME} says; build the bundle again",
                Reason.MANIFEST,
            )
    missing = next((name for name in manifest.files if name not in files), None)
    if missing is not None:
        raise BundleError(
            f"{visible(missing[:80])}: is in {NAME} and not in the archive; build the bundle again",
            Reason.MANIFEST,
        )


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"{NAME}: larger than {MAX_MANIFEST} bytes", Reason.MANIFEST)
    try:
        said = json.loads(data.decode(), object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BundleError(f"{NAME}: not JSON from {where} on", Reason.MANIFEST) from None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise BundleError(
            f"{NAME}: not one JSON object with distinct keys, in UTF-8", Reason.MANIFEST
        )
    return said


def _moment(field: str, said: object) -> float:
    if isinstance(said, str) and _TIME.fullmatch(said):
        try:
            return seconds_of(said)
        except ValueError:
            pass
    raise _wrong(field, "must be a time in UTC such as 2026-01-31T12:00:00Z")


def _time(seconds: float) -> str:
    # Whole seconds as people write them.
    if seconds == int(seconds):
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return rfc3339(seconds)


def _wrong(field: str, must: str) -> BundleError:
    return BundleError(f"{NAME}: `{field}` {must}", Reason.MANIFEST)
