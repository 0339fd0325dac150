"""Texts as they are shown: what somebody else chose, made safe, and addresses."""


def address(host: str, port: int) -> str:
    """An IP address or name with its port, as URLs have them (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def visible(text: str) -> str:
    """The text with everything that hides, moves or breaks a line shown escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def word(text: str) -> str:
    """A text as a sentence may repeat it: short, and nothing but visible ASCII."""
    return ascii(text[:40])[1:-1]
