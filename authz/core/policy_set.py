"""Files together: which of their policies are in force, and what only shows beside each other.

Of several policies with one name the first counts, in the order given (CONTRACT §5: sorted by
file), and one that a file has now comes before one that is only kept from its last good version.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from authz.core import lints
from authz.core.policy_file import Placed, Problem
from authz.core.snapshot import Snapshot
from authz.core.text import word


class PolicyFile(NamedTuple):
    """A file's policies."""

    #: As problems name it.
    file: str
    policies: Sequence[Placed]
    #: They are those of its last good version.
    stale: bool = False


class Policies(NamedTuple):
    """A snapshot, with where each of its policies comes from."""

    snapshot: Snapshot
    #: By name.
    sources: dict[str, tuple[PolicyFile, Placed]]
    problems: list[Problem]


def build(files: Iterable[PolicyFile]) -> Policies:
    """The snapshot of these files' policies, and the problems that none of them has alone."""
    given = list(files)
    found: dict[str, tuple[PolicyFile, Placed]] = {}
    problems: list[Problem] = []
    for file in [*(f for f in given if not f.stale), *(f for f in given if f.stale)]:
        for placed in file.policies:
            name = placed.policy.name
            first = found.setdefault(name, (file, placed))
            if first[1] is placed:
                continue
            problems.append(
                Problem(
                    file.file,
                    placed.line,
                    placed.column,
                    "error",
                    f"the policy name `{word(name)}` is taken by {first[0].file}:{first[1].line};"
                    " this one is not loaded",
                    lints.DUPLICATE_NAME,
                )
            )
    ordered = [placed.policy for file in given for placed in file.policies]
    ordered = [policy for policy in ordered if found[policy.name][1].policy is policy]
    for one, other in lints.conflicting_defaults(ordered):
        file, placed = found[one.name]
        problems.append(
            Problem(
                file.file,
                *placed.default_place,
                "warning",
                f"`{word(one.name)}` allows by default, but for agents that it shares with"
                f" `{word(other.name)}` that one denies by default, and wins",
                lints.CONFLICTING_DEFAULT,
            )
        )
    return Policies(Snapshot(ordered), found, problems)
