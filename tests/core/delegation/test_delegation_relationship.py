"""A relationship ends once, is shown as the contract names it, and is stored so that nothing else
can be read in its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.delegation.relationship import (
    PRUNED,
    Refused,
    Relationship,
    entry,
    from_json,
    is_id,
    revoke,
    status,
    to_json,
)
from authz.core.errors import Code
from tests.builders import NOW
from tests.core.delegation.chains import below, first, rel

HOP = first(resources=("docs/*",), requires_approval=True)
END = HOP.expires_at


@pytest.mark.parametrize(
    ("relationship", "now", "expected"),
    [
        (HOP, NOW, "active"),
        (HOP, END - 0.001, "active"),
        (HOP, END, "expired"),
        (revoke(HOP, NOW, "left"), NOW, "revoked"),
        (revoke(HOP, NOW, "left"), END + 1, "revoked"),
        (revoke(HOP, NOW, PRUNED), NOW, "revoked"),
    ],
)
def test_what_has_ended_stays_ended(relationship: Relationship, now: float, expected: str) -> None:
    assert status(relationship, now) == expected


def test_an_end_is_told_once() -> None:
    gone = revoke(HOP, NOW, "left")
    assert (gone.revoked_at, gone.revoked_reason) == (NOW, "left")
    assert revoke(gone, NOW + 1, "again") == gone
    assert entry(HOP, END)["reason"] == PRUNED == "expired -- auto-pruned"
    assert "reason" not in entry(HOP, END - 1)
    assert entry(gone, END + 1)["reason"] == gone.revoked_reason


@pytest.mark.parametrize("reason", ["x" * 257, "a\nb"])
def test_a_reason_that_cannot_be_kept_revokes_nothing(reason: str) -> None:
    with pytest.raises(Refused) as refused:
        revoke(HOP, NOW, reason)
    assert refused.value.code is Code.MALFORMED
    assert refused.value.reason.startswith("reason: ")


def test_an_entry_has_the_names_of_the_contract_and_leaves_out_what_is_absent() -> None:
    shown = {
        "id": rel(1),
        "orgId": "acme",
        "sourceAgentId": "a",
        "targetAgentId": "b",
        "relationshipType": "delegates_to",
        "scope": ["read:*"],
        "resources": ["docs/*"],
        "permissionCeiling": ["read:*"],
        "maxDepth": 4,
        "requiresApproval": True,
        "createdAt": "2023-11-14T21:13:20.000000Z",
        "expiresAt": "2023-11-14T23:13:20.000000Z",
        "status": "active",
    }
    assert entry(HOP, NOW) == shown
    gone = revoke(below(HOP, "c", org_id=""), NOW, "left")
    del shown["orgId"]
    assert entry(gone, NOW) == shown | {
        "id": rel(2),
        "sourceAgentId": "b",
        "targetAgentId": "c",
        "maxDepth": 3,
        "parentRelationshipId": rel(1),
        "revokedAt": "2023-11-14T22:13:20.000000Z",
        "reason": "left",
        "status": "revoked",
    }


@pytest.mark.parametrize(
    "relationship",
    [HOP, below(HOP, "c"), revoke(HOP, NOW + 0.123456, "left"), first("\u00e9", "\u4e2d")],
)
def test_what_is_stored_is_what_is_read(relationship: Relationship) -> None:
    text = to_json(relationship)
    assert relationship.id not in text.partition("parent")[0]
    assert from_json(relationship.id, text) == relationship


STORED = json.loads(to_json(HOP))


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "read:*"},
        {"scope": [""]},
        {"scope": ["x"] * 65},
        {"ceiling": None},
        {"resources": [["x"]]},
        {"type": "owns"},
        {"type": ["delegates_to"]},
        {"max_depth": 6},
        {"max_depth": "1"},
        {"requires_approval": None},
        {"created_at": "2023"},
        {"created_at": -1},
        {"expires_at": 10**30},
        {"expires_at": True},
        {"parent": "rel_1"},
        {"parent": None},
        {"root": ""},
        {"source": "\ud800"},
        {"depth": 0},
        {"depth": 6},
        {"revoked_at": "never"},
        {"revoked_reason": None},
        {"source_tier": "royal"},
        {"source_tags": ["x"] * 65},
        {"source_tags": "ci"},
        {"source_org": 7},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_stored_relationship_with_a_value_that_none_has_is_junk(
    changes: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match=r"^\w+(\[\d+\])?: "):
        from_json(HOP.id, json.dumps(STORED | changes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{" * 100_000,
        "[" * 100_000,
        to_json(HOP) + " {}",
        to_json(HOP).replace('"depth":1', '"depth":1,"depth":1'),
        to_json(HOP).replace('"depth":1', '"depth":NaN'),
        to_json(HOP).replace('"depth":1', '"dept":1'),
        to_json(HOP).replace(f'"expires_at":{END}', '"expires_at":1e999'),
    ],
    ids=lambda text: text[:12] + text[-12:],
)
def test_a_text_that_is_no_stored_relationship_is_junk(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(relationship|expires_at): "):
        from_json(HOP.id, text)


@pytest.mark.parametrize(
    "text", ["", "rel_", rel(1) + "0", rel(1)[:-1], rel(1).upper(), rel(1) + "\n", "x" + rel(1)]
)
def test_an_id_has_one_form(text: str) -> None:
    assert is_id(rel(1))
    assert not is_id(text)
    with pytest.raises(ValueError, match=r"^id: "):
        from_json(text, to_json(HOP))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^relationship: "):
        from_json(rel(1), text)
