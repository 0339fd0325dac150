"""A directory as the kubelet makes it of a ConfigMap.

Kubernetes' AtomicWriter (pkg/volume/util/atomic_writer.go): each version is a directory of its own
with a dot before its name, `..data` is a link to the newest, and the files are links into `..data`.
A new version is written beside the old one; then `..data` is replaced by a rename, in one step.
"""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path


class ConfigMap:
    """To be mounted, and changed while it is."""

    def __init__(self, path: Path, files: Mapping[str, str]) -> None:
        self.path = path
        self._numbers = itertools.count(1)
        path.mkdir()
        self.put(files)

    def put(self, files: Mapping[str, str]) -> None:
        """Put these files in the place of those that are there."""
        version = self.path / f"..2026_11_26_15_00_00.{next(self._numbers)}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text, encoding="utf-8")
            (version / name).chmod(0o644)
        # Whoever runs the tests may have another umask than the kubelet.
        version.chmod(0o755)
        self.path.chmod(0o755)
        link, new = self.path / "..data", self.path / "..data_tmp"
        old = link.resolve() if link.is_symlink() else None
        new.symlink_to(version.name)
        new.replace(link)
        for name in files:
            user = self.path / name
            if not user.is_symlink():
                user.symlink_to(f"..data/{name}")
        for user in self.path.iterdir():
            if not user.name.startswith("..") and user.name not in files:
                user.unlink()
        if old is not None:
            shutil.rmtree(old)
