"""`authz status`: whether a sidecar works, and what it works with."""

import json
from typing import TYPE_CHECKING, Any, Final

import typer

from authz.cli.options import AsJson
from authz.cli.shared import FAILED, fail, print_entry

if TYPE_CHECKING:
    from authz.cli.remote import Remote

#: What only some sidecars have, and of it what fits on a line.
_MORE: Final = {
    "bundle": ("version", "revision", "notAfter"),
    "sync": ("lastPull", "lastPush", "pending", "problem", "warning"),
}


def status(as_json: AsJson = False) -> None:
    """Say how a sidecar is: whether it works and is ready, its mode, policies and checks.

    Asks the one at --gateway, else the one on this machine; it needs no token.
    Exits with 0 where it is healthy and ready, 1 where it is not, 5 where
    nobody answers.
    """
    from authz.cli.destination import sidecar
    from authz.cli.remote import Remote

    with Remote(sidecar(needs_token=False)) as there:
        health, ready = _asked(there, "/health"), _asked(there, "/ready")
        if not isinstance(health.get("status"), str):
            there.no_sidecar("its answer has no status")
    is_well = health["status"] == "healthy" and ready.get("status") == "ready"
    shown: dict[str, Any] = {"status": health["status"], "ready": ready.get("status") == "ready"}
    for answer, names in (
        (health, ("mode", "version", "uptime", "unrecorded")),
        (ready, ("policies", "policyVersion", "warning")),
    ):
        shown |= {name: answer[name] for name in names if name in answer}
    checks = health.get("checks")
    checks = checks if isinstance(checks, dict) else {}
    more = {name: health[name] for name in _MORE if isinstance(health.get(name), dict)}
    if as_json:
        typer.echo(json.dumps({**shown, "checks": checks, **more}, indent=2))
    else:
        shown |= {f"check {name}": said for name, said in checks.items()}
        for name, wanted in _MORE.items():
            said = more.get(name, {})
            shown |= {f"{name} {key}": said[key] for key in wanted if said.get(key) is not None}
        print_entry(shown)
    if not is_well:
        raise typer.Exit(FAILED)


def _asked(there: "Remote", path: str) -> dict[str, Any]:
    """What it says of itself, also where that is nothing good."""
    from authz.cli.remote import Refusal

    try:
        return there.ask("GET", path, caught=(503,))
    except Refusal as refusal:
        if "status" not in refusal.body:
            # Not the service: Envoy, which has nobody behind it.
            fail([f"{there.name}: {refusal.message or 'HTTP 503'}"], refusal.exit_code)
        return dict(refusal.body)
