"""From the publication of a signed bundle on a control plane to the first denial at an edge.

Two sidecars (`authz run`), each with its own Envoy: the control plane serves a signed bundle, the
edge fetches it every `INTERVAL_S` seconds and enforces it. In each round a bundle is published that
says the opposite of the one before about one action, by renaming its two files into place, and an
agent asks the edge every few milliseconds until the answer has changed.

The time counts from the second rename to the answer. What it is made of: the control plane notices
(0.2 s of quiet, as of every change of policies), the edge asks (up to the interval), the edge
notices (0.2 s again). It has to be the interval and a second at most.
"""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench import report
from tests.e2e import sidecar
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer
from tests.sync.plane import Signer, bundle, policy

INTERVAL_S: Final = 2
ROUNDS: Final = 20
#: Seconds between two questions.
EVERY_S: Final = 0.005
#: Seconds over the interval that it may take.
OVER_S: Final = 1.0
#: Seconds after which a round has failed.
PATIENCE_S: Final = 30.0


def run(quick: bool) -> dict[str, Any]:
    """Seconds of each round, and the longest of them, which is to be reached."""
    rounds = 4 if quick else ROUNDS
    taken = []
    with (
        tempfile.TemporaryDirectory(prefix="authz-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        signer = Signer()
        shared: dict[str, Any] = {
            "POLICY_BUNDLE_KEYS": str(signer.public(directory / "cosign.pub")),
            "REQUIRE_SIGNED_POLICIES": "true",
            "POLICIES_DIR": "",
        }
        _publish(directory, signer, 1)
        upstream = stack.enter_context(upstreams.serving())
        control = stack.enter_context(
            sidecar.running(upstream, POLICY_BUNDLE=str(directory / "control.tar.gz"), **shared)
        )
        edge = stack.enter_context(
            sidecar.running(
                upstream,
                POLICY_BUNDLE=str(directory / "edge.tar.gz"),
                SYNC_URL=control.url,
                SYNC_INTERVAL=f"{INTERVAL_S}s",
                SYNC_TOKEN=ADMIN_TOKEN,
                **shared,
            )
        )
        _until(edge, 1)
        for version in range(2, rounds + 2):
            # Anywhere within an interval.
            time.sleep(INTERVAL_S * (version * 0.618 % 1))
            began = _publish(directory, signer, version)
            taken.append(_until(edge, version) - began)
            report.progress(f"round {version - 1}: {taken[-1]:.2f} s")
    longest = max(taken)
    return {
        "interval_s": INTERVAL_S,
        "rounds_s": [round(one, 3) for one in taken],
        "mean_s": round(sum(taken) / len(taken), 3),
        "longest_s": round(longest, 3),
        "figures": [
            report.figure(
                "seconds over the interval from publication to enforcement, the longest",
                round(longest - INTERVAL_S, 3),
                OVER_S,
            )
        ],
    }


def _effect(version: int) -> str:
    return "deny" if version % 2 else "allow"


def _publish(directory: Path, signer: Signer, version: int) -> float:
    """Put a new version in place; when that was done."""
    data = bundle(version, p=policy("p", _effect(version)))
    for name, content in (
        ("control.tar.gz.sig", signer.sign(data).encode()),
        ("control.tar.gz", data),
    ):
        draft = directory / f"{name}.new"
        draft.write_bytes(content)
        draft.replace(directory / name)
    return time.monotonic()


def _until(edge: Sidecar, version: int) -> float:
    """When the edge first answers as this version says."""
    wanted = 403 if _effect(version) == "deny" else 200
    ends = time.monotonic() + PATIENCE_S
    while edge.client.post("/proxy/doc", headers=bearer()).status_code != wanted:
        if time.monotonic() > ends:
            raise report.Unavailable(f"version {version} is not in force after {PATIENCE_S:g} s")
        time.sleep(EVERY_S)
    return time.monotonic()
