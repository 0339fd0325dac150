"""A record says what a token may say, a revocation is for ever, and what is kept is read back."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.agents import (
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_STORED,
    Agent,
    changed,
    entry,
    from_json,
    new_agent,
    revoked,
    to_json,
)
from authz.core.identity import MAX_CLAIM, MAX_TAGS
from authz.core.tiers import TIERS
from tests.builders import NOW

FULL = new_agent(
    "agent-1",
    NOW,
    name="Reviewer",
    tier="Elevated",
    tags=["b", "a"],
    org_id="acme",
    description="Reads what others write",
    capabilities=("read",),
    metadata={"z": [1, 2.5, None, {"é": "\N{SNOWMAN}"}], "a": True},
)


def test_a_record_keeps_what_it_was_given_and_how_it_was_written() -> None:
    expected = Agent(
        agent_id="agent-1",
        name="Reviewer",
        tier="Elevated",
        rank=3,
        tags=("b", "a"),
        org_id="acme",
        description="Reads what others write",
        capabilities=("read",),
        metadata='{"a":true,"z":[1,2.5,null,{"é":"\N{SNOWMAN}"}]}',
        created_at=NOW,
        updated_at=0.0,
        revoked_at=None,
        revoked_reason="",
    )
    assert expected == FULL


TEXT = "not printable text of at most 256 characters"
LIST = "not a list of at most 64"
TIER = f"trustTier: unknown tier; write one of {', '.join(TIERS)}"
SAID = "metadata: must be an object that JSON can say"
LARGE = "metadata: must have at most 4096 characters as JSON, and 256 lists and objects"


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"agent_id": ""}, "id: must not be empty"),
        ({"agent_id": "a\nb"}, f"id: {TEXT}"),
        ({"agent_id": "x" * (MAX_CLAIM + 1)}, f"id: {TEXT}"),
        ({"agent_id": 5}, f"id: {TEXT}"),
        ({"name": ""}, "name: must not be empty"),
        ({"name": None}, f"name: {TEXT}"),
        ({"name": "a\x00"}, f"name: {TEXT}"),
        ({"name": "\ud800"}, f"name: {TEXT}"),
        ({"tier": "emperor"}, TIER),
        ({"tier": ""}, TIER),
        ({"tier": 4}, TIER),
        ({"tier": None}, TIER),
        ({"tier": "basic\n"}, f"trustTier: {TEXT}"),
        ({"tags": "code-review"}, f"tags: {LIST}"),
        ({"tags": {"a": 1}}, f"tags: {LIST}"),
        ({"tags": None}, f"tags: {LIST}"),
        ({"tags": ["a"] * (MAX_TAGS + 1)}, f"tags: {LIST}"),
        ({"tags": ["a", 5]}, f"tags[1]: {TEXT}"),
        ({"tags": ["x" * (MAX_CLAIM + 1)]}, f"tags[0]: {TEXT}"),
        ({"org_id": "a\r\nb"}, f"orgId: {TEXT}"),
        ({"description": "x" * (MAX_DESCRIPTION + 1)},
         f"description: not printable text of at most {MAX_DESCRIPTION} characters"),
        ({"capabilities": "read"}, f"capabilities: {LIST}"),
        ({"capabilities": [None]}, f"capabilities[0]: {TEXT}"),
        ({"metadata": []}, "metadata: must be an object"),
        ({"metadata": "{}"}, "metadata: must be an object"),
        ({"metadata": {"a": math.nan}}, SAID),
        ({"metadata": {"a": math.inf}}, SAID),
        ({"metadata": {"a": b"x"}}, SAID),
        ({"metadata": {"a": "\ud800"}}, SAID),
        ({"metadata": {"a": 1, 2: 3}}, SAID),
        ({"metadata": {"a": "x" * MAX_METADATA}}, LARGE),
        ({"metadata": {"a": [[]] * 300}}, LARGE),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_what_no_record_may_have_is_one_sentence(wish: dict[str, Any], sentence: str) -> None:
    asked: dict[str, Any] = {"agent_id": "agent-1", "name": "n"} | wish
    with pytest.raises(ValueError, match=r"\w") as raised:
        new_agent(asked.pop("agent_id"), NOW, **asked)
    assert str(raised.value) == sentence
    if "agent_id" not in wish:
        with pytest.raises(ValueError, match=r"\w") as raised:
            changed(FULL, NOW, **wish)
        assert str(raised.value) == sentence


def test_metadata_that_goes_round_in_circles_is_refused() -> None:
    circle: dict[str, object] = {}
    circle["a"] = circle
    with pytest.raises(ValueError, match=rf"^{SAID}$"):
        new_agent("a", NOW, name="n", metadata=circle)


def test_a_change_changes_what_it_names_and_says_when() -> None:
    after = changed(FULL, NOW + 5, tier="basic", tags=())
    assert after == FULL._replace(tier="basic", rank=1, tags=(), updated_at=NOW + 5)
    assert changed(FULL, NOW + 5) == FULL._replace(updated_at=NOW + 5)
    assert changed(FULL, NOW, metadata=None).metadata == ""
    assert changed(FULL, NOW, metadata={}).metadata == "{}"
    assert changed(after, NOW + 9, name="New").created_at == NOW
    for nothing in ("rank", "agent_id", "revoked_at", "created_at"):
        with pytest.raises(TypeError):
            changed(FULL, NOW, **{nothing: 1})


def test_a_revocation_is_for_ever_and_said_once() -> None:
    gone = revoked(FULL, NOW + 1, "key leaked")
    assert gone == FULL._replace(revoked_at=NOW + 1, revoked_reason="key leaked")
    assert revoked(gone, NOW + 2, "again") == gone
    with pytest.raises(ValueError, match=r"^a revoked agent cannot be changed"):
        changed(gone, NOW + 3, name="Back")
    with pytest.raises(ValueError, match=r"^reason: not printable"):
        revoked(FULL, NOW, "a\nb")


def test_an_agent_that_is_known_elsewhere_is_revoked_by_its_id() -> None:
    gone = revoked("elsewhere", NOW, "")
    assert (gone.agent_id, gone.rank, gone.revoked_at) == ("elsewhere", 0, NOW)
    assert from_json("elsewhere", to_json(gone)) == gone
    assert revoked(gone, NOW + 1, "again") == gone
    for bad in ("", "a\nb", "x" * (MAX_CLAIM + 1)):
        with pytest.raises(ValueError, match=r"^id: "):
            revoked(bad, NOW, "")


def test_what_the_admin_api_shows_leaves_out_what_is_absent() -> None:
    assert entry(FULL) == {
        "id": "agent-1",
        "name": "Reviewer",
        "trustTier": "Elevated",
        "tags": ["b", "a"],
        "status": "active",
        "createdAt": "2023-11-14T22:13:20.000000Z",
        "orgId": "acme",
        "description": "Reads what others write",
        "capabilities": ["read"],
        "metadata": {"a": True, "z": [1, 2.5, None, {"é": "\N{SNOWMAN}"}]},
    }
    least = changed(new_agent("a", NOW, name="n"), NOW + 60, metadata={})
    assert entry(revoked(least, NOW + 61.5, "why")) == {
        "id": "a",
        "name": "n",
        "trustTier": "verified",
        "tags": [],
        "status": "revoked",
        "createdAt": "2023-11-14T22:13:20.000000Z",
        "updatedAt": "2023-11-14T22:14:20.000000Z",
        "revokedAt": "2023-11-14T22:14:21.500000Z",
        "metadata": {},
    }
    assert None not in entry(revoked("elsewhere", NOW, "")).values()


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
LISTS = st.lists(NAMES, max_size=3)
TIMES = st.floats(0, 2e9)
RECORDS = st.builds(
    new_agent,
    NAMES,
    TIMES,
    name=NAMES,
    tier=st.sampled_from(TIERS),
    tags=LISTS,
    org_id=NAMES | st.just(""),
    description=NAMES | st.just(""),
    capabilities=LISTS,
    metadata=st.none()
    | st.dictionaries(NAMES, st.none() | st.integers() | NAMES | st.floats(allow_nan=False,
                                                                          allow_infinity=False)),
)  # fmt: skip


@given(RECORDS, st.booleans(), st.booleans(), TIMES)
@settings(deadline=None)
def test_what_is_kept_is_read_back(
    agent: Agent, is_changed: bool, is_revoked: bool, at: float
) -> None:
    if is_changed:
        agent = changed(agent, at, name="Changed")
    if is_revoked:
        agent = revoked(agent, at, "a reason")
    assert from_json(agent.agent_id, to_json(agent)) == agent
    assert json.loads(json.dumps(entry(agent))) == entry(agent)


def test_the_largest_record_is_read_back() -> None:
    quotes = '"' * MAX_CLAIM
    largest = new_agent(
        quotes,
        NOW,
        name=quotes,
        tags=[quotes] * MAX_TAGS,
        org_id=quotes,
        description='"' * MAX_DESCRIPTION,
        capabilities=[quotes] * MAX_TAGS,
        metadata={"a": '"' * (MAX_METADATA // 2 - 5)},
    )
    assert from_json(quotes, to_json(largest)) == largest


def _kept(**changes: object) -> str:
    return json.dumps(json.loads(to_json(FULL)) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"x"',
        "{" * 100_000,
        '{"a":' + "[" * 100_000,
        _kept()[:-1],
        _kept()[:-1] + ', "name": "twice"}',
        _kept(agent_id="agent-2"),
        _kept(rank=4),
        _kept(more=1),
        _kept(name=""),
        _kept(name=None),
        _kept(tier="emperor"),
        _kept(tags="ab"),
        _kept(tags=None),
        _kept(capabilities=[1]),
        _kept(description="a\nb"),
        _kept(metadata={"a": 1}),
        _kept(metadata="[]"),
        _kept(metadata='{"a": 1}'),
        _kept(metadata='{"b":1,"a":1}'),
        _kept(metadata='{"a":NaN}'),
        _kept(metadata=json.dumps({"a": "x" * MAX_METADATA})),
        _kept(created_at=None),
        _kept(created_at=True),
        _kept(created_at="2023"),
        _kept(created_at=-1),
        _kept(created_at=math.nan),
        _kept(created_at=10**400),
        _kept(created_at=1e300),
        _kept(updated_at=math.inf),
        _kept(revoked_at="never"),
        _kept(revoked_at=False),
        _kept(revoked_reason=5),
        _kept() + " " * MAX_STORED,
    ],
    ids=lambda text: ascii(text)[-40:],
)
def test_what_was_not_kept_by_us_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[\w ]+") as raised:
        from_json("agent-1", text)
    assert "\n" not in str(raised.value)


@given(st.text(max_size=50))
@settings(deadline=None)
def test_any_text_is_a_record_or_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_json("agent-1", text)
