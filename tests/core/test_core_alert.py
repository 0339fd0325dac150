"""What a row means for whoever raises alerts: trigger, severity, text, group."""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core import alert as alerts
from authz.core.alert import MAX_TEXT, MAX_TITLE, alert_of, event_of, group_key, payload
from authz.core.alert_words import MEANINGS, SEVERITIES, TRIGGERS, expanded
from authz.core.audit import AuditRow, change_row, overload_row, refused_admin_row
from authz.core.compiled import compile_policy
from authz.core.incident import Kind
from authz.core.mode import Mode
from authz.core.policy_doc import PolicyDoc

ROW: Final = change_row(
    row_id="i", at=0.0, action="write:x", resource="", reason="because", mode=Mode.ENFORCE,
    policy_version="v",
)._replace(
    source="proxy", agent_id="a", agent_name="A", trust_tier="verified", decision="deny",
    enforced="deny", code="rule_denied", stage="policy", policy="p", rule="r", trace_id="t",
)  # fmt: skip
ALLOWED: Final[dict[str, Any]] = {"decision": "allow", "enforced": "allow", "code": "rule_allowed"}


def seen(row: AuditRow, **metadata: Any) -> tuple[tuple[str, ...], str] | None:
    said = row._replace(metadata=json.dumps(metadata) if metadata else row.metadata)
    event = event_of(said._asdict())
    return None if event is None else (event.triggers, event.severity)


def control(action: str) -> AuditRow:
    return change_row(
        row_id="i", at=0.0, action=action, resource="s", reason="r", mode=Mode.ENFORCE,
        policy_version="v",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "triggers", "severity"),
    [
        ({}, ("deny",), "warning"),
        ({"trust_tier": "unrestricted"}, ("deny",), "critical"),
        ({"trust_tier": "privileged"}, ("deny",), "critical"),
        ({"action": "Admin:users"}, ("deny",), "critical"),
        ({"stage": "auth", "code": "token_missing"}, ("auth", "deny"), "warning"),
        ({"code": "approval_required"}, ("approval", "deny"), "warning"),
        ({"code": "fuse_open"}, ("fuse", "deny"), "warning"),
        ({"code": "wallet_exhausted"}, ("wallet", "deny"), "warning"),
        ({"code": "rate_limited"}, ("rate_limit",), "warning"),
        ({"decision": "error", "code": "internal"}, ("error",), "critical"),
        ({"decision": "error", "enforced": "allow", "mode": "audit"}, ("error",), "critical"),
        ({"enforced": "allow", "mode": "audit"}, ("would_deny",), "info"),
    ],
)
def test_a_decision_has_these_triggers(
    changes: dict[str, Any], triggers: tuple[str, ...], severity: str
) -> None:
    assert seen(ROW._replace(**changes)) == (triggers, severity)


def test_what_is_allowed_raises_nothing_but_where_a_rule_asks() -> None:
    allowed = ROW._replace(**ALLOWED)
    assert seen(allowed) is None
    assert seen(allowed, alert="high") == (("rule",), "warning")
    assert seen(ROW._replace(decision="reported", code="reported")) is None


@pytest.mark.parametrize(
    ("word", "severity"),
    [("info", "info"), ("low", "info"), ("medium", "warning"), ("high", "warning"),
     ("warning", "warning"), ("critical", "critical"), ("nonsense", "warning")],
)  # fmt: skip
def test_a_rules_own_word_counts_more(word: str, severity: str) -> None:
    assert seen(ROW, alert=word) == (("deny", "rule"), severity)


def test_a_stages_word_is_no_rules() -> None:
    assert seen(ROW._replace(stage="delegation-fuse"), alert="critical", fuseOpened=["e"]) == (
        ("fuse", "deny"), "critical",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "trigger", "severity"),
    [
        ("mode:bypass", "mode", "critical"),
        ("mode:enforce", "mode", "warning"),
        ("policies:reload", "policies", "info"),
        ("policy:put", "policies", "info"),
        ("agent:revoke", "records", "info"),
        ("audit:broken", "audit", "critical"),
        ("incident:bundle_refused", "bundle_refused", "critical"),
        ("incident:bundle_refused:over", "bundle_refused", "info"),
        ("incident:sync_pull_failed", "sync_pull_failed", "warning"),
        ("incident:xyzzy", None, ""),
        ("audit:anchor", None, ""),
        ("alerts:test", None, ""),
    ],
)
def test_what_happens_to_the_sidecar_has_one(
    action: str, trigger: str | None, severity: str
) -> None:
    assert seen(control(action)) == (None if trigger is None else ((trigger,), severity))


def test_rows_about_many_calls_have_theirs() -> None:
    common: dict[str, Any] = {"row_id": "i", "at": 0.0, "count": 3, "policy_version": "v"}
    assert seen(overload_row(mode=Mode.ENFORCE, **common)) == (("error",), "critical")
    refused = refused_admin_row(mode=Mode.ENFORCE, metadata={"path": "/admin"}, **common)
    assert seen(refused) == (("admin",), "warning")


def test_every_word_has_a_meaning() -> None:
    assert set(MEANINGS) == set(TRIGGERS)
    assert expanded(["incident"]) == set(Kind)
    assert expanded(["all"]) == set(TRIGGERS)
    assert expanded(["deny", "mode"]) == {"deny", "mode"}


def test_what_is_told_is_no_more_than_the_row_has() -> None:
    event = event_of(ROW._replace(metadata='{"meta": {"secret": "s3cret"}}')._asdict())
    assert event is not None
    made = alert_of(event, "deny", alert_id="alert_1", at=0.0)
    said = json.loads(payload(made))
    assert said["entry"] == {
        "traceId": "t", "agentId": "a", "agentName": "A", "trustTier": "verified",
        "action": "write:x", "decision": "deny", "policyName": "p", "reason": "because",
    }  # fmt: skip
    assert "s3cret" not in payload(made).decode()
    assert alerts.read_payload(payload(made)) == made


@given(st.text(max_size=3000), st.text(max_size=3000), st.integers(1, 10**9))
def test_any_text_is_bounded_and_can_be_read_back(action: str, reason: str, times: int) -> None:
    event = event_of(ROW._replace(action=action, reason=reason)._asdict(), times)
    assert event is not None
    made = alert_of(event, "deny", alert_id="alert_1", at=0.0)
    assert len(made.title) <= MAX_TITLE
    assert all(len(text) <= MAX_TEXT for text in made.entry.values())
    assert made.title.isprintable()
    assert len(payload(made)) < 40_000
    assert alerts.read_payload(payload(made)).entry == made.entry


def test_groups_tell_apart_who_did_what() -> None:
    def key(**changes: Any) -> str:
        event = event_of(ROW._replace(**changes)._asdict())
        assert event is not None
        return group_key(event)

    assert key() == key(timestamp="later", trace_id="other", path="/x")
    keys = {key(), key(agent_id="b"), key(action="y"), key(policy="q"), key(rule="s"),
            key(code="default_denied"), key(decision="error")}  # fmt: skip
    assert len(keys) == 7
    nobody: dict[str, Any] = {"agent_id": None, "stage": "auth", "code": "token_missing"}
    assert key(**nobody) == key(**nobody, action="something else")


@pytest.mark.parametrize(
    ("rule", "alert"),
    [
        ({"effect": "deny", "audit": {"notify": True}}, "warning"),
        ({"effect": "allow", "audit": {"notify": ["ops"]}}, "info"),
        ({"effect": "allow", "audit": {"notify": False}}, ""),
        ({"effect": "allow", "audit": {"notify": True}, "alert": "critical"}, "critical"),
        ({"effect": "deny"}, ""),
    ],
)
def test_a_rule_that_notifies_has_a_word_for_it(rule: dict[str, Any], alert: str) -> None:
    said = {"name": "p", "rules": [{"actions": ["*"], **rule}]}
    assert compile_policy(PolicyDoc.model_validate(said)).rules[0].alert == alert
    assert alert in ("", *SEVERITIES)
