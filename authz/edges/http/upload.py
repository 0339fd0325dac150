"""A file that comes as `multipart/form-data` (RFC 7578), written down as it comes.

- One part, of one name; another one, or a second, is refused before it is read.
- Headers, sizes and times are bounded. Little of the file is ever in memory.
- `python-multipart` is imported when the first upload comes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import IO, TYPE_CHECKING, Final

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from authz.core.text import word
from authz.edges.threads import in_thread

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART: Final = "multipart/form-data"
#: Bytes around the file: boundaries, and headers of its part.
AROUND: Final = 16 * 1024
#: Headers of the part, and bytes of each.
MAX_HEADERS: Final = 8
MAX_HEADER: Final = 1024
#: Bytes that are written together, in a thread: a disk may let one wait.
TOGETHER: Final = 1024 * 1024
#: Seconds that an upload may stand still, and may take in all: 256 MiB at 150 KiB a second.
STALL_S: Final = 30.0
UPLOAD_S: Final = 1800.0


async def write_upload(
    request: Request, name: str, file: IO[bytes], max_bytes: int, check_room: Callable[[int], None]
) -> int:
    """Write the part of that name into a file; how many bytes it has.

    Args:
        check_room: is told how many more bytes are about to be written, and may raise.

    Raises:
        HTTPException: 400, it is no such form, ends too early or stands still; 413, it is larger
            than `max_bytes`; 415, it is something else than a form.
    """
    form = _Form(_boundary(request, name), name, max_bytes)
    said = request.headers.get("content-length", "")
    length = int(said) if said.isdigit() and len(said) < 20 else 0
    if length > max_bytes + AROUND:
        raise form.too_large()
    check_room(length)
    try:
        async with asyncio.timeout(UPLOAD_S):
            async for chunk in _moving(request):
                form.feed(chunk)
                if len(form.kept) >= TOGETHER:
                    await _write(file, form, check_room)
        await _write(file, form, check_room)
    except TimeoutError:
        said = f"the upload stood still for {STALL_S:.0f} s, or took over {UPLOAD_S:.0f} s"
        raise HTTPException(400, said) from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload ended before its end") from None
    if not form.ended:
        raise HTTPException(400, "the form has no end: the upload was cut off")
    if not form.parts:
        raise HTTPException(400, f"the form has no field `{name}`; {_how(name)}")
    return form.size


async def _moving(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        async with asyncio.timeout(STALL_S):
            chunk = await anext(stream, None)
        if chunk is None:
            return
        yield chunk


async def _write(file: IO[bytes], form: "_Form", check_room: Callable[[int], None]) -> None:
    data, form.kept = form.kept, bytearray()

    def work() -> None:
        check_room(len(data))
        view = memoryview(data)
        # Not buffered, so that it may write a part only.
        while view:
            view = view[file.write(view) :]

    if data:
        await in_thread(work)


def _how(name: str) -> str:
    return f'send the file as curl -F "{name}=@FILE" does'


def _boundary(request: Request, name: str) -> bytes:
    from python_multipart.multipart import parse_options_header  # noqa: PLC0415 - see above

    said = request.headers.get("content-type", "")
    kind, options = parse_options_header(said[:MAX_HEADER])
    if kind.decode("latin-1").lower() != MULTIPART:
        sent = word(said.partition(";")[0].strip().lower() or "nothing")
        raise HTTPException(415, f"content-type: send {MULTIPART}, not {sent}; {_how(name)}")
    boundary = options.get(b"boundary", b"")
    # RFC 2046 §5.1.1.
    if not 0 < len(boundary) <= 70:
        raise HTTPException(400, "content-type: the boundary is missing, or over 70 characters")
    return boundary


class _Form:
    """Takes a form apart."""

    def __init__(self, boundary: bytes, name: str, max_bytes: int) -> None:
        from python_multipart.multipart import MultipartParser  # noqa: PLC0415 - see above

        #: What came of the file and is not written yet; how much came in all.
        self.kept = bytearray()
        self.size = 0
        self.parts = 0
        self.ended = False
        self._name = name
        self._max_bytes = max_bytes
        self._around = 0
        self._field, self._value = bytearray(), bytearray()
        self._disposition = b""
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(
            boundary, callbacks, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER
        )

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body.

        Raises:
            HTTPException: as `write_upload`.
        """
        from python_multipart.exceptions import FormParserError  # noqa: PLC0415 - see above

        before = self.size
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise HTTPException(400, f"the body is not such a form; {_how(self._name)}") from None
        self._around += len(chunk) - (self.size - before)
        if self._around > AROUND:
            raise HTTPException(413, f"the form has more than {AROUND} bytes besides the file")

    def too_large(self) -> HTTPException:
        """The refusal of a file that is."""
        return HTTPException(
            413,
            f"the file is larger than {self._max_bytes} bytes (AUDIT_INGEST_MAX_BYTES); send it in"
            " parts, as `authz sync push` does",
        )

    def _begin(self) -> None:
        self.parts += 1
        if self.parts > 1:
            raise HTTPException(400, f"the form has more than the one field `{self._name}`")
        self._disposition = b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        from python_multipart.multipart import parse_options_header  # noqa: PLC0415 - see above

        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("latin-1")
        if kind != b"form-data" or name != self._name:
            said = f"`{word(name)}`" if name else "a field without a name"
            raise HTTPException(400, f"the form has {said}, not `{self._name}`; {_how(self._name)}")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self.size += end - start
        if self.size > self._max_bytes:
            raise self.too_large()
        self.kept += data[start:end]

    def _on_end(self) -> None:
        self.ended = True
