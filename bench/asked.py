"""The one request of the benchmarks of the hot path, one that is denied, and what to answer.

Both carry the token of a code reviewer, whom the sample policies let read and not delete.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from authz.core.identity import TokenVerifier
from authz.core.mode import Mode
from authz.core.wire_pb2 import CheckResponse
from authz.gate import Gate
from authz.stores.policies import PolicyDirectory
from tests import builders
from tests.e2e import sidecar

PATH: Final = "/proxy/docs/intro"
#: The same answer of Envoy's without a decision before it (`bench.envoy`).
UNASKED_PATH: Final = "/unasked/docs/intro"
ALLOWED: Final = "GET"
DENIED: Final = "DELETE"
POLICIES: Final[Path] = sidecar.SAMPLE_POLICIES
SECRET: Final = sidecar.JWT_SECRET
AGENT: Final = "reviewer-1"
#: Longer than any benchmark takes.
TTL_S: Final = 6 * 3600
ACTION: Final = "X-MeshGuard-Action"
#: What a request carries besides where the whole chain is configured.
CHAIN_HEADERS: Final = {
    ACTION: "read:docs/intro",
    "X-MeshGuard-Provenance": "lane=observed;source=crm, lane=verified;source=wiki",
}


def headers() -> dict[str, str]:
    """What the request carries."""
    return {**sidecar.bearer(agent_id=AGENT, ttl_s=TTL_S), "User-Agent": "bench"}


def check_request(method: str = ALLOWED) -> bytes:
    """What Envoy makes of the request, less what it knows of the connection."""
    named = {
        ":authority": "127.0.0.1",
        ":method": method,
        ":path": PATH,
        ":scheme": "http",
        **{name.lower(): value for name, value in headers().items()},
        "x-forwarded-proto": "http",
        "x-request-id": "5c4f8c58-5f0e-4d1c-9c3e-0e9c9c3b5a51",
    }
    return builders.check_request(method, PATH, named)


def answer() -> bytes:
    """What the gate answers: a do-nothing server gives Envoy the same to do with it."""
    gate = Gate(
        snapshot=lambda: snapshot,
        tokens=TokenVerifier(SECRET),
        recorder=builders.MemoryRecorder(),
        environment=builders.environment(),
        mode=Mode.ENFORCE,
        now=time.time,
        monotonic_ns=time.perf_counter_ns,
        new_id=lambda: "0" * 32,
    )
    snapshot = PolicyDirectory(POLICIES).read().snapshot
    said = gate.check(check_request())
    assert CheckResponse.FromString(said).status.code == 0
    return said


def verify(url: str, carried: Mapping[str, str], *, decides: bool) -> None:
    """Ask once for what is allowed, and where somebody decides, for what is not."""
    wanted = {ALLOWED: (200, "allow")}
    if decides:
        wanted[DENIED] = (403, "deny")
    for method, expected in wanted.items():
        found = _ask(url, method, carried)
        assert found == expected, f"{method} {PATH}: {found}, not {expected}"


def is_allowed(url: str, carried: Mapping[str, str]) -> bool:
    """Whether somebody there decides already."""
    try:
        return _ask(url, ALLOWED, carried) == (200, "allow")
    except httpx.TransportError:
        return False


def _ask(url: str, method: str, carried: Mapping[str, str]) -> tuple[int, str]:
    if method == DENIED:
        # What is declared would be judged, and that is allowed.
        carried = {name: value for name, value in carried.items() if name != ACTION}
    said = httpx.request(method, url + PATH, headers=carried, timeout=5)
    return said.status_code, said.headers.get("x-meshguard-decision", "")
