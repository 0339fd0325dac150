"""Alerts through a real Envoy: a denial reaches the receiver, and a killed sidecar loses none."""

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.alerts.receiver import Receiver, Taken, receiving
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer, wait_until
from tests.e2e.upstream import Upstream

SECRET: Final = "a webhook secret of the tests"
ADMIN: Final = {"X-Admin-Token": ADMIN_TOKEN}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as taking:
        yield taking


@pytest.fixture(scope="module")
def alerting(upstream: Upstream, receiver: Receiver) -> Iterator[Sidecar]:
    with starter.running(
        upstream,
        ALERT_WEBHOOK_URL=receiver.url,
        ALERT_WEBHOOK_SECRET=SECRET,
        ALERT_ON="deny,error,rate_limit,mode",
        ALERT_INSTANCE_NAME="sidecar-1",
        ALERT_ENVIRONMENT="tests",
        ALERT_RATE_LIMIT="100",
        METRICS_ENABLED="true",
    ) as sidecar:
        yield sidecar


def of_action(receiver: Receiver, action: str) -> list[Taken]:
    return [one for one in receiver.taken if one.json["entry"].get("action") == action]


def until(receiver: Receiver, action: str) -> Taken:
    wait_until(lambda: of_action(receiver, action), f"an alert of {action}")
    return of_action(receiver, action)[0]


def denied(sidecar: Sidecar, action: str, **claims: Any) -> dict[str, Any]:
    answer = sidecar.get("/proxy/docs", headers={**bearer(**claims), "X-MeshGuard-Action": action})
    assert answer.status_code == 403, answer.text
    return dict(answer.json())


def listed(sidecar: Sidecar) -> dict[str, Any]:
    return dict(sidecar.get("/admin/alerts", headers=ADMIN).json())


def command(sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authz", *arguments],
        env=sidecar.env, cwd=sidecar.directory, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def test_a_denial_reaches_the_webhook_signed(alerting: Sidecar, receiver: Receiver) -> None:
    before = time.time()
    answer = denied(alerting, "write:delete")
    taken = until(receiver, "write:delete")
    expected = hmac.new(SECRET.encode(), taken.body, hashlib.sha256).hexdigest()
    assert taken.headers["X-MeshGuard-Signature"] == f"sha256={expected}"
    assert taken.headers["User-Agent"] == "MeshGuard/1.0"
    assert taken.headers["X-MeshGuard-Event"] == "alert"
    assert taken.headers["X-MeshGuard-Trigger"] == "deny"
    assert taken.path == "/hook?key=a-secret-of-the-hook"
    said = taken.json
    assert said.pop("id").startswith("alert_")
    assert said.pop("timestamp") >= time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert said == {
        "event": "meshguard.alert",
        "version": "1.0",
        "severity": "warning",
        "trigger": "deny",
        "title": "Denied: write:delete by reviewer-1",
        "message": answer["message"],
        "count": 1,
        "entry": {
            "traceId": answer["traceId"],
            "agentId": "reviewer-1",
            "agentName": "reviewer-1",
            "trustTier": "verified",
            "action": "write:delete",
            "method": "GET",
            "path": "/proxy/docs",
            "decision": "deny",
            "policyName": "code-review-policy",
            "reason": answer["message"],
        },
        "instance": "sidecar-1",
        "environment": "tests",
    }


def test_an_admin_action_is_critical(alerting: Sidecar, receiver: Receiver) -> None:
    denied(alerting, "admin:users")
    assert until(receiver, "admin:users").json["severity"] == "critical"


def test_what_is_alike_is_one_alert(alerting: Sidecar, receiver: Receiver) -> None:
    for _ in range(20):
        denied(alerting, "write:many")
    until(receiver, "write:many")
    denied(alerting, "write:after")
    until(receiver, "write:after")
    assert len(of_action(receiver, "write:many")) == 1


def test_bypass_is_told_loudly(alerting: Sidecar, receiver: Receiver) -> None:
    for mode in ("bypass", "enforce"):
        assert alerting.client.put("/admin/mode", json={"mode": mode}, headers=ADMIN).is_success
    assert until(receiver, "mode:bypass").json["severity"] == "critical"
    assert until(receiver, "mode:enforce").json["severity"] == "warning"


def test_a_test_is_sent_and_its_answer_shown(alerting: Sidecar, receiver: Receiver) -> None:
    receiver.answer(200, body=b"<html>hello</html>")
    answer = alerting.client.post("/admin/alerts/channels/webhook/test", headers=ADMIN)
    assert answer.json() == {
        "delivered": True,
        "results": [
            {"name": "webhook", "delivered": True, "message": "answered 200: <html>hello</html>"}
        ],
    }
    assert receiver.taken[-1].json["trigger"] == "test"
    receiver.answer(302, Location="http://169.254.169.254/latest")
    ran = command(alerting, "alerts", "test", "--local", "--severity", "critical")
    assert ran.returncode == 1
    assert ran.stdout == (
        "✗ webhook: ALERT_WEBHOOK_URL: it redirects (302) to 169.254.169.254, and redirects are"
        " not followed; set the address that it has in the end\n"
    )
    assert receiver.taken[-1].json["severity"] == "critical"
    receiver.answer(204)


def test_what_was_not_delivered_when_it_was_killed_comes_with_the_same_id(
    alerting: Sidecar, receiver: Receiver
) -> None:
    receiver.answer(500)
    denied(alerting, "write:survives")
    first = until(receiver, "write:survives")
    wait_until(lambda: listed(alerting)["waiting"], "it to wait")
    [waiting] = [one for one in listed(alerting)["deliveries"] if one["state"] == "waiting"]
    assert waiting["message"] == "ALERT_WEBHOOK_URL: it answered 500"
    os.kill(alerting.child("service"), signal.SIGKILL)
    # Recorded by nobody who could tell: another process writes the trail while it is away.
    receiver.answer(204)
    seen = len(receiver.taken)
    wait_until(lambda: len(receiver.taken) > seen, "the alert to come again")
    again = [one for one in of_action(receiver, "write:survives") if one is not first]
    assert {one.json["id"] for one in again} == {first.json["id"]}
    assert again[0].body == first.body
    wait_until(lambda: starter.answers(alerting), "it to be back")
    wait_until(lambda: not listed(alerting)["waiting"], "the outbox to be empty")
    ran = command(alerting, "alerts", "list", "--local", "--json")
    assert ran.returncode == 0, ran.stderr
    states = {one["id"]: one["state"] for one in json.loads(ran.stdout)["deliveries"]}
    assert states[first.json["id"]] == "sent"


def test_one_that_redirects_inside_is_refused_counted_and_on_record(
    alerting: Sidecar, receiver: Receiver
) -> None:
    receiver.answer(302, Location="http://169.254.169.254/latest")
    denied(alerting, "write:redirected")
    said = (
        "webhook: alerts are not delivered: ALERT_WEBHOOK_URL: it redirects (302) to"
        " 169.254.169.254, and redirects are not followed; set the address that it has in the end"
    )

    def rows() -> list[tuple[str, str]]:
        return [
            (row["action"], row["reason"])
            for row in alerting.rows(control=True)
            if row["action"].startswith("incident:")
        ]

    wait_until(rows, "the row")
    assert rows() == [("incident:alert_failed", said)]
    assert said in alerting.log()
    told = alerting.get("/metrics").text
    assert 'meshguard_incidents_open{kind="alert_failed"} 1.0' in told
    assert re.search(r'^meshguard_alerts_total\{outcome="failed"\} [1-9]', told, re.MULTILINE)
    receiver.answer(204)


def test_no_secret_is_in_the_log_or_the_outbox(alerting: Sidecar) -> None:
    outbox = alerting.database.with_name("audit.db.alerts")
    kept = b"".join(
        path.read_bytes() for path in alerting.directory.iterdir() if path.name.startswith("audit")
    )
    assert outbox.stat().st_mode & 0o077 == 0
    for secret in (SECRET, "a-secret-of-the-hook"):
        assert secret not in alerting.log()
        assert secret.encode() not in kept
    assert "ALERT_ON: deny, error, rate_limit, mode go to webhook\n" in alerting.log()
