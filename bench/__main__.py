"""`python -m bench [NAME ...]`: runs these benchmarks, or all, one after the other."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from bench import (
    audit_reads,
    container_sla,
    decisions,
    full_chain,
    hot_path,
    load,
    neighbours,
    one_connection,
    open_loop,
    reload,
    report,
    stages,
    start,
    sync,
    telemetry,
)

BENCHMARKS: Final[dict[str, Callable[[bool], dict[str, Any]]]] = {
    "decisions": decisions.run,
    "load": load.run,
    "reload": reload.run,
    "hot_path": hot_path.run,
    "one_connection": one_connection.run,
    "neighbours": neighbours.run,
    "open_loop": open_loop.run,
    "stages": stages.run,
    "full_chain": full_chain.run,
    "audit_reads": audit_reads.run,
    "start": start.run,
    "telemetry": telemetry.run,
    "sync": sync.run,
    "container_sla": container_sla.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the time; prints, but keeps nothing"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)} (one of {', '.join(BENCHMARKS)})")
    missed = 0
    for name in arguments.names or BENCHMARKS:
        report.progress(f"== {name}")
        try:
            figures = BENCHMARKS[name](arguments.quick)
        except report.Unavailable as reason:
            report.progress(f"NOT MEASURED: {name}: {reason}")
            missed += 1
            continue
        result = {**report.circumstances(), "quick": arguments.quick, **figures}
        print(json.dumps(result, indent=2))
        if not arguments.quick:
            report.keep(name, result)
            if name == "hot_path":
                report.draw()
        for figure in figures["figures"]:
            missed += figure["reached"] is False
            report.progress(report.sentence(figure))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
