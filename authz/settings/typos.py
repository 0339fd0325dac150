"""Variables that are nearly ours: one letter too many, missing, wrong, or two in the wrong order.

An environment has many that are not ours, so such a one is warned of and never refused. Without
it `REQUIRE_SIGEND_POLICIES=true` would look like a rule that is in force.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pydantic import AliasChoices

from authz.settings.model import Settings

#: Letters of the shortest name that is looked at: PORT, HOST and MODE are near to too much.
_SHORTEST: Final = 8


def typos(given: Iterable[str]) -> Iterator[str]:
    """A sentence for each of these names that is none of ours, and near one that is not set."""
    names = set(given)
    known: set[str] = set()
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        known |= {str(a) for a in (alias.choices if isinstance(alias, AliasChoices) else [alias])}
    unset = sorted(known - names)
    for name in sorted(name for name in names - known if len(name) >= _SHORTEST):
        for meant in unset:
            if _is_near(name, meant):
                yield f"{name}: has no effect; if it is for the sidecar, its name is {meant}"


def _is_near(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 1:
        return False
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])
