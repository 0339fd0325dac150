"""The `audit` table, and how its rows are shown (CONTRACT §9).

Apart from the rest of the schema, so that whoever only reads rows need not load what decides.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import peewee

TABLE: Final = "audit"

#: Texts that are none must not hide the rest; nothing that was replaced so can fit its hash.
forgiving: Final = functools.partial(str, encoding="utf-8", errors="replace")


class AuditEntry(peewee.Model):
    """The `audit` table. `AuditRow` has the meaning of each column, `audit_chain` the hashes'."""

    seq = peewee.BigAutoField()
    id = peewee.TextField()
    timestamp = peewee.TextField()
    source = peewee.TextField()
    agent_id = peewee.TextField(null=True)
    agent_name = peewee.TextField(null=True)
    trust_tier = peewee.TextField(null=True)
    org_id = peewee.TextField(null=True)
    action = peewee.TextField()
    resource = peewee.TextField(null=True)
    method = peewee.TextField(null=True)
    path = peewee.TextField(null=True)
    decision = peewee.TextField()
    enforced = peewee.TextField()
    mode = peewee.TextField()
    stage = peewee.TextField(null=True)
    code = peewee.TextField()
    policy = peewee.TextField(null=True)
    rule = peewee.TextField(null=True)
    rule_index = peewee.IntegerField(null=True)
    reason = peewee.TextField(null=True)
    policy_version = peewee.TextField()
    trace_id = peewee.TextField()
    latency_us = peewee.IntegerField()
    metadata = peewee.TextField(null=True)
    delegation_id = peewee.TextField(null=True)
    debit = peewee.IntegerField(null=True)
    prev_hash = peewee.BlobField()
    hash = peewee.BlobField()

    class Meta:
        table_name = TABLE


def is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        peewee.OperationalError: that cannot be known, since it lies in a directory that is closed
            to us: to say that there is none would be to say that nothing was recorded.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise peewee.OperationalError(f"it cannot be opened: {error.strerror}") from None


def _key(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


#: What an entry calls each column; `latency_us` is milliseconds there, by two names.
KEYS: Final[Mapping[str, str]] = {
    name: "latencyMs" if name == "latency_us" else _key(name)
    for name in AuditEntry._meta.columns  # noqa: SLF001 - as peewee documents it
}
#: What an entry of the ingested trail has besides: the id of the trail that it came from.
ORIGIN: Final = "origin"
#: Objects and lists in metadata that is taken apart; a sidecar writes no more than 256.
MAX_PARTS: Final = 1000


def entry_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, or some of its columns, as an API entry: camelCase, absent values left out.

    Hashes are hexadecimal, `metadata` is an object, and its `meta`, if it is one, stands beside it
    too. `result` is the decision, and `durationMs` is `latencyMs`: SDKs name them so. Metadata that
    is no JSON object, which no sidecar writes, stays the text it is.
    """
    entry: dict[str, Any] = {}
    for name, value in row.items():
        if value is not None:
            entry[KEYS.get(name, name)] = value.hex() if isinstance(value, bytes) else value
    if "decision" in entry:
        entry["result"] = entry["decision"]
    if isinstance(entry.get("latencyMs"), int):
        entry["durationMs"] = entry["latencyMs"] = entry["latencyMs"] / 1000
    metadata = _object(entry.get("metadata"))
    if metadata is not None:
        entry["metadata"] = metadata
        if isinstance(metadata.get("meta"), dict):
            entry["meta"] = metadata["meta"]
    return entry


def _object(text: object) -> dict[str, Any] | None:
    """Metadata as an object that can be written as JSON again; None where it is none."""
    if not isinstance(text, str) or text.count("{") + text.count("[") > MAX_PARTS:
        return None
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def json_of(value: object) -> bytes:
    """Compact JSON. Half a character, which an agent may have sent as an escape, becomes `?`."""
    return _encode(value).encode("utf-8", "replace")
