"""What commands say of records, wherever these are: times, names of options, who somebody is.

What a sidecar elsewhere has answered may lack anything, so nothing here relies on a field.
"""

import contextlib
import os
import pwd
from collections.abc import Mapping
from typing import Any, Final

from authz.cli.shared import BAD_ARGUMENTS, fail
from authz.core.durations import parse_duration
from authz.core.timestamps import seconds_of

#: What commands call the fields that the admin API's sentences begin with.
_OPTIONS: Final = {
    "id": "--id",
    "trustTier": "--trust",
    "tags": "--tag",
    "orgId": "--org",
    "approver": "--by",
    "sourceAgentId": "FROM",
    "targetAgentId": "TO",
    "scope": "--scope",
    "resources": "--resource",
    "permissionCeiling": "--ceiling",
    "maxDepth": "--depth",
    "expiresAt": "--ttl",
    "expiresIn": "--ttl",
    "parentRelationshipId": "--parent",
}


def with_options(sentence: str) -> str:
    """The sentence with the name of an option or argument where it begins with a field's."""
    field, colon, rest = sentence.partition(":")
    name, bracket, place = field.partition("[")
    return _OPTIONS.get(name, name) + bracket + place + colon + rest


def login() -> str:
    """The name of the user whose process this is; not what the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def duration(option: str, text: str) -> int:
    """Seconds of a duration that an option gives."""
    try:
        return parse_duration(text)
    except ValueError as error:
        fail([f"{option}: {error}"], BAD_ARGUMENTS)


def cell(entry: Mapping[str, Any], name: str) -> str:
    """A field as a table shows it; `-` where it is not there."""
    value = entry.get(name)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def at(entry: Mapping[str, Any], name: str) -> str:
    """A time of an entry to the second, as a table shows it."""
    value = cell(entry, name)
    return value if value == "-" else f"{value[:19]}Z"


def left(entry: Mapping[str, Any], name: str, now: float) -> str:
    """How long it is until a time of an entry, short: `59m`; `-` where it has passed.

    Args:
        now: seconds since the epoch.
    """
    seconds = 0
    with contextlib.suppress(ValueError, OverflowError):
        seconds = int(seconds_of(str(entry.get(name))) - now)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return "-"
