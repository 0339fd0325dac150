"""Kinds of keys and of signature files, by the names that commands have for them.

They stand here by themselves, so that a command line is read without a library of cryptography.
"""

from enum import StrEnum


class Algorithm(StrEnum):
    """What a key signs with."""

    ECDSA = "ecdsa-p256"
    ED25519 = "ed25519"


class Format(StrEnum):
    """What a signature is written as."""

    SIG = "sig"
    BUNDLE = "bundle"
