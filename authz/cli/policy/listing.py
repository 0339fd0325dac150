"""`authz policy list` and `show`: the documents that there are."""

import json
from collections.abc import Mapping
from typing import Any, Final

import typer

from authz.cli.options import AsJson
from authz.cli.policy.shared import Kind, Name
from authz.cli.shared import print_table
from authz.core.text import visible

#: What `appliesTo` restricts, as a table calls it.
_SCOPES: Final = {
    "agentIds": "agents",
    "tags": "tags",
    "trustTiers": "tiers",
    "orgIds": "orgs",
}


def list_documents(as_json: AsJson = False) -> None:
    """List the policies, and the documents of other kinds.

    Those in POLICIES_DIR, as far as they are valid; with --gateway those that a sidecar has.
    """
    from authz.cli.policy.documents import opened
    from authz.core.policy_set import POLICY

    with opened() as there:
        found = there.listed()
    policies = [entry for entry in found if entry.get("kind", POLICY) == POLICY]
    others = [entry for entry in found if entry.get("kind", POLICY) != POLICY]
    if as_json:
        typer.echo(json.dumps({"policies": policies, "documents": others}, indent=2))
        return
    print_table(
        ("NAME", "VERSION", "RULES", "DEFAULT", "APPLIES", "FILE"),
        [
            (
                _cell(entry, "name"),
                _cell(entry, "version"),
                str(len(_rules(entry))),
                _cell(entry, "defaultEffect"),
                applies(entry),
                _file(entry),
            )
            for entry in policies
        ],
        wrap=("APPLIES",),
    )
    if others:
        typer.echo("")
        print_table(
            ("KIND", "NAME", "VERSION", "FILE"),
            [
                (*(_cell(entry, key) for key in ("kind", "name", "version")), _file(entry))
                for entry in others
            ],
        )


def show(name: Name, kind: Kind = "Policy", as_json: AsJson = False) -> None:
    """Print a policy, or a document of another kind, as its file has it."""
    from authz.cli.policy.documents import opened

    with opened() as there:
        if as_json:
            typer.echo(json.dumps(there.document(kind, name), indent=2))
            return
        text = there.text(kind, name)
    # What hides, moves or breaks a line is not obeyed.
    for line in text.rstrip().split("\n"):
        typer.echo(visible(line))


def applies(entry: Mapping[str, Any]) -> str:
    """Whom a policy is for, in a few words."""
    scope = entry.get("appliesTo")
    if not isinstance(scope, Mapping) or not any(scope.values()):
        return "nobody"
    told = [
        f"{word}: {', '.join(map(str, names))}"
        for key, word in _SCOPES.items()
        if isinstance(names := scope.get(key), list) and names and "*" not in names
    ]
    return "; ".join(told) or "everybody"


def _rules(entry: Mapping[str, Any]) -> list[Any]:
    rules = entry.get("rules")
    return rules if isinstance(rules, list) else []


def _file(entry: Mapping[str, Any]) -> str:
    return _cell(entry, "file") + (" (stale)" if entry.get("stale") else "")


def _cell(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return "-" if value in (None, "") else str(value)
