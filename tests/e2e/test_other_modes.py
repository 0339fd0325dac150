"""Audit mode records and never blocks; bypass evaluates nothing; the decision stays the same."""

import os
import signal

import jwt
import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import JWT_SECRET, Sidecar, bearer
from tests.e2e.upstream import Upstream, echoed


@pytest.mark.parametrize(
    ("headers", "code", "rule"),
    [
        (bearer() | {"X-MeshGuard-Action": "write:delete"}, "rule_denied", "rules[2]"),
        (bearer() | {"X-MeshGuard-Action": "write:code"}, "default_denied", "default-deny"),
        (bearer(tags=()), "no_policy", "default-deny"),
        ({}, "token_missing", "auth:token_missing"),
        ({"Authorization": "Bearer nonsense"}, "token_malformed", "auth:token_malformed"),
        (bearer() | {"X-MeshGuard-Action": "read:\u00fc".encode().decode("latin-1")},
         "malformed", "malformed"),
    ],
)  # fmt: skip
def test_audit_mode_forwards_and_says_what_it_would_deny(
    auditing: Sidecar, headers: dict[str, str], code: str, rule: str
) -> None:
    before = auditing.upstream.hits
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = auditing.get("/proxy/docs", headers=raw)
    assert answer.status_code == 200
    assert echoed(answer.text)["path"] == "/docs"
    assert answer.headers["x-meshguard-decision"] == "allow"
    assert answer.headers["x-meshguard-would-deny"] == rule
    row = auditing.rows()[-1]
    assert (row["code"], row["decision"], row["enforced"]) == (code, "deny", "allow")
    assert row["mode"] == "audit"
    assert auditing.upstream.hits == before + 1


def test_audit_mode_allows_what_enforce_allows_without_a_mark(auditing: Sidecar) -> None:
    answer = auditing.get("/proxy/docs", headers=bearer())
    assert answer.status_code == 200
    assert "x-meshguard-would-deny" not in answer.headers
    assert auditing.rows()[-1]["decision"] == "allow"


@pytest.mark.parametrize(
    ("credential", "kept"),
    [
        ("Bearer sk-the-agents-real-key", True),
        ("Basic dXNlcjpwYXNz", True),
        (bearer()["Authorization"], False),
        # Ours, though useless: still not for the upstream.
        ("Bearer " + jwt.encode({"sub": "a", "exp": 1}, JWT_SECRET), False),
        ("Bearer " + jwt.encode({"iss": "meshguard"}, "a rotated secret of more than 32 bytes"),
         False),
        # Somebody else's token for the upstream itself.
        ("Bearer " + jwt.encode({"iss": "https://idp"}, "their secret, 32 or more characters"),
         True),
    ],
)  # fmt: skip
def test_in_audit_mode_only_our_credentials_are_stripped(
    auditing: Sidecar, credential: str, kept: bool
) -> None:
    answer = auditing.get("/proxy/docs", headers={"Authorization": credential})
    assert answer.status_code == 200
    assert echoed(answer.text)["headers"].get("authorization") == (credential if kept else None)


def test_bypass_forwards_everything_and_records_nothing(upstream: Upstream) -> None:
    with starter.running(upstream, MODE="bypass") as sidecar:
        before = upstream.hits
        for headers in ({}, bearer(), bearer() | {"X-MeshGuard-Action": "admin:everything"}):
            answer = sidecar.get("/proxy/docs", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["x-meshguard-mode"] == "bypass"
            received = echoed(answer.text)["headers"]
            assert "authorization" not in received
            assert "x-meshguard-action" not in received
        assert upstream.hits == before + 3
        assert sidecar.rows() == []
        assert "bypass" in sidecar.get("/ready").json()["warning"]
        assert "MODE is bypass" in sidecar.log()


def test_the_service_being_dead_does_not_block_audit_mode(upstream: Upstream) -> None:
    with starter.running(upstream, MODE="audit", DECISION_TIMEOUT_MS="100") as sidecar:
        _stop_the_service(sidecar)
        before = upstream.hits
        answer = sidecar.get(
            "/proxy/docs", headers=bearer() | {"X-Kept": "kept", "X-MeshGuard-Trace-ID": "t"}
        )
        assert answer.status_code == 200
        received = echoed(answer.text)["headers"]
        assert received["x-kept"] == "kept"
        # Nobody looked at the request, and still nothing of ours leaves.
        assert [n for n in received if n.startswith(("x-meshguard", "x-envoy", "authoriz"))] == []
        other = sidecar.get("/proxy/docs", headers={"Authorization": "Bearer sk-real"})
        assert echoed(other.text)["headers"]["authorization"] == "Bearer sk-real"
        assert upstream.hits == before + 2


def _stop_the_service(sidecar: Sidecar) -> None:
    """Freeze it: unlike a killed one it is not restarted, and Envoy gets no answer."""
    os.kill(sidecar.child("service"), signal.SIGSTOP)
