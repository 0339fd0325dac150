"""What the service would find in the policies of a bundle, file by file and together."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from authz.core.policy_file import Problem


def problems_of(
    files: Mapping[str, bytes], named: Callable[[str], object]
) -> "tuple[list[Problem], bool]":
    """Every problem of these files, sorted, and whether there is a valid document in them at all.

    Args:
        files: by relative name; what is no policy file is not looked at.
        named: what sentences call a file.
    """
    from authz.core.policy_bounds import is_policy_file
    from authz.core.policy_set import PolicyFile, build
    from authz.stores.parsing import parse_here

    items = [(data, str(named(name))) for name, data in files.items() if is_policy_file(name)]
    parsed = list(parse_here(items))
    together = build(
        PolicyFile(name, one.policies, chain=one.chain)
        for (_, name), one in zip(items, parsed, strict=True)
    )
    snapshot = together.snapshot
    alone = (problem for one in parsed for problem in one.problems)
    return sorted({*alone, *together.problems}), bool(snapshot.policies or snapshot.chain)


def tell(problems: "Iterable[Problem]") -> int:
    """Print them to stderr; how many are errors."""
    errors = 0
    for problem in problems:
        typer.echo(str(problem), err=True)
        errors += problem.severity == "error"
    return errors
