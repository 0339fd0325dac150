"""Files together: which of their documents are in force, and what only shows beside each other.

Of several documents of one kind and name the first counts, in the order given (CONTRACT §5: sorted
by file), and one that a file has now comes before one that is only kept from its last good version.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from authz.core import lints
from authz.core.chain_compiled import CompiledFloors, CompiledRouteMap
from authz.core.floors import ADMIN
from authz.core.pattern import fold
from authz.core.policy_file import Placed, PlacedChain, Problem
from authz.core.snapshot import Snapshot
from authz.core.text import word

#: The kind of a document that names none.
POLICY: Final = "Policy"


class PolicyFile(NamedTuple):
    """A file's documents."""

    #: As problems name it.
    file: str
    policies: Sequence[Placed]
    #: They are those of its last good version.
    stale: bool = False
    #: The documents that are no policies.
    chain: Sequence[PlacedChain] = ()


class Policies(NamedTuple):
    """A snapshot, with where each of its policies comes from."""

    snapshot: Snapshot
    #: By name.
    sources: dict[str, tuple[PolicyFile, Placed]]
    problems: list[Problem]
    #: The same of its other documents, by kind and name.
    chain_sources: dict[tuple[str, str], tuple[PolicyFile, PlacedChain]]

    def source(self, kind: str, name: str) -> tuple[PolicyFile, Placed | PlacedChain] | None:
        """Where a document comes from; None where there is none of this kind and name."""
        if kind == POLICY:
            return self.sources.get(name)
        return self.chain_sources.get((kind, name))


def counted(policies: int, others: int) -> str:
    """How many documents there are, for people."""
    said = "1 policy" if policies == 1 else f"{policies} policies"
    if others:
        said += f" and {others} other document{'s' if others > 1 else ''}"
    return said


def build(files: Iterable[PolicyFile]) -> Policies:
    """The snapshot of these files' documents, and the problems that none of them has alone."""
    given = list(files)
    found: dict[str, tuple[PolicyFile, Placed]] = {}
    chain: dict[tuple[str, str], tuple[PolicyFile, PlacedChain]] = {}
    problems: list[Problem] = []
    for file in [*(f for f in given if not f.stale), *(f for f in given if f.stale)]:
        for placed in file.policies:
            name = placed.policy.name
            first = found.setdefault(name, (file, placed))
            if first[1] is not placed:
                problems.append(_taken(file, placed, POLICY.lower(), name, first))
        for other in file.chain:
            key = (other.document.kind, other.document.name)
            taken = chain.setdefault(key, (file, other))
            if taken[1] is not other:
                problems.append(_taken(file, other, *key, taken))
    ordered = [placed.policy for file in given for placed in file.policies]
    ordered = [policy for policy in ordered if found[policy.name][1].policy is policy]
    for one, other_policy in lints.conflicting_defaults(ordered):
        file, placed = found[one.name]
        problems.append(
            Problem(
                file.file,
                *placed.default_place,
                "warning",
                f"`{word(one.name)}` allows by default, but for agents that it shares with"
                f" `{word(other_policy.name)}` that one denies by default, and wins",
                lints.CONFLICTING_DEFAULT,
            )
        )
    # In no file's order, so that where a document stands changes nothing.
    others = [chain[key] for key in sorted(chain)]
    problems += _lost_floor(others)
    problems += _shared_routes(others)
    snapshot = Snapshot(ordered, [other.document for _, other in others])
    return Policies(snapshot, found, problems, chain)


def _taken(
    file: PolicyFile,
    placed: Placed | PlacedChain,
    kind: str,
    name: str,
    first: tuple[PolicyFile, Placed | PlacedChain],
) -> Problem:
    return Problem(
        file.file,
        placed.line,
        placed.column,
        "error",
        f"the {kind} name `{word(name)}` is taken by {first[0].file}:{first[1].line};"
        " this one is not loaded",
        lints.DUPLICATE_NAME,
    )


def _lost_floor(documents: Sequence[tuple[PolicyFile, PlacedChain]]) -> Iterator[Problem]:
    """Documents replace the floor of `admin:*`; that none of them has one is hardly meant."""
    floors = [(f, p, p.document) for f, p in documents if isinstance(p.document, CompiledFloors)]
    patterns = (p for _, _, d in floors for floor in d.floors for p in floor.patterns)
    if floors and not any(lints.covers(fold(pattern.strip()), ADMIN) for pattern in patterns):
        file, placed, _ = floors[0]
        said = f"floors replace the built-in one of `{ADMIN}`, and none of these is for all of it"
        yield Problem(file.file, placed.line, placed.column, "warning", said)


def _shared_routes(documents: Sequence[tuple[PolicyFile, PlacedChain]]) -> Iterator[Problem]:
    """Routes of two maps for the same requests: the first map's count, by name."""
    seen: dict[tuple[object, ...], str] = {}
    for file, placed in documents:
        document = placed.document
        if not isinstance(document, CompiledRouteMap):
            continue
        hosts = tuple(sorted(fold(host) for host in document.hosts))
        lost: list[tuple[int, str, str]] = []
        for place, route in enumerate(document.routes):
            shape = (route.template.segments, route.template.has_rest, hosts, fold(route.host))
            for method in route.methods or ("*",):
                first = seen.setdefault((*shape, method), document.name)
                if first != document.name:
                    lost.append((place + 1, method, first))
        if lost:
            number, method, first = lost[0]
            said = (
                f"route {number} never counts for {method}: `{word(first)}` has the same path for"
                " the same hosts, and comes first by name"
            )
            said += f"; so it is {len(lost) - 1} more times" if len(lost) > 1 else ""
            yield Problem(file.file, placed.line, placed.column, "warning", said)
