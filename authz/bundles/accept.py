"""Whether a bundle is to be taken: one answer for the service, `authz sync` and `authz bundle`.

- The signature comes first, before a byte is decompressed: what nobody signed reaches no parser.
- What is verified is what is unpacked: the bytes are handed in once, and the files made of them.
- A version floor makes an old bundle useless whose signature is right. Whoever takes a bundle must
  have put `Accepted.floor` on disk before it comes into force, and never lower it.
- A bundle without a manifest has no version, so it is taken until one with a manifest has been.
- Nothing is read here but the arguments: no file, no clock.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from authz.bundles.archive import MAX_BUNDLE, Contents, unpack
from authz.bundles.errors import BundleError, Reason
from authz.bundles.manifest import Manifest
from authz.bundles.signature import PublicKeys
from authz.core.timestamps import rfc3339

#: Seconds that the clock of whoever built a bundle may be ahead of ours.
LEEWAY_S: Final = 300


class Floor(NamedTuple):
    """The newest bundle that was ever taken."""

    #: Its manifest's.
    version: int
    #: SHA-256, hexadecimal, of the bundle's bytes.
    digest: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A bundle that may be taken."""

    contents: Contents
    #: The key that signed it: SHA-256, hexadecimal, of its SPKI DER. None: nothing was verified.
    key_id: str | None
    #: SHA-256, hexadecimal, of the bundle's bytes.
    digest: str
    #: What the floor must be from now on; None: there is none yet.
    floor: Floor | None
    #: One sentence each.
    warnings: tuple[str, ...]


def accept(
    data: bytes,
    signature: bytes | None,
    keys: PublicKeys | None,
    *,
    now: float,
    floor: Floor | None,
    require_signed: bool,
) -> Accepted:
    """Verify and unpack a bundle.

    Args:
        data: the bundle, as it was read once.
        signature: the content of its signature file; None: there is none.
        keys: who may sign; None: nobody is known, and signatures are not looked at.
        now: seconds since the epoch.
        floor: what `Accepted.floor` was the last time; None: none was ever taken.
        require_signed: refuse what nobody is known to have signed.

    Raises:
        BundleError: it is not to be taken; `reason` says which kind of reason.
    """
    if len(data) > MAX_BUNDLE:
        raise BundleError(f"the bundle is larger than {MAX_BUNDLE} bytes", Reason.SIZE)
    key_id = _signer(data, signature, keys, require_signed=require_signed)
    digest = hashlib.sha256(data).hexdigest()
    contents = unpack(data)
    warnings = []
    if key_id is None:
        said = "there is no signature" if signature is None else "there is no key to verify with"
        warnings.append(f"who made the bundle is not known, as {said}")
    if contents.manifest is None:
        if floor is not None:
            raise BundleError(
                f"the bundle has no manifest, and version {floor.version} was taken before, so an"
                " older one cannot be told from a newer; build it with `authz bundle build`",
                Reason.NO_MANIFEST,
            )
        warnings.append("the bundle has no manifest: an older one that was signed is taken as well")
        return Accepted(contents, key_id, digest, None, tuple(warnings))
    _check_times(contents.manifest, now)
    _check_floor(contents.manifest, digest, floor)
    raised = Floor(contents.manifest.version, digest)
    return Accepted(contents, key_id, digest, raised, tuple(warnings))


def _signer(
    data: bytes, signature: bytes | None, keys: PublicKeys | None, *, require_signed: bool
) -> str | None:
    if keys is None:
        if require_signed:
            raise BundleError(
                "a signature is required, and there is no public key to verify it with",
                Reason.UNSIGNED,
            )
        return None
    if signature is None:
        raise BundleError(
            "the bundle has no signature; sign it with `authz bundle sign` or `cosign sign-blob`",
            Reason.UNSIGNED,
        )
    return keys.verify(data, signature)


def _check_times(manifest: Manifest, now: float) -> None:
    if manifest.created > now + LEEWAY_S:
        raise BundleError(
            f"the bundle was created at {rfc3339(manifest.created)}, and the clock here says"
            f" {rfc3339(now)}; set the clock, or build the bundle again",
            Reason.CREATED,
        )
    if manifest.not_after is not None and now > manifest.not_after:
        raise BundleError(
            f"the bundle was to be used until {rfc3339(manifest.not_after)}; build a new one",
            Reason.EXPIRED,
        )


def _check_floor(manifest: Manifest, digest: str, floor: Floor | None) -> None:
    if floor is None or manifest.version > floor.version:
        return
    if manifest.version < floor.version:
        raise BundleError(
            f"the bundle has version {manifest.version}, and version {floor.version} was taken"
            " before; build it again with a higher version",
            Reason.FLOOR,
        )
    if digest != floor.digest:
        raise BundleError(
            f"another bundle of version {manifest.version} was taken before; each needs a version"
            " of its own, so build it again with a higher one",
            Reason.FLOOR,
        )
