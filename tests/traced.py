"""A gate whose decisions are traced, and what becomes of them on the wire."""

import itertools
from typing import Any

from authz.core import otlp
from authz.core.delegation.relationship import AUTHORITY, Relationship
from authz.core.identity import TokenVerifier
from authz.core.ledger import Put
from authz.core.mode import Mode
from authz.core.otlp import Told
from authz.core.tracing import EVERY, Sampler
from authz.core.wire_pb2 import CheckResponse
from authz.edges.tracing.tracer import Tracer
from authz.gate import Gate
from tests import builders
from tests.otlp import Span, spans_of

POLICIES = builders.snapshot(
    builders.policy("readers", [("allow", "read:*"), ("deny", "write:*")]),
)


class Kept:
    """A sink that keeps what it is offered, as long as there is room."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.has_room = True
        self.not_told = 0

    def offer(self, one: Told) -> None:
        self.told.append(one)

    def lost(self) -> None:
        self.not_told += 1

    def spans(self) -> list[Span]:
        ids = itertools.count(1)
        fields = [field for one in self.told for field in otlp.spans_of(one, ids.__next__)]
        return spans_of(otlp.request((("service.name", "tests"),), "1", fields))


class World:
    """A gate whose every decision is traced, and a clock that counts its readings."""

    def __init__(self, below: int = EVERY, **changes: Any) -> None:
        self.sink = Kept()
        self.environment = builders.environment()
        self.recorder = builders.MemoryRecorder()
        clock = itertools.count(1_000_000, 1000)
        ids = itertools.count(1)
        given: dict[str, Any] = {
            "snapshot": lambda: POLICIES,
            "tokens": TokenVerifier(builders.SECRET),
            "recorder": self.recorder,
            "environment": self.environment,
            "mode": Mode.ENFORCE,
            "now": lambda: builders.NOW,
            "monotonic_ns": clock.__next__,
            "new_id": lambda: f"{next(ids):032x}",
            "tracer": Tracer(Sampler(below, True), self.sink, clock.__next__, 1),
        }
        self.gate = Gate(**(given | changes))

    def ask(self, path: str = "/proxy/docs", method: str = "GET", **headers: str) -> CheckResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = builders.check_request(method, path, {"authorization": builders.bearer()} | named)
        return CheckResponse.FromString(self.gate.check(raw))


def delegated(world: World) -> str:
    """Let another agent have delegated to the caller; the name of that."""
    name = f"rel_{7:032x}"
    hop = Relationship(
        id=name, org_id="", source="boss", target="agent-1", type=AUTHORITY, scope=("*",),
        resources=(), ceiling=(), max_depth=0, requires_approval=False, created_at=0.0,
        expires_at=builders.NOW + 60, parent="", root="boss", depth=1, revoked_at=None,
        revoked_reason="", source_name="", source_tier="trusted", source_tags=(), source_org="",
    )  # fmt: skip
    ledger = world.environment.state.ledger
    ledger.put(Put(world.environment.state.relationships, name, hop))
    ledger.keep(durable=False)
    return name
