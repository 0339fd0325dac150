"""The version floor: the newest bundle that was ever accepted, kept on disk.

- It is on disk, synced, before what it tells of comes in force, and never lowered: a machine that
  is switched off in between comes back with a floor that fits the bundle that it has.
- What cannot be read, or is not as it was written, is no floor of zero: then nothing new is
  accepted until a person has looked at it.
- One process writes it, the service; others may read it.
- A file that is gone while the service runs is written again; one that is gone at the start is a
  first start. Whoever may write it decides what is old, so it lies where only the sidecar writes.
"""

import json
import re
from pathlib import Path
from typing import Final

from authz.bundles.accept import Floor
from authz.bundles.manifest import MAX_VERSION
from authz.core.json_keys import distinct
from authz.stores.files import read_file, replace

#: Bytes of the file; it has about a hundred.
MAX_FLOOR: Final = 1024
#: For its owner alone, as the audit database.
MODE: Final = 0o600
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class FloorUnusable(Exception):
    """It cannot be read, or cannot be raised; one sentence."""


class FloorFile:
    """The floor of one sidecar. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: How sentences begin; `/health` shows them to whoever asks.
        self._named = f"POLICY_BUNDLE_FLOOR_FILE: {path.name}"
        #: What was read or written last; it counts also where the file is gone.
        self._known: Floor | None = None

    def read(self) -> Floor | None:
        """What was accepted last; None where nothing was, ever.

        Raises:
            FloorUnusable: it cannot be told.
        """
        try:
            data, _ = read_file(self._path, MAX_FLOOR)
        except FileNotFoundError:
            return self._known
        except OSError as error:
            raise FloorUnusable(
                f"{self._named} cannot be read: {error.strerror}; which"
                " version was accepted last is not known, so no bundle is accepted"
            ) from None
        found = _floor_of(data)
        if found is None:
            raise FloorUnusable(
                f"{self._named} is not as it was written; put it back, or"
                " remove it to accept whatever version comes next"
            )
        if self._known is None or found.version > self._known.version:
            self._known = found
        return self._known

    def raise_to(self, floor: Floor | None) -> None:
        """Have it on disk that this was accepted; nothing where it is there already, or is higher.

        Raises:
            FloorUnusable: it is not, and so what it tells of may not come in force.
        """
        now = self.read()
        wanted = floor if now is None or (floor and floor.version > now.version) else now
        if wanted is None:
            return
        if wanted != self._on_disk():
            self._write(wanted)
        self._known = wanted

    def _on_disk(self) -> Floor | None:
        try:
            return _floor_of(read_file(self._path, MAX_FLOOR)[0])
        except OSError:
            return None

    def _write(self, floor: Floor) -> None:
        said = json.dumps({"version": floor.version, "digest": floor.digest}) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace(self._path, said.encode(), MODE)
        except OSError as error:
            raise FloorUnusable(
                f"{self._named} cannot be written: {error.strerror}; a"
                " bundle of a newer version is accepted when it can be"
            ) from None


def _floor_of(data: bytes) -> Floor | None:
    try:
        said = (
            json.loads(data.decode(), object_pairs_hook=distinct) if len(data) <= MAX_FLOOR else 0
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or set(said) != {"version", "digest"}:
        return None
    version, digest = said["version"], said["digest"]
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version <= MAX_VERSION:
        return None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    return Floor(version, digest)
