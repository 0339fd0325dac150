"""Traces as W3C Trace Context has them: what came with a call, what is sampled, what is sent on.

- A `traceparent` is read strictly (Trace Context, §3.2.2): one that cannot be read is as none, and
  its `tracestate` goes with it. So is a second one, since two come joined by a comma.
- Whether a decision is traced is known before it is made, and costs whoever is not traced next to
  nothing: a trace that begins here has the decision's id as its own, 128 random bits.
- What an agent sends decides nothing but which trace its calls belong to, and, where the sampler
  follows the caller, whether they are told of. How much is told is bounded elsewhere
  (`edges/tracing`).
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from authz.core.stages.stage import Stage

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
#: Longest tracestate that is told, characters: what everybody has to be able to carry (§3.3.1.5).
MAX_STATE: Final = 512
#: The flags that are known: sampled, and that the id's right half is random (level 2, §3.2.2.5).
SAMPLED: Final = 1
RANDOM: Final = 2
#: What the id's right half is below where everything is sampled; a ratio is a share of it, as in
#: the samplers of OpenTelemetry, so that all parts of a trace agree.
EVERY: Final = 1 << 64

_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-"
    r"([0-9a-f]{2})(?P<more>-.*)?"
)
#: One member of a tracestate (§3.3.1.3), as far as whoever passes it on has to look.
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
#: Members of a tracestate at most (§3.3.1.1).
_MAX_MEMBERS: Final = 32


class Parent(NamedTuple):
    """What a call belongs to."""

    #: 32 digits, lower case.
    trace_id: str
    #: Of the caller's span, 16 digits; empty where a trace begins with several calls of ours.
    span_id: str = ""
    flags: int = 0
    #: What goes with it, as it came; empty where that is not valid.
    state: str = ""


class Sampler(NamedTuple):
    """Which decisions are traced (OTEL_TRACES_SAMPLER)."""

    #: Traces whose id's right half is below this, of those that begin here: up to `EVERY`.
    below: int
    #: Whether a caller's own choice counts, where it brings a trace.
    follows_parent: bool

    def samples(self, trace_id: str, parent: Parent | None) -> bool:
        """Whether a decision of this trace is told of; `trace_id` as in `Parent`."""
        if self.follows_parent and parent is not None and parent.span_id:
            return bool(parent.flags & SAMPLED)
        return int(trace_id[16:], 16) < self.below


class Trace:
    """One decision that is traced, while it is made and until it is told."""

    __slots__ = ("chain", "flags", "is_new", "now", "parent", "span_id", "started_ns", "times",
                 "trace_id")  # fmt: skip

    def __init__(
        self, trace_id: str, span_id: str, parent: Parent | None, now: float, started_ns: int
    ) -> None:
        """
        Args:
            span_id: of the span that the decision is.
            now: seconds since the epoch, and `started_ns` the same on the clock of `times`.
        """
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.now = now
        self.started_ns = started_ns
        self.flags = SAMPLED if parent is None else SAMPLED | parent.flags & RANDOM
        #: Nobody's trace goes on here, so whatever tracestate came belongs to none.
        self.is_new = parent is None or not parent.span_id
        #: What judges the call, and writes down when each stage that ran had ended: a stage begins
        #: where the one before it has ended, and the first with the decision, since whose call it
        #: is has to be found out first.
        self.chain: Sequence[Stage] = ()
        self.times: list[int] = []

    @property
    def traceparent(self) -> str:
        """What the upstream gets: its span is the child of ours."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


class Export(NamedTuple):
    """Where traces go, and how (the variables of OpenTelemetry)."""

    sampler: Sampler
    #: Attributes of the resource, `service.name` among them.
    resource: tuple[tuple[str, str], ...]
    #: The variable that says where.
    variable: str
    is_tls: bool
    host: str
    port: int
    #: With a query, where the URL has one.
    path: str
    #: What goes with each request. Secret, as likely as not.
    headers: tuple[tuple[str, str], ...] = ()
    is_compressed: bool = False
    #: Files of certificates: whom to trust, and what to show.
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    #: Seconds that one export may take, repetitions included; that spans wait at most.
    timeout_s: float = 10.0
    delay_s: float = 5.0
    #: Spans that may wait; that are sent together.
    max_queue: int = 2048
    max_batch: int = 512

    def __repr__(self) -> str:
        return f"Export(to {self.shown})"

    @property
    def shown(self) -> str:
        """The URL, as a sentence may show it: without a query."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.is_tls else "http"
        return f"{scheme}://{host}:{self.port}{self.path.partition('?')[0]}"


def parent_of(traceparent: str, tracestate: str = "") -> Parent | None:
    """The trace that a call belongs to, by its headers; None where they name none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Only later versions may say more, and what their other flags mean is not known.
    if version == "00" and more is not None:
        return None
    known = int(flags, 16) & (SAMPLED | RANDOM)
    return Parent(trace_id, span_id, known, tracestate if _is_state(tracestate) else "")


def _is_state(text: str) -> bool:
    if not text or len(text) > MAX_STATE:
        return False
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    return (
        len(members) <= _MAX_MEMBERS
        and len(keys) == len(members)
        and all(map(_MEMBER.fullmatch, members))
    )
