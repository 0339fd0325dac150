"""The policy language once more, as slowly and plainly as it can be said (CONTRACT §5, DESIGN §4).

It reads policies as YAML gives them and a request as a mapping, looks at everything every time and
shares nothing with `authz.core`, so that both can only agree where they mean the same. It is told
usable policies: what makes a file invalid is no concern of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Document = Mapping[str, Any]
#: `action resource method path host` as text, `agent` as a mapping of `id tags trustTier orgId`,
#: and `context`, the mapping that the agent sent, or None where it sent none.
Request = Mapping[str, Any]
#: True, False, or None for "unknown" (Kleene's three values).
Truth = bool | None


class Answer(NamedTuple):
    """What is recorded about a request, and in the last field what is done about it."""

    decision: str
    code: str
    policy: str
    rule_index: int | None
    dry_run: bool
    enforced: str


class Said(NamedTuple):
    """What one policy, or all of them, answer to an action."""

    effect: str
    code: str
    policy: str
    rule_index: int | None
    #: The least rank that an allow requires.
    required_rank: int


#: The stronger the earlier.
STRENGTH: Final = (
    ("deny", "rule_denied"),
    ("require_approval", "approval_required"),
    ("allow", "rule_allowed"),
    ("deny", "default_denied"),
    ("allow", "default_allowed"),
)

LADDER: Final = (
    ("unverified", "untrusted", "anonymous", "sandboxed", "restricted"),
    ("basic",),
    ("verified", "standard"),
    ("trusted", "elevated"),
    ("privileged", "unrestricted"),
)

MISSING: Final = object()
#: The context of a request whose header holds no JSON object.
UNREADABLE: Final = object()


def decide(policies: Sequence[Document], request: Request) -> Answer:
    """Ask all the policies about one request."""
    applicable = [p for p in policies if applies(p, request["agent"])]
    if not applicable:
        return Answer("deny", "no_policy", "default", None, False, "deny")
    everything = result([without_enforcement(p) for p in applicable], request)
    in_force = [without_dry_runs(p) for p in applicable if not is_dry(p)]
    if not in_force:
        return recorded(everything, dry_run=everything.effect == "deny", enforced="allow")
    really = result(in_force, request)
    if really.effect == "deny":
        return recorded(really, dry_run=False, enforced="deny")
    if everything.effect == "deny":
        return recorded(everything, dry_run=True, enforced="allow")
    return recorded(really, dry_run=False, enforced="allow")


def recorded(said: Said, *, dry_run: bool, enforced: str) -> Answer:
    return Answer(said.effect, said.code, said.policy, said.rule_index, dry_run, enforced)


# Dry runs


def is_dry(part: Document) -> bool:
    return bool(part.get("enforcement", "enforce") == "dry_run")


def without_enforcement(policy: Document) -> Document:
    """The policy with its dry-run rules taken as any other."""
    rules = [{k: v for k, v in rule.items() if k != "enforcement"} for rule in policy["rules"]]
    return {**policy, "rules": rules, "enforcement": "enforce"}


def without_dry_runs(policy: Document) -> Document:
    """The policy with its dry-run rules blanked out, so that the others keep their index."""
    return {**policy, "rules": [None if is_dry(rule) else rule for rule in policy["rules"]]}


# Several policies


def result(policies: Sequence[Document], request: Request) -> Said:
    """Allow or deny, by at least one applicable policy."""
    ordered = sorted(policies, key=lambda policy: (-specificity(policy), policy["name"]))
    answers = [answer(policy, request) for policy in ordered]
    people = [p["name"] for p in ordered if needs_a_person(p, request["action"])]
    for effect, code in STRENGTH:
        alike = [said for said in answers if (said.effect, said.code) == (effect, code)]
        if not alike:
            continue
        first = alike[0]
        if effect != "allow":
            return first._replace(effect="deny")
        if people:
            return Said("deny", "approval_required", people[0], None, 0)
        for said in alike:
            if said.required_rank > rank(request["agent"]["trustTier"]):
                return said._replace(effect="deny", code="insufficient_trust_tier")
        return first
    raise AssertionError("no policy answered")


def specificity(policy: Document) -> int:
    weights = {"agentIds": 8, "tags": 4, "trustTiers": 2, "orgIds": 1}
    lists = policy["appliesTo"]
    return sum(weight for key, weight in weights.items() if key in lists and "*" not in lists[key])


def applies(policy: Document, agent: Mapping[str, Any]) -> bool:
    lists = policy.get("appliesTo", {})
    if not lists:
        return False
    return all(any(is_meant(key, name, agent) for name in names) for key, names in lists.items())


def is_meant(key: str, name: str, agent: Mapping[str, Any]) -> bool:
    """Whether an agent is among those whom a name in one of the lists of `appliesTo` means."""
    if name == "*":
        return True
    if key == "tags":
        return name in agent["tags"]
    if key == "trustTiers":
        return is_tier(name) and rank(name) == rank(agent["trustTier"])
    return bool(name == agent["id" if key == "agentIds" else "orgId"])


def is_tier(name: str) -> bool:
    return any(name.strip().lower() in rung for rung in LADDER)


def rank(name: str) -> int:
    return next(n for n, rung in enumerate(LADDER) if name.strip().lower() in rung)


# One policy


def needs_a_person(policy: Document, action: str) -> bool:
    return any_covers(policy.get("humanInTheLoop", {}).get("requireApproval", []), action)


def answer(policy: Document, request: Request) -> Said:
    floor = rank(policy.get("requiredTrustTier", "unverified"))
    codes = {
        "deny": "rule_denied",
        "require_approval": "approval_required",
        "allow": "rule_allowed",
    }
    groups: list[tuple[str, ...]] = [("deny", "require_approval", "allow")]
    if policy.get("ruleOrder", "first-match") == "deny-overrides":
        groups = [("deny",), ("require_approval",), ("allow",)]
    for group in groups:
        for index, rule in enumerate(policy["rules"]):
            if rule is None or rule["effect"].lower() not in group:
                continue
            effect = rule["effect"].lower()
            if not any_covers(rule["actions"], request["action"]):
                continue
            holds = all_of_facts(rule.get("conditions", {}), request)
            if holds is True or (holds is None and effect != "allow"):
                needed = max(floor, rank(rule.get("requiredTrustTier", "unverified")))
                return Said(effect, codes[effect], policy["name"], index, needed)
    default = policy.get("defaultEffect", "deny")
    code = "default_allowed" if default == "allow" else "default_denied"
    return Said(default, code, policy["name"], None, floor)


# Patterns


def any_covers(patterns: Sequence[str] | str, action: str) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(covers(pattern.strip().lower(), action.lower()) for pattern in listed)


def covers(pattern: str, text: str) -> bool:
    """Whether `pattern` is all of `text`, where a star is any run of characters."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return covers(pattern[1:], text) or (bool(text) and covers(pattern, text[1:]))
    return text[:1] == pattern[0] and covers(pattern[1:], text[1:])


def spellings(pattern: str) -> list[str]:
    """A condition's pattern as patterns of single stars: `**/` is `*/`, or nothing."""
    before, found, after = pattern.partition("**/")
    if found:
        return [
            before.replace("**", "*") + middle + rest
            for middle in ("*/", "")
            for rest in spellings(after)
        ]
    return [pattern.replace("**", "*")]


def is_like(pattern: str, text: str) -> bool:
    return any(covers(single.lower(), text.lower()) for single in spellings(pattern.strip()))


# Conditions


def both(truths: Iterable[Truth]) -> Truth:
    listed = list(truths)
    if False in listed:
        return False
    return None if None in listed else True


def either(truths: Iterable[Truth]) -> Truth:
    listed = list(truths)
    if True in listed:
        return True
    return None if None in listed else False


def opposite(truth: Truth) -> Truth:
    return None if truth is None else not truth


def all_of_facts(conditions: Mapping[str, Any], request: Request) -> Truth:
    """Whether every line of a mapping of conditions holds."""
    lines: list[Truth] = []
    for key, test in conditions.items():
        if key == "all":
            lines.append(both(all_of_facts(inner, request) for inner in test))
        elif key == "any":
            lines.append(either(all_of_facts(inner, request) for inner in test))
        elif key == "not":
            lines.append(opposite(all_of_facts(test, request)))
        elif key == "context":
            lines += [one_fact(f"context.{name}", inner, request) for name, inner in test.items()]
        else:
            lines.append(one_fact(key, test, request))
    return both(lines)


def one_fact(name: str, test: Any, request: Request) -> Truth:
    if name.startswith("context.") and request["context"] is UNREADABLE:
        return None
    if isinstance(test, list):
        test = {"in": test}
    elif not isinstance(test, dict):
        test = {"equals": test}
    value = fact(name, request)
    if name in ("resource", "path"):
        value = single_slashes(value)
        test = {operator: single_slashes(operand) for operator, operand in test.items()}
    if name == "agent.trustTier":
        ranks = {operator: ranks_of(operand) for operator, operand in test.items()}
        return both(holds(operator, operand, rank(value)) for operator, operand in ranks.items())
    return both(holds(operator, operand, value) for operator, operand in test.items())


def single_slashes(value: Any) -> Any:
    if isinstance(value, list):
        return [single_slashes(item) for item in value]
    while isinstance(value, str) and "//" in value:
        value = value.replace("//", "/")
    return value


def ranks_of(operand: Any) -> Any:
    if isinstance(operand, bool):
        return operand
    return [rank(name) for name in operand] if isinstance(operand, list) else rank(operand)


def fact(name: str, request: Request) -> Any:
    """The value of a fact, or MISSING."""
    if name.startswith("context."):
        value = request["context"]
        for step in name.split(".")[1:]:
            if not isinstance(value, dict) or step not in value:
                return MISSING
            value = value[step]
        return MISSING if value is None else value
    value = request["agent"][name[6:]] if name.startswith("agent.") else request[name]
    return MISSING if value == "" else value


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def as_list(operand: Any) -> list[Any]:
    return operand if isinstance(operand, list) else [operand]


def same(left: Any, right: Any) -> bool:
    if kind(left) != kind(right):
        return False
    if isinstance(left, str):
        return bool(left.strip().lower() == right.strip().lower())
    return bool(left == right)


def holds(operator: str, operand: Any, value: Any) -> Truth:
    """Whether a value passes one test."""
    if operator == "exists":
        return bool(operand == (value is not MISSING))
    if value is MISSING:
        return None
    match operator:
        case "notEquals" | "notIn" | "notMatches":
            positive = {"notEquals": "equals", "notIn": "in", "notMatches": "matches"}[operator]
            return opposite(holds(positive, operand, value))
        case "equals" | "in":
            return is_one_of(value, as_list(operand))
        case "contains" if isinstance(value, list):
            return either(is_one_of(element, as_list(operand)) for element in value)
        case "matches" | "startsWith" | "endsWith" | "contains":
            texts = [text for text in as_list(operand) if isinstance(text, str)]
            if not isinstance(value, str) or not texts:
                return None
            return any(is_text_like(operator, text, value) for text in texts)
        case "lt" | "lte" | "gt" | "gte":
            if kind(value) != "number":
                return None
            return bool(
                {
                    "lt": value < operand,
                    "lte": value <= operand,
                    "gt": value > operand,
                    "gte": value >= operand,
                }[operator]
            )
    raise AssertionError(operator)


def is_one_of(value: Any, operands: list[Any]) -> Truth:
    if all(kind(operand) != kind(value) for operand in operands):
        return None
    return any(same(value, operand) for operand in operands)


def is_text_like(operator: str, operand: str, value: str) -> bool:
    small, whole = operand.lower(), value.lower()
    match operator:
        case "matches":
            return is_like(operand, value)
        case "startsWith":
            return whole.startswith(small)
        case "endsWith":
            return whole.endswith(small)
    return small in whole
