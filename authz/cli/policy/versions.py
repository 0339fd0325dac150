"""`authz policy versions`, `rollback` and `release`: what was in force when, and the way back."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from authz.cli.options import AsJson
from authz.cli.shared import fail, print_table

#: Documents of a version that a table names.
MAX_NAMED: Final = 5


def versions(
    at: Annotated[str, typer.Option("--at", help="Only the one in force at this time.")] = "",
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100_000)] = 20,
    database: Annotated[
        Path | None, typer.Option(help="Audit database; AUDIT_DB_PATH when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print which policies were in force when, newest first, from the audit database."""
    import peewee

    from authz.core.timestamps import rfc3339, seconds_of
    from authz.settings import settings_of
    from authz.stores.version_log import VersionReader, entry_of

    moment = None
    if at:
        try:
            moment = rfc3339(seconds_of(at))
        except ValueError as error:
            fail([f"--at: {error}"], 2)
    path = database or settings_of(os.environ, "AUDIT_DB_PATH", "DB_PATH").audit_db_path
    try:
        found = VersionReader(path).activations(at=moment, limit=count)
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], 1)
    except peewee.PeeweeException as error:
        fail([f"{path}: not an audit database: {error}"], 1)
    if not found:
        fail([f"no policies were in force {f'at {at}' if at else 'yet'}"], 1)
    if as_json:
        typer.echo(json.dumps({"versions": [entry_of(recorded) for recorded in found]}, indent=2))
        return
    print_table(
        ("VERSION", "FROM", "UNTIL", "WHY", "POLICIES"),
        [
            (
                recorded.activation.version,
                recorded.activation.at,
                recorded.activation.until or "now",
                recorded.activation.why + (", pinned" if recorded.activation.pinned else ""),
                named(recorded.policies),
            )
            for recorded in found
        ],
    )


def rollback(
    version: Annotated[str, typer.Argument(help="As `authz policy versions` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Put an earlier version in force, and keep it until `authz policy release`.

    Needs ADMIN_TOKEN. Exit code 3: it was refused; 5: the sidecar cannot be reached.
    """
    answer = _ask("/admin/policies/rollback", {"version": version})
    said = f"version {answer['version']} is in force, until `authz policy release`"
    _say(answer, said, as_json=as_json)


def release(
    as_json: AsJson = False,
) -> None:
    """End a rollback: the policy files are in force again. Needs ADMIN_TOKEN."""
    answer = _ask("/admin/policies/release", None)
    said = f"version {answer['version']} of the files is in force"
    _say(answer, said, as_json=as_json)


def _ask(path: str, body: dict[str, str] | None) -> dict[str, Any]:
    """Ask the sidecar that is named, or the one in AUTHZ_RUN_DIR."""
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    with Remote(sidecar()) as there:
        answer = there.ask("POST", path, body=body)
        if not isinstance(answer.get("version"), str) or "pinned" not in answer:
            there.no_sidecar("its answer names no version")
    return answer


def _say(answer: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(answer, indent=2) if as_json else sentence)


def named(policies: list[dict[str, str]]) -> str:
    """The documents of a version as a table names them; where there are many, how many."""
    from authz.core.policy_set import counted

    names = [" ".join(p[key] for key in ("kind", "name", "version") if key in p) for p in policies]
    if len(names) <= MAX_NAMED:
        return ", ".join(names) or "none"
    others = sum("kind" in document for document in policies)
    total = counted(len(policies) - others, others)
    return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more ({total})"
