"""What is wrong with a bundle, its signature or a key: one sentence, and which kind of wrong."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a bundle is not taken; a closed set, for metrics, rows and exit codes."""

    #: A key file, public or private, cannot be used.
    KEY = "key"
    #: A signature is needed, and there is none, or no key to verify it with.
    UNSIGNED = "unsigned"
    #: The signature cannot be read, or no key that is known made it for these bytes.
    SIGNATURE = "signature"
    #: Larger than a bundle may be, packed or unpacked.
    SIZE = "size"
    #: Not a whole gzip'ed tar archive, or one with members that no bundle has.
    ARCHIVE = "archive"
    #: The manifest cannot be read, or does not fit the files.
    MANIFEST = "manifest"
    #: Made in the future, as this clock has it.
    CREATED = "created"
    #: After `notAfter`.
    EXPIRED = "expired"
    #: Older than one that was taken before, or another of the same version.
    FLOOR = "floor"
    #: Without a manifest, where one with a manifest was taken before.
    NO_MANIFEST = "no_manifest"


class BundleError(Exception):
    """A bundle, a signature or a key that is not taken; the message is one sentence."""

    def __init__(self, sentence: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.reason = reason
