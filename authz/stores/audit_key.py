"""The key that signs an audit trail: Ed25519, in a file of its own (docs/audit.md).

- It is made once, where there is none; what is there is never replaced, however bad it looks.
- It appears whole: two processes that start together use the same one, and no reader sees half.
- Its public half lies beside it, and that is all that a verifier needs.
- `cryptography` is imported when a key is, so that nothing waits for it at the start.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from authz.core.audit_verify import Fits

#: Bytes of a key file that are read; an Ed25519 key in PEM has 119.
MAX_KEY_FILE: Final = 16 * 1024
#: Characters of the SHA-256 of a public key that name it.
ID_LENGTH: Final = 16


class KeyUnusable(Exception):
    """A key file is not usable; one sentence that begins with the path."""


class SigningKey(NamedTuple):
    """A key that can sign."""

    key_id: str
    #: The signature (64 bytes) of a message.
    sign: Callable[[bytes], bytes]
    #: The public half, PEM.
    public: bytes
    #: The same as its 32 bytes (RFC 8032 §5.1.5).
    public_raw: bytes
    #: Everybody on this machine can read it.
    exposed: bool


class PublicKey(NamedTuple):
    """A key that can verify."""

    key_id: str
    fits: Fits


def default_key_file(database: Path) -> Path:
    """Where the key of a database lies unless AUDIT_KEY_FILE says otherwise."""
    return Path(f"{database}.key")


def public_file(key_file: Path) -> Path:
    """Where the public half of a key lies."""
    return Path(f"{os.fspath(key_file).removesuffix('.key')}.pub")


def signing_key(path: Path) -> SigningKey:
    """Read the key at the path, made first where there is none.

    Raises:
        KeyUnusable: what is there is no such key, or cannot be read; or it could not be made.
    """
    try:
        content = _read(path)
    except FileNotFoundError:
        _make(path)
        content = _read(path)
    return _signing(path, content)


def public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        KeyUnusable: what is there is no Ed25519 public key in PEM, or cannot be read.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        content = _read(path)
    except FileNotFoundError:
        raise KeyUnusable(f"{path}: there is no such file") from None
    try:
        key = load_pem_public_key(content)
    except Exception:  # noqa: BLE001 - it says little that helps, in many types
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"{path}: not an Ed25519 public key in PEM")

    def fits(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return PublicKey(_id_of(key.public_bytes_raw()), fits)


def _signing(path: Path, content: bytes) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        key = load_pem_private_key(content, None)
    except Exception:  # noqa: BLE001 - it says little that helps, in many types
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path}: not an Ed25519 private key in PEM, without a password")
    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    exposed = bool(path.stat().st_mode & stat.S_IROTH)
    raw = public.public_bytes_raw()
    return SigningKey(_id_of(raw), key.sign, pem, raw, exposed)


def _id_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:ID_LENGTH]


def _make(path: Path) -> None:
    """Make a key, unless somebody else is quicker."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _written_beside(path, pem, 0o600) as made, contextlib.suppress(FileExistsError):
            # Unlike a rename, a link never replaces what is there.
            _link(made, path, pem)
    except OSError as error:
        raise KeyUnusable(f"{path}: a key cannot be made there: {error.strerror}") from None


def _link(made: str, path: Path, pem: bytes) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links. Whoever reads it between these two lines tries again.
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:  # noqa: PTH123
            stream.write(pem)


def export_public(path: Path, key: SigningKey) -> None:
    """Write the public half of a key to the path, if it is not there.

    Raises:
        KeyUnusable: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError, KeyUnusable):
        if _read(path) == key.public:
            return
    try:
        with _written_beside(path, key.public, 0o644) as made:
            os.replace(made, path)  # noqa: PTH105 - it is a text
    except OSError as error:
        raise KeyUnusable(
            f"{path}: the public key cannot be written there: {error.strerror}"
        ) from None


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes, mode: int) -> Iterator[str]:
    """A whole file under a name that nobody looks for, durable, and gone afterwards."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor
            os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - it is a text


def _read(path: Path) -> bytes:
    """The content of a small regular file.

    Raises:
        FileNotFoundError: there is none.
        KeyUnusable: it is something else, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise KeyUnusable(f"{path}: not a regular file")
            return stream.read(MAX_KEY_FILE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyUnusable(f"{path}: cannot be read: {error.strerror}") from None
