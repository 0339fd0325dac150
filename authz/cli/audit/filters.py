"""The filters of `authz audit`: an option for each one of the API, with the same meaning."""

import functools
import inspect
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import typer

from authz.cli.shared import BAD_ARGUMENTS, fail

#: How long ago; a bare number could be a date.
_AGO: Final = re.compile(r"\s*[0-9]+[smhd]\s*")
#: What is given instead of them, in a command's own signature.
_PARAMETER: Final = "filters"


class _Option(NamedTuple):
    names: tuple[str, ...]
    help: str
    #: The words that it takes, where those are few.
    words: tuple[str, ...] = ()


_DECISIONS: Final = ("allow", "deny", "error", "reported")
_TIME: Final = "2026-01-31T12:00:00Z, a date, or how long ago: 2h, 7d."
#: By the filter's name in the API.
OPTIONS: Final[Mapping[str, _Option]] = {
    "agentId": _Option(("--agent",), "The agent's id."),
    "action": _Option(("--action",), "The action; `*` stands for anything."),
    "decision": _Option(("--decision",), "What was decided.", _DECISIONS),
    "from": _Option(("--from",), f"Not before: {_TIME}"),
    "to": _Option(("--to",), f"Before: {_TIME}"),
    "resource": _Option(("--resource",), "The resource; `*` stands for anything."),
    "policy": _Option(("--policy",), "The policy that decided."),
    "rule": _Option(("--rule",), "The rule that decided."),
    "code": _Option(("--code",), "Why, in a word (docs/codes.md)."),
    "stage": _Option(("--stage",), "The stage that decided."),
    "reason": _Option(("--reason",), "A part of the reason."),
    "enforced": _Option(("--enforced",), "What was done about it.", _DECISIONS),
    "mode": _Option(("--mode",), "Under which mode.", ("enforce", "audit", "bypass")),
    "source": _Option(
        ("--source",),
        "What asked.",
        ("proxy", "check", "batch", "mint", "forward", "capture", "client", "control"),
    ),
    "trustTier": _Option(("--trust", "--tier"), "The agent's trust tier."),
    "orgId": _Option(("--org",), "The agent's organisation."),
    "method": _Option(("--method",), "The request's method."),
    "path": _Option(("--path",), "The request's path; `*` stands for anything."),
    "traceId": _Option(("--trace",), "The trace."),
    "decisionId": _Option(("--id",), "The decision's own id."),
    "policyVersion": _Option(("--policy-version",), "The policies that were in force."),
    "delegationId": _Option(("--delegation",), "The delegation that it was asked under."),
}

#: What else commands call by another name than the API.
_OTHERS: Final = {"n": "-n", "limit": "--limit", "format": "--format", "order": "--order"}


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each filter, in place of its parameter `filters`.

    It gets those that are not empty, by their names in the API.
    """
    parameters = {f"filter_{name}": option for name, option in OPTIONS.items()}

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        filters = {}
        for name in parameters:
            value = given.pop(name)
            if value:
                filters[name.removeprefix("filter_")] = value
        command(**{_PARAMETER: _moments(filters)}, **given)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=_annotation(option)
        )
        for name, option in parameters.items()
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != _PARAMETER
    ]
    with_options.__signature__ = signature.replace(parameters=[*added, *own])  # type: ignore[attr-defined]
    return with_options


def in_options(sentence: str) -> str:
    """A sentence with the option's name where it begins with a filter's."""
    name, colon, rest = sentence.partition(":")
    if name in OPTIONS:
        name = OPTIONS[name].names[0]
    return f"{_OTHERS.get(name, name)}{colon}{rest}"


def _annotation(option: _Option) -> Any:
    words = list(option.words)
    told = f"{option.help[:-1]}: {', '.join(words)}." if words else option.help
    complete = (lambda: words) if words else None
    return Annotated[
        str, typer.Option(*option.names, help=told, autocompletion=complete, show_default=False)
    ]


def _moments(filters: dict[str, str]) -> dict[str, str]:
    """The same, with how long ago something was as the time that it was."""
    from authz.core.durations import parse_duration
    from authz.core.timestamps import rfc3339

    for name in ("from", "to"):
        if _AGO.fullmatch(filters.get(name, "")):
            try:
                filters[name] = rfc3339(time.time() - parse_duration(filters[name]))
            except ValueError as error:
                fail([f"--{name}: {error}"], BAD_ARGUMENTS)
    return filters
