"""What control groups of both versions say of memory."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from authz.cgroups import GIVES_WAY, Memory, groups, memory, own_memory

MIB: Final = 1 << 20
UNLIMITED_V1: Final = 9223372036854771712


def group(path: Path, **files: object) -> None:
    """A group's files; `__` stands for a dot."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "membership"


def test_version_2(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/pod/container\n")
    group(tmp_path / "pod", memory__max=256 * MIB, memory__current=1, memory__peak=2)
    group(
        tmp_path / "pod/container",
        memory__max="max",
        memory__current=7,
        memory__events="low 0\noom 3\noom_kill 2\noom_group_kill 0",
    )
    (tmp_path / "pod/memory.stat").write_text("anon 1\ninactive_file 30\nactive_file 12\n")
    # The limit is the pod's, and so are the figures that it is held against.
    assert memory(tmp_path, membership) == Memory(256 * MIB, 1, 2, 42, 2)


def test_version_1(tmp_path: Path, membership: Path) -> None:
    membership.write_text("5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    # In a container the path is the host's, and what is mounted is ours.
    group(
        tmp_path / "memory",
        memory__limit_in_bytes=128 * MIB,
        memory__usage_in_bytes=5,
        memory__max_usage_in_bytes=6,
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1",
        memory__stat="cache 9\ntotal_inactive_file 2\ntotal_active_file 3",
    )
    assert memory(tmp_path, membership) == Memory(128 * MIB, 5, 6, 5, 1)


def test_the_smallest_limit_counts_and_no_limit_is_none(tmp_path: Path, membership: Path) -> None:
    membership.write_text("4:memory:/a/b\n")
    group(tmp_path / "memory/a/b", memory__limit_in_bytes=300 * MIB)
    group(tmp_path / "memory/a", memory__limit_in_bytes=200 * MIB)
    group(tmp_path / "memory", memory__limit_in_bytes=UNLIMITED_V1)
    assert memory(tmp_path, membership).limit == 200 * MIB
    group(tmp_path / "memory/a", memory__limit_in_bytes=UNLIMITED_V1)
    group(tmp_path / "memory/a/b", memory__limit_in_bytes=UNLIMITED_V1, memory__usage_in_bytes=4)
    assert memory(tmp_path, membership) == Memory(None, 4, None, None, None)


@pytest.mark.parametrize("text", ["", "nonsense", "4:memory:/../..\n", "0::/\n"])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, membership: Path, text: str) -> None:
    membership.write_text(text)
    assert memory(tmp_path / "nothing", membership) == Memory(None, None, None, None, None)
    assert memory(tmp_path, tmp_path / "none") == Memory(None, None, None, None, None)


def test_here_it_says_what_the_kernel_does() -> None:
    """Where its files can be read at all: not on every machine."""
    files = [
        directory / name
        for directory in groups("memory")
        for name in ("memory.current", "memory.usage_in_bytes")
    ]
    if any(file.exists() for file in files):
        used = memory().used
        assert used is not None
        assert used > 0
    else:
        assert memory() == Memory(None, None, None, None, None)


@pytest.mark.parametrize(("command", "gives_way"), [("settings", True), ("serve", False)])
def test_a_command_gives_way_to_the_sidecar_in_whose_container_it_runs(
    command: str, gives_way: bool
) -> None:
    """When memory runs out, the kernel is to end what a person asked, and not what answers."""
    program = (
        "import authz.cli, pathlib, sys\n"
        "authz.cli.app = lambda: print(pathlib.Path('/proc/self/oom_score_adj').read_text())\n"
        f"sys.argv = ['authz', {command!r}]\n"
        "authz.cli.main()\n"
    )
    before = int(Path("/proc/self/oom_score_adj").read_text())
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == (GIVES_WAY if gives_way else before)


def test_what_we_have_ourselves_is_not_the_sidecars() -> None:
    assert MIB < own_memory() < 4096 * MIB
