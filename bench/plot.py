"""The result of `hot_path` as a table and a picture.

    python -m bench.plot [DIRECTORY]

It reads hot_path.json in DIRECTORY (bench/results) and writes hot_path.md and hot_path.svg beside
it. Only this module needs matplotlib (requirements/bench.txt), so it is a program of its own.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import report

_COLUMNS: Final = {
    "requests/s": "per_second",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "p99.9 ms": "p999_ms",
    "CPU s per 1,000 decisions": "cpu_s_per_1000_decisions",
    "CPUs": "share_of_a_cpu",
    "Envoy's CPUs": "envoy_share_of_a_cpu",
}
#: What each is, in a word or two below its name.
_WORDS: Final = {
    "h2c": "the sidecar",
    "grpc": "its gate behind grpc.aio",
    "grpc_nothing": "grpc.aio doing nothing",
    "ceiling": "h2c doing nothing",
    "opa": "OPA-Envoy",
}
_OURS: Final = "#1f6f8b"
_OTHERS: Final = "#b8c4c9"


def table(result: dict[str, Any]) -> str:
    """Markdown: the contenders, and the figures that are to be reached."""
    memory = ("RSS MiB", "PSS MiB")
    lines = [
        f"{result['connections']} connections through Envoy, {result['cpus']} CPUs,"
        f" {result['date']}; medians of"
        f" {result['undisturbed_rotations'] or result['rotations']} rotations.",
        "",
        _row("authorizer", *_COLUMNS, *memory),
        _row("---", *("---:" for _ in (*_COLUMNS, *memory))),
    ]
    for name, found in result["contenders"].items():
        sizes = (found["memory_mb"]["rss"], found["memory_mb"]["pss"])
        values = (f"{found[key]:,g}" for key in _COLUMNS.values())
        lines.append(_row(f"`{name}`, {_WORDS[name]}", *values, *map(str, sizes)))
    lines += [f"\n`{name}` is left out: {why}." for name, why in result["left_out"].items()]
    lines += ["", *(f"- {report.sentence(figure)}" for figure in result["figures"])]
    return "\n".join(lines) + "\n"


def picture(result: dict[str, Any]) -> Figure:
    """Throughput and CPU, side by side."""
    found = result["contenders"]
    names = sorted(found, key=lambda name: float(found[name]["per_second"]))
    panels = {
        "requests per second": [found[name]["per_second"] for name in names],
        "CPU of the authorizer, µs per decision": [
            found[name]["cpu_s_per_1000_decisions"] * 1000 for name in names
        ],
    }
    figure = Figure(figsize=(10, 0.6 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        colours = [_OURS if name == "h2c" else _OTHERS for name in names]
        bars = axis.barh([f"{name}\n{_WORDS[name]}" for name in names], values, color=colours)
        axis.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=4)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.margins(x=0.15)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read and write."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else report.RESULTS
    result = json.loads((directory / "hot_path.json").read_text())
    (directory / "hot_path.md").write_text(table(result))
    # The same result gives the same file, and its text stays text.
    mpl.rcParams.update({"svg.hashsalt": "authz", "svg.fonttype": "none"})
    picture(result).savefig(directory / "hot_path.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
