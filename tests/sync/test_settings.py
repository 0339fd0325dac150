"""What SYNC_* may be, and what a turn is told of it."""

import json
import os

import pytest

from authz.settings import Settings, SettingsError
from authz.sync.plan import Plan
from authz.sync.turn import asked

SECRET = "a secret of the tests, with more than 32 characters"
TOKEN = "an admin token of the tests"
BASE = {"JWT_SECRET": SECRET, "ADMIN_TOKEN": TOKEN, "SYNC_URL": "https://plane.example/base/"}


def _settings(**env: str) -> Settings:
    return Settings.from_env({name: said for name, said in (BASE | env).items() if said})


def _problem(**env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        _settings(**env)
    [problem] = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SYNC_URL": "http://plane.example"}, "SYNC_URL: plane.example is another host, and http"),
        ({"SYNC_URL": "https://me:pw@plane.example"}, "must not contain a user or password"),
        ({"SYNC_URL": "ftp://plane.example"}, "must start with http:// or https://"),
        ({"SYNC_URL": "https://plane.example?x=1"}, "must not contain a query"),
        ({"SYNC_INTERVAL": "0"}, "SYNC_INTERVAL: "),
        ({"SYNC_TOKEN": "short"}, "characters; it is the control plane's ADMIN_TOKEN"),
        ({"SYNC_TOKEN_FILE": "/nowhere/token"}, "SYNC_TOKEN_FILE: cannot be read"),
        ({"ADMIN_TOKEN": ""}, "SYNC_URL: needs SYNC_TOKEN"),
        ({"SYNC_URL": "http://127.0.0.1:1", "SYNC_CA_FILE": "ca.pem"}, "SYNC_CA_FILE: has no"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(env: dict[str, str], said: str) -> None:
    problem = _problem(**env)
    assert said in problem
    assert "pw" not in problem


@pytest.mark.parametrize(
    "env",
    [
        {"SYNC_URL": "http://127.0.0.1:3100"},
        {"SYNC_URL": "http://localhost:3100"},
        {"SYNC_URL": "http://[::1]:3100"},
        {"SYNC_URL": "http://plane.example", "SYNC_ALLOW_HTTP": "true"},
        {"ADMIN_TOKEN": "", "SYNC_TOKEN": TOKEN},
    ],
)
def test_these_are_right(env: dict[str, str]) -> None:
    assert _settings(**env).sync_url is not None


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = Plan.of(_settings(POLICY_BUNDLE="/p/b.tar.gz", POLICY_BUNDLE_KEYS="/k/one,/k/two"))
    assert plan.url == "https://plane.example/base"
    assert plan.signature == "/p/b.tar.gz.sig"
    assert plan.keys == ("/k/one", "/k/two")
    assert plan.state_dir == os.path.abspath("data/audit.db.sync")  # noqa: PTH100
    assert Plan.from_json(json.dumps(plan.to_json())) == plan
    assert TOKEN in asked("pull", plan).decode()
    assert TOKEN not in repr(plan)
