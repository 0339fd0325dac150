"""Directories of somebody else's, read-only and full ones: what is said, and what goes on."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import peewee
import pytest

from authz import memory
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.exits import Exit
from authz.ownership import why_not_written
from authz.run_dir import StartError, hold
from authz.settings import Settings
from authz.stores.audit_check import NotATrail, newest_head
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.audit_query import Unreadable, opened
from authz.stores.version_log import VersionReader
from authz.stores.versions import Versions
from tests.e2e import sidecar as starter
from tests.strangers import closed

DENIED: Final = "cannot be opened: Permission denied"


@pytest.fixture
def around() -> Iterator[Path]:
    """A directory that everybody may look into; pytest's own are closed."""
    with starter.directory() as path:
        path.chmod(0o755)
        yield path


def test_a_file_that_can_be_written_has_no_excuse(tmp_path: Path) -> None:
    assert why_not_written(tmp_path / "audit.db") == ""
    (tmp_path / "audit.db").touch()
    assert why_not_written(tmp_path / "audit.db") == ""


def test_a_file_system_without_blocks_is_not_called_full() -> None:
    assert "full" not in why_not_written(Path("/proc/nowhere/audit.db"))


def test_somebody_elses_directory_is_named_with_its_owner_us_and_the_cure(around: Path) -> None:
    data, owner = around / "data", os.geteuid()
    data.mkdir()
    with closed(data):
        said = why_not_written(data / "audit.db")
        us = f"{os.geteuid()}:{os.getegid()}"
        group = os.getegid()
    assert said.startswith(f"{data} belongs to {owner}:")
    assert f", and this process is {us}; give it {data} (chown; in Kubernetes" in said
    assert said.endswith(f"securityContext.fsGroup: {group})" if group else "fsGroup)")


def test_a_store_in_somebody_elses_directory_is_a_line_in_the_log_and_no_path_in_health(
    around: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = around / "data"
    data.mkdir()
    audit = AuditLog(data / "audit.db", monotonic=time.monotonic)
    with closed(data):
        assert not audit.open()
    [line] = caplog.messages
    assert line.startswith(f"AUDIT_DB_PATH: {data}/audit.db cannot be written, and decisions")
    assert f": Permission denied; {data} belongs to " in line
    assert audit.failure == "Permission denied"
    assert audit.open()
    audit.close()


def test_keys_and_versions_beside_such_a_store_do_not_stop_a_start(around: Path) -> None:
    data = around / "data"
    data.mkdir()
    settings = Settings.from_env(
        {"JWT_SECRET": "s" * 32, "AUDIT_DB_PATH": str(data / "audit.db"), "AUTHZ_RUN_DIR": "/"}
    )
    audit = AuditLog(data / "audit.db", monotonic=time.monotonic)
    versions = Versions(
        audit,
        data / "audit.db",
        limit=3,
        mode=lambda: Mode.ENFORCE,
        now=time.time,
        new_id=lambda: "id",
    )
    with closed(data):
        audit.open()
        assert memory.Delegations(settings).keys() == {}
        versions.start(Snapshot(()))
        # And nothing is in the log of somebody else's: what was there is not known.
        assert not audit.probe()


def test_whoever_only_reads_such_a_trail_is_not_told_that_there_is_none(around: Path) -> None:
    data = around / "data"
    data.mkdir()
    path = data / "audit.db"
    with closed(data):
        for reader in (AuditReader, VersionReader):
            with pytest.raises(
                peewee.OperationalError, match="cannot be opened: Permission denied"
            ):
                reader(path)
        with pytest.raises(NotATrail, match=DENIED):
            newest_head(path)
        with pytest.raises(Unreadable, match=DENIED):
            opened(path)


def test_a_run_directory_of_somebody_elses_is_a_sentence_and_a_code(around: Path) -> None:
    data = around / "data"
    data.mkdir()
    with closed(data), pytest.raises(StartError) as refused:
        hold(data / "run", "service")
    assert refused.value.code is Exit.RUN_DIRECTORY
    assert str(refused.value).startswith(
        f"AUTHZ_RUN_DIR: {data}/run cannot be used: Permission denied; {data} belongs to "
    )


def test_a_read_only_and_a_full_file_system_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)

    def changed(position: int, value: int) -> None:
        fields = list(real)
        fields[position] = value
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    changed(8, os.ST_RDONLY)
    assert why_not_written(tmp_path / "a.db").startswith(f"{tmp_path} is mounted read-only; ")
    changed(4, 0)
    assert why_not_written(tmp_path / "a.db").startswith(f"the file system of {tmp_path} is full")
