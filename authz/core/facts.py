"""What conditions look at: facts about a call and its caller, some of the agent's own choosing.

- A fact that is not given is `MISSING`; one that could mean two things, or cannot be read, is
  `UNCLEAR`.
- The agent chooses its `context` and its resource. A context that is not one JSON object with
  distinct keys tells nothing, and a path is seen without its dot segments, so that it has one
  name.
- Of a tunnel nobody sees the path.
- A check or a batch asks about a request that has not been made: it has no method, path or host.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from authz.core.call import MAX_META, Call
from authz.core.identity import Identity
from authz.core.json_keys import distinct as distinct  # noqa: PLC0414 - others take it from here
from authz.core.sources import FORWARDED

#: Lists and objects in a context, which also bounds how deep they nest: whoever reads the record
#: again should not run out of stack.
MAX_PARTS: Final = 256


class Facts(NamedTuple):
    """A call and who makes it."""

    call: Call
    identity: Identity


class _Sentinel:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: The fact is not given. Not None: that is a truth value of conditions.
MISSING: Final = _Sentinel("MISSING")
#: Something is given that tells nothing, so not even whether the fact exists can be told.
UNCLEAR: Final = _Sentinel("UNCLEAR")

Reader = Callable[[Facts], object]

CONTEXT: Final = "context"


def reader_of(fact: str) -> Reader | None:
    """How a fact is read; None when there is no such fact."""
    if fact in FACTS:
        return FACTS[fact]
    head, _, key = fact.partition(".")
    return _context(key) if head == CONTEXT and all(key.split(".")) else None


def _resource(facts: Facts) -> object:
    return _resolved(facts.call.resource) if facts.call.resource else MISSING


def _wire(read: Callable[[Call], object]) -> Reader:
    def fact(facts: Facts) -> object:
        return (read(facts.call) or MISSING) if facts.call.source in FORWARDED else MISSING

    return fact


def _agent(read: Callable[[Identity], object]) -> Reader:
    def fact(facts: Facts) -> object:
        value = read(facts.identity) if facts.identity.agent_id else MISSING
        return MISSING if value == "" else value

    return fact


#: Encoded dots, slashes and percent signs.
_ENCODED: Final = re.compile("%(2e|2f|5c|25)", re.IGNORECASE)


def slashed(text: str) -> str:
    """A path with one kind of slash, and one of them at a time."""
    text = text.replace("\\", "/")
    while "//" in text:
        text = text.replace("//", "/")
    return text


@functools.lru_cache(maxsize=64)
def _resolved(text: str) -> object:
    """A path in the one spelling that all others of it are compared as."""
    if "%" in text and _ENCODED.search(text):
        # Whoever decodes it sees another path than we do.
        return UNCLEAR
    text = slashed(text)
    segments = text.split("/")
    if "." not in segments and ".." not in segments:
        return text
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            # At the top there is nothing to go up to; what is absolute stays so.
            if kept and kept != [""]:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/" if kept == [""] else "/".join(kept)


@functools.lru_cache(maxsize=256)
def context_of(meta: str) -> Mapping[str, Any] | None:
    """The JSON object of an `X-MeshGuard-Meta`; None when it is not one that can be trusted to
    mean one thing (not JSON, not an object, a key twice, NaN, too long)."""
    if len(meta) > MAX_META or meta.count("{") + meta.count("[") > MAX_PARTS:
        return None
    try:
        value = json.loads(
            meta,
            object_pairs_hook=distinct,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _context(key: str) -> Reader:
    steps = key.split(".")

    def fact(facts: Facts) -> object:
        if not facts.call.meta:
            return MISSING
        context = context_of(facts.call.meta)
        if context is None:
            return UNCLEAR
        value: object = context
        for step in steps:
            value = value.get(step, MISSING) if isinstance(value, dict) else MISSING
        if len(steps) > 1 and key in context:
            # `user.role` may be a key of its own; beside a nested one it would be two answers.
            value = context[key] if value is MISSING else UNCLEAR
        return MISSING if value is None else value

    return fact


#: Facts whose texts are paths.
PATHS: Final = frozenset({"resource", "path"})

FACTS: Final[Mapping[str, Reader]] = {
    "resource": _resource,
    "method": _wire(lambda call: call.method),
    "path": _wire(lambda call: _resolved("/" + call.upstream_path) if call.path else ""),
    "host": _wire(lambda call: call.host),
    "agent.id": _agent(lambda agent: agent.agent_id),
    "agent.name": _agent(lambda agent: agent.name),
    "agent.orgId": _agent(lambda agent: agent.org_id),
    "agent.tags": _agent(lambda agent: sorted(agent.tags)),
    "agent.trustTier": _agent(lambda agent: agent.tier),
}
