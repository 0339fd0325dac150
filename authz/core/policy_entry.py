"""Documents and problems as API answers show them (CONTRACT §1.3).

They are made of what a document says, its canonical JSON, which is kept of every version: of one
that is not in force, too, nothing has to be compiled.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from authz.core.policy_file import Problem
from authz.core.policy_set import POLICY


def document_entry(said: Mapping[str, Any], *, active: bool) -> dict[str, Any]:
    """A document. Of a policy and each of its rules there is an `id`, which the Rust SDK needs.

    Args:
        said: its canonical form.
        active: it is in force, and for somebody.
    """
    if "kind" in said:
        head = {"kind": said["kind"], "id": said["name"], "name": said["name"]}
        return {**head, "version": "", **said, "active": active}
    head = {"id": said["name"], "name": said["name"], "version": said.get("version", "")}
    rules = [_rule_entry(rule, place) for place, rule in enumerate(said["rules"])]
    # Defaults are left out of what a document says; readers need not know them.
    told = {"appliesTo": {}, "defaultEffect": "deny", **said, "rules": rules}
    return {**head, **told, "active": active}


def _rule_entry(rule: Mapping[str, Any], place: int) -> dict[str, Any]:
    # As `compiled.CompiledRule.label`, which audit rows have.
    label = rule.get("id") or rule.get("name") or f"rules[{place}]"
    return {**rule, "id": label}


def kind_and_name(said: Mapping[str, Any]) -> tuple[str, str]:
    """What a canonical document is called."""
    return said.get("kind", POLICY), said["name"]


def problem_entries(
    problems: Sequence[Problem], severity: str, *, placed: bool = True
) -> list[dict[str, Any]]:
    """The problems of one severity.

    Args:
        placed: their places are those of a text that the reader has.
    """
    return [_problem_entry(one, placed=placed) for one in problems if one.severity == severity]


def _problem_entry(problem: Problem, *, placed: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"message": problem.message}
    if placed:
        entry |= {"line": problem.line, "column": problem.column}
    if problem.lint:
        entry["lint"] = problem.lint
    return entry


def dumped(value: object) -> bytes:
    """JSON as answers have it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
