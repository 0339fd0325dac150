"""A policy file's text, document by document, so that one can be replaced and the others stay.

- A document's text is from its `---` to the next one; the first one's is from the beginning of the
  file. Of a file with a single document it is the whole file. So comments stay with what they
  stand beside, and what is put back as it was read changes no byte.
- Nothing here understands YAML beyond `---`, which at the beginning of a line can be nothing else
  (YAML 1.1 §9.1.2: no scalar may hold it). `edited` is told what the file must say afterwards, and
  refuses whatever came out as something else.
"""

import re
from typing import Final

import yaml

from authz.core.policy_file import Parsed, Placed, PlacedChain
from authz.core.policy_set import POLICY

#: What stands before a document that is not the first of its file, and need not before another.
_BEGINNING: Final = re.compile(rb"\A---[ \t]*\r?\n")
_MARKER: Final = re.compile(rb"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)

#: A document's kind and name.
Key = tuple[str, str]


def key_of(placed: Placed | PlacedChain) -> Key:
    """What names a document in a set of them."""
    if isinstance(placed, Placed):
        return POLICY, placed.policy.name
    return placed.document.kind, placed.document.name


def digests(parsed: Parsed) -> dict[Key, str]:
    """What each document of a file says, by its digest."""
    said = {key_of(placed): placed.policy.digest for placed in parsed.policies}
    return said | {key_of(placed): placed.document.digest for placed in parsed.chain}


def text_of(data: bytes, parsed: Parsed, key: Key) -> bytes:
    """A document's text.

    Args:
        data: the file.
        parsed: the same, read; it has the document.
    """
    start, end = _span(data, parsed, key)
    return data[start:end]


def is_same_text(one: bytes, other: bytes) -> bool:
    """Whether to put one in place of the other would change nothing but space around it."""
    return _BEGINNING.sub(b"", one).rstrip() == _BEGINNING.sub(b"", other).rstrip()


def pieces(data: bytes, parsed: Parsed) -> list[tuple[int, bytes]]:
    """The text of each document, with the number of lines above it; of a bad file all of it.

    Args:
        data: the file.
        parsed: the same, read.
    """
    placed: list[Placed | PlacedChain] = sorted(
        (*parsed.policies, *parsed.chain), key=lambda one: one.line
    )
    if len(placed) < 2:
        return [(0, data)]
    spans = [_span(data, parsed, key_of(one)) for one in placed]
    return [(data.count(b"\n", 0, start), data[start:end]) for start, end in spans]


def edited(data: bytes, parsed: Parsed, key: Key, text: bytes) -> bytes:
    """The file with a document's text replaced; by nothing where `text` is empty.

    What is returned has to be read again and compared (`digests`): this does not know what the
    text says.
    """
    start, end = _span(data, parsed, key)
    before, after = data[:start], data[end:]
    if text and not text.endswith(b"\n"):
        text += b"\n"
    if before and text:
        if not before.endswith(b"\n"):
            before += b"\n"
        if _MARKER.search(text) is None:
            before += b"---\n"
    return before + text + after


def written(document: object) -> bytes:
    """A document that came as JSON, as a file of policies has it.

    Raises:
        UnicodeEncodeError: it has half a character.
    """
    text: str = yaml.dump(
        document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text.encode()


def _span(data: bytes, parsed: Parsed, key: Key) -> tuple[int, int]:
    placed: list[Placed | PlacedChain] = [*parsed.policies, *parsed.chain]
    if len(placed) == 1:
        return 0, len(data)
    line = next(one.line for one in placed if key_of(one) == key)
    starts = [0, *(found.start() for found in _MARKER.finditer(data)), len(data)]
    place = _offset(data, line)
    after = next(number for number, start in enumerate(starts) if start > place)
    return starts[after - 1], starts[after]


def _offset(data: bytes, line: int) -> int:
    """Where a line begins, 1-based."""
    offset = 0
    for _ in range(line - 1):
        offset = data.index(b"\n", offset) + 1
    return offset
