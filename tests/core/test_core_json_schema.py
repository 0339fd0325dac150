"""The JSON Schema says what the reader says, as far as a schema can: editors trust it.

It is stricter in one thing: what the reader only warns of, an editor underlines.
"""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from authz.core import conditions, policy_file, yaml_tree
from authz.core.alert_doc import AlertMatch
from authz.core.chain_doc import CHAIN_KINDS, Cost, Floor, Refill, Requirement, Route
from authz.core.facts import FACTS
from authz.core.operators import OPERATORS, SNAKE
from authz.core.policy_doc import (
    AppliesTo,
    Approval,
    Delegation,
    HumanInTheLoop,
    PolicyAudit,
    PolicyDoc,
    RateLimits,
    Rule,
    RuleAudit,
)
from authz.core.policy_file import parse_file
from authz.core.policy_schema import conditions_schema, json_schema

TESTS: Final = Path(__file__).parents[1]
BUNDLED: Final = sorted((TESTS.parent / "policies").glob("*.yaml"))
FIXTURES: Final = {path.stem: path for path in sorted((TESTS / "policies").glob("*.yaml"))}


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    return Draft202012Validator(json_schema())


def documents(path: Path) -> list[Any]:
    """What a file says, as we read YAML; nothing where it is none."""
    try:
        return [node.plain() for node in yaml_tree.parse(path.read_bytes())]
    except yaml_tree.YamlError:
        return []


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_it_is_json_and_always_the_same() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_every_part_that_it_refers_to_exists() -> None:
    written = json.dumps(json_schema())
    for name in json_schema()["$defs"]:
        assert f'"#/$defs/{name}"' in written
    assert written.count('"$ref"') == sum(
        written.count(f'"$ref": "#/$defs/{name}"') for name in json_schema()["$defs"]
    )


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_it_accepts_the_bundled_policies(schema: Draft202012Validator, path: Path) -> None:
    assert documents(path)
    for document in documents(path):
        schema.validate(document)


#: Values that the reader warns of and takes for something else.
TAKEN_FOR_SOMETHING_ELSE: Final = {
    "unknown-default-effect",
    "yaml-version-is-a-boolean",
    "yaml-version-is-a-number",
}

#: Good, with words like `ALLOW` and `dry-run`: an editor may ask for the usual spelling.
IN_ANY_CASE: Final = {"dry-run-policy", "other-spellings", "wrapper", "wrapper-other-version"}


def good_fixtures() -> list[Any]:
    found = []
    for name, path in FIXTURES.items():
        problems = parse_file(path.read_bytes(), path.name).problems
        if any(p.severity == "error" or "unknown key" in p.message for p in problems):
            continue
        if name not in TAKEN_FOR_SOMETHING_ELSE | IN_ANY_CASE:
            found.append(pytest.param(path, id=name))
    return found


@pytest.mark.parametrize("path", good_fixtures())
def test_it_accepts_what_the_reader_accepts(schema: Draft202012Validator, path: Path) -> None:
    assert documents(path)
    for document in documents(path):
        schema.validate(document)


@pytest.mark.parametrize("name", sorted(TAKEN_FOR_SOMETHING_ELSE))
def test_it_underlines_what_is_taken_for_something_else(
    schema: Draft202012Validator, name: str
) -> None:
    [error] = schema.iter_errors(documents(FIXTURES[name])[0])
    assert list(error.absolute_path) in (["version"], ["defaultEffect"])


def test_it_underlines_unknown_keys(schema: Draft202012Validator) -> None:
    [document] = documents(FIXTURES["misspelt-key-warnings"])
    places = [list(error.absolute_path) for error in schema.iter_errors(document)]
    assert places == [[], ["rules", 0]]


#: Errors that a schema does not tell, and why.
NOT_TOLD: Final = {
    "blank-name": "what is printable",
    "empty-pattern": "what is printable",
    "chain-routes-twice": "two routes beside each other",
    "chain-wallet-for-nobody": "tiers in any case",
    "chain-wallet-same-tier-twice": "tiers in any case",
    "chain-wallet-unknown-factors": "tiers in any case",
    "condition-scalar-with-star": "a star in a text",
    "condition-values-misread": "how YAML spells a value",
    "condition-tags": "tests that one fact has not",
    "condition-too-deep": "a count over all levels",
    "condition-too-many-tests": "a count over all levels",
    "condition-too-many-gaps": "a count in a text",
    "two-spellings": "keys that exclude each other",
    "unknown-required-tier": "tiers in any case",
    "yaml-only-a-comment": "there is no document",
}


def bad_fixtures() -> list[Any]:
    return [
        pytest.param(path, id=name)
        for name, path in FIXTURES.items()
        if documents(path)
        and parse_file(path.read_bytes(), path.name).is_bad
        and name not in NOT_TOLD
    ]


@pytest.mark.parametrize("path", bad_fixtures())
def test_it_rejects_what_the_reader_rejects(schema: Draft202012Validator, path: Path) -> None:
    assert not all(schema.is_valid(document) for document in documents(path))


def test_what_it_does_not_tell_are_fixtures_with_errors() -> None:
    for name in NOT_TOLD:
        path = FIXTURES[name]
        assert parse_file(path.read_bytes(), path.name).is_bad


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("missing-name", []),
        ("missing-rules", []),
        ("missing-effect", ["rules", 0]),
        ("empty-actions", ["rules", 0, "actions"]),
        ("empty-rules", ["rules"]),
        ("unknown-effect", ["rules", 0, "effect"]),
        ("unknown-kind", ["kind"]),
        ("condition-unknown", ["rules", 0, "conditions"]),
        ("condition-said-here", ["rules", 0, "conditions"]),
        ("condition-unknown-operator", ["rules", 0, "conditions", "resource"]),
        ("condition-empty", ["rules", 0, "conditions"]),
        ("terraform", ["appliesTo"]),
        ("wrapper-without-name", ["metadata"]),
        ("wrapper-without-spec", []),
        ("wrapper-errors-keep-their-places", ["spec", "rules", 0, "effect"]),
        ("keys-of-other-dialects", []),
        ("misplaced-keys", ["appliesTo"]),
    ],
)
def test_an_error_is_underlined_where_it_is(
    schema: Draft202012Validator, name: str, place: list[str | int]
) -> None:
    [document] = documents(FIXTURES[name])
    assert place in [list(error.absolute_path) for error in schema.iter_errors(document)]


MODELS: Final[dict[str, type[BaseModel]]] = {
    "Policy": PolicyDoc,
    **{model.__name__: model for model in (AppliesTo, Approval, Delegation, HumanInTheLoop)},
    **{model.__name__: model for model in (PolicyAudit, RateLimits, Rule, RuleAudit)},
    **{model.__name__: model for model in (AlertMatch, Cost, Floor, Refill, Requirement, Route)},
    **CHAIN_KINDS,
}


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_it_knows_every_spelling_of_every_key(name: str, model: type[BaseModel]) -> None:
    properties = json_schema()["$defs"][name]["properties"]
    assert properties.keys() == policy_file._spellings(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_key_with_nothing_behind_its_colon_is_rejected(name: str) -> None:
    definitions = json_schema()["$defs"]
    for key, written in definitions[name]["properties"].items():
        part = Draft202012Validator({"$defs": definitions, **written})
        assert not part.is_valid(None), key


CONDITIONS: Final = Draft202012Validator(
    {**conditions_schema(), "$defs": {"Conditions": conditions_schema()}}
)

SCALARS = st.booleans() | st.integers(0, 2) | st.sampled_from(["a", "trusted"])
TESTS_OF_ONE_FACT = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(
        st.sampled_from([*OPERATORS, *SNAKE, "xyzzy"]),
        SCALARS | st.lists(SCALARS, max_size=2),
        max_size=2,
    )
)
WRITTEN = st.recursive(
    st.dictionaries(
        st.sampled_from([*FACTS, "context.a", "context.a.b", "xyzzy"]),
        TESTS_OF_ONE_FACT,
        max_size=2,
    ),
    lambda inner: (
        st.dictionaries(st.sampled_from(["all", "any"]), st.lists(inner, max_size=2))
        | st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries(
            {"context": st.dictionaries(st.sampled_from(["a", "a.b"]), TESTS_OF_ONE_FACT)}
        )
        | st.fixed_dictionaries({"context.a": inner})
    ),
    max_leaves=3,
)


@given(WRITTEN)
@settings(deadline=None, max_examples=100)
def test_it_accepts_all_conditions_that_the_reader_accepts(written: dict[str, Any]) -> None:
    if not conditions.check(written):
        CONDITIONS.validate(written)


@given(st.sampled_from([*FACTS]), TESTS_OF_ONE_FACT)
@settings(deadline=None, max_examples=100)
def test_it_rejects_the_tests_of_a_fact_that_the_reader_rejects(fact: str, written: object) -> None:
    if fact not in ("agent.tags", "agent.trustTier") and conditions.check({fact: written}):
        assert not CONDITIONS.is_valid({fact: written})
