"""The paths of a RouteMap, and the texts that are made from their parameters.

- A path is segments, each a text that is compared as it stands or `{name}`, which is any one
  segment; the last may be `{name...}`, which is one segment or more.
- What could never match, or match something else than its author sees, is refused with a sentence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from authz.core.text import word

#: Segments of a path, which bounds how deep a look-up goes; published APIs have about ten.
MAX_SEGMENTS: Final = 64

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(\.\.\.)?\}")


#: What a whole path may not be, and the sentence for it.
_REFUSED: Final[tuple[tuple[Callable[[str], object], str], ...]] = (
    (lambda path: not path.startswith("/"), "a route's path begins with /"),
    (
        re.compile("[?#]").search,
        "a route's path has no query string; only the path is matched",
    ),
    (
        re.compile("%[0-9A-Fa-f]{2}").search,
        "a route's path is matched decoded; write the character itself",
    ),
    (re.compile(r"[\\;]").search, "a path with \\ or ; in it is never forwarded"),
    (lambda path: not path.isprintable(), "a route's path has control characters"),
)


class Template(NamedTuple):
    """A path."""

    #: None stands for a parameter.
    segments: tuple[str | None, ...]
    #: The parameters in their order.
    names: tuple[str, ...]
    #: The last parameter is all the rest of the path.
    has_rest: bool


class TemplateError(ValueError):
    """Why a text is no template, in one sentence."""


def parse_path(path: str) -> Template:
    """Read a path such as `/v1/customers/{id}/notes`.

    Raises:
        TemplateError: it is none, or could match no request.
    """
    why_not = next((said for refuses, said in _REFUSED if refuses(path)), "")
    if why_not:
        raise TemplateError(why_not)
    written = path[1:].split("/") if path != "/" else []
    if len(written) > MAX_SEGMENTS:
        raise TemplateError(f"a route's path has more than {MAX_SEGMENTS} segments")
    segments: list[str | None] = []
    names: list[str] = []
    has_rest = False
    for segment in written:
        if has_rest:
            raise TemplateError(f"`{{{names[-1]}...}}` is the rest of the path, so it is the last")
        if "{" not in segment and "}" not in segment:
            segments.append(_literal(segment))
            continue
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            raise TemplateError(
                "a parameter is a whole segment, `{name}` or at the end `{name...}`, of letters,"
                " digits and _"
            )
        if parameter[1] in names:
            raise TemplateError(f"the parameter `{{{parameter[1]}}}` appears twice")
        names.append(parameter[1])
        segments.append(None)
        has_rest = parameter[2] is not None
    return Template(tuple(segments), tuple(names), has_rest)


def _literal(segment: str) -> str:
    if not segment:
        raise TemplateError("a route's path has an empty segment; leave out the slash")
    if segment in (".", ".."):
        raise TemplateError("a path with a . or .. segment is never forwarded")
    return segment


def parse_text(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Read a text such as `customer:{id}`: texts and the names between them, in turn.

    Args:
        names: the parameters of the path.

    Raises:
        TemplateError: a parameter is not the path's, or stands there twice: what a request makes
            of it should not be longer than the request.
    """
    parts = re.split(r"\{([^{}]*)\}", text)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise TemplateError("`{` and `}` hold the name of a parameter")
    for at, name in enumerate(parts[1::2]):
        if name not in names:
            known = ", ".join(f"`{{{known}}}`" for known in names) or "none"
            raise TemplateError(
                f"`{{{word(name)}}}` is not a parameter of the path, which has {known}"
            )
        if name in parts[1 : 2 * at + 1 : 2]:
            raise TemplateError(f"the parameter `{{{name}}}` appears twice")
    return tuple(parts)


def filled(parts: Sequence[str], values: Mapping[str, str]) -> str:
    """A text of `parse_text` with the parameters' values in it."""
    return "".join(values[part] if at % 2 else part for at, part in enumerate(parts))
