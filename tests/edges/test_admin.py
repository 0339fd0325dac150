"""The admin API: whoever may not use it learns nothing, and nothing sent to it breaks anything."""

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from authz import memory
from authz.core.mode import Mode
from authz.core.names import MAX_BODY
from authz.core.policy_set import build
from authz.core.state import State
from authz.edges.http import admin
from authz.edges.http.app import build_app
from authz.edges.http.credentials import AdminToken
from authz.edges.http.probes import Health
from authz.settings import Settings
from authz.stores.audit_log import AuditLog
from authz.stores.policies import Loaded
from authz.stores.versions import Versions
from tests.builders import SECRET, MemoryRecorder, bearer, gate, policy, snapshot
from tests.edges import conformity

TOKEN = "an admin token of the tests"
A, B, C = (snapshot(policy(name, [("allow", f"read:{name}")])) for name in "abc")
NOON = 1_700_049_600.0  # 2023-11-15T12:00:00Z
ENDPOINTS = [("GET", f"{prefix}/policies/versions") for prefix in ("/admin", "/api/v1/admin")] + [
    ("POST", f"{prefix}/policies/{name}")
    for prefix in ("/admin", "/api/v1/admin")
    for name in ("rollback", "release")
]


class Service:
    """The application with versions A, B and C activated an hour apart; C is in force."""

    def __init__(self, database: Path, token: str = TOKEN) -> None:
        self.audit = AuditLog(database, monotonic=lambda: 0.0)
        assert self.audit.open()
        self.now = NOON
        ids = itertools.count(1)
        self.versions = Versions(
            self.audit,
            database,
            limit=2,
            mode=lambda: Mode.ENFORCE,
            now=lambda: self.now,
            new_id=lambda: f"id-{next(ids)}",
        )
        self.database = database
        self.versions.start(A)
        for policies in (B, C):
            self.now += 3600
            self.versions.reload(policies)
        health = Health(
            mode=lambda: Mode.ENFORCE,
            loaded=lambda: Loaded(build([]), ()),
            versions=self.versions,
            problems=dict,
            audit=self.audit,
            allow_unrecorded=False,
            started_at=NOON,
            transport=dict,
        )
        asked = gate(lambda: self.versions.current, MemoryRecorder())
        settings = Settings.from_env({"JWT_SECRET": SECRET, "AUTHZ_RUN_DIR": "/"})
        operations = memory.operations(
            settings,
            State(),
            self.audit,
            memory.Delegations(settings),
            memory.action_tokens(settings),
            snapshot=lambda: self.versions.current,
            mode=lambda: Mode.ENFORCE,
            now=lambda: self.now,
            steady=lambda: self.now,
        )
        routes = admin.router(AdminToken(token), self.versions, database)
        self.app: FastAPI = build_app(asked, health, operations, routes)

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request without credentials; its answer is one that the reference describes."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                return await client.request(method, path, **kwargs)

        answer = asyncio.run(send())
        conformity.check(answer)
        return answer

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A request of somebody who may."""
        return self.ask(
            method, f"/admin/policies/{path}", headers={"X-Admin-Token": TOKEN}, **kwargs
        )

    def state(self) -> tuple[str, bool, int]:
        """What is in force, whether it is pinned, and how much was recorded."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            [count] = database.execute("SELECT count(*) FROM audit").fetchone()
        return self.versions.current.version, self.versions.pinned, count


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "audit.db")
    yield made
    made.audit.close()


# Who may.


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "an admin token is required"),
        ([("Authorization", "")], "an admin token is required"),
        ([("Authorization", "Bearer")], "an admin token is required"),
        ([("Authorization", f"Basic {TOKEN}")], "an admin token is required"),
        ([("Authorization", TOKEN)], "an admin token is required"),
        ([("X-MeshGuard-API-Key", TOKEN)], "an admin token is required"),
        ([("Cookie", f"X-Admin-Token={TOKEN}")], "an admin token is required"),
        ([("Authorization", "Bearer wrong")], "the admin token is wrong"),
        ([("Authorization", f"Bearer {TOKEN[:-1]}")], "the admin token is wrong"),
        ([("Authorization", f"Bearer {TOKEN}x")], "the admin token is wrong"),
        ([("Authorization", f"Bearer {TOKEN.upper()}")], "the admin token is wrong"),
        ([("Authorization", bearer())], "the admin token is wrong"),
        ([("X-Admin-Token", bearer().removeprefix("Bearer "))], "the admin token is wrong"),
        ([("X-Admin-Token", f"Bearer {TOKEN}")], "the admin token is wrong"),
        ([("X-Admin-Token", "wrong")], "the admin token is wrong"),
        ([("X-Admin-Token", "w\u00fcrg".encode("latin-1"))], "the admin token is wrong"),
        ([("X-Admin-Token", "x" * 50_000)], "the admin token is wrong"),
    ],
)
def test_whoever_may_not_is_told_401_and_never_403(
    service: Service,
    method: str,
    path: str,
    headers: list[tuple[str, str | bytes]],
    message: str,
) -> None:
    before = service.state()
    body = {} if method == "GET" else {"json": {"version": B.version}}
    answer = service.ask(method, path, headers=headers, **body)
    assert answer.status_code == 401
    assert answer.json() == {"error": "unauthorized", "message": message}
    assert answer.headers["www-authenticate"] == "Bearer"
    assert service.state() == before
    assert B.version not in answer.text


@pytest.mark.parametrize("path", ["versions?limit=0", "versions?at=x", "versions?limit=x"])
def test_whoever_may_not_does_not_learn_what_is_wrong_with_a_request(
    service: Service, path: str
) -> None:
    assert service.ask("GET", f"/admin/policies/{path}").status_code == 401
    answer = service.ask("POST", "/admin/policies/rollback", content=b"not JSON")
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN} "},
        {"X-Admin-Token": TOKEN},
        {"x-admin-token": f" {TOKEN} "},
        # As the published SDKs send it: the agent's own token goes along.
        {"X-Admin-Token": TOKEN, "Authorization": bearer()},
    ],
)
@pytest.mark.parametrize("prefix", ["/admin", "/api/v1/admin"])
def test_the_token_counts_in_either_header(
    service: Service, prefix: str, headers: dict[str, str]
) -> None:
    answer = service.ask("GET", f"{prefix}/policies/versions", headers=headers)
    assert answer.status_code == 200
    body = {"version": B.version}
    answer = service.ask("POST", f"{prefix}/policies/rollback", headers=headers, json=body)
    assert answer.json() == {"version": B.version, "pinned": True}
    answer = service.ask("POST", f"{prefix}/policies/release", headers=headers)
    assert answer.json() == {"version": C.version, "pinned": False}


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
@pytest.mark.parametrize("sent", ["", TOKEN])
def test_without_an_admin_token_there_is_nothing_here(
    tmp_path: Path, method: str, path: str, sent: str
) -> None:
    service = Service(tmp_path / "audit.db", token="")
    headers = {"X-Admin-Token": sent, "Authorization": f"Bearer {sent}"}
    answer = service.ask(method, path, headers=headers)
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "not_found",
        "message": f"there is nothing at {method} {path}",
    }
    service.audit.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "versions", 405),
        ("GET", "rollback", 405),
        ("DELETE", "release", 405),
        ("GET", "versions/", 404),
        ("GET", "", 404),
        ("GET", "nothing", 404),
    ],
)
def test_what_is_not_here_is_a_json_object_too(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = service.admin(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message"}


# What is told.


def test_versions_are_told_newest_first(service: Service) -> None:
    answer = service.admin("GET", "versions")
    assert answer.status_code == 200
    common = {"why": "reload", "pinned": False, "kept": True}
    assert answer.json() == {
        "current": C.version,
        "pinned": False,
        "versions": [
            {
                **common,
                "version": C.version,
                "sha256": C.sha256,
                "activatedAt": "2023-11-15T14:00:00.000000Z",
                "policies": [{"name": "c", "version": "1"}],
            },
            {
                **common,
                "version": B.version,
                "sha256": B.sha256,
                "activatedAt": "2023-11-15T13:00:00.000000Z",
                "deactivatedAt": "2023-11-15T14:00:00.000000Z",
                "policies": [{"name": "b", "version": "1"}],
            },
            {
                **common,
                "version": A.version,
                "sha256": A.sha256,
                "activatedAt": "2023-11-15T12:00:00.000000Z",
                "deactivatedAt": "2023-11-15T13:00:00.000000Z",
                "why": "start",
                "kept": False,
                "policies": [{"name": "a", "version": "1"}],
            },
        ],
    }
    # The prefix of the docs is the same place, and every version's name is its content's.
    assert (
        service.ask(
            "GET", "/api/v1/admin/policies/versions", headers={"X-Admin-Token": TOKEN}
        ).json()
        == answer.json()
    )
    assert all(v["sha256"].startswith(v["version"]) for v in answer.json()["versions"])


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2023-11-15T13:00:00Z", B),
        ("2023-11-15T13:00:00.000000Z", B),
        ("2023-11-15T12:59:59.999999Z", A),
        ("2023-11-15T13:42:00", B),  # without an offset it is UTC
        ("2023-11-15T14:42:00+01:00", B),
        ("2023-11-15T08:12:00-05:30", B),
        (" 2023-11-15T13:42 ", B),
        ("20231115T134200Z", B),
        ("2023-11-15 13:42:00Z", B),
        ("2023-11-16", C),
        ("2023-11-15", None),  # a date is its first moment
        ("1970-01-01", None),
        ("0001-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59Z", C),
    ],
)
def test_the_version_of_a_moment(service: Service, at: str, expected: object) -> None:
    answer = service.admin("GET", "versions", params={"at": at})
    assert answer.status_code == 200
    versions = answer.json()["versions"]
    names = {A.version: A, B.version: B, C.version: C}
    assert [names[version["version"]] for version in versions] == ([expected] if expected else [])


@pytest.mark.parametrize(
    "at",
    [
        "",
        "yesterday",
        "10:42",
        "2023-11-15T25:00:00Z",
        "2023-02-30",
        "2023-11-15T13:42:00+99:00",
        "2023-11-15T13:42:00 02:00",  # `+` that was not escaped
        "1700000000",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "' OR 1=1 --",
        "\u0968\u0966\u0968\u0969-11-15",
        "x" * 10_000,
        "\x00",
    ],
)
def test_what_is_no_moment_is_400(service: Service, at: str) -> None:
    answer = service.admin("GET", "versions", params={"at": at})
    assert answer.status_code == 400
    assert answer.json()["error"] == "bad_request"
    assert answer.json()["message"].startswith("at: ")
    assert len(answer.json()["message"]) < 200


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_a_limit_bounds_what_is_told(service: Service, limit: int, count: int) -> None:
    answer = service.admin("GET", "versions", params={"limit": limit})
    assert len(answer.json()["versions"]) == count
    assert answer.json()["versions"][0]["version"] == C.version


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1e3", "many", "", "1.5", "9" * 5000])
def test_a_limit_out_of_bounds_is_400(service: Service, limit: str) -> None:
    answer = service.admin("GET", "versions", params={"limit": limit})
    assert answer.status_code == 400
    assert answer.json()["error"] == "bad_request"
    assert answer.json()["message"].startswith("limit: ")


def test_a_database_that_cannot_be_read_is_503(service: Service) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{service.database}{suffix}").unlink()
    service.database.write_bytes(b"no database" * 10_000)
    answer = service.admin("GET", "versions")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "unavailable", "message": "the audit database cannot be read"},
    )
    service.database.unlink()
    assert service.admin("GET", "versions").status_code == 503


def test_a_history_that_was_tampered_with_still_tells_when(service: Service) -> None:
    with contextlib.closing(sqlite3.connect(service.database)) as database:
        database.execute("UPDATE policy_versions SET policies = 'x'")
        database.commit()
    answer = service.admin("GET", "versions")
    assert answer.status_code == 200
    assert [(v["version"], v["policies"], v["kept"]) for v in answer.json()["versions"]] == [
        (policies.version, [], policies is not A) for policies in (C, B, A)
    ]


def test_a_version_that_was_tampered_with_is_a_conflict(service: Service) -> None:
    with contextlib.closing(sqlite3.connect(service.database)) as database:
        database.execute("UPDATE policy_versions SET documents = x'00'")
        database.commit()
    service.versions._kept[B.version] = None  # as after a restart: recorded, and not read yet
    before = service.state()
    answer = service.admin("POST", "rollback", json={"version": B.version})
    assert (answer.status_code, answer.json()) == (
        409,
        {
            "error": "conflict",
            "message": f"the policies recorded as version {B.version} cannot be read",
        },
    )
    assert service.state() == before


# The way back.


def test_a_rollback_is_pinned_and_recorded(service: Service) -> None:
    answer = service.admin("POST", "rollback", json={"version": B.version})
    assert (answer.status_code, answer.json()) == (200, {"version": B.version, "pinned": True})
    assert service.state() == (B.version, True, 4)
    body = service.admin("GET", "versions").json()
    assert (body["current"], body["pinned"]) == (B.version, True)
    newest = body["versions"][0]
    assert (newest["version"], newest["why"], newest["pinned"]) == (B.version, "rollback", True)
    assert not service.versions.reload(A)
    answer = service.admin("POST", "release")
    assert (answer.status_code, answer.json()) == (200, {"version": A.version, "pinned": False})


def test_a_release_of_nothing_is_a_conflict(service: Service) -> None:
    before = service.state()
    answer = service.admin("POST", "release")
    assert (answer.status_code, answer.json()) == (
        409,
        {"error": "conflict", "message": "nothing is pinned"},
    )
    assert service.state() == before


@pytest.mark.parametrize("version", [A.version, "0" * 16, B.sha256, B.version.upper(), " ", "*"])
def test_a_version_that_is_not_kept_is_404_and_says_which_are(
    service: Service, version: str
) -> None:
    before = service.state()
    answer = service.admin("POST", "rollback", json={"version": version})
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "not_found",
        "message": f"no such version is kept; kept are {C.version}, {B.version}",
    }
    assert service.state() == before


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, 'the body is missing; send {"version": …}'),
        (b"version=x", 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", 400, "the body is not JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b"null", 400, "the body must be a JSON object"),
        (b'"%s"' % B.version.encode(), 400, "the body must be a JSON object"),
        (b"{}", 400, 'version: missing; send {"version": …}'),
        (b'{"version": ""}', 400, "version: must not be empty"),
        (b'{"version": null}', 400, "version: must be text"),
        (b'{"version": 7}', 400, "version: must be text"),
        (b'{"version": true}', 400, "version: must be text"),
        (b'{"version": ["%s"]}' % B.version.encode(), 400, "version: must be text"),
        (b'{"Version": "%s"}' % B.version.encode(), 400, "unknown key `Version`, did you mean"),
        (b'{"version": "\\ud800"}', 400, "version: must be text that is valid Unicode"),
        (json.dumps({"version": "x" * 200_000}).encode(), 404, "no such version is kept; kept "),
        (b" " * (MAX_BODY + 1), 413, f"the body is larger than {MAX_BODY} bytes"),
    ],
)
def test_a_bad_body_changes_nothing(
    service: Service, body: bytes, status: int, message: str
) -> None:
    before = service.state()
    answer = service.admin("POST", "rollback", content=body)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)
    assert len(answer.content) < 500
    assert service.state() == before


def test_a_rollback_takes_effect_while_the_store_cannot_be_written(service: Service) -> None:
    with contextlib.closing(sqlite3.connect(service.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = service.admin("POST", "rollback", json={"version": B.version})
        assert answer.json() == {"version": B.version, "pinned": True}
        other.execute("ROLLBACK")
    assert service.state() == (B.version, True, 3)
    service.versions.flush()
    assert service.state() == (B.version, True, 4)
