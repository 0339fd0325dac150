"""What the whole chain costs, beside auth and policy alone, in CPU of the authorizer per decision.

Two sidecars' services, each behind an Envoy of its own, take turns at the same load of the same
requests, which say what they do and what influenced them. The one has the sample policies and
nothing else. The other has every stage configured (`bench/chain/`), strict intent verification and
the destructive gate: each stage has something to look up, and rate limit and wallet something to
write. A third of the same kind is asked by an agent that acts for another one, two hops away; what
that costs is told, and not to be reached.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from bench import contenders, report, wrk
from bench.hot_path import Rotation, calm, rotations, shown, summary

#: To be reached.
CPU: Final = 1.3
NAMES: Final = ("policy", "chain", "delegated")


def run(quick: bool) -> dict[str, Any]:
    """CPU and throughput by what is configured."""
    wrk.require()
    with contextlib.ExitStack() as stack:
        those = [stack.enter_context(contenders.running(name)) for name in NAMES]
        done = rotations(those, quick)
    told = calm(done) or done
    wrong = sum(turn.wrong for rotation in done for turn in rotation.values())
    return {
        "figures": [
            report.figure("answers other than 200, rows missing or too many", wrong, 0),
            report.figure(
                "CPU per decision, the whole chain configured / auth and policy alone",
                _ratio(told, "chain"),
                CPU,
            ),
        ],
        "delegated_over_policy_alone": _ratio(told, "delegated"),
        "rotations": len(done),
        "undisturbed_rotations": len(calm(done)),
        "configured": {name: summary([one[name] for one in told]) for name in NAMES},
        "each_turn": [[shown(turn) for turn in rotation.values()] for rotation in done],
    }


def _ratio(told: Sequence[Rotation], name: str) -> float:
    return report.median(
        [one[name].cpu_per_1000_s / one["policy"].cpu_per_1000_s for one in told], 3
    )
