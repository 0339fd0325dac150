"""The limit on processor time, as both versions of control groups say it."""

from pathlib import Path
from typing import Final

import pytest

from authz.edges.cpu_quota import NEARLY, WINDOW_S, Thrift, cpus_allowed

NONE: Final = float("inf")


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1: Final = "8:memory:/pod\n2:cpuacct,cpu:/pod/service\n0::/\n"
V1_ALONE: Final = "1:cpu:/pod/service\n"
V2: Final = "0::/pod/service\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (V2, {"pod/service/cpu.max": "25000 100000\n"}, 0.25),
        (V2, {"pod/service/cpu.max": "max 100000\n"}, NONE),
        (V2, {"pod/service/cpu.max": "max 100000\n", "pod/cpu.max": "50000 100000\n"}, 0.5),
        (V2, {"pod/service/cpu.max": "200000 100000\n", "pod/cpu.max": "max 100000\n"}, 2.0),
        # In a container the path is the host's, or the root of what is mounted.
        (V2, {"cpu.max": "25000 100000\n"}, 0.25),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 0.1),
        ("0::/../../service\n", {"cpu.max": "10000 100000\n"}, 0.1),
        (
            V1,
            {
                "cpuacct,cpu/pod/service/cpu.cfs_quota_us": "30000\n",
                "cpuacct,cpu/pod/service/cpu.cfs_period_us": "100000\n",
            },
            0.3,
        ),
        (
            V1_ALONE,
            {
                "cpu/pod/service/cpu.cfs_quota_us": "-1\n",
                "cpu/pod/service/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "150000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            1.5,
        ),
        # The whole is mounted under another name than the membership has it.
        (
            V1,
            {"cpu/cpu.cfs_quota_us": "5000\n", "cpu/cpu.cfs_period_us": "10000\n"},
            0.5,
        ),
        (V2, {}, NONE),
        ("", {"cpu.max": "25000 100000\n"}, NONE),
        ("nonsense\n:::\n0\n", {}, NONE),
        (V2, {"cpu.max": "much\n"}, NONE),
        (V2, {"cpu.max": "1000 0\n"}, NONE),
        (V2, {"cpu.max": "0 100000\n"}, NONE),
        (V2, {"cpu.max": "\n"}, NONE),
        (V1_ALONE, {"cpu/cpu.cfs_quota_us": "1000\n"}, NONE),
    ],
)
def test_the_smallest_limit_counts(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float
) -> None:
    _write(tmp_path / "cgroup", files)
    (tmp_path / "self").write_text(membership)
    assert cpus_allowed(tmp_path / "cgroup", tmp_path / "self") == expected


def test_where_nothing_is_mounted_nothing_is_limited(tmp_path: Path) -> None:
    assert cpus_allowed(tmp_path / "cgroup", tmp_path / "self") == NONE
    assert cpus_allowed() > 0


class Usage:
    """Processor time that has been used."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


#: A look at what was used comes when a window is over.
LOOK_S: Final = WINDOW_S * 1.01


def test_time_is_short_where_most_of_it_was_used() -> None:
    used, allowed = Usage(), 0.25
    thrift = Thrift(lambda: allowed, used)
    now = 1000.0
    assert not thrift.short(now)
    for share in (0.5, 0.99, 0.98, NEARLY - 0.01, NEARLY + 0.01):
        now += LOOK_S
        used.seconds += share * allowed * LOOK_S
        assert thrift.short(now) is (share > NEARLY)
        # It stays so until the next look.
        assert thrift.short(now + WINDOW_S / 2) is (share > NEARLY)


def test_time_is_never_short_where_a_thread_may_use_all_of_a_processor() -> None:
    used, limit, now = Usage(), 1.0, 1000.0
    thrift = Thrift(lambda: limit, used)
    for limit in (1.0, NONE, 0.25, 2.0):
        thrift.renew()
        for _ in range(2):
            now += LOOK_S
            used.seconds += LOOK_S
            short = thrift.short(now)
        assert short is (limit < 1)
