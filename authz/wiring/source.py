"""Where the policies come from: POLICIES_DIR, or the bundle that counts instead of it.

- What a bundle needs is imported where there is one.
- What comes of each reading of a bundle is told here: one that is taken has a line in the log and
  an audit row, one that is refused or has expired is an incident for as long as that is so.
"""

import logging
from typing import Final

from authz.core.incident import Kind
from authz.core.timestamps import rfc3339
from authz.edges.incidents import Incidents
from authz.settings import Settings
from authz.settings.bundles import floor_of, signature_of
from authz.stores.parsing import ParserProcess
from authz.stores.policies import Loaded, PolicyDirectory, PolicySource
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

#: Digits of a key's or a bundle's SHA-256 in the log; the row has all of them.
SHORT: Final = 16


def source(settings: Settings, parser: ParserProcess) -> PolicySource:
    """What policies are read from."""
    if settings.policy_bundle is None:
        return PolicyDirectory(settings.policies_dir, parser.parse)
    from authz.stores.bundle_files import BundleFiles  # noqa: PLC0415
    from authz.stores.bundle_floor import FloorFile  # noqa: PLC0415
    from authz.stores.bundles import PolicyBundle  # noqa: PLC0415

    if "policies_dir" in settings.model_fields_set:
        log.warning(
            "POLICIES_DIR: has no effect beside POLICY_BUNDLE; the policies in %s are not read",
            settings.policies_dir,
        )
    return PolicyBundle(
        BundleFiles(settings.policy_bundle, signature_of(settings), settings.policy_bundle_keys),
        FloorFile(floor_of(settings)),
        parser.parse,
        require_signed=settings.require_signed_policies,
    )


def named(settings: Settings) -> str:
    """The same for sentences."""
    return str(settings.policy_bundle or settings.policies_dir)


def read_only(settings: Settings) -> str:
    """Why the admin API cannot change policies; empty where it can."""
    if settings.policy_bundle is None:
        return ""
    return (
        f"the policies come from a bundle, {settings.policy_bundle.name} (POLICY_BUNDLE); change"
        " them where it is built, and put a new one there"
    )


class BundleNews:
    """Tells what comes of each reading, on the event loop's thread; nothing of a directory."""

    def __init__(self, versions: Versions, incidents: Incidents) -> None:
        self._versions = versions
        self._incidents = incidents
        self._told = ""

    def __call__(self, loaded: Loaded) -> None:
        """After a reading."""
        state = loaded.bundle
        if state is None:
            return
        subject = state.path.name
        for kind, sentence in (
            (Kind.BUNDLE_REFUSED, state.problem),
            (Kind.BUNDLE_EXPIRED, state.expired),
        ):
            if sentence:
                self._incidents.happened(kind, subject, sentence)
            else:
                self._incidents.ended(kind, subject)
        taken = state.taken
        if taken is None or taken.digest + taken.key_id == self._told:
            return
        self._told = taken.digest + taken.key_id
        facts = [taken.name]
        if taken.revision:
            facts.append(f"revision {taken.revision}")
        if taken.created is not None:
            facts.append(f"created {rfc3339(taken.created)}")
        if taken.not_after is not None:
            facts.append(f"to be used until {rfc3339(taken.not_after)}")
        signed = f"signed by key {taken.key_id}" if taken.key_id else "not verified"
        log.info(
            "POLICY_BUNDLE: %s, %s, sha256 %s, %s",
            subject,
            ", ".join(facts),
            taken.digest[:SHORT],
            f"signed by key {taken.key_id[:SHORT]}" if taken.key_id else signed,
        )
        for sentence in taken.warnings:
            log.warning("POLICY_BUNDLE: %s: %s", subject, sentence)
        said = f"{', '.join(facts)}, sha256 {taken.digest}, {signed}"
        self._versions.note("policies:bundle", subject, said)
