"""What 1,000 policy files cost to load: seconds, by part, and resident memory.

Everything is measured in fresh processes, so that nothing that this one holds is counted:

- `bench.reading` reads the directory: at first, unchanged, with one file changed, with all of them
  changed; then it times the parts of reading by themselves, each over all files;
- `authz serve`: its memory with a handful of policies, with all of them, and after reloads in which
  every policy changes. It keeps POLICY_VERSION_LIMIT versions, so it may grow until then and has to
  be level afterwards.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from authz.core.wire_pb2 import CheckResponse
from authz.edges.h2c.server import SERVICE
from authz.edges.watcher import GATHER_S, Watcher
from authz.settings import EXT_AUTHZ_SOCKET
from bench import policies, report
from bench.policies import TAG, Volume, resource
from bench.reload import reloads as reloads_of
from tests.builders import check_request
from tests.e2e import sidecar

COUNT: Final = 1000
#: Reloads after which memory is looked at: the versions that are kept, and as many again.
VERSIONS: Final = 10
#: Decisions after the start and after each reload.
DECISIONS: Final = 200
#: Seconds that a child may take in all.
CHILD_S: Final = 120.0
#: Resident memory of the service with 1,000 policies, MiB (DESIGN §10).
TARGET_MB: Final = 80.0
#: What may still be added once all versions are there that are kept: the allocator's own doing.
LEVEL_MB: Final = 5.0
ROOT: Final = Path(__file__).parents[1]


def run(quick: bool) -> dict[str, Any]:
    """Seconds and MiB; the memory of the service is to be reached."""
    files = policies.texts(policies.documents(COUNT))
    size = sum(map(len, files.values()))
    runs = [_in_a_fresh_process(files) for _ in range(1 if quick else 5)]
    reading = {name: report.median([one[name] for one in runs], 4) for name in runs[0]}
    report.progress(f"{COUNT} files, {size} bytes: {reading}")
    watching = _watching(files)
    report.progress(f"watching them: {watching}")
    service = _service(3 if quick else VERSIONS)
    report.progress(f"authz serve: {service}")
    return {
        "figures": [
            report.figure(
                f"resident memory of the service with {COUNT} policies, MiB",
                service["started_mb"],
                TARGET_MB,
            ),
            report.figure(
                f"growth by {service['kept']} more reloads once so many versions are kept, MiB",
                round(service["twice_as_many_mb"] - service["all_versions_mb"], 1),
                LEVEL_MB,
            ),
        ],
        "files": COUNT,
        "bytes": size,
        "reading": reading,
        "watching": watching,
        "service": service,
    }


def _in_a_fresh_process(files: Mapping[str, bytes]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        policies.write(Path(directory), files)
        done = subprocess.run(
            [sys.executable, "-m", "bench.reading", directory],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            timeout=CHILD_S,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _watching(files: Mapping[str, bytes]) -> dict[str, float]:
    """CPU seconds of the watch while all files are written: there, and aside and swapped in."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        plain, mounted = Path(directory) / "plain", Volume(Path(directory) / "mounted")
        plain.mkdir()
        policies.write(plain, files)
        mounted.publish(files)
        for name, path, write in (
            ("written_in_place_cpu_s", plain, lambda: policies.write(plain, files)),
            ("swapped_in_cpu_s", mounted.path, lambda: mounted.publish(files)),
        ):
            told = threading.Event()
            watcher = Watcher(told.set, is_ours=lambda file: file.endswith(".yaml"))
            watcher.start()
            watcher.watch([path], [], sorted(path.glob("*.yaml")))
            spent = _elsewhere(write)
            assert told.wait(CHILD_S), "the watcher told of nothing"
            time.sleep(10 * GATHER_S)  # the last of them
            watcher.stop()
            found[name] = spent()
    return found


def _elsewhere(work: Callable[[], object]) -> Callable[[], float]:
    """Do something in this thread; the CPU time of all others since then."""
    whole, mine = time.process_time(), time.thread_time()
    work()
    return lambda: round((time.process_time() - whole) - (time.thread_time() - mine), 4)


# ---------------------------------------------------------------- the service


def _service(versions: int) -> dict[str, Any]:
    """Resident memory of `authz serve` while its policies change."""
    few_mb = _serving(3, 0, versions)[0][0]
    sizes, took = _serving(COUNT, 2 * versions, versions)
    return {
        "kept": versions,
        "with_3_policies_mb": few_mb,
        "started_mb": sizes[0],
        # One more than are kept: the next is there before the oldest is given up.
        "all_versions_mb": sizes[versions + 1],
        "twice_as_many_mb": sizes[-1],
        "after_each_mb": sizes,
        "reload_ms": report.spread(took, 0),
    }


def _serving(count: int, reloads: int, versions: int) -> tuple[list[float], list[float]]:
    """Memory at first and after each reload, and what each took by the service's own log."""
    with sidecar.directory() as directory:
        volume = Volume(directory / "policies")
        volume.publish(policies.texts(policies.documents(count)))
        env = sidecar.environment(
            directory,
            0,
            "http://127.0.0.1:9",
            PORT="",
            POLICIES_DIR=str(volume.path),
            POLICY_VERSION_LIMIT=str(versions),
        )
        log = directory / "stderr"
        with sidecar.start(directory, env, "serve") as process:
            _wait(process, lambda: "serving in mode" in log.read_text())
            sizes = [_after_a_few_decisions(process.pid, directory)]
            for number in range(1, reloads + 1):
                volume.publish(policies.texts(policies.documents(count, edition=f"{number}")))
                _wait(process, lambda: len(reloads_of(log.read_text())) >= len(sizes))
                sizes.append(_after_a_few_decisions(process.pid, directory))
                report.progress(f"reload {number}: {sizes[-1]} MiB")
            return sizes, [one.took_ms for one in reloads_of(log.read_text())]


def _wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CHILD_S
    while not condition():
        assert process.poll() is None, "the service ended"
        assert time.monotonic() < deadline, "the service did not get there in time"
        time.sleep(0.02)


def _after_a_few_decisions(pid: int, directory: Path) -> float:
    """Resident memory once the policies have been used."""
    address = f"unix:{directory / 'run' / EXT_AUTHZ_SOCKET}"
    headers = sidecar.bearer(agent_id=policies.AGENT, tags=(TAG,))
    headers = {name.lower(): value for name, value in headers.items()}
    with grpc.insecure_channel(address) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Check")
        for number in range(DECISIONS):
            index = number % 2
            method, code = ("GET", 0) if index else ("DELETE", 7)
            path = f"/proxy/{resource(index)}/{number}"
            answer = check(check_request(method, path, headers), timeout=5)
            assert CheckResponse.FromString(answer).status.code == code
    return report.resident_mb(pid)
