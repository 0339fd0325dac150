"""A bundle mounted from a ConfigMap is followed by what the kernel tells, not by looking."""

import asyncio
import contextlib
import itertools
import time
from pathlib import Path

from authz.core.mode import Mode
from authz.edges.reloader import Reloader
from authz.stores.audit_log import AuditLog
from authz.stores.bundle_files import BundleFiles
from authz.stores.bundle_floor import FloorFile
from authz.stores.bundles import PolicyBundle
from authz.stores.policies import Loaded
from authz.stores.versions import Versions
from tests.bundling import CREATED, Shelf, replace
from tests.e2e.sidecar import PATIENCE_S

NAMES = ("policies.tar.gz", "policies.tar.gz.sig", "cosign.pub")


class Mount:
    """Two ConfigMaps in one directory, as the kubelet mounts them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mount"
        self.path.mkdir()
        for name in NAMES:
            (self.path / name).symlink_to(f"..data/{name}")
        self._numbers = itertools.count(1)

    def put(self, version: int) -> None:
        """Swap `..data`: a new key, a new bundle and its signature in one step."""
        directory = self.path / f"..{next(self._numbers)}"
        directory.mkdir()
        Shelf(directory).put(version)
        (self.path / "..data_tmp").symlink_to(directory.name)
        (self.path / "..data_tmp").replace(self.path / "..data")


def test_a_swap_is_told_of_and_one_that_expires_is_looked_at_in_time(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(1)
    bundle, signature, public = (mount.path / name for name in NAMES)
    source = PolicyBundle(
        BundleFiles(bundle, signature, [public]), FloorFile(tmp_path / "floor"), now=time.time
    )
    told: list[Loaded] = []

    async def until(version: int, *, expired: bool = False) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                state = told[-1].bundle if told else None
                if state and state.taken and state.taken.version == version:  # noqa: SIM102
                    if bool(state.expired) is expired:
                        return
                await asyncio.sleep(0.01)

    async def follow() -> None:
        audit = AuditLog(tmp_path / "audit.db", monotonic=time.monotonic)
        audit.open()
        ids = itertools.count()
        versions = Versions(
            audit,
            tmp_path / "audit.db",
            limit=10,
            mode=lambda: Mode.ENFORCE,
            now=time.time,
            new_id=lambda: f"id-{next(ids)}",
        )
        loaded = source.read()
        versions.start(loaded.snapshot)
        # Nobody looks now and then: what is not told of is missed.
        reloader = Reloader(source, versions, loaded=loaded, files=[], poll_s=0)
        reloader.listen(told.append)
        running = asyncio.create_task(reloader.run())
        try:
            await until(1)
            first = versions.current.version
            mount.put(2)
            await until(2)
            assert versions.current.version == told[-1].snapshot.version != first
            # A file in the place of a link, with an end that is near.
            shelf = Shelf(tmp_path)
            shelf.put(3, created=CREATED, not_after=time.time() + 4.0)
            for path, name in zip((bundle, signature, public), NAMES, strict=True):
                replace(path, (tmp_path / name).read_bytes())
            await until(3)
            await until(3, expired=True)
            assert versions.current.version == told[-1].snapshot.version
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            audit.close()

    asyncio.run(follow())
