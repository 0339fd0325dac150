"""`/admin/alerts` where no alerts are configured, and where they are (tests/e2e/test_alerts.py)."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from authz.edges.alerts.destinations import Webhook
from authz.edges.alerts.service import Alerts
from authz.edges.http import alerts as routes
from authz.edges.http.credentials import AdminToken
from tests.alerts.receiver import receiving
from tests.edges.world import ADMIN, TOKEN, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


def test_without_alerts_there_are_no_channels(world: World) -> None:
    assert world.admin("GET", "/alerts").json() == {"enabled": False, "on": [], "channels": []}
    assert world.admin("GET", "/alerts/channels").json() == {"channels": []}
    for path in ("/alerts/test", "/alerts/channels/webhook/test"):
        answer = world.admin("POST", path)
        assert answer.status_code == 409
        assert answer.json()["message"].startswith("no alerts are configured")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/alerts/test", {"severity": "grave"}, "severity: write one of info, warning, critical"),
        ("/alerts/test", {"severty": "info"}, "severty"),
        ("/alerts/channels/x/test", {"to": "slack"}, "to"),
    ],
)
def test_what_is_not_usable_is_said(
    world: World, path: str, body: dict[str, str], said: str
) -> None:
    answer = world.admin("POST", path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert world.admin("GET", "/alerts?limit=0").status_code == 400


def test_nobody_else_may(world: World) -> None:
    before = world.rows()
    assert world.ask("POST", "/admin/alerts/test").status_code == 401
    headers = world.agent("a")
    assert world.ask("GET", "/admin/alerts", headers=headers).status_code == 401
    assert len(world.rows()) >= len(before)


def test_a_test_is_recorded_and_its_answer_shown(world: World, tmp_path: Path) -> None:
    with receiving() as receiver:
        hook = Webhook(receiver.url, context=ssl.create_default_context, denied=())
        alerts = Alerts(
            world.database, [hook], asked=["deny"], rate=10, new_id=lambda: "x", instance="i",
            environment="e",
        )  # fmt: skip
        app = FastAPI()
        app.include_router(routes.router(AdminToken(TOKEN), alerts, world.operations))

        async def ask(method: str, path: str) -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                return await client.request(method, path, headers=ADMIN)

        answer = asyncio.run(ask("POST", "/admin/alerts/channels/webhook/test"))
        assert answer.json()["results"][0]["message"] == "answered 204"
        assert receiver.taken[0].json["id"] == "alert_x"
        assert asyncio.run(ask("POST", "/admin/alerts/channels/slack/test")).status_code == 404
        shown = asyncio.run(ask("GET", "/admin/alerts")).json()
        assert shown["channels"] == [{"name": "webhook", "type": "webhook"}]
        assert (shown["waiting"], shown["deliveries"]) == (0, [])
    assert ("alerts:test", "webhook") in [change[:2] for change in world.changes()]
