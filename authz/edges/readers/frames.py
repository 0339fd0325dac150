"""What the service and a reader process say to each other, over one socket.

The service sends a job as a line of JSON: `{"job", "path", "params"}`. The process answers with
frames: five bytes of kind and length, and as many bytes. `DATA` any number of times, then `END`, or
`FAILED` with the JSON of a `Failure`.
"""

import json
import struct
from typing import Final, Literal, NamedTuple

DATA, END, FAILED = b"D", b"E", b"F"
HEADER: Final = struct.Struct(">cI")
#: Bytes of a frame at most: what the service holds of an answer, and copies without a pause.
CHUNK: Final = 64 * 1024

#: `nothing`: there is no such thing. `unavailable`: not now. `broken`: our fault.
FailureKind = Literal["nothing", "unavailable", "broken"]


class Failure(NamedTuple):
    """Why there is no answer, in a sentence."""

    kind: FailureKind
    message: str

    def encoded(self) -> bytes:
        """As a frame has it."""
        return json.dumps([self.kind, self.message[: CHUNK // 8]]).encode()

    @classmethod
    def decoded(cls, data: bytes) -> "Failure":
        """What a frame has."""
        return cls(*json.loads(data))
