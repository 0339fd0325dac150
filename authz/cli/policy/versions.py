"""`authz policy versions` and the way back to one: `rollback`, `pin` and `release`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from authz.cli.options import AsJson
from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail, print_table
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.cli.destination import Destination

#: Documents of a version that a table names.
MAX_NAMED: Final = 5


def versions(
    at: Annotated[str, typer.Option("--at", help="Only the one in force at this time.")] = "",
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100_000)] = 20,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Print which policies were in force when, newest first."""
    from authz.cli.destination import gateway
    from authz.core.timestamps import rfc3339, seconds_of

    moment = ""
    if at:
        try:
            moment = rfc3339(seconds_of(at))
        except ValueError as error:
            fail([f"--at: {error}"], BAD_ARGUMENTS)
    there = gateway(here="--database" if database else "")
    found = _here(database, moment, count) if there is None else _at(there, moment, count)
    if not found:
        fail([f"no policies were in force {f'at {at}' if at else 'yet'}"], FAILED)
    if as_json:
        typer.echo(json.dumps({"versions": found}, indent=2))
        return
    print_table(
        ("VERSION", "FROM", "UNTIL", "WHY", "POLICIES"),
        [
            (
                str(entry.get("version", "-")),
                str(entry.get("activatedAt", "-")),
                str(entry.get("deactivatedAt", "now")),
                str(entry.get("why", "-")) + (", pinned" if entry.get("pinned") else ""),
                named(entry.get("policies", [])),
            )
            for entry in found
        ],
    )


def _here(database: Path | None, moment: str, count: int) -> list[dict[str, Any]]:
    """The entries of the database here."""
    import peewee

    from authz.settings import SettingsError, settings_of
    from authz.stores.version_log import VersionReader, entry_of

    try:
        path = database or settings_of(os.environ, "AUDIT_DB_PATH", "DB_PATH").audit_db_path
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)
    try:
        found = VersionReader(path).activations(at=moment or None, limit=count)
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], FAILED)
    except peewee.PeeweeException as error:
        fail([f"{path}: not an audit database: {error}"], FAILED)
    return [entry_of(recorded) for recorded in found]


def _at(there: "Destination", moment: str, count: int) -> list[dict[str, Any]]:
    """The entries of a sidecar elsewhere."""
    from authz.cli.remote import Remote

    with Remote(there) as sidecar:
        path, params = "/admin/policies/versions", {"at": moment}
        return list(sidecar.pages(path, "versions", params=params, most=count))


def rollback(
    version: Annotated[str, typer.Argument(help="As `authz policy versions` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Put an earlier version in force, and keep it until `authz policy release`.

    Needs ADMIN_TOKEN. Exit code 3: it was refused; 5: the sidecar cannot be reached.
    """
    answer = _ask("/admin/policies/rollback", {"version": version})
    _say(answer, f"{_named(answer)} is in force, until `authz policy release`", as_json=as_json)


def pin(
    version: Annotated[
        str, typer.Argument(help="As `authz policy versions` prints it; else what is in force.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Keep a version in force, whatever the files say, until `authz policy unpin`.

    Needs ADMIN_TOKEN, as `authz policy rollback`.
    """
    answer = _ask("/admin/policies/pin", {"version": version} if version else None)
    _say(answer, f"{_named(answer)} is in force, until `authz policy unpin`", as_json=as_json)


def release(
    as_json: AsJson = False,
) -> None:
    """End a rollback or pin: the policy files are in force again. Needs ADMIN_TOKEN."""
    answer = _ask("/admin/policies/release", None)
    _say(answer, f"{_named(answer)} of the files is in force", as_json=as_json)


def _ask(path: str, body: dict[str, str] | None) -> dict[str, Any]:
    """Ask the sidecar that is named, or the one in AUTHZ_RUN_DIR."""
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    with Remote(sidecar()) as there:
        answer = there.ask("POST", path, body=body)
        if not isinstance(answer.get("version"), str) or "pinned" not in answer:
            there.no_sidecar("its answer names no version")
    return answer


def _named(answer: dict[str, Any]) -> str:
    return f"version {answer['version']}"


def _say(answer: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(answer, indent=2) if as_json else visible(sentence))


def named(policies: object) -> str:
    """The documents of a version as a table names them; where there are many, how many."""
    from authz.core.policy_set import counted

    if not isinstance(policies, list) or not all(isinstance(one, dict) for one in policies):
        return "-"
    names = [
        " ".join(str(one[key]) for key in ("kind", "name", "version") if key in one)
        for one in policies
    ]
    if len(names) <= MAX_NAMED:
        return ", ".join(names) or "none"
    others = sum("kind" in document for document in policies)
    total = counted(len(policies) - others, others)
    return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more ({total})"
