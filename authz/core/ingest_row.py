"""A row of a trail that somebody sent: is it one that a sidecar can have written (CONTRACT §9)?

- Kinds and lengths of values, and the few columns that programs compare, are held to what sidecars
  write. What agents say is not: a sidecar records a request that it refuses as it came, control
  characters included, and a trail must not be one that nobody takes for that.
- That the row is what was recorded is the chain's to show (`audit_verify`), not this file's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from authz.core.audit import AuditRow
from authz.core.text import word

#: Characters of a text. Names and paths have 8192 at most in a sidecar, reasons are policies' own.
MAX_TEXT: Final = 65_536
#: Characters of `metadata`: what was before and after a change of a record, which is a request's
#: body at most on each side.
MAX_METADATA: Final = 786_432
#: Lists and objects in it: a sidecar records up to 256 of an agent's, twice in a change.
MAX_PARTS: Final = 4096
#: The largest number that every reader of JSON has (RFC 8259 §6).
MAX_NUMBER: Final = 2**53 - 1

_ID: Final = re.compile(r"[!-~]{1,128}")
_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"\.[0-9]{6}Z"
)
_WORD: Final = re.compile(r"[a-z][a-z0-9_:.-]{0,63}")
_DECISION: Final = re.compile("allow|deny|error|reported")
_MODE: Final = re.compile("enforce|audit|bypass")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

#: Columns whose texts have a form of their own, and what it is called.
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "id": (_ID, "an id of 1 to 128 visible ASCII characters"),
    "timestamp": (_TIMESTAMP, "a time such as 2026-01-31T12:00:00.000001Z"),
    "source": (_WORD, "a source such as proxy or check"),
    "decision": (_DECISION, "allow, deny, error or reported"),
    "enforced": (_DECISION, "allow, deny, error or reported"),
    "mode": (_MODE, "enforce, audit or bypass"),
    "stage": (_WORD, "the name of a stage"),
    "code": (_WORD, "a code such as rule_denied"),
}
_NUMBERS: Final = ("rule_index", "latency_us", "debit")
_NEEDED: Final = frozenset(
    ("id", "timestamp", "source", "action", "decision", "enforced", "mode", "code",
     "policy_version", "trace_id", "latency_us")
)  # fmt: skip

#: The sentence about a value that is not what it should be; empty where it is.
_Check = Callable[[Any], str]


def _number(value: object) -> str:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        return "is not a whole number from 0 on"
    return ""


def _text(longest: int) -> _Check:
    def check(value: object) -> str:
        if not isinstance(value, str):
            return "is not text"
        if len(value) > longest:
            return f"is longer than {longest} characters"
        # Not encoding: nearly all of it is ASCII, of which this is known without looking.
        if not value.isascii() and _SURROGATE.search(value):
            return "is not valid UTF-8"
        return ""

    return check


def _form(pattern: re.Pattern[str], called: str) -> _Check:
    fits = pattern.fullmatch

    def check(value: object) -> str:
        return "" if isinstance(value, str) and fits(value) else f"is not {called}"

    return check


_plain: Final = _text(MAX_TEXT)
_long: Final = _text(MAX_METADATA)


def _metadata(value: object) -> str:
    said = _long(value)
    if not said and isinstance(value, str):
        if not (value.startswith("{") and value.endswith("}")):
            return "is not a JSON object"
        if value.count("{") + value.count("[") > MAX_PARTS:
            return f"has more than {MAX_PARTS} lists and objects"
    return said


def _check_of(name: str) -> _Check:
    if name in _FORMS:
        return _form(*_FORMS[name])
    if name in _NUMBERS:
        return _number
    return _metadata if name == "metadata" else _plain


_CHECKS: Final = tuple((name, _check_of(name), name in _NEEDED) for name in AuditRow._fields)


def defect(row: Sequence[Any]) -> str:
    """Why no sidecar can have written a row; empty where one can. One sentence.

    Args:
        row: its number and then the columns of `AuditRow`; what follows is not looked at. Bytes
            that are no UTF-8 come as surrogates (PEP 383).
    """
    for (name, check, needed), value in zip(_CHECKS, row[1:], strict=False):
        said = ("is missing" if needed else "") if value is None else check(value)
        if said:
            return f"row {word(str(row[0]))}: {name} {said}"
    return ""
