"""`python -m bench [decisions|load|reload ...]`: runs these, or all, one after the other."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from bench import decisions, load, reload, report

BENCHMARKS: Final[dict[str, Callable[[bool], dict[str, Any]]]] = {
    "decisions": decisions.run,
    "load": load.run,
    "reload": reload.run,
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
        figures = BENCHMARKS[name](arguments.quick)
        result = {**report.circumstances(), "quick": arguments.quick, **figures}
        print(json.dumps(result, indent=2))
        if not arguments.quick:
            report.keep(name, result)
        for figure in figures["figures"]:
            missed += not figure["reached"]
            said = "reached" if figure["reached"] else "MISSED"
            report.progress(f"{said}: {figure['what']}: {figure['value']} (<= {figure['target']})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
