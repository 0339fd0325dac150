"""What is passed on is covered by what was given: a pattern covers another only if it matches all
that the other one does, nobody passes on `admin:`, and a resource has one spelling."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz.core.delegation.scope import (
    allows,
    covers,
    covers_all,
    has_one_spelling,
)
from authz.core.pattern import compile_pattern, fold


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("*", "*"),
        ("*", "read:*"),
        ("*", "**"),
        ("**", "*"),
        ("read:*", "read:*"),
        ("read:*", "read:docs/*"),
        ("read:*", "read:"),
        ("READ:*", " read:Docs "),
        ("read:*/x", "read:*/y/x"),
        ("a*c", "a*b*c"),
        ("*b*", "a*b*c"),
        ("read:x", "read:x"),
    ],
)
def test_a_pattern_covers_what_is_narrower(outer: str, inner: str) -> None:
    assert covers(outer, inner)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("read:*", "*"),
        ("read:*", "rea*"),
        ("read:*", "write:x"),
        ("read:docs/*", "read:*"),
        ("read:x", "read:*"),
        ("read:x", "read:x*"),
        ("read:*.txt", "read:*"),
        ("a*b*c", "a*c"),
        ("a*a", "a*"),
        ("read:?", "read:x"),
        ("", "*"),
    ],
)
def test_a_pattern_does_not_cover_what_is_wider(outer: str, inner: str) -> None:
    assert not covers(outer, inner)


#: With every text up to this length over these letters, of which patterns have only the first two:
#: what stands for a star need not be a letter of the other pattern.
LETTERS = "ab#"
ACTIONS = ["".join(text) for size in range(7) for text in itertools.product(LETTERS, repeat=size)]
PATTERNS = st.text(alphabet="ab*", max_size=5)


@given(PATTERNS, PATTERNS)
@example("*a*", "a*a")
@example("a*", "a")
@settings(deadline=None, max_examples=400)
def test_covering_is_having_every_text_of_the_other(outer: str, inner: str) -> None:
    broad, narrow = compile_pattern(outer), compile_pattern(inner)
    assert covers(outer, inner) is all(broad(text) for text in ACTIONS if narrow(text))


ODD = "aAbB:/. \u0130\u03a3\u00df"


@given(
    st.text(alphabet="*" + ODD, max_size=12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.lists(st.text(alphabet="*" + ODD, max_size=4), min_size=13, max_size=13),
)
@settings(deadline=None, max_examples=1000)
def test_a_star_in_place_of_any_part_covers_all_that_was_matched(
    written: str, start: int, end: int, runs: list[str]
) -> None:
    inner = written.strip()
    outer = inner[:start] + "*" + inner[max(start, end) :]
    assert covers(outer, inner)
    head, *rest = inner.split("*")
    action = head + "".join(run + piece for run, piece in zip(runs, rest, strict=False))
    assert allows([inner], action)
    assert compile_pattern(outer)(fold(action))


@given(st.text(alphabet="ab*", max_size=6).map(lambda text: "x" + text))
def test_every_pattern_covers_itself(pattern: str) -> None:
    assert covers(pattern, pattern)


@pytest.mark.parametrize(
    ("outers", "inners", "covered"),
    [
        ((), (), True),
        (("*",), (), True),
        ((), ("x",), False),
        (("read:*", "write:x"), ("write:x", "read:a", "read:*"), True),
        (("read:*", "write:x"), ("read:a", "write:*"), False),
        # Together they match everything that begins with a; neither does.
        (("a", "a?*"), ("a*",), False),
    ],
)
def test_each_of_a_list_is_covered_by_one_of_the_other(
    outers: tuple[str, ...], inners: tuple[str, ...], covered: bool
) -> None:
    assert covers_all(outers, inners) is covered


def test_an_action_is_allowed_by_any_pattern_in_any_case() -> None:
    assert allows(["write:x", " Read:* "], "READ:docs")
    assert not allows(["write:x", "read:*"], "delete:docs")
    assert not allows([], "read:docs")


@pytest.mark.parametrize(
    "resource", ["", "docs/a", "/docs/a.b/..c", "https://host/docs", "customer:1", "a%20b"]
)
def test_a_plain_resource_has_one_spelling(resource: str) -> None:
    assert has_one_spelling(resource)


@pytest.mark.parametrize(
    "resource",
    [
        "docs/../keys",
        "docs/./a",
        "..",
        "docs/..;x/keys",
        "docs\\..\\keys",
        "docs//a",
        "https://host//docs",
        "https://host/docs/..",
        "://../keys",
        "docs/%2e%2e/keys",
        "docs%2Fkeys",
        "docs/%252e",
        "docs%5Ckeys",
    ],
)
def test_a_resource_that_others_may_read_otherwise_has_not(resource: str) -> None:
    assert not has_one_spelling(resource)


def test_a_hostile_pair_of_patterns_is_compared() -> None:
    assert covers("a*" * 100 + "b", "a*" * 128 + "b")
    assert not covers("a*" * 100 + "b", "a" * 4000)
