"""One turn of fetching policies: asked for, verified, put in place; until then nothing changes.

- The control plane is asked with the entity tag of what is in place, and only if that is in place
  as it was put there: what somebody has changed or removed is fetched and mended.
- `authz.bundles.accept` decides, with POLICY_BUNDLE_KEYS and the higher of two floors: the
  service's own, and that of what was pulled before. It is on disk before anything is replaced.
- What is put in place becomes the policies in force through the service's own watcher.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from authz.bundles.accept import Floor, accept
from authz.bundles.archive import MAX_BUNDLE
from authz.bundles.errors import BundleError
from authz.bundles.signature import PublicKeys
from authz.bundles.signature_file import MAX_SIGNATURE_FILE
from authz.core.timestamps import rfc3339
from authz.stores.bundle_files import BundleFiles, Unreadable
from authz.stores.bundle_floor import FloorFile, FloorUnusable
from authz.sync import place
from authz.sync.client import ControlPlane
from authz.sync.download import SIGNATURE_PATH, Fetched, fetch, strong
from authz.sync.errors import Cause, SyncFailed
from authz.sync.plan import Plan
from authz.sync.state import State


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a turn has done."""

    #: Something else is in place than before.
    changed: bool
    #: RFC 3339.
    at: str
    #: SHA-256, hexadecimal, of the bundle in place.
    digest: str
    #: Of its manifest; None without one.
    version: int | None
    revision: str
    #: Who signed it; empty where nothing was verified.
    key_id: str
    #: Policy files that it has, and what was done where they are files of a directory.
    files: int
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For people and for other processes."""
        named = asdict(self)
        return {
            ("keyId" if name == "key_id" else name): value
            for name, value in named.items()
            if value is not None
        }


def pull(plan: Plan, *, again: bool = False, now: float | None = None) -> Pulled:
    """Fetch the bundle and put it in place, unless it is there.

    Args:
        again: ask for it whole, whatever is known.
        now: seconds since the epoch; the clock's when left out.

    Raises:
        SyncFailed: what is in place is as it was.
    """
    moment = time.time() if now is None else now
    if plan.require_signed and not plan.bundle:
        raise SyncFailed(
            Cause.BUNDLE,
            "REQUIRE_SIGNED_POLICIES: the files of POLICIES_DIR are not signed; set POLICY_BUNDLE",
        )
    state = State(Path(plan.state_dir), "pull")
    with state.held():
        kept = state.read()
        kept = kept if kept.get("url") == plan.url else _foreign(kept)
        if not plan.bundle:
            place.sweep(Path(plan.policies_dir), _files(kept))
        known = "" if again or not _in_place(plan, kept) else strong(kept.get("etag"))
        with ControlPlane(plan) as there:
            fetched = fetch(there, state.directory, known)
            if fetched is None:
                kept["at"] = rfc3339(moment)
                state.keep(kept)
                return _unchanged(kept)
            signature = _signature(there, plan, fetched)
        return _put(plan, state, kept, fetched, signature, moment)


def _put(
    plan: Plan,
    state: State,
    kept: Mapping[str, Any],
    fetched: Fetched,
    signature: bytes | None,
    moment: float,
) -> Pulled:
    floors = [FloorFile(state.directory / "floor")]
    if plan.floor_file:
        floors.append(FloorFile(Path(plan.floor_file)))
    try:
        found = [floor for floor in (file.read() for file in floors) if floor is not None]
        accepted = accept(
            fetched.data,
            signature,
            public_keys(plan.keys),
            now=moment,
            floor=max(found, key=_version, default=None),
            # Keys without a need for a signature would be no more than a decoration.
            require_signed=plan.require_signed or bool(plan.keys),
        )
        files = place.policies_of(accepted.contents.files)
        if not files:
            raise SyncFailed(
                Cause.BUNDLE,
                f"{plan.url}: its bundle has no policy file, and no policy denies everything; what"
                " is in force stays",
            )
        _require_policies(plan, kept, files)
        floors[0].raise_to(accepted.floor)
    except BundleError as error:
        raise SyncFailed(Cause.BUNDLE, f"{plan.url}: {error}; what is in force stays") from None
    except FloorUnusable as error:
        raise SyncFailed(Cause.DISK, str(error)) from None
    was_there = plan.bundle and place.holds(Path(plan.bundle), accepted.digest, MAX_BUNDLE)
    changes = place.Changes((), (), ())
    if plan.bundle:
        place.put_bundle(Path(plan.bundle), Path(plan.signature), fetched.data, signature)
    else:
        changes = place.put_files(Path(plan.policies_dir), files, _files(kept))
    manifest = accepted.contents.manifest
    done = Pulled(
        changed=not was_there if plan.bundle else bool(changes.written or changes.removed),
        at=rfc3339(moment),
        digest=accepted.digest,
        version=manifest.version if manifest else None,
        revision=manifest.revision if manifest else "",
        key_id=accepted.key_id or "",
        files=len(files),
        written=changes.written,
        removed=changes.removed,
        warnings=(*accepted.warnings, *_left(changes)),
    )
    state.keep(
        {
            "url": plan.url,
            "etag": fetched.etag,
            "at": done.at,
            "digest": done.digest,
            "version": done.version,
            "revision": done.revision,
            "keyId": done.key_id,
            "signature": hashlib.sha256(signature).hexdigest() if signature else "",
            "bundle": bool(plan.bundle),
            "count": len(files),
            "files": {name: place.digest_of(data) for name, data in files.items()},
        }
    )
    return done


def _require_policies(plan: Plan, kept: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Where something is in place already, what replaces it has no errors.

    The service would keep what it has in memory, and after a restart lack the files in error: a
    deny may be among them.

    Raises:
        SyncFailed: it has some.
    """
    if not (Path(plan.bundle).exists() if plan.bundle else _files(kept)):
        return
    # Only where there is something new: with the language of policies this process doubles.
    from authz.core.policy_file import parse_file  # noqa: PLC0415
    from authz.core.policy_set import PolicyFile, build  # noqa: PLC0415

    parsed = [(name, parse_file(data, name)) for name, data in files.items()]
    built = build([PolicyFile(name, one.policies, chain=one.chain) for name, one in parsed])
    problems = (*(problem for _, one in parsed for problem in one.problems), *built.problems)
    errors = sorted({str(one) for one in problems if one.severity == "error"})
    if errors:
        count = "an error" if len(errors) == 1 else f"{len(errors)} errors"
        raise SyncFailed(
            Cause.BUNDLE,
            f"{plan.url}: its bundle has {count}: {errors[0]}; what is in force stays",
        )


def _version(floor: Floor) -> int:
    return floor.version


def _left(changes: place.Changes) -> Iterator[str]:
    if changes.kept:
        names = ", ".join(changes.kept[:5])
        yield f"{names}: gone from the bundle, but changed here since, so left where it is"


def _unchanged(kept: Mapping[str, Any]) -> Pulled:
    version = kept.get("version")
    return Pulled(
        changed=False,
        at=str(kept["at"]),
        digest=str(kept.get("digest", "")),
        version=version if isinstance(version, int) else None,
        revision=str(kept.get("revision", "")),
        key_id=str(kept.get("keyId", "")),
        files=len(_files(kept)),
    )


def _foreign(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is known from another control plane, what is here: it was put there by us."""
    return {"files": _files(kept)}


def _files(kept: Mapping[str, Any]) -> dict[str, str]:
    """What was put in place, by name; nothing where it is damaged."""
    files = kept.get("files")
    if not isinstance(files, dict):
        return {}
    return {
        name: digest
        for name, digest in files.items()
        # It leads to files that are removed.
        if isinstance(digest, str) and not {"", ".", ".."} & {*name.split("/")} and "\0" not in name
    }


def _in_place(plan: Plan, kept: Mapping[str, Any]) -> bool:
    """What was pulled last is here, as it was put there."""
    if not kept.get("etag") or kept.get("bundle") is not bool(plan.bundle):
        return False
    if not plan.bundle:
        files = _files(kept)
        root = Path(plan.policies_dir)
        return bool(files) and all(
            place.holds(root / name, digest, MAX_BUNDLE) for name, digest in files.items()
        )
    signature = kept.get("signature")
    return place.holds(Path(plan.bundle), str(kept.get("digest")), MAX_BUNDLE) and (
        place.holds(Path(plan.signature), str(signature), MAX_SIGNATURE_FILE)
        if signature
        else not Path(plan.signature).exists()
    )


def _signature(there: ControlPlane, plan: Plan, fetched: Fetched) -> bytes | None:
    """The content of a signature file; asked for only where somebody can verify it, or has to."""
    if fetched.signature:
        return fetched.signature.encode("ascii", "replace") + b"\n"
    return there.small(SIGNATURE_PATH) if plan.keys or plan.bundle else None


def public_keys(paths: Iterable[str]) -> PublicKeys | None:
    """The keys of POLICY_BUNDLE_KEYS; None where it is not set.

    Raises:
        BundleError: one cannot be used.
        SyncFailed: there is none, or one cannot be read.
    """
    try:
        texts = BundleFiles(Path(), Path(), [Path(path) for path in paths]).read_keys()
    except Unreadable as error:
        raise SyncFailed(Cause.BUNDLE, str(error)) from None
    return None if texts is None else PublicKeys.parse(texts)


def last(state_dir: Path) -> dict[str, Any]:
    """What is known of the last turn that went well, for `/health` and `authz sync status`."""
    kept = State(state_dir, "pull").read()
    return {name: value for name, value in kept.items() if name not in ("files", "etag")}
