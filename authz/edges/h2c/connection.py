"""The server's side of one HTTP/2 connection that carries unary gRPC (RFC 9113).

- Bytes in, requests out, bytes back; somebody else owns the socket and the clock. `receive` takes
  the bytes wherever the network cut them.
- Nothing here raises for what a peer sends. What breaks the protocol ends the stream (RST_STREAM)
  or the connection (GOAWAY) with the RFC's code, and `violated` hears of it.
- Everything that a peer can make us keep has a limit, named below with its reason: header blocks,
  messages, streams, answers that it does not let us send, frames that ask for nothing.
- So has what it can make us do in one turn of the event loop. What is left of its bytes then is
  `behind`, and the next `receive` goes on with it.
- One request and one answer a stream. After the answer nothing of a stream is kept but that its
  number has been used, and that follows from the highest one.
"""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from authz.edges.h2c import frames
from authz.edges.h2c.frames import HEADER, ErrorCode
from authz.edges.h2c.grpc_status import (
    OK_TRAILERS,
    RESPONSE_HEADERS,
    Status,
    http_only,
    trailers_only,
)
from authz.edges.h2c.reading import Frame, FrameReader, Violation, unpadded
from authz.edges.h2c.requests import MAX_BLOCK, CompressionError, Head, HeaderReader

#: Bytes of a message. A CheckRequest carries at most Envoy's 60 KiB of headers, and no body.
MAX_MESSAGE: Final = 256 * 1024
#: Streams that a peer may have open. Envoy asks at most so many calls at once of this cluster
#: (`envoy_config.MAX_IN_FLIGHT`), so it never needs a second connection for more.
MAX_STREAMS: Final = 1024
#: What a peer may send of one stream, and it needs no more: a message, its prefix, padding.
STREAM_WINDOW: Final = 2 * MAX_MESSAGE
#: What it may send in all before we say that we have read it, which we do at half of it.
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
#: Bytes of messages that came in parts and of answers that the peers' windows keep back, of all
#: connections together. Envoy's usual message fits into one frame and its window is large, so it
#: has none; a hundred calls at once with as many headers as Envoy takes stay below it. Beyond it
#: the caller that holds most of them loses the largest.
MAX_HELD: Final = 8 * 1024 * 1024
#: Frames that ask for nothing (PING, SETTINGS, RST_STREAM, PRIORITY, empty DATA…) or for something
#: that is not here, beyond `NOISE_PER_ANSWER` for each answer of the gate. Envoy sends one or two a
#: call when it gives up on all of them, and a second of that at full speed stays below it.
MAX_NOISE: Final = 10_000
NOISE_PER_ANSWER: Final = 4
#: Streams that all connections may have open together before each caller is held to its share of
#: them. A stream without its message is some 300 bytes.
MAX_ALL_STREAMS: Final = 8 * MAX_STREAMS
#: What a caller may have done in one turn, in units of about 2 µs, so that it takes half a
#: millisecond. Each frame is one, each 4 KiB of DATA another, each that asks for nothing another,
#: and a call two more: 64 of Envoy's calls. What one frame costs beyond it, up to 3 ms for a block
#: of 500 fields, is taken off the caller's next turns.
MAX_WORK: Final = 256
#: What decoding costs, in the same unit: each field of a header block that is not known.
FIELD_WORK: Final = 3
#: Streams we have reset whose frames may still be under way: they are read and dropped (§5.4.2).
MAX_FORGIVEN: Final = MAX_STREAMS
#: Runs of stream numbers that the peer has left out; Envoy and grpcio leave out none.
MAX_GAPS: Final = 64
#: Seconds that a request may take to arrive, or an answer to leave, whatever its deadline: Envoy
#: itself gives up after DECISION_TIMEOUT_MS, which is 10 s at most.
STREAM_S: Final = 15.0

#: The smallest gRPC message: a flag and four bytes of length (gRPC over HTTP/2, Message).
PREFIX_SIZE: Final = 5

_SETTINGS: Final = frames.settings(
    {
        frames.SETTINGS_HEADER_TABLE_SIZE: 0,
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.SETTINGS_MAX_FRAME_SIZE: frames.DEFAULT_FRAME_SIZE,
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: MAX_BLOCK,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)

#: The payload of the PING that tells when a peer has seen our GOAWAY (§6.8).
_DRAIN_PING: Final = b"draining"

_HEADERS_FIRST: Final = len(RESPONSE_HEADERS) << 8 | frames.HEADERS
_TRAILERS_LAST: Final = len(OK_TRAILERS) << 8 | frames.HEADERS
_END: Final = frames.END_HEADERS | frames.END_STREAM


class Stream:
    """One request, until it is answered or given up."""

    __slots__ = (
        "body",
        "credit",
        "deadline",
        "ended",
        "head",
        "held",
        "id",
        "message",
        "opened",
        "received",
        "remote_closed",
        "unsent",
    )

    def __init__(self, stream_id: int, head: Head, now: float) -> None:
        self.id = stream_id
        self.head = head
        self.opened = now
        #: When the caller gives up, on the clock of `receive`.
        self.deadline = now + head.timeout_s
        #: What came of the body so far, while it is not complete.
        self.body: bytearray | None = None
        #: Bytes that count against the stream's window.
        self.received = 0
        #: Bytes that count against the server's budget.
        self.held = 0
        #: The request, once it is complete.
        self.message = b""
        #: The peer's window: what it added less what we sent, besides its initial size.
        self.credit = 0
        #: The rest of an answer that does not fit into the peer's windows.
        self.unsent = b""
        self.remote_closed = False
        #: Answered, reset or lost: nobody waits for it any more.
        self.ended = False


class Account:
    """What one caller holds and may have done in a turn, over all its connections."""

    __slots__ = ("allowance", "held", "holding", "streams")

    def __init__(self) -> None:
        #: What is left of `MAX_WORK`; negative where one frame cost more than there was.
        self.allowance = MAX_WORK
        #: Streams that are open, and bytes that count against the server's budget.
        self.streams = 0
        self.held = 0
        #: Its connections that hold something.
        self.holding: set[Connection] = set()

    def refill(self) -> None:
        """It is its turn again."""
        self.allowance = min(self.allowance, 0) + MAX_WORK


class Budget:
    """What all connections of a server hold together: bytes up to `MAX_HELD`, and streams."""

    __slots__ = ("_holders", "callers", "held", "streams")

    def __init__(self) -> None:
        self.held = 0
        self.streams = 0
        #: How many share it.
        self.callers = 1
        self._holders: set[Account] = set()

    def has_room(self, account: Account) -> bool:
        """Whether a caller may have as many streams as it has."""
        share = MAX_ALL_STREAMS // max(1, self.callers)
        return self.streams <= MAX_ALL_STREAMS or account.streams <= share

    def change(self, holder: "Connection", size: int) -> None:
        """A connection holds so many bytes more, or fewer."""
        account = holder.account
        self.held += size
        account.held += size
        holder.held += size
        if holder.held:
            account.holding.add(holder)
            self._holders.add(account)
        else:
            account.holding.discard(holder)
            if not account.holding:
                self._holders.discard(account)

    def settle(self) -> None:
        """Where it is too much, whoever holds most gives up, and nobody else has to."""
        while self.held > MAX_HELD:
            most = max(self._holders, key=_HELD)
            max(most.holding, key=_HELD).give_up_most()


_HELD: Final = attrgetter("held")


class Connection:
    """What one peer has sent, and what is to be sent to it."""

    def __init__(
        self,
        violated: Callable[[ErrorCode, str], None],
        budget: Budget,
        account: Account | None = None,
    ) -> None:
        """
        Args:
            violated: called with a code and a reason: the peer broke the protocol.
            budget: what the server's connections share.
            account: what those of the same caller share.
        """
        self._violated = violated
        self._budget = budget
        self.account = Account() if account is None else account
        #: Called when there is something to write that comes of what another connection did.
        self.wake: Callable[[], None] = lambda: None
        self._out: list[bytes] = [_SETTINGS]
        self._reader = FrameReader()
        self._headers = HeaderReader()
        self._streams: dict[int, Stream] = {}
        #: The highest number that the peer has used, and those below that it has not.
        self._last = 0
        self._gaps: deque[range] = deque(maxlen=MAX_GAPS)
        self._forgiven: dict[int, None] = {}
        #: Answers that wait for the connection's window, oldest first, and those that wait for
        #: their stream's: only what can go on is looked at when a window opens.
        self._blocked: dict[int, Stream] = {}
        self._starved: dict[int, Stream] = {}
        self._noise = 0
        self._receive_left = CONNECTION_WINDOW
        self._send_left = frames.DEFAULT_WINDOW
        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame_size = frames.DEFAULT_FRAME_SIZE
        self._asked: list[Stream] = []
        self._readers: dict[int, Callable[[int, int, bytes], None]] = {
            frames.PRIORITY: self._read_priority,
            frames.RST_STREAM: self._read_rst_stream,
            frames.SETTINGS: self._read_settings,
            frames.PUSH_PROMISE: self._read_push_promise,
            frames.PING: self._read_ping,
            frames.GOAWAY: self._read_goaway,
            frames.WINDOW_UPDATE: self._read_window_update,
        }
        #: Streams above it are not for us: the number in our last GOAWAY.
        self._accept_until = frames.BITS_31
        self._draining = False
        #: The peer has said SETTINGS, which is the least that a peer says.
        self.greeted = False
        #: Nothing more is read; once the output is written the connection can be closed.
        self.over = False
        #: Not everything that came has been read: `receive` wants to be called again.
        self.behind = False
        #: Bytes that count against the server's budget.
        self.held = 0

    # ------------------------------------------------------------ what the server asks

    @property
    def open_streams(self) -> int:
        """Streams whose answer has not been sent."""
        return len(self._streams)

    @property
    def drained(self) -> bool:
        """We have said that we go, and every stream that we accepted is done."""
        return self.over or (self._accept_until != frames.BITS_31 and not self._streams)

    def receive(self, data: bytes, now: float) -> list[Stream]:
        """Read bytes, as many as one turn allows; the requests that became complete, in order.

        Args:
            data: what came since the last time; nothing when it is only to go on.
            now: seconds on a clock that never steps back.
        """
        if self.over:
            return []
        self._asked = []
        self._reader.feed(data)
        account = self.account
        account.allowance -= 1
        if account.allowance <= 0:
            self.behind = self._reader.unread > 0
            return self._asked
        try:
            if self._noise > MAX_NOISE:
                self._count_noise(0)
            for frame in self._reader.frames():
                self._read_frame(frame, now)
                if account.allowance <= 0:
                    break
        except Violation as violation:
            self._end(violation.code, str(violation))
        except CompressionError as error:
            self._end(error.code, str(error))
        self.behind = account.allowance <= 0 and self._reader.unread > 0 and not self.over
        return self._asked

    def answer(self, stream: Stream, message: bytes, credit: int = 0) -> None:
        """Send a message and status OK, now or as the peer's windows allow.

        `credit`: how many frames that ask for nothing the peer has earned with its question.
        """
        if stream.ended:
            return
        self._noise = max(0, self._noise - credit)
        size = len(message) + PREFIX_SIZE
        number = stream.id
        if (
            size <= self._send_left
            and size <= self._peer_window + stream.credit
            and size <= self._peer_frame_size
            and not self._blocked
        ):
            self._send_left -= size
            self._out += (
                HEADER.pack(_HEADERS_FIRST, frames.END_HEADERS, number),
                RESPONSE_HEADERS,
                HEADER.pack(size << 8, 0, number),
                b"\0",
                frames.WORD.pack(size - PREFIX_SIZE),
                message,
                HEADER.pack(_TRAILERS_LAST, _END, number),
                OK_TRAILERS,
            )
            self._forget(stream)
            return
        self._out.append(HEADER.pack(_HEADERS_FIRST, frames.END_HEADERS, number) + RESPONSE_HEADERS)
        stream.unsent = b"\0" + frames.WORD.pack(size - PREFIX_SIZE) + message
        stream.message = b""
        self._hold(stream, size - stream.held)
        self._send_rest(stream)
        self._budget.settle()

    def refuse(self, stream: Stream, status: Status, reason: str) -> None:
        """End a call without a message."""
        if stream.ended:
            return
        if status is not Status.DEADLINE_EXCEEDED:
            # What nobody can answer. A late call may be our fault.
            self._charge(1)
        self._answer_headers(stream, trailers_only(status, reason))

    def expire(self, now: float) -> None:
        """Give up on what has taken too long to arrive or to leave."""
        for stream in list(self._streams.values()):
            if stream.unsent:
                if now - stream.opened > STREAM_S:
                    self._reset(stream, ErrorCode.CANCEL)
            elif not stream.remote_closed and now > min(stream.deadline, stream.opened + STREAM_S):
                self.refuse(stream, Status.DEADLINE_EXCEEDED, "the request did not arrive in time")
                self._charge(1)

    def drain(self) -> None:
        """Say that we go: what is under way is answered, what comes later is not for us."""
        if not self._draining and not self.over:
            self._draining = True
            # §6.8: first that we will, then, once the peer must have heard it, from where on.
            self._out.append(frames.goaway(frames.BITS_31, ErrorCode.NO_ERROR))
            self._out.append(frames.frame(frames.PING, 0, 0, _DRAIN_PING))

    def dismiss(self) -> None:
        """Say that we go, now: what is under way is not answered."""
        if not self.over:
            for stream in self._streams.values():
                if not stream.unsent:
                    # §8.7: it was not decided, so that it may be asked again.
                    self._out.append(frames.rst_stream(stream.id, ErrorCode.REFUSED_STREAM))
            self._out.append(frames.goaway(min(self._last, self._accept_until), ErrorCode.NO_ERROR))
            self.lost()

    def give_up_most(self) -> None:
        """Reset the stream that holds most, which leaves its bytes to others."""
        stream = max(self._streams.values(), key=_HELD)
        reason = "more incomplete messages and unread answers than anybody else"
        self._violated(ErrorCode.ENHANCE_YOUR_CALM, reason)
        self._reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        # All streams were looked at. It may be another peer's turn now, so nothing is raised here.
        self._charge(1 + (len(self._streams) >> 5))
        self.wake()

    def hung_up(self) -> None:
        """The peer sends nothing more; it may still read what is under way."""
        if self._accept_until == frames.BITS_31:
            self._accept_until = self._last

    def take_output(self) -> bytes:
        """What is to be written; it is not given twice."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def lost(self) -> None:
        """The socket is gone; nobody waits for any answer."""
        self.over = True
        self.behind = False
        self._reader.clear()
        for stream in list(self._streams.values()):
            self._forget(stream)

    # ------------------------------------------------------------ frames

    def _read_frame(self, frame: Frame, now: float) -> None:
        kind, flags, number, data, start, stop = frame
        self.account.allowance -= 1
        if not self.greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.DATA:
            self._read_data(flags, number, data, start, stop)
        elif kind == frames.HEADERS:
            self._on_block(number, flags, data, now)
        elif kind in self._readers:
            self._readers[kind](flags, number, data[start:stop])
        else:
            # §4.1: types that nobody knows are ignored. And a block asks for something when it is
            # complete.
            self._count_noise()

    def _on_block(self, number: int, flags: int, block: bytes, now: float) -> None:
        if number & 1 == 0:
            # §5.1.1: a client's are odd, and 0 is the connection's.
            raise Violation(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that no client opens")
        if number <= self._last:
            self._on_late_block(number, flags, block)
            return
        if number != self._last + 2 and number != 1:
            self._gaps.append(range(self._last + 2 if self._last else 1, number, 2))
        self._last = number
        # Even of a stream that is refused: blocks build on each other.
        try:
            head = self._headers.read(block)
        finally:
            self._count_fields()
        if number > self._accept_until:
            self._forgive(number)
            self._count_noise()
            return
        stream = Stream(number, head, now)
        self._streams[number] = stream
        self._budget.streams += 1
        self.account.streams += 1
        if len(self._streams) > MAX_STREAMS or not self._budget.has_room(self.account):
            self._stream_error(stream, ErrorCode.REFUSED_STREAM, "more streams than allowed")
            return
        if head.malformed:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, head.malformed)
            return
        stream.remote_closed = flags & frames.END_STREAM != 0
        if head.http_status:
            self._answer_headers(stream, http_only(head.http_status))
            self._count_noise()
        elif stream.remote_closed:
            self._on_complete(stream)

    def _on_late_block(self, number: int, flags: int, block: bytes) -> None:
        """A header block of a stream that is not new: trailers, or a mistake."""
        try:
            defect = self._headers.read_trailers(block)
        finally:
            self._count_fields()
        stream = self._streams.get(number)
        if stream is None:
            if number in self._forgiven:
                self._count_noise()
                return
            if any(number in gap for gap in self._gaps):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream number below an earlier one")
            raise Violation(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        if stream.remote_closed:
            self._stream_error(stream, ErrorCode.STREAM_CLOSED, "HEADERS after the end of a stream")
        elif defect or not flags & frames.END_STREAM:
            reason = defect or "trailers that do not end the stream"
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, reason)
        else:
            stream.remote_closed = True
            self._on_complete(stream)

    def _read_data(self, flags: int, number: int, data: bytes, start: int, stop: int) -> None:
        size = stop - start
        self._receive_left -= size
        self.account.allowance -= size >> 12
        if self._receive_left < CONNECTION_WINDOW >> 1:
            if self._receive_left < 0:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window")
            self._out.append(frames.window_update(0, CONNECTION_WINDOW - self._receive_left))
            self._receive_left = CONNECTION_WINDOW
        stream = self._streams.get(number)
        if stream is None:
            self._on_late_frame(number, "DATA")
            return
        if flags & frames.PADDED:
            data = unpadded(data[start:stop], flags)
            start, stop = 0, len(data)
        if stream.remote_closed:
            self._stream_error(stream, ErrorCode.STREAM_CLOSED, "DATA after the end of a stream")
            return
        stream.received += size
        if stream.received > STREAM_WINDOW:
            self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window")
            return
        if flags & frames.END_STREAM:
            stream.remote_closed = True
            if stream.body is None:
                self._on_message(stream, data, start, stop)
            else:
                self._add(stream, data[start:stop])
                if not stream.ended:
                    self._on_complete(stream)
        else:
            if size == 0:
                self._count_noise()
            self._add(stream, data[start:stop])

    def _add(self, stream: Stream, part: bytes) -> None:
        """A part of a message that comes in several; `stream` may have ended after it."""
        if stream.body is None:
            stream.body = bytearray()
        stream.body += part
        self._hold(stream, len(part))
        if len(stream.body) > MAX_MESSAGE + PREFIX_SIZE:
            reason = f"a message above {MAX_MESSAGE} bytes"
            self.refuse(stream, Status.RESOURCE_EXHAUSTED, reason)
        else:
            self._budget.settle()

    def _hold(self, stream: Stream, size: int) -> None:
        stream.held += size
        self._budget.change(self, size)

    def _on_complete(self, stream: Stream) -> None:
        body = bytes(stream.body or b"")
        stream.body = None
        self._on_message(stream, body, 0, len(body))

    def _on_message(self, stream: Stream, data: bytes, start: int, stop: int) -> None:
        """The body, `data[start:stop]`, is complete; it is one frame, or `_hold` measured it."""
        size = stop - start - PREFIX_SIZE
        announced = stream.head.content_length
        if announced >= 0 and announced != stop - start:
            self._stream_error(
                stream, ErrorCode.PROTOCOL_ERROR, "a body of another size than content-length"
            )
        elif size < 0 or int.from_bytes(data[start + 1 : start + PREFIX_SIZE]) != size:
            self.refuse(stream, Status.INTERNAL, "the body is not one gRPC message")
        elif data[start] == 1:
            # gRPC over HTTP/2, Compressed-Flag: what was not negotiated cannot be read.
            self.refuse(stream, Status.UNIMPLEMENTED, "compressed messages are not accepted")
        elif data[start] != 0:
            self.refuse(stream, Status.INTERNAL, "the message's flag is neither 0 nor 1")
        elif stream.head.timeout_s < 0:
            self.refuse(stream, Status.INTERNAL, "grpc-timeout is not a timeout")
        elif stream.head.timeout_s == 0:
            # The loop's clock may stand still until it would be judged.
            self.refuse(stream, Status.DEADLINE_EXCEEDED, "the caller does not wait")
        else:
            stream.message = data[start + PREFIX_SIZE : stop]
            self._asked.append(stream)
            self.account.allowance -= 2  # to be queued, or turned away

    def _read_priority(self, _flags: int, number: int, payload: bytes) -> None:
        if number == 0:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._count_noise()
        if len(payload) != 5:
            stream = self._streams.get(number)
            if stream is None:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another size than 5")
            self._stream_error(
                stream, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another size than 5"
            )

    def _read_rst_stream(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4")
        stream = self._streams.get(number)
        self._count_noise()
        if stream is None:
            self._on_late_frame(number, "RST_STREAM")
        else:
            self._forget(stream)

    def _read_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % frames.SETTING.size or (flags & frames.ACK and payload):
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of an impossible size")
        self._count_noise(1 + len(payload) // frames.SETTING.size)
        if flags & frames.ACK:
            # We send them once, so whatever is acknowledged is that.
            self._headers.table_forbidden()
            return
        self.greeted = True
        window = self._peer_window
        for name, value in frames.SETTING.iter_unpack(payload):
            self._apply(name, value)
        self._out.append(frames.SETTINGS_ACK)
        # §6.5.3: nothing is done in between values.
        if self._peer_window > window:
            self._send_starved()

    def _apply(self, name: int, value: int) -> None:
        if name == frames.SETTINGS_ENABLE_PUSH and value > 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        if name == frames.SETTINGS_MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            self._peer_frame_size = value
        elif name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
            # §6.9.2: it changes the windows of open streams as well, so it costs as many.
            self._count_noise(len(self._streams))
            highest = max((stream.credit for stream in self._streams.values()), default=0)
            if value + max(highest, 0) > frames.MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE")
            self._peer_window = value

    def _read_push_promise(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _read_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "PING of another size than 8")
        self._count_noise()
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif self._draining and payload == _DRAIN_PING and self._accept_until == frames.BITS_31:
            self._accept_until = self._last
            self._out.append(frames.goaway(self._last, ErrorCode.NO_ERROR))

    def _read_goaway(self, _flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of fewer than 8 bytes")
        # It opens no more streams; those that it has are answered, and it closes.
        self._count_noise()

    def _read_window_update(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        increment = frames.WORD.unpack(payload)[0] & frames.BITS_31
        self._count_noise()
        if number == 0:
            self._send_left += increment
            if increment == 0:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self._send_left > frames.MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            self._send_blocked()
            return
        stream = self._streams.get(number)
        if stream is None:
            self._on_late_frame(number, "WINDOW_UPDATE")
            return
        stream.credit += increment
        if increment == 0:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif self._peer_window + stream.credit > frames.MAX_WINDOW:
            self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
        elif self._starved.pop(number, None) is not None:
            self._send_rest(stream)

    def _on_late_frame(self, number: int, name: str) -> None:
        """A frame on a stream that is not open."""
        if number > self._last or number & 1 == 0 or any(number in gap for gap in self._gaps):
            # §5.1: idle. That includes 0, and numbers that only a server uses.
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"{name} on an idle stream")
        self._count_noise()
        if name == "DATA" and number not in self._forgiven:
            raise Violation(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")

    # ------------------------------------------------------------ ends

    def _charge(self, count: int) -> None:
        """As `_count_noise`, where nothing may be raised: the next `receive` looks at the sum."""
        self._noise += count
        self.account.allowance -= count

    def _count_noise(self, count: int = 1) -> None:
        self._charge(count)
        if self._noise > MAX_NOISE:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _count_fields(self) -> None:
        if self._headers.decoded:
            self.account.allowance -= FIELD_WORK * self._headers.decoded
            self._headers.decoded = 0

    def _forget(self, stream: Stream) -> None:
        """Nobody waits for it any more; it may be in a queue still, and holds nothing there."""
        stream.ended = True
        stream.message = b""
        del self._streams[stream.id]
        self._budget.streams -= 1
        self.account.streams -= 1
        if stream.held:
            stream.body = None
            self._hold(stream, -stream.held)
        if stream.unsent:
            stream.unsent = b""
            self._blocked.pop(stream.id, None)
            self._starved.pop(stream.id, None)

    def _answer_headers(self, stream: Stream, block: bytes) -> None:
        """An answer that is one header block, whether or not the request is complete."""
        self._out.append(frames.frame(frames.HEADERS, _END, stream.id, block))
        if not stream.remote_closed:
            # §8.1: the answer does not depend on the rest of the request.
            self._out.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._forgive(stream.id)
        self._forget(stream)

    def _stream_error(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        self._violated(code, reason)
        self._reset(stream, code)
        self._count_noise()

    def _reset(self, stream: Stream, code: ErrorCode) -> None:
        self._out.append(frames.rst_stream(stream.id, code))
        self._forgive(stream.id)
        self._forget(stream)

    def _forgive(self, number: int) -> None:
        if len(self._forgiven) >= MAX_FORGIVEN:
            del self._forgiven[next(iter(self._forgiven))]
        self._forgiven[number] = None

    def _end(self, code: ErrorCode, reason: str) -> None:
        self._violated(code, reason)
        # §6.8: the number is never higher than one that was said before.
        self._out.append(frames.goaway(min(self._last, self._accept_until), code, reason))
        # What was complete before it was decided by then, or is still to be: it is not answered.
        self._asked = []
        self.lost()

    def _send_rest(self, stream: Stream) -> None:
        """Send of an answer what the peer's windows let through, and keep the rest."""
        number = stream.id
        while stream.unsent:
            window = self._peer_window + stream.credit
            size = min(len(stream.unsent), self._send_left, window, self._peer_frame_size)
            if size <= 0:
                (self._starved if window <= 0 else self._blocked)[number] = stream
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._send_left -= size
            self.account.allowance -= 1
            stream.credit -= size
            self._hold(stream, -size)
            self._out.append(frames.frame(frames.DATA, 0, number, part))
        self._out.append(frames.frame(frames.HEADERS, _END, number, OK_TRAILERS))
        self._forget(stream)

    def _send_blocked(self) -> None:
        """The connection's window has opened: send, the oldest answer first."""
        while self._blocked and self._send_left > 0:
            self._send_rest(self._blocked.pop(next(iter(self._blocked))))

    def _send_starved(self) -> None:
        """The windows of all streams have changed."""
        for number in list(self._starved):
            self._send_rest(self._starved.pop(number))
