"""A pattern covers the whole string, `*` is any run of characters, case and outer blanks do not
count, and nothing else is special."""

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz.core.pattern import compile_pattern, fold


def matches(pattern: str, action: str) -> bool:
    return compile_pattern(pattern)(fold(action))


@pytest.mark.parametrize(
    ("pattern", "action"),
    [
        ("*", ""),
        ("*", "anything: at/all.*"),
        ("**", "x"),
        ("read:*", "read:"),
        ("read:*", "read:api/users/1"),
        ("*:email", "send:email"),
        ("*:email", ":email"),
        ("invoke:SearchPlugin.*", "invoke:searchplugin.query"),
        ("read:*.pii_*", "read:db.table.pii_name"),
        ("READ:Docs", "read:dOCS"),
        ("  read:x ", "read:x"),
        ("a*b*c", "abc"),
        ("a*b*c", "a-b-b-c-c"),
        ("a*a", "aa"),
        ("*a*", "bab"),
        ("read:*", "read:two\nlines"),
    ],
)
def test_a_pattern_covers_the_action(pattern: str, action: str) -> None:
    assert matches(pattern, action)


@pytest.mark.parametrize(
    ("pattern", "action"),
    [
        ("", "x"),
        ("read:x", "read:x "),
        ("read:stra\u00dfe", "read:STRASSE"),
        ("write:office", "write:o\ufb03ce"),
        ("read:x", "read:x\u00a0"),
        ("read", "read:x"),
        ("read:x", "read:xy"),
        ("read:x", "xread:x"),
        ("read:*", "rea"),
        ("read:*", "write:read:x"),
        ("*:email", "send:emails"),
        ("a*a", "a"),
        ("ab*ba", "aba"),
        ("a*b*c", "acb"),
        ("a*b*b*c", "abc"),
        ("a*b*b", "ab"),
        ("a*bc*c", "abc"),
    ],
)
def test_a_pattern_covers_the_whole_action_or_nothing(pattern: str, action: str) -> None:
    assert not matches(pattern, action)


@pytest.mark.parametrize(
    ("pattern", "action"),
    [
        ("read:?", "read:x"),
        ("read:[ab]", "read:a"),
        ("read:[!a]", "read:b"),
        ("a.c", "abc"),
        ("a+", "aa"),
        ("^a$", "a"),
        ("a|b", "a"),
        ("{a,b}", "a"),
        (r"\w", "a"),
        (r"\*", "*"),
        ("%2a", "*"),
    ],
)
def test_only_the_star_is_special(pattern: str, action: str) -> None:
    assert not matches(pattern, action)
    assert matches(pattern, pattern)


def obviously(pattern: str, action: str) -> bool:
    """The definition, spelled out: a star takes nothing, or one more character."""

    @cache
    def covers(at: int, seen: int) -> bool:
        if at == len(pattern):
            return seen == len(action)
        if pattern[at] == "*":
            return covers(at + 1, seen) or (seen < len(action) and covers(at, seen + 1))
        return seen < len(action) and pattern[at] == action[seen] and covers(at + 1, seen + 1)

    return covers(0, 0)


FEW = "aAb:/.?[\\ "


@given(
    st.text(alphabet="*" + FEW, max_size=10) | st.text(alphabet="*ab", max_size=6),
    st.text(alphabet="*" + FEW, max_size=12) | st.text(alphabet="ab", max_size=5),
)
@example("a*ab", "aab")
@example("*a*", "")
@example("ab*b", "ab")
@settings(deadline=None, max_examples=1000)
def test_every_pattern_agrees_with_the_definition(pattern: str, action: str) -> None:
    expected = obviously(pattern.strip().lower(), action.lower())
    assert matches(pattern, action) is expected


@given(st.lists(st.tuples(st.text(alphabet=FEW, max_size=3), st.text(max_size=4)), max_size=6))
@settings(deadline=None)
def test_whatever_stands_for_the_stars_the_pattern_covers_it(parts: list[tuple[str, str]]) -> None:
    pattern = "x" + "".join(f"{literal}*" for literal, _ in parts) + "y"
    action = "x" + "".join(literal + run for literal, run in parts) + "y"
    assert matches(pattern, action)


def test_many_stars_over_a_long_hostile_action_are_answered() -> None:
    pattern = "a*" * 30 + "b"
    assert not matches(pattern, "a" * 4000)
    assert not matches("*" + pattern + "*c", "a" * 4000)
    assert matches(pattern, "a" * 4000 + "b")
