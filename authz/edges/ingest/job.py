"""What the service and the process that takes a trail in say to each other: a line of JSON each."""

import json
from typing import Final, Literal, NamedTuple

#: Bytes of a line; what is said is some sentences.
MAX_LINE: Final = 64 * 1024

#: `invalid`: the file is not taken (422). `conflict`: it does not fit what is known (409).
#: `unavailable`: it could not be tried, or stored, now (503).
Kind = Literal["invalid", "conflict", "unavailable"]


class Job(NamedTuple):
    """What is to be done."""

    upload: str
    target: str
    #: PEM files of the public keys that trails have to be signed with; empty: any.
    keys: list[str]
    #: Seconds that it may take.
    within_s: float

    def encoded(self) -> bytes:
        """As a line."""
        return json.dumps(self).encode() + b"\n"


class Outcome(NamedTuple):
    """What came of it."""

    #: Empty where the file was taken.
    kind: Kind | Literal[""]
    #: Why not, in one sentence.
    message: str
    ingested: int = 0
    duplicates: int = 0
    #: The id of the trail, and its last row that is known; empty and None where that is not known.
    origin: str = ""
    last: int | None = None
    #: SHA-256 of the file, hexadecimal.
    sha256: str = ""
    #: Sentences of what else the operator should know.
    notes: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """As a line."""
        return json.dumps(self).encode() + b"\n"

    @classmethod
    def decoded(cls, line: bytes) -> "Outcome":
        """What a line says.

        Raises:
            ValueError, TypeError: it is none.
        """
        said = cls(*json.loads(line))
        return said._replace(notes=tuple(said.notes))
