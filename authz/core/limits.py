"""What policies bound besides single actions: how often, and what may be passed on (CONTRACT §5).

A limit is only described here. Counting takes a clock and a memory, and the core has neither.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from authz.core.policy_doc import RateLimits

#: Between the parts of a key. Names are printable, so no name has it in it.
_SEPARATOR: Final = "\x1f"


class Limit(NamedTuple):
    """So many requests of one agent in a sliding window."""

    #: What is counted together, for one agent: the policy's name, the rule's label (empty for the
    #: policy's own limit) and the window. The same in every version of the policy.
    key: str
    policy: str
    #: As answers call the rule; empty for a limit of the whole policy.
    rule: str
    #: 0-based place in the policy; None for a limit of the whole policy.
    rule_index: int | None
    #: Requests.
    count: int  # type: ignore[assignment]  # a tuple has a method of this name, and needs none here
    #: Seconds.
    window_s: int


class DelegationLimits(NamedTuple):
    """What an agent's policies let it pass on to others (`delegation` in CONTRACT §5)."""

    #: Further hops below one that it issues, at most; None: as the hop itself says.
    max_depth: int | None = None
    #: Lists of action patterns, each of which has to cover what is passed on.
    ceilings: tuple[tuple[str, ...], ...] = ()


NO_DELEGATION_LIMITS: Final = DelegationLimits()


def limits_of(
    document: RateLimits | None, policy: str, rule: str = "", rule_index: int | None = None
) -> tuple[Limit, ...]:
    """The limits of a policy or of one of its rules, the shortest window first."""
    return tuple(
        Limit(
            _SEPARATOR.join((policy, rule, str(window_s))),
            policy,
            rule,
            rule_index,
            count,
            window_s,
        )
        for count, window_s in _windows(document)
    )


def _windows(document: RateLimits | None) -> Iterator[tuple[int, int]]:
    if document is None:
        return
    for count, window_s in (
        (document.requests_per_second, 1),
        (document.requests_per_minute, 60),
        (document.requests_per_hour, 3600),
        (document.requests_per_day, 86_400),
    ):
        if count is not None:
            yield count, window_s
