"""Texts that somebody else chose, made safe to show."""


def visible(text: str) -> str:
    """The text with everything that hides, moves or breaks a line shown escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def word(text: str) -> str:
    """A text as a sentence may repeat it: short, and nothing but visible ASCII."""
    return ascii(text[:40])[1:-1]
