"""Long answers, made in a thread beside the event loop, and ETags.

A thousand policies are a megabyte of JSON. Written in one go they would keep the interpreter for
ten milliseconds, and with it every decision; so each is written by itself, and there are rests.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fastapi import Request
from starlette.responses import Response

from authz.core.policy_entry import dumped

#: Bytes after which a page ends, whatever its limit is.
MAX_PAGE: Final = 1 << 20
JSON: Final = "application/json"


def page(
    name: str,
    entries: Iterable[tuple[str, bytes]],
    limit: int,
    more: Mapping[str, object],
    beside: Mapping[str, Sequence[bytes]] = MappingProxyType({}),
) -> bytes:
    """An answer with as many entries as fit, and `next` where there are more.

    Args:
        name: the list's.
        entries: each as JSON, with what to go on after.
        more: the answer's other keys.
        beside: whole lists that it has as well, each entry as JSON.
    """
    parts: list[bytes] = []
    size, after, is_cut = 0, "", False
    for key, part in entries:
        if len(parts) == limit or (parts and size + len(part) > MAX_PAGE):
            is_cut = True
            break
        parts.append(part)
        size += len(part)
        after = key
    lists = {name: parts, **beside}
    said = [b'"%s":[%s]' % (key.encode(), b",".join(each)) for key, each in lists.items()]
    rest = dumped({**more, "next": after} if is_cut else more)[1:-1]
    return b"{%s}" % b",".join([*said, *([rest] if rest else [])])


def tag_of(body: bytes) -> str:
    """An ETag that names these bytes."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def tagged(request: Request, body: bytes, tag: str, media: str = JSON) -> Response:
    """The answer with its ETag, or 304 where whoever asks has it already (RFC 9110 §13.1.2)."""
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept"}
    if names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media, headers=headers)


def names(header: str, tag: str) -> bool:
    """Whether a list of ETags, such as `If-None-Match`, has this one; `*` has every one."""
    listed = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in listed or tag in listed
