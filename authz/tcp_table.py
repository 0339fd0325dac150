"""The kernel's table of the TCP sockets of this network namespace (proc(5), Linux).

What cannot be read says nothing, and elsewhere than on Linux that is everything. It imports next to
nothing: the supervisor uses it, and stays small.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

#: Where the tables are.
NET: Final = Path("/proc/net")
#: States (include/net/tcp_states.h).
ESTABLISHED: Final = "01"
LISTEN: Final = "0A"


class TcpSocket(NamedTuple):
    """One of them, by what is here."""

    #: Hexadecimal, in groups of four bytes, each in the machine's order.
    address: str
    inode: str


def sockets(port: int, state: str, net: Path = NET) -> Iterator[TcpSocket]:
    """Those at a local port that are in a state, IPv4's first."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (net / table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == state and int(number, 16) == port:
                    yield TcpSocket(address, fields[9])
