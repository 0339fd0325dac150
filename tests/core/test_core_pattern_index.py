"""The index finds exactly the patterns that match, each by its place in the order given."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz.core.pattern import compile_pattern, fold
from authz.core.pattern_index import GRAM, PatternIndex

#: Longer than what a text is looked for by at first.
LONG = st.text(alphabet="ab", min_size=GRAM - 1, max_size=GRAM + 4)
PATTERNS = st.lists(
    st.text(alphabet="aB*", max_size=5)
    | st.text(alphabet="ab:* ", max_size=8)
    | st.tuples(st.sampled_from(["", "*", "b*"]), LONG, st.sampled_from(["", "*", "*a"])).map(
        "".join
    ),
    max_size=12,
)
TEXTS = (
    st.text(alphabet="ab", max_size=6)
    | st.text(alphabet="aAbB: *", max_size=9)
    | st.tuples(LONG, st.text(alphabet="ab", max_size=GRAM)).map("".join)
)


def brute_force(patterns: list[str], text: str) -> set[int]:
    return {
        number for number, pattern in enumerate(patterns) if compile_pattern(pattern)(fold(text))
    }


@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=6))
@example(["*", "**", "", " ", "a", "A", "a*", "*a", "*a*", "a*a", "a**a"], ["", "a", "aa", "*"])
@example(
    ["*aaaaaaaa*", "*aaaaaaaab*", "*aaaaaaaaab*", "aaaaaaaa*", "aaaaaaaaa*a", "*aaaaaaaa", "*a*"],
    ["aaaaaaa", "aaaaaaaa", "baaaaaaaaab", "aaaaaaaaaa", "aaaaaaaabaaaaaaaab"],
)
@example(["a*b", "ab*b", "ab*ba", "*b*", "b*"], ["ab", "aba", "abba", "b"])
@settings(deadline=None, max_examples=250)
def test_it_finds_what_trying_each_pattern_finds(patterns: list[str], texts: list[str]) -> None:
    index = PatternIndex(patterns)
    for text in texts:
        found = index.matching(fold(text))
        assert len(found) == len(set(found))
        assert set(found) == brute_force(patterns, text)


def test_the_same_pattern_is_found_at_each_of_its_places() -> None:
    patterns = ["a:*", "A:* ", "a:b", "*:b", "a:b", "*:B", "*", "**", "*:*", "*:*"]
    assert set(PatternIndex(patterns).matching("a:b")) == set(range(10))
    assert set(PatternIndex(patterns).matching("a:c")) == {0, 1, 6, 7, 8, 9}


def test_an_index_of_nothing_finds_nothing() -> None:
    assert PatternIndex([]).matching("") == ()
    assert PatternIndex([]).matching("a") == ()


def test_an_index_does_not_change_by_being_asked() -> None:
    index = PatternIndex(["a", "b*"])
    for _ in range(2):
        for text, found in [("x", ()), ("a", (0,)), ("bx", (1,)), ("x", ())]:
            assert index.matching(text) == found
    assert len(index._exact) == 1


@pytest.mark.parametrize("shape", ["{}", "{}*", "*{}", "{}*x", "*{}*"])
def test_of_many_patterns_that_begin_alike_one_is_found_and_none_is_tried(shape: str) -> None:
    patterns = [shape.format(f"a-common-beginning-{number:05}/x") for number in range(20_000)]
    text = patterns[12_345].replace("*", "")
    index = PatternIndex(patterns)
    assert index.matching(text) == (12_345,)
    assert index.cost(text) == 1
    assert index.cost(f"{text[:-3]}y") == 0
