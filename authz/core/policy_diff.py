"""What changes between two sets of policies: in their documents, and in answers to real calls."""

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import yaml

from authz.core.asked import Asked
from authz.core.chain_compiled import CompiledChain
from authz.core.compiled import CompiledPolicy
from authz.core.explain import answer, outcome_of
from authz.core.snapshot import Snapshot
from authz.core.verdict import Verdict

#: Changed answers that are kept to be shown; all are counted.
MAX_SHOWN: Final = 1000


class PolicyChange(NamedTuple):
    """A document that is in one set only, or differs."""

    #: Of what is no policy with its kind in front.
    name: str
    #: `added`, `removed` or `changed`.
    kind: str
    #: The lines that differ, with `-` or `+` in front.
    lines: tuple[str, ...]


def changes(old: Snapshot, new: Snapshot) -> Iterator[PolicyChange]:
    """The documents that differ, policies first, each kind by name."""
    before, after = _documents(old), _documents(new)
    for key in sorted(before.keys() | after.keys()):
        name = " ".join(filter(None, key))
        one, other = before.get(key), after.get(key)
        if one is None:
            yield PolicyChange(name, "added", ())
        elif other is None:
            yield PolicyChange(name, "removed", ())
        elif one.digest != other.digest:
            found = difflib.unified_diff(_text(one.said), _text(other.said), lineterm="", n=1)
            lines = [line for line in found if not line.startswith(("---", "+++", "@@"))]
            yield PolicyChange(name, "changed", tuple(lines))


def _documents(
    snapshot: Snapshot,
) -> dict[tuple[str, str], CompiledPolicy | CompiledChain]:
    """By kind, which is empty for policies, and name."""
    policies = {("", policy.name): policy for policy in snapshot.policies}
    return {**policies, **{(d.kind, d.name): d for d in snapshot.chain}}


def _text(said: str) -> list[str]:
    return yaml.safe_dump(json.loads(said), sort_keys=False, allow_unicode=True).splitlines()


class AnswerChange(NamedTuple):
    """A call whose answer would be another one."""

    asked: Asked
    #: How often it was recorded.
    times: int
    old: Verdict
    new: Verdict


class Replay(NamedTuple):
    """What a replay found."""

    requests: int
    #: Different calls among them.
    calls: int
    #: Requests whose answer changes, by `allow → deny` and the like.
    kinds: dict[str, int]
    #: The changed answers, the most frequent first, at most `MAX_SHOWN`.
    changed: list[AnswerChange]


def replay(old: Snapshot, new: Snapshot, asked: Iterable[tuple[Asked, int]]) -> Replay:
    """Judge calls, each with how often it was made, by both sets."""
    requests = calls = 0
    kinds: dict[str, int] = {}
    changed: list[AnswerChange] = []
    for call, count in asked:
        requests += count
        calls += 1
        before = answer(old, call.identity, call.call)
        after = answer(new, call.identity, call.call)
        if outcome_of(before) == outcome_of(after):
            continue
        kind = f"{outcome_of(before)} → {outcome_of(after)}"
        kinds[kind] = kinds.get(kind, 0) + count
        changed.append(AnswerChange(call, count, before, after))
        if len(changed) > 2 * MAX_SHOWN:
            changed = _most_frequent(changed)
    return Replay(requests, calls, kinds, _most_frequent(changed))


def _most_frequent(changed: list[AnswerChange]) -> list[AnswerChange]:
    return sorted(
        changed, key=lambda c: (-c.times, c.asked.identity.agent_id, c.asked.call.action)
    )[:MAX_SHOWN]
