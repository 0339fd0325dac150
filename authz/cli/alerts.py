"""`authz alerts`: who is told of what, whether that works, and what waits to be delivered."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.completion import like
from authz.cli.config import STARS
from authz.cli.options import AsJson, AsJsonArray, LocalCommand, RemoteCommand
from authz.cli.shared import BAD_ARGUMENTS, FAILED, Database, fail, print_table
from authz.core.alert_words import (
    DEFAULT_ON,
    DESTINATIONS,
    GROUPS,
    MEANINGS,
    SEVERITIES,
    TRIGGERS,
)
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.settings import Settings

app = typer.Typer(help="Who is told of what, and whether that works.", no_args_is_help=True)

_PATH = "/admin/alerts"
#: Environment variables of alerts begin so.
_PREFIX = "ALERT_"


@app.callback()
def group() -> None:
    """Who is told of denials, errors and incidents: a webhook, Slack, mail."""


def _settings() -> "Settings":
    """The alerts' own settings: nothing else need be there to look at these."""
    import os

    from authz.settings import SettingsError, described, settings_of

    names = [one.name for one in described() if one.name.startswith(_PREFIX)]
    try:
        return settings_of(os.environ, *names, "AUDIT_DB_PATH", "DB_PATH", "SSL_CERT_FILE")
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


@app.command(cls=LocalCommand)
def config(as_json: AsJson = False) -> None:
    """Print what this environment says of alerts; secrets are starred."""
    settings = _settings()
    found: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        if not str(field.alias).startswith(_PREFIX):
            continue
        value = getattr(settings, name)
        if value in (None, "", ()):
            continue
        if hasattr(value, "get_secret_value"):
            value = STARS
        elif isinstance(value, tuple):
            value = ",".join(value)
        found[str(field.alias)] = value if isinstance(value, int | bool) else str(value)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_table(("VARIABLE", "VALUE"), [(name, _shown(value)) for name, value in found.items()])
    if not settings.alerts_enabled:
        typer.echo(
            "alerts are off: set ALERT_WEBHOOK_URL, ALERT_SLACK_WEBHOOK or ALERT_EMAIL_ENABLED",
            err=True,
        )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command(cls=LocalCommand)
def triggers(as_json: AsJsonArray = False) -> None:
    """List what can raise an alert, for ALERT_ON and for AlertRoute documents."""
    if as_json:
        rows = [
            {"name": name, "default": name in DEFAULT_ON, "means": MEANINGS[name]}
            for name in TRIGGERS
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(
        ("TRIGGER", "DEFAULT", "MEANS"),
        [(name, "yes" if name in DEFAULT_ON else "-", MEANINGS[name]) for name in TRIGGERS]
        + [(name, "-", f"all of {', '.join(words)}") for name, words in GROUPS.items()],
        wrap=("MEANS",),
    )


@app.command(cls=LocalCommand)
def providers(as_json: AsJsonArray = False) -> None:
    """List where alerts can go, and whether that is configured in this environment."""
    settings = _settings()
    rows = [
        ("webhook", "ALERT_WEBHOOK_URL", settings.alert_webhook_url is not None,
         "JSON, signed with ALERT_WEBHOOK_SECRET"),
        ("slack", "ALERT_SLACK_WEBHOOK", settings.alert_slack_webhook is not None,
         "an incoming webhook"),
        ("email", "ALERT_EMAIL_ENABLED", settings.alert_email_enabled,
         "SMTP; SendGrid and others take it too"),
    ]  # fmt: skip
    if as_json:
        keys = ("name", "variable", "configured", "means")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    print_table(
        ("PROVIDER", "VARIABLE", "CONFIGURED", "MEANS"),
        [
            (name, variable, "yes" if is_on else "no", means)
            for name, variable, is_on, means in rows
        ],
    )


@app.command("test", cls=RemoteCommand)
def send_test(
    to: Annotated[
        str,
        typer.Option(metavar="NAME", help="Only there: webhook, slack or email.",
                     autocompletion=like(DESTINATIONS)),
    ] = "",
    severity: Annotated[
        str,
        typer.Option(help="info, warning or critical.", autocompletion=like(SEVERITIES)),
    ] = "info",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Send a test alert now, and print what was answered.

    With this environment's settings, or by the sidecar at --gateway. Ends with 1 where one was not
    taken.
    """
    from authz.cli.destination import gateway

    if severity not in SEVERITIES:
        fail([f"--severity: write one of {', '.join(SEVERITIES)}"], BAD_ARGUMENTS)
    if to and to not in DESTINATIONS:
        fail([f"--to: write one of {', '.join(DESTINATIONS)}"], BAD_ARGUMENTS)
    there = gateway()
    if there is None:
        answer = _tested_here(to, severity)
    else:
        from authz.cli.remote import Remote

        body = {"severity": severity, **({"to": to} if to else {})}
        with Remote(there) as remote:
            answer = remote.ask("POST", f"{_PATH}/test", body=body)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        for result in answer["results"]:
            mark = "✓" if result["delivered"] else "✗"
            typer.echo(visible(f"{mark} {result['name']}: {result['message']}"))
    if not answer["delivered"]:
        raise typer.Exit(FAILED)


def _tested_here(to: str, severity: str) -> dict[str, Any]:
    import secrets
    import time

    from authz.edges.alerts.outgoing import Refused
    from authz.edges.alerts.service import try_out
    from authz.wiring.alerts import destinations, instance

    settings = _settings()
    chosen = [one for one in destinations(settings) if not to or one.name == to]
    if not chosen:
        said = f"{to} is not configured" if to else "no alerts are configured"
        fail([f"{said}; `authz alerts providers` lists what there is"], FAILED)
    results = []
    for one in chosen:
        try:
            said = try_out(
                one,
                severity,
                alert_id=f"alert_{secrets.token_hex(16)}",
                at=time.time(),
                instance=instance(settings),
                environment=settings.alert_environment,
            )
        except Refused as refused:
            results.append({"name": one.name, "delivered": False, "message": str(refused)})
        else:
            results.append({"name": one.name, "delivered": True, "message": said})
    return {"delivered": all(result["delivered"] for result in results), "results": results}


@app.command("list", cls=RemoteCommand)
def list_deliveries(
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many.")] = 50,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List what is in the outbox: what waits, what was given up, and what was sent lately."""
    from authz.cli.destination import gateway

    there = gateway(here="--database" if database is not None else "")
    if there is None:
        from authz.edges.alerts.service import shown
        from authz.stores.alert_outbox import Unusable, outbox_of

        path = database if database is not None else _settings().audit_db_path
        try:
            answer = shown(outbox_of(path), limit)
        except Unusable as error:
            fail([str(error)], FAILED)
    else:
        from authz.cli.remote import Remote

        with Remote(there) as remote:
            answer = remote.ask("GET", f"{_PATH}?limit={limit}")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    print_table(
        ("CREATED", "STATE", "TO", "SEVERITY", "TRIGGER", "TRIES", "TITLE", "MESSAGE"),
        [
            (
                str(one["createdAt"]),
                str(one["state"]),
                str(one["destination"]),
                str(one["severity"]),
                str(one["trigger"]),
                str(one["attempts"]),
                str(one["title"]),
                str(one.get("message", "-")),
            )
            for one in answer.get("deliveries", [])
        ],
        wrap=("TITLE", "MESSAGE"),
    )
    said = ", ".join(f"{answer.get(name, 0)} {name}" for name in ("waiting", "sent", "failed"))
    typer.echo(said)
