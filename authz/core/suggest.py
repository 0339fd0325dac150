"""The least-privilege policies that would have allowed what was recorded.

- One policy an agent, and in it one allow rule a verb; patterns are the actions themselves.
- What was seen is what the agent did, not what it should be allowed: a person reads the result,
  so each pattern says how often it was used, and what current policies objected to stands apart.
- An action that holds a `*` would become a pattern for others. It is named and left out: an agent
  that could write its own permissions would.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from authz.core.identity import Identity
from authz.core.pattern import fold
from authz.core.policy_doc import MAX_ITEMS, MAX_NAME, MAX_PATTERN
from authz.core.text import visible


class Seen(NamedTuple):
    """A call that went through, and how often."""

    identity: Identity
    action: str
    times: int
    #: It went through although policies objected: audit mode, or a dry run.
    objected: bool


class Suggestion(NamedTuple):
    """A policy file, as YAML, and what could not be said in it."""

    text: str
    left_out: tuple[str, ...]


#: Actions that are named as left out; an agent may have made up more.
MAX_LEFT_OUT: Final = 100
#: Why something is left out.
_STAR: Final = "a `*` in it would allow other actions too"
_EVERYBODY: Final = "the agent id `*` would stand for everybody"
_NO_ID: Final = "no token can name such an agent"
_UNPRINTABLE: Final = "it cannot be written as a pattern"


def suggest(seen: Iterable[Seen], *, collapse: int = 0) -> Suggestion:
    """Policies that allow exactly these actions.

    Args:
        collapse: where this many actions differ only in what follows their last `/`, write
            `.../*` instead; 0 never does.
    """
    agents: dict[str, Counter[str]] = defaultdict(Counter)
    objected: set[tuple[str, str]] = set()
    left_out: list[str] = []
    for call in seen:
        agent, action = call.identity.agent_id, call.action
        why = _unsayable(agent, action)
        if why:
            left_out.append(
                f"{visible(agent)}: {visible(action[:200])} ({call.times} times): {why}"
            )
            continue
        agents[agent][fold(action)] += call.times
        if call.objected:
            objected.add((agent, fold(action)))
    documents = [_policy(agent, agents[agent], objected, collapse) for agent in sorted(agents)]
    comments = [f"# not suggested: {line}" for line in left_out[:MAX_LEFT_OUT]]
    if len(left_out) > MAX_LEFT_OUT:
        comments.append(f"# and {len(left_out) - MAX_LEFT_OUT} more were not suggested")
    return Suggestion("\n".join([*comments, "---\n".join(documents)]), tuple(left_out))


def is_sayable(agent: str, action: str) -> bool:
    """Whether there is a pattern that allows this action to this agent, and nothing else."""
    return not _unsayable(agent, action)


def _name(agent: str) -> str:
    name = f"suggested-{agent}"
    # Cut off, the names of two agents could be one.
    return name if len(name) <= MAX_NAME else f"suggested-{_hash(agent)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unsayable(agent: str, action: str) -> str:
    if agent == "*":
        return _EVERYBODY
    if "*" in action:
        return _STAR
    if not agent.isprintable():
        return _NO_ID
    plain = action.isprintable() and action == action.strip() and len(fold(action)) <= MAX_PATTERN
    return "" if plain else _UNPRINTABLE


def _policy(
    agent: str, actions: Counter[str], objected: set[tuple[str, str]], collapse: int
) -> str:
    patterns = _collapsed(actions, collapse)
    doubtful = {
        p for p, members in patterns.items() if any((agent, a) in objected for a in members)
    }
    verbs: dict[tuple[bool, str], list[tuple[str, int]]] = defaultdict(list)
    for pattern, members in patterns.items():
        verb = pattern.partition(":")[0]
        count = sum(actions[action] for action in members)
        verbs[pattern in doubtful, verb].append((pattern, count))
    lines = [
        f"name: {_quoted(_name(agent))}",
        'version: "1"',
        f"description: what {sum(actions.values())} recorded requests used",
        "appliesTo:",
        f"  agentIds: [{_quoted(agent)}]",
        "rules:",
    ]
    for (doubt, _), found in sorted(verbs.items()):
        if doubt:
            lines.append("  # Policies in force at the time objected to these: look twice.")
        found.sort(key=lambda item: (-item[1], item[0]))
        for at, (pattern, count) in enumerate(found):
            if at % MAX_ITEMS == 0:
                lines += ["  - effect: allow", "    actions:"]
            lines.append(f"      - {_quoted(pattern)}  # {count}")
    lines.append("defaultEffect: deny\n")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    # JSON's strings are YAML's, as long as nothing is written as a surrogate pair.
    return json.dumps(text, ensure_ascii=False)


def _collapsed(actions: Iterable[str], collapse: int) -> dict[str, list[str]]:
    """Patterns, each with the actions that it stands for."""
    siblings: dict[str, list[str]] = defaultdict(list)
    for action in actions:
        siblings[action.rpartition("/")[0]].append(action)
    patterns: dict[str, list[str]] = {}
    for parent, members in siblings.items():
        if parent and collapse and len(members) >= collapse:
            patterns[f"{parent}/*"] = members
        else:
            patterns.update({action: [action] for action in members})
    return patterns
