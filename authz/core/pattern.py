"""Action patterns (CONTRACT §5): the whole string, `*` is any run of characters, nothing else.

No regular expressions: a pattern with several stars would backtrack, and the text it is matched
against is chosen by the agent. Here every star costs one forward search, so a match is linear in
the action for any pattern.
"""

from collections.abc import Callable

Matcher = Callable[[str], bool]


def fold(text: str) -> str:
    """The form in which patterns and actions are compared.

    Lower case and not Unicode's case folding: that makes two characters of one (`ﬃ`, `ß`), and
    the upstream sees the one.
    Not trimmed: an action may hold the upstream's path, where a blank is a character. What a
    person wrote, a pattern or a header, loses its blanks where it is read.
    """
    if text.isascii():
        return text.lower()
    # One by one: `str.lower` looks around a sigma, and a pattern has other surroundings.
    return "".join([character.lower() for character in text])


def compile_pattern(pattern: str) -> Matcher:
    """A predicate over *folded* actions.

    `*` matches any run of characters, the empty one included, also across `:`, `.` and `/`.
    """
    pieces = fold(pattern.strip()).split("*")
    if len(pieces) == 1:
        return pieces[0].__eq__
    head, *middle, tail = pieces
    middle = [piece for piece in middle if piece]
    shortest = len(head) + len(tail)
    if not middle:
        if not shortest:
            return lambda _: True
        if not tail:
            return lambda action: action.startswith(head)

    def matches(action: str) -> bool:
        if len(action) < shortest or not action.startswith(head) or not action.endswith(tail):
            return False
        at, end = len(head), len(action) - len(tail)
        for piece in middle:
            found = action.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    return matches
