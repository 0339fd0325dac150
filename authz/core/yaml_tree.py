"""YAML text to a tree that remembers where each value stands.

Built from libyaml's event stream rather than its composer: depth and size are checked while
reading, so a hostile file costs no more than its limits (a composer recurses per level, and an
alias multiplies what it names). Aliases work; they count as often as they are used.

Scalars follow YAML 1.1 as PyYAML's safe loader does, except that dates stay text. Tags are
refused: a policy has no use for types of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from authz.core.text import word

#: The deepest published policy document nests 7 levels.
MAX_DEPTH: Final = 32
#: Values per file, aliases expanded; the bundled policies have about 40.
MAX_NODES: Final = 200_000

#: Characters of all values, aliases expanded: an alias may name a long text.
MAX_WEIGHT: Final = 4 << 20

#: What some readers take for the end of a line and others do not, and what turns the direction of
#: a line: a rule could stand where a review shows a comment.
_DECEPTIVE: Final = re.compile(
    "[\x85\u2028\u2029\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]|\r(?!\n)"
)

#: Characters of a number; a longer one stays text. YAML 1.1 reads `1:1:1` as base 60, and the
#: time for that grows with the square of its length.
MAX_NUMBER: Final = 64
#: Documents in one file.
MAX_DOCUMENTS: Final = 1_000

Scalar = bool | int | float | str | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
Path = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the 1-based line and column where it starts."""

    value: "Scalar | list[Node] | dict[str, Node]"
    line: int
    column: int
    #: A scalar's own characters, before YAML gave them a type.
    text: str = ""
    #: A mapping's keys, each with the place where the key stands.
    keys: "dict[str, tuple[int, int]] | None" = None
    #: How many values this is, itself included, and how many levels.
    size: int = 1
    height: int = 1
    #: Characters of all its scalars, aliases expanded.
    weight: int = 0

    def plain(self) -> Plain:
        """The value without positions."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def plain_keys(self) -> set[str]:
        """The keys of a mapping; none of anything else."""
        return set(self.keys or ())

    def at(self, path: Path) -> "Node":
        """The value at `path`, or the nearest above it that exists."""
        return self._walk(path)[0]

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column of the value at `path`, or of the nearest above it that exists."""
        node = self._walk(path)[0]
        return node.line, node.column

    def place_of_key(self, path: Path) -> tuple[int, int]:
        """The same, but of the key where the value is one of a mapping."""
        return self._walk(path)[1]

    def text_at(self, path: Path) -> str:
        """The characters of the scalar at `path`; empty where there is none."""
        node, _, complete = self._walk(path)
        return node.text if complete else ""

    def _walk(self, path: Path) -> tuple["Node", tuple[int, int], bool]:
        node, place = self, (self.line, self.column)
        for step in path:
            if isinstance(node.value, dict) and step in node.value:
                assert node.keys is not None
                place = node.keys[str(step)]
                node = node.value[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                place = node.line, node.column
            else:
                return node, place, False
        return node, place, True


class YamlError(Exception):
    """The text is not a YAML document we read; `line` and `column` are 1-based."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


def parse(data: bytes) -> list[Node]:
    """All documents of a file; an empty document is left out.

    Raises:
        YamlError: not UTF-8, not YAML, over a limit, or a duplicate key.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(*_place_of(data, error.start), "the file is not UTF-8") from None
    hidden = _DECEPTIVE.search(text)
    if hidden is not None:
        place = _place_of(text.encode(), len(text[: hidden.start()].encode()))
        raise YamlError(*place, f"U+{ord(hidden[0]):04X} hides how the text reads; remove it")
    try:
        return _Builder(yaml.parse(text, Loader=yaml.CSafeLoader)).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context == "while scanning an alias":
            said += "; put a pattern that starts with * in quotes"
        elif error.context == "while scanning a quoted scalar" and error.context_mark:
            mark, said = error.context_mark, "the quote that begins here does not end"
        elif error.problem and error.problem.startswith("mapping values are not allowed"):
            said += "; put a text that has a colon and a blank in it in quotes"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        lines = text.splitlines()
        if line <= len(lines) and lines[line - 1][column - 1 :].startswith("\t"):
            said = "a tab cannot indent; use blanks"
        raise YamlError(line, column, f"not YAML: {said}") from None
    except yaml.reader.ReaderError as error:
        # libyaml counts the bytes of the text that it is given.
        place = _place_of(text.encode(), error.position)
        raise YamlError(*place, f"not YAML: {error.reason}") from None


class _Builder:
    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._count = 0
        self._weight = 0
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def documents(self) -> list[Node]:
        found: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                node = self._node(next(self._events), 0)
                if node.value is not None:
                    found.append(node)
                if len(found) > MAX_DOCUMENTS:
                    raise YamlError(node.line, 1, f"more than {MAX_DOCUMENTS} documents")
        return found

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line, column = _place(event)
        assert isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise YamlError(
                    line,
                    column,
                    f"the alias `*{word(str(event.anchor))}` names nothing above it; put a pattern"
                    " that starts with * in quotes",
                )
            self._spend(known.size, line, column)
            self._weight += known.weight
            if self._weight > MAX_WEIGHT:
                raise YamlError(line, column, f"over {MAX_WEIGHT} characters, aliases expanded")
            self._descend(depth + known.height, line, column)
            return known
        self._spend(1, line, column)
        self._descend(depth + 1, line, column)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise YamlError(line, column, f"the tag `{word(str(tag))}` is not allowed")
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line, column)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, column, depth)
        else:
            node = self._mapping(line, column, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _spend(self, size: int, line: int, column: int) -> None:
        self._count += size
        if self._count > MAX_NODES:
            raise YamlError(line, column, f"more than {MAX_NODES} values, aliases expanded")

    def _descend(self, levels: int, line: int, column: int) -> None:
        if levels > MAX_DEPTH:
            raise YamlError(line, column, f"nested deeper than {MAX_DEPTH} levels")

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Node:
        text: str = event.value
        value: Scalar = text
        if event.implicit[0] and len(text) <= MAX_NUMBER:
            tag: str = self._resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            kind = tag.rpartition(":")[2]
            if kind in ("null", "bool", "int", "float"):
                try:
                    value = self._constructor.construct_object(yaml.ScalarNode(tag, text))
                except (ValueError, OverflowError):
                    raise YamlError(line, column, f"`{word(text)}` is not a {kind}") from None
        self._weight += len(text)
        return Node(value, line, column, text=text, weight=len(text))

    def _sequence(self, line: int, column: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        size = 1 + sum(item.size for item in items)
        height = 1 + max((item.height for item in items), default=0)
        weight = sum(item.weight for item in items)
        return Node(items, line, column, size=size, height=height, weight=weight)

    def _mapping(self, line: int, column: int, depth: int) -> Node:
        items: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at = _place(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag not in (None, "!"):
                raise YamlError(*at, "a key must be plain text")
            key: str = event.value
            self._spend(1, *at)
            if key in items:
                first = keys[key][0]
                raise YamlError(*at, f"`{word(key)}` appears twice; the first is on line {first}")
            items[key] = self._node(next(self._events), depth + 1)
            keys[key] = at
        size = 1 + len(keys) + sum(item.size for item in items.values())
        height = 1 + max((item.height for item in items.values()), default=0)
        weight = sum(item.weight for item in items.values())
        return Node(items, line, column, keys=keys, size=size, height=height, weight=weight)


def _place_of(data: bytes, offset: int) -> tuple[int, int]:
    start = data.rfind(b"\n", 0, offset) + 1
    column = len(data[start:offset].decode("utf-8", "replace")) + 1
    return data.count(b"\n", 0, offset) + 1, column


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1
