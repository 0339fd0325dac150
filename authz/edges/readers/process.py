"""One reader process, as the service sees it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from authz.edges.readers.frames import CHUNK, HEADER
from authz.edges.threads import in_thread

#: Of our environment, what a Python program needs; the rest has secrets in it.
INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ", "TMPDIR")
#: Where `authz` is imported from, here and there.
ROOT: Final = Path(__file__).parents[3]


class Child(Protocol):
    """What does the jobs, at the other end of the socket."""

    def kill(self) -> None:
        """End it now."""

    def wait(self) -> int:
        """Wait until it has ended."""


Start = Callable[[socket.socket], Child]


def spawn(theirs: socket.socket) -> Child:
    """Start a process that has one end of a socket pair as its standard input.

    Raises:
        OSError: there can be no more processes now.
    """
    return subprocess.Popen(
        command("authz.edges.readers.worker"),
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env=without_secrets(),
    )


def command(module: str) -> list[str]:
    """How a module of ours is run in a process of its own."""
    # -P: what lies in the working directory is not ours to import.
    return [sys.executable, "-P", "-s", "-m", module]


def without_secrets() -> dict[str, str]:
    """The environment that such a process gets."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT)}


class Frame(NamedTuple):
    """A piece of an answer."""

    kind: bytes
    data: bytes


class Process:
    """A process and the connection to it. One job at a time."""

    def __init__(
        self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, start: Start) -> "Process":
        """
        Raises:
            OSError: there can be no more processes now.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                child = await in_thread(lambda: start(theirs))
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=CHUNK)
        return cls(child, reader, writer)

    @property
    def alive(self) -> bool:
        """Nothing has ended it yet, as far as is known."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    def send(self, job: bytes) -> None:
        """Give it a job, a line of JSON without its end."""
        self._writer.write(job + b"\n")

    async def frame(self) -> Frame | None:
        """The next piece of its answer; None when it is gone."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            kind, length = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return Frame(kind, await self._reader.readexactly(length))
        return None

    def end(self) -> None:
        """End it now, whatever it does. May be called more than once."""
        if self._writer.is_closing():
            return
        self._writer.transport.abort()
        self._child.kill()
        # Somebody has to, or it stays as a zombie; where the disk hangs that takes its time.
        threading.Thread(target=self._child.wait, name="reader", daemon=True).start()
