"""Test suites for policies: a YAML file of calls and the answers that are expected (CONTRACT §14).

    agents:
      reviewer: {tier: verified, tags: [code-review]}
    tests:
      - {name: reviewers read, agent: reviewer, action: "read:docs", expect: allow}

An agent that is not described is only its id: tier verified, no tags. Coverage counts the rules
that decided their policy in some test.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from authz.core import yaml_tree
from authz.core.asked import AgentSpec, Asked
from authz.core.explain import Explanation, explain
from authz.core.policy_file import MAX_FILE, Problem
from authz.core.snapshot import Snapshot
from authz.core.text import word
from authz.core.yaml_tree import YamlError

Expected = Literal["allow", "deny", "require_approval", "would_deny"]

#: What published examples write for the same.
_SAME: Final = {
    "allowed": "allow",
    "denied": "deny",
    "approval_required": "require_approval",
    "requireapproval": "require_approval",
}

#: The id of an agent that is described where it is used, without one.
NAMELESS: Final = "agent"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class SuiteTest(_Model):
    """One call and its answer."""

    name: str = Field(min_length=1)
    #: An agent of the suite, an id, or a description.
    agent: str | AgentSpec
    action: str = Field(min_length=1)
    resource: str = ""
    method: str = ""
    path: str = ""
    host: str = ""
    context: dict[str, Any] | None = None
    expect: Expected
    #: The policy, and the rule's id or place (`rules[2]`), that must decide.
    policy: str | None = None
    rule: str | None = None

    @field_validator("expect", mode="before")
    @classmethod
    def _spelled(cls, value: object) -> object:
        text = value.strip().lower() if isinstance(value, str) else value
        return _SAME.get(text, text) if isinstance(text, str) else value


class Suite(_Model):
    """A file of tests."""

    #: A policy file or directory, relative to the suite; the command line's comes first.
    policies: str | None = None
    agents: dict[str, AgentSpec] = Field(default_factory=dict)
    tests: list[SuiteTest] = Field(min_length=1, max_length=100_000)


class Result(NamedTuple):
    """A test that was run."""

    test: SuiteTest
    explanation: Explanation
    #: Why it failed; empty when it passed.
    failure: str
    #: Where it stands in its file.
    line: int


class SuiteRead(NamedTuple):
    """A suite, or what is wrong with it."""

    suite: Suite | None
    lines: tuple[int, ...]
    problems: tuple[Problem, ...]
    #: The call of each test.
    asked: tuple[Asked, ...] = ()


def read_suite(data: bytes, file: str) -> SuiteRead:
    """Read a suite; `file` is the name that problems carry."""

    def bad(line: int, column: int, message: str) -> SuiteRead:
        return SuiteRead(None, (), (Problem(file, line, column, "error", message),))

    if len(data) > MAX_FILE:
        return bad(1, 1, f"the file is larger than {MAX_FILE} bytes")
    try:
        nodes = yaml_tree.parse(data)
    except YamlError as error:
        return bad(error.line, error.column, error.message)
    if len(nodes) != 1:
        return bad(1, 1, "a suite is one document with `tests:`")
    [node] = nodes
    if {"rules", "appliesTo"} & node.plain_keys() and "tests" not in node.plain_keys():
        said = "this is a policy, not a suite of tests; check it with `authz policy validate`"
        return bad(node.line, node.column, said)
    problems: set[Problem] = set()

    def say(path: tuple[int | str, ...], sentence: str, *, of_key: bool = False) -> None:
        line, column = node.place_of_key(path) if of_key else node.place(path)
        problems.add(Problem(file, line, column, "error", sentence))

    try:
        suite = Suite.model_validate(node.plain())
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            path, branch = _path(item["loc"])
            # `agent` is one of two things; only the one that was meant has something to say.
            if branch == ("AgentSpec" if node.text_at(path[:3]) else "str"):
                continue
            say(path, _sentence(path, item, node), of_key=item["type"] == "extra_forbidden")
        return SuiteRead(None, (), tuple(sorted(problems)))
    asked: list[Asked] = []
    for index, test in enumerate(suite.tests):
        path = ("tests", index)
        if isinstance(test.agent, str) and test.agent not in suite.agents:
            close = difflib.get_close_matches(test.agent, suite.agents, n=1, cutoff=0.9)
            if close:
                said = f"`{word(test.agent)}` is not among the agents, did you mean"
                say((*path, "agent"), f"{said} `{word(close[0])}`?")
        try:
            asked.append(_asked(test, suite.agents))
        except ValueError as error:
            say(path, f"test `{word(test.name)}`: {error}")
    if problems:
        return SuiteRead(None, (), tuple(sorted(problems)))
    lines = tuple(node.place(("tests", index))[0] for index in range(len(suite.tests)))
    return SuiteRead(suite, lines, (), tuple(asked))


def _path(location: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], str]:
    """Where in the document that is, and which of two kinds of `agent` pydantic tried."""
    if len(location) > 3 and location[0] == "tests" and location[2] == "agent":
        return (*location[:3], *location[4:]), str(location[3])
    return location, ""


def run_suite(read: SuiteRead, snapshot: Snapshot) -> list[Result]:
    """Run every test of a suite that was read without problems, in order."""
    assert read.suite is not None
    results = []
    for test, asked, line in zip(read.suite.tests, read.asked, read.lines, strict=True):
        explanation = explain(snapshot, asked.identity, asked.call)
        results.append(Result(test, explanation, _failure(test, explanation), line))
    return results


class Coverage(NamedTuple):
    """Which rules tests reached."""

    #: Policy name to the 0-based places of its rules.
    reached: dict[str, set[int]]
    missed: list[tuple[str, int]]
    total: int


def coverage(snapshot: Snapshot, results: list[Result]) -> Coverage:
    """The rules that decided their policy in some test, and those that never did."""
    reached: dict[str, set[int]] = {policy.name: set() for policy in snapshot.policies}
    for result in results:
        for trace in result.explanation.applicable:
            for rule in trace.rules:
                if rule.outcome == "match":
                    reached[trace.policy.name].add(rule.rule.place)
    rules = [
        (policy.name, place) for policy in snapshot.policies for place in range(len(policy.rules))
    ]
    return Coverage(
        reached, [rule for rule in rules if rule[1] not in reached[rule[0]]], len(rules)
    )


def _asked(test: SuiteTest, agents: Mapping[str, AgentSpec]) -> Asked:
    agent = test.agent
    if isinstance(agent, str):
        known = agents.get(agent)
        if known is None:
            agent = AgentSpec.model_validate({"id": agent})
        else:
            agent = known if known.id else known.model_copy(update={"id": agent})
    elif not agent.id:
        # Without an id it would be a caller without identity, and nothing of it a fact.
        agent = agent.model_copy(update={"id": NAMELESS})
    return Asked.of(
        agent,
        test.action,
        resource=test.resource,
        method=test.method,
        path=test.path,
        host=test.host,
        context=test.context,
    )


def _failure(test: SuiteTest, explanation: Explanation) -> str:
    outcome, verdict = explanation.outcome, explanation.verdict
    # A dry run blocks nothing, so whoever expects an allow gets one.
    if outcome != test.expect and not (outcome == "would_deny" and test.expect == "allow"):
        return f"expected {test.expect}, got {outcome}"
    if test.policy is not None and test.policy != verdict.policy:
        return f"expected policy {test.policy}, got {verdict.policy or 'none'}"
    if test.rule is not None and test.rule not in (verdict.rule, f"rules[{verdict.rule_index}]"):
        return f"expected rule {test.rule}, got {verdict.rule or 'none'}"
    return ""


def _sentence(path: tuple[int | str, ...], item: Any, node: yaml_tree.Node) -> str:
    leaf = word(str(next((step for step in reversed(path) if isinstance(step, str)), "suite")))
    match item["type"]:
        case "missing":
            return f"`{leaf}` is missing"
        case "extra_forbidden":
            known = {*Suite.model_fields, *SuiteTest.model_fields, *AgentSpec.model_fields}
            close = difflib.get_close_matches(leaf, known, n=1)
            return f"unknown key `{leaf}`" + (f", did you mean `{close[0]}`?" if close else "")
        case "literal_error":
            return f"unknown {leaf} `{word(node.text_at(path))}` (one of {item['ctx']['expected']})"
        case "string_type":
            return f"`{leaf}` must be text"
        case "list_type":
            return f"`{leaf}` must be a list"
        case "model_type" | "dict_type":
            return f"`{leaf}` must be a mapping"
        case "too_short" | "string_too_short":
            return f"`{leaf}` must not be empty"
        case "value_error":
            return f"`{leaf}`: {item['ctx']['error']}"
    return f"`{leaf}`: {item['msg']}"
