"""A bundle, its signature and the keys, read from disk once and together.

- What is verified and what is loaded are the same bytes: nobody reads a file a second time.
- A pair that is being replaced is read again until it holds still; the rest is for whoever
  verifies it.
- Keys are read with the bundle each time, so that new ones count as soon as they are there.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from authz.bundles.archive import MAX_BUNDLE
from authz.bundles.signature import MAX_KEY_FILE
from authz.bundles.signature_file import MAX_SIGNATURE_FILE
from authz.stores.files import mark, read_file

#: Key files of one directory.
MAX_KEYS: Final = 64
#: What keys are called in a directory, cosign's own among it.
KEY_SUFFIXES: Final = (".pem", ".pub")
#: Readings that are started over because a file was replaced meanwhile, and seconds between them.
MAX_READINGS: Final = 5
REREAD_AFTER_S: Final = 0.05


class Unreadable(Exception):
    """Something is not there, or cannot be read; one sentence."""


class Given(NamedTuple):
    """What was on disk at one time."""

    data: bytes
    #: None: there is no such file.
    signature: bytes | None
    #: Each by its file's name, PEM. None: no keys are configured.
    keys: tuple[tuple[str, bytes], ...] | None


class BundleFiles:
    """Where they are."""

    def __init__(self, bundle: Path, signature: Path, keys: Sequence[Path] = ()) -> None:
        """`keys`: files, or directories of them; none: signatures are not looked at."""
        self.bundle = bundle
        self.signature = signature
        self.keys = tuple(keys)

    def read(self) -> Given:
        """All of it.

        Raises:
            Unreadable: some of it cannot be read.
        """
        for attempt in range(MAX_READINGS):
            if attempt:
                time.sleep(REREAD_AFTER_S)
            before = self.marks()
            given = self._read()
            if self.marks() == before:
                return given
        raise Unreadable(f"POLICY_BUNDLE: {self.bundle.name} keeps changing while it is read")

    def marks(self) -> list[object]:
        """What tells all of it from what it was, without reading it."""
        return [(path, mark(path)) for path in (self.bundle, self.signature, *self._key_files())]

    def _read(self) -> Given:
        data = _content("POLICY_BUNDLE", self.bundle, MAX_BUNDLE)
        assert data is not None
        signature = _content(
            "POLICY_BUNDLE_SIGNATURE", self.signature, MAX_SIGNATURE_FILE, needed=False
        )
        return Given(data, signature, self.read_keys())

    def read_keys(self) -> tuple[tuple[str, bytes], ...] | None:
        """The keys alone; None where none are configured.

        Raises:
            Unreadable: there is none, or one cannot be read.
        """
        if not self.keys:
            return None
        keys = []
        for path in self._key_files():
            content = _content("POLICY_BUNDLE_KEYS", path, MAX_KEY_FILE)
            assert content is not None
            keys.append((path.name, content))
        if not keys:
            names = ", ".join(path.name for path in self.keys)
            raise Unreadable(f"POLICY_BUNDLE_KEYS: there is no *.pem or *.pub in {names}")
        return tuple(keys)

    def _key_files(self) -> Iterator[Path]:
        """The key files as they are there now; what is no directory is one, there or not."""
        for path in self.keys:
            # Not Path's, which raises where a directory may not be searched.
            if not os.path.isdir(path):  # noqa: PTH112
                yield path
                continue
            try:
                found = sorted(
                    one
                    for one in path.iterdir()
                    if one.suffix in KEY_SUFFIXES and not one.name.startswith(".")
                )
            except OSError as error:
                raise Unreadable(
                    f"POLICY_BUNDLE_KEYS: {path.name} cannot be read: {error.strerror}"
                ) from None
            yield from found[:MAX_KEYS]


def _content(variable: str, path: Path, limit: int, *, needed: bool = True) -> bytes | None:
    try:
        content, _ = read_file(path, limit)
    except FileNotFoundError:
        if not needed:
            return None
        raise Unreadable(f"{variable}: {path.name} is not there") from None
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise Unreadable(f"{variable}: {path.name} cannot be read: {said}") from None
    if len(content) > limit:
        raise Unreadable(f"{variable}: {path.name} is larger than {limit} bytes")
    return content
