"""Signed bundles for tests: keys, signatures as `cosign sign-blob` writes them, files on disk."""

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authz.bundles.build import build, build_plain

CREATED = 1_750_000_000


def policy(name: str = "a", action: str = "read:*", effect: str = "allow") -> bytes:
    """A policy for everybody."""
    return (
        f'name: {name}\nversion: "1"\nappliesTo: {{agentIds: ["*"]}}\n'
        f'rules: [{{effect: {effect}, actions: ["{action}"]}}]\ndefaultEffect: deny\n'
    ).encode()


class Key:
    """An ECDSA P-256 key, as cosign makes one."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def pem(self) -> bytes:
        """The public half, `cosign.pub`."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, data: bytes) -> bytes:
        """What `cosign sign-blob` prints."""
        return base64.b64encode(self._key.sign(data, ec.ECDSA(hashes.SHA256())))


class Shelf:
    """Where a bundle, its signature and keys lie on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "policies.tar.gz"
        self.signature = directory / "policies.tar.gz.sig"
        self.public = directory / "cosign.pub"
        self.key = Key()
        replace(self.public, self.key.pem)

    def put(
        self,
        version: int | None = 1,
        files: dict[str, bytes] | None = None,
        *,
        created: float = CREATED,
        not_after: float | None = None,
        revision: str = "",
        key: Key | None = None,
    ) -> bytes:
        """Build, sign and put a pair there, the signature first; a plain one without a version."""
        given = files or {"a.yaml": policy("a", f"read:{version}")}
        data = (
            build_plain(given, created=created)
            if version is None
            else build(
                given, version=version, created=created, not_after=not_after, revision=revision
            )
        )
        replace(self.signature, (key or self.key).sign(data))
        replace(self.bundle, data)
        return data


def replace(path: Path, content: bytes) -> None:
    """Put a file there in one step, as whoever is careful does."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    os.replace(draft, path)  # noqa: PTH105
