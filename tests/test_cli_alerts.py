"""`authz alerts` where nothing runs: what it shows, what it never shows, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from authz.cli import app
from tests.alerts.receiver import receiving
from tests.e2e.sidecar import free_port

URL = "https://hooks.example/a-secret-path"


def run(*arguments: str, **env: str) -> Result:
    given: dict[str, Any] = {"HOME": "/nonexistent", **env}
    return CliRunner().invoke(app, ["alerts", *arguments], env=given)


def test_config_stars_every_secret() -> None:
    ran = run("config", "--json", ALERT_WEBHOOK_URL=URL, ALERT_WEBHOOK_SECRET="x" * 32)
    assert ran.exit_code == 0
    shown = json.loads(ran.stdout)
    assert shown["ALERT_WEBHOOK_URL"] == shown["ALERT_WEBHOOK_SECRET"] == "********"
    assert shown["ALERT_ON"] == "deny,error,rate_limit"
    table = run("config", ALERT_WEBHOOK_URL=URL)
    assert "a-secret-path" not in table.output


def test_config_says_that_alerts_are_off() -> None:
    assert "alerts are off: set ALERT_WEBHOOK_URL" in run("config").output


def test_a_mistake_is_said() -> None:
    ran = run("config", ALERT_ON="denny")
    assert ran.exit_code == 2
    assert "ALERT_ON: must be some of" in ran.output


def test_triggers_and_providers_are_listed() -> None:
    rows = json.loads(run("triggers", "--json").stdout)
    assert [row["name"] for row in rows if row["default"]] == ["deny", "error", "rate_limit"]
    assert "rate_limit" in run("triggers").output
    providers = json.loads(run("providers", "--json", ALERT_WEBHOOK_URL=URL).stdout)
    assert [(one["name"], one["configured"]) for one in providers] == [
        ("webhook", True), ("slack", False), ("email", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("test",), 1, "no alerts are configured"),
        (("test", "--to", "slack"), 1, "slack is not configured"),
        (("test", "--to", "pager"), 2, "--to: write one of webhook, slack, email"),
        (("test", "--severity", "grave"), 2, "--severity: write one of info"),
    ],
)
def test_a_test_that_cannot_be_sent_says_why(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = run(*arguments)
    assert ran.exit_code == code
    assert said in ran.output


def test_a_test_shows_what_each_has_answered() -> None:
    with receiving() as receiver:
        nobody = f"http://127.0.0.1:{free_port()}/a-secret-path"
        ran = run("test", "--json", ALERT_WEBHOOK_URL=receiver.url, ALERT_SLACK_WEBHOOK=nobody)
        assert ran.exit_code == 1
        answer = json.loads(ran.stdout)
        assert [result["delivered"] for result in answer["results"]] == [True, False]
        assert "Connection refused" in answer["results"][1]["message"]
        assert "a-secret-path" not in ran.output
        assert receiver.taken[0].json["severity"] == "info"


def test_an_outbox_that_is_not_there_is_said(tmp_path: Path) -> None:
    ran = run("list", "--database", str(tmp_path / "audit.db"))
    assert ran.exit_code == 1
    assert "there is no outbox of alerts here" in ran.output


def test_what_is_off_is_not_imported() -> None:
    script = (
        "import sys, authz.wiring; from authz.settings import Settings;"
        "from authz.wiring import extras;"
        "s = Settings.from_env({'JWT_SECRET': '-' * 32, 'AUTHZ_RUN_DIR': '/'});"
        "assert extras.alerts_of(s) is None and not extras.observers(s, None);"
        "print([m for m in sys.modules if 'edges.alerts' in m or 'alert_outbox' in m"
        " or m in ('smtplib', 'h11')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "[]\n"
