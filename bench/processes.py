"""The processes of a benchmark: started, watched from outside, and ended.

- None outlives us: each ends with its block, and the kernel ends it when we are killed.
- What one writes goes to a file of its own, so that nobody has to read it meanwhile.
- What a process costs is what the kernel counted, children included; nothing is asked of it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.e2e import sidecar

ROOT: Final = Path(__file__).parents[1]
#: Seconds that a process may take to get ready, or to end once it was told to.
PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.005
_PR_SET_PDEATHSIG: Final = 1
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts; what it writes goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is ours; they end with their blocks, in order.
            start_new_session=True,
            # Whoever starts processes here has no other threads at that time.
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509
        )
    try:
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def child(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of our own processes, which ends when its stdin does."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a `child` prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[bytes]) -> None:
    """Tell a process to end, and see to it that it does."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(
    process: subprocess.Popen[bytes], condition: Callable[[], object], log: Path
) -> None:
    """Poll until a process is as it should be.

    Raises:
        RuntimeError: it ended, or took too long; with the end of what it wrote.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            written = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not get ready:\n{written}")
        time.sleep(_POLL_S)


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(one for child, _ in sidecar.children(pid) for one in tree(child))]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children so far, those that ended included."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime (proc(5))
    return total * _TICK_S


def memory_mb(pid: int) -> dict[str, float]:
    """Memory of a process and its children, MiB: resident, and its share of what others share."""
    found = {"rss": 0, "pss": 0}
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name.lower() in found:
                    found[name.lower()] += int(rest.split()[0])
    return {name: round(kib / 1024, 1) for name, kib in found.items()}


def _die_with(parent: int) -> Callable[[], None]:
    """For the child, between fork and exec: be told when the parent dies (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
