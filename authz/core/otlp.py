"""Spans as OTLP has them: opentelemetry.proto.collector.trace.v1, on the wire (OTLP 1.x).

- By hand, as `reply.py` writes its answers: a traced decision is a dozen spans, and the SDK's
  spans and encoder take fifteen times as long for those. Tests read what comes out with the
  official schema, and hold it against what the SDK's encoder makes of the same.
- Texts are bounded (`MAX_TEXT`) and are no secrets: names, codes and the path without its query.
- Denied is not broken: a span has the status error only where we could not decide.
"""

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from authz.core.delegation.walk import Walked
from authz.core.errors import Code
from authz.core.identity import Identity
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.reply import sized
from authz.core.tracing import Trace
from authz.core.verdict import Decision

#: Longest text of an attribute, characters. Actions and paths have 8 KiB at most; a backend cuts
#: or refuses what is longer than a few KiB.
MAX_TEXT: Final = 1024

EVALUATE: Final = "meshguard.policy.evaluate"
WRITE: Final = "meshguard.audit.write"
DELEGATION: Final = "meshguard.delegation.check"
#: Before a stage's name.
STAGE: Final = "meshguard.stage."
_FUSE: Final = "delegation-fuse"

#: SpanKind: what is inside of us, and what answers somebody else.
_INTERNAL: Final = b"\x30\x01"
_SERVER: Final = b"\x30\x02"
#: Span.flags: whether the parent is elsewhere is known, and it is.
_IS_KNOWN: Final = 0x100
_IS_REMOTE: Final = 0x200
#: Span.status { code: ERROR }, with the code of ours as its message.
_ERROR: Final = b"\x18\x02"
#: Codes from which on it is not the caller's doing.
_BROKEN: Final = 500

#: Span.span_id, start_time_unix_nano and end_time_unix_nano with their tags: what only one span
#: has. Fields may come in any order.
_OWN: Final = struct.Struct("<HQBQBQ")
_ID, _START, _END = 0x0812, 0x39, 0x41
#: Span.flags: its tag, of two bytes, and the number.
_FLAGS: Final = struct.Struct("<HI")
_FLAGS_TAG: Final = 0x0185


class Told(NamedTuple):
    """A traced decision once it is made, with what only the event loop may read of it."""

    outcome: Outcome
    trace: Trace
    #: When the rows began to be written, on the clock of `Trace.times`, and how long it took,
    #: nanoseconds; 0 where there are none.
    commit_started_ns: int
    commit_ns: int
    #: Hops, the delegating agent and the relationship's id, where a delegation was walked; as much
    #: of it as is known.
    delegation: tuple[int | None, str, str] | None

    @property
    def spans(self) -> int:
        """How many it is."""
        known = 1 + len(self.trace.times) + bool(self.commit_ns)
        return known + (self.delegation is not None)


def told(outcome: Outcome, trace: Trace, commit_started_ns: int, commit_ns: int) -> Told:
    """What a decision's spans are made of; on the thread that decides."""
    case = outcome.case
    delegation: tuple[int | None, str, str] | None = None
    if case.call.delegation and _has_run(trace, _FUSE):
        walked = case.delegated  # a stage has asked, so it is known
        if isinstance(walked, Walked):
            delegation = walked.depth, walked.leaf.source, walked.leaf.id
        else:
            failing = walked.failing if walked is not None else None
            source = failing.source if failing is not None else ""
            delegation = None, source, case.delegation_id
    return Told(outcome, trace, commit_started_ns, commit_ns, delegation)


def _has_run(trace: Trace, name: str) -> bool:
    return any(stage.name == name for stage in trace.chain[: len(trace.times)])


def request(resource: Sequence[tuple[str, str]], version: str, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest; `spans` are fields as `spans_of` yields them."""
    attributes = b"".join(_text(b"\x0a", name, value) for name, value in resource)
    scope = sized(b"\x0a", b"authz") + sized(b"\x12", version.encode())
    scoped = sized(b"\x0a", scope) + b"".join(spans)
    return sized(b"\x0a", sized(b"\x0a", attributes) + sized(b"\x12", scoped))


def spans_of(one: Told, new_id: Callable[[], int]) -> Iterator[bytes]:
    """The spans of a decision, each as a field of ScopeSpans.

    Args:
        new_id: the next span's, of 64 bits, not 0.
    """
    outcome, trace = one.outcome, one.trace
    call, verdict, identity = outcome.case.call, outcome.verdict, outcome.case.identity
    base = int(trace.now * 1e9) - trace.started_ns
    ended = trace.started_ns + outcome.latency_us * 1000
    # The latency is of whole microseconds.
    ended = max(ended, *trace.times[-1:], one.commit_started_ns + one.commit_ns)
    # What all of them have, and what all but the first have.
    shared = sized(b"\x0a", bytes.fromhex(trace.trace_id))
    if trace.parent is not None and trace.parent.state:
        shared += sized(b"\x1a", trace.parent.state.encode())
    own_id = bytes.fromhex(trace.span_id)
    flags = _IS_KNOWN | trace.flags
    local = shared + _FLAGS.pack(_FLAGS_TAG, flags)
    inner = local + b"\x22\x08" + own_id

    def span(head: bytes, span_id: int, started: int, end: int) -> bytes:
        own = _OWN.pack(_ID, span_id, _START, base + started, _END, base + end)
        return sized(b"\x12", head + own)

    if not trace.is_new:
        assert trace.parent is not None
        shared += b"\x22\x08" + bytes.fromhex(trace.parent.span_id)
        flags |= _IS_REMOTE
    agent = _attribute("meshguard.agent_id", identity.agent_id)
    action = _attribute("meshguard.action", call.action)
    said = _text(b"\x4a", "meshguard.trace_id", outcome.trace_id)
    decision = _attribute("meshguard.decision", verdict.decision.value)
    head = b"".join((
        _name(EVALUATE, _SERVER), shared, _FLAGS.pack(_FLAGS_TAG, flags), agent, action, said,
        _common(
            verdict.decision, outcome.enforced, verdict.code, outcome.mode, call.source,
            outcome.case.snapshot.version, verdict.policy, verdict.rule, verdict.stage,
            outcome.case.caller.tier if isinstance(outcome.case.caller, Identity) else "",
            call.method,
        ),
        _text(b"\x4a", "meshguard.decision_id", outcome.decision_id),
        _known("meshguard.reason", _reason(outcome)),
        _known("url.path", call.path),
    ))  # fmt: skip
    yield span(head, int.from_bytes(own_id, "little"), trace.started_ns, ended)
    started = trace.started_ns
    for (stage, _), end in zip(trace.chain, trace.times, strict=False):
        stage_id = new_id()
        head = _name(STAGE + stage, _INTERNAL) + inner
        if stage == verdict.stage:
            head += decision + _attribute("meshguard.code", verdict.code.value)
        yield span(head, stage_id, started, end)
        if stage == _FUSE and one.delegation is not None:
            depth, source, relationship = one.delegation
            below = local + b"\x22\x08" + stage_id.to_bytes(8, "little")
            head = _name(DELEGATION, _INTERNAL) + below + agent
            head += b"" if depth is None else _number("meshguard.delegation.depth", depth)
            head += _known("meshguard.delegation.parent_id", source)
            head += _known("meshguard.delegation.agent_id", identity.agent_id)
            head += _known("meshguard.delegation.id", relationship)
            yield span(head, new_id(), started, end)
        started = end
    if one.commit_ns:
        started = one.commit_started_ns
        head = _name(WRITE, _INTERNAL) + inner + agent + action + decision + said
        yield span(head, new_id(), started, started + one.commit_ns)


@functools.lru_cache(maxsize=256)
def _common(
    decision: Decision,
    enforced: Decision,
    code: Code,
    mode: Mode,
    source: str,
    policy_version: str,
    policy: str,
    rule: str,
    stage: str,
    tier: str,
    method: str,
) -> bytes:
    """What the decisions about one agent have in common, from one call to its next."""
    attributes = {
        "meshguard.decision": decision.value,
        "meshguard.enforced": enforced.value,
        "meshguard.code": code.value,
        "meshguard.mode": mode.value,
        "meshguard.source": source,
        "meshguard.policy_version": policy_version,
        "meshguard.policy_name": policy,
        "meshguard.rule": rule,
        "meshguard.stage": stage,
        "meshguard.trust_tier": tier,
        "http.request.method": method,
    }
    said = b"".join(_known(name, value) for name, value in attributes.items())
    if code.status < _BROKEN:
        return said
    return said + sized(b"\x7a", sized(b"\x12", code.value.encode()) + _ERROR)


def _reason(outcome: Outcome) -> str:
    """Why, where it is not simply allowed."""
    verdict = outcome.verdict
    return verdict.reason if verdict.decision is not Decision.ALLOW else ""


def rejected_of(answer: bytes) -> int:
    """Spans that a collector says it has not taken, of its ExportTraceServiceResponse.

    Raises:
        ValueError: it is none.
    """
    for number, value in _fields(answer):
        if number == 1 and isinstance(value, bytes):
            return next((v for n, v in _fields(value) if n == 1 and isinstance(v, int)), 0)
    return 0


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message of varints and lengths."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        value, at = _varint(message, at)
        if kind == 0:
            yield key >> 3, value
        elif kind == 2 and at + value <= len(message):
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError("not a message that is expected here")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("not a number")


@functools.lru_cache(maxsize=64)
def _name(name: str, kind: bytes) -> bytes:
    return sized(b"\x2a", name.encode()) + kind


@functools.lru_cache(maxsize=64)
def _key(name: str) -> bytes:
    return sized(b"\x0a", name.encode())


def _known(name: str, value: str) -> bytes:
    """Span.attributes: a text, or nothing where it is empty."""
    return _attribute(name, value) if value else b""


def _attribute(name: str, value: str) -> bytes:
    """Span.attributes: a text. Most are among the few that come again and again."""
    return _text(b"\x4a", name, value) if len(value) > _KEPT else _kept(name, value)


#: Longest text of an attribute that is kept encoded.
_KEPT: Final = 128


@functools.lru_cache(maxsize=512)
def _kept(name: str, value: str) -> bytes:
    return _text(b"\x4a", name, value)


def _text(tag: bytes, name: str, value: str) -> bytes:
    # Headers are read as Latin-1 or escape what is not UTF-8: what cannot be written is replaced.
    text = value[:MAX_TEXT].encode(errors="replace")
    return sized(tag, _key(name) + sized(b"\x12", sized(b"\x0a", text)))


def _number(name: str, value: int) -> bytes:
    """Span.attributes: a whole number from 0 to 127."""
    return sized(b"\x4a", _key(name) + sized(b"\x12", b"\x18" + bytes((value,))))
