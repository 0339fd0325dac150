"""One process's reading of a directory of policies: seconds, and the memory that it takes.

    python -m bench.reading DIRECTORY

Nothing that reading does not need is imported, so that the growth of the process is the policies'
own. It prints JSON, and changes the files.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from authz.core import lints, yaml_tree
from authz.core.compiled import compile_policy
from authz.core.policy_doc import PolicyDoc
from authz.core.policy_file import parse_file
from authz.core.policy_set import PolicyFile, build
from authz.core.snapshot import Snapshot
from authz.stores.policies import PolicyDirectory
from authz.stores.version_log import pack
from bench import policies, report


def measure(directory: Path) -> dict[str, float]:
    """Read: at first, unchanged, with one file changed, with all of them changed."""
    count = sum(1 for _ in directory.iterdir())
    before_mb = report.resident_mb()
    reader = PolicyDirectory(directory)

    def read() -> tuple[float, float, Snapshot]:
        cpu, started = time.process_time(), time.perf_counter()
        loaded = reader.read()
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert loaded.snapshot.size == loaded.files == count, loaded.errors
        return elapsed, cpu, loaded.snapshot

    first_s, first_cpu_s, snapshot = read()
    after_mb = report.resident_mb()
    unchanged_s, _, again = read()
    assert again.version == snapshot.version
    changed = policies.document(7, policies.for_others(7), edition="B")
    policies.write(directory, policies.texts([changed]))
    one_changed_s, _, other = read()
    assert other.version != snapshot.version
    policies.write(directory, policies.texts(policies.documents(count, edition="C")))
    all_changed_s, all_changed_cpu_s, third = read()
    assert third.version not in (snapshot.version, other.version)
    return {
        "first_s": first_s,
        "first_cpu_s": first_cpu_s,
        "unchanged_s": unchanged_s,
        "one_changed_s": one_changed_s,
        "all_changed_s": all_changed_s,
        "all_changed_cpu_s": all_changed_cpu_s,
        "before_mb": before_mb,
        "after_mb": after_mb,
        "loaded_mb": after_mb - before_mb,
        **_parts(directory),
    }


def _parts(directory: Path) -> dict[str, float]:
    """CPU seconds of the parts of reading, each by itself over all files."""
    texts = [path.read_bytes() for path in sorted(directory.glob("*.yaml"))]
    plain = [node.plain() for text in texts for node in yaml_tree.parse(text)]
    documents = [PolicyDoc.model_validate(said) for said in plain]
    parsed = [parse_file(text, f"{n}.yaml") for n, text in enumerate(texts)]
    files = [PolicyFile(f"{n}.yaml", one.policies) for n, one in enumerate(parsed)]
    compiled = [placed.policy for one in parsed for placed in one.policies]
    return {
        "files_cpu_s": _cpu(lambda text: parse_file(text, "x.yaml"), texts),
        "of_it_yaml_cpu_s": _cpu(yaml_tree.parse, texts),
        "of_it_models_cpu_s": _cpu(PolicyDoc.model_validate, plain),
        "of_it_lints_cpu_s": _cpu(lambda document: list(lints.of_policy(document)), documents),
        "of_it_compile_cpu_s": _cpu(compile_policy, documents),
        "set_cpu_s": _cpu(build, [files]),
        "snapshot_cpu_s": _cpu(Snapshot, [compiled]),
        "pack_cpu_s": _cpu(pack, [Snapshot(compiled)]),
    }


def _cpu(work: Callable[[Any], object], over: Iterable[Any]) -> float:
    started = time.process_time()
    for one in over:
        work(one)
    return time.process_time() - started


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
