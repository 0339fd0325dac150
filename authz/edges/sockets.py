"""Listening sockets: unix ones as DESIGN §4 wants them, mode 0660 and no trace of a dead
predecessor, and loopback ones. Nothing here listens where another host could connect."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Connections that may wait to be accepted.
BACKLOG = 1024


@contextmanager
def group_only() -> Iterator[None]:
    """Files and sockets made inside are for owner and group: 0660 from the first moment on."""
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: Path) -> socket.socket:
    """A listening stream socket at `path`.

    The caller holds the run directory's lock, so a socket that is already there has no owner.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with group_only():
            listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def only_this_host(host: str) -> None:
    """Refuse an IP address that cleartext is not for.

    Raises:
        ValueError: it is not a loopback one.
    """
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address: cleartext is for this host alone")


def bind_local(address: Path | tuple[str, int]) -> socket.socket:
    """A listening stream socket that only this host can reach.

    Raises:
        ValueError: the address is not a loopback one.
    """
    if isinstance(address, Path):
        return bind_unix(address)
    host, port = address
    ip = ipaddress.ip_address(host)
    if not ip.is_loopback:
        raise ValueError(
            f"{host} is not a loopback address, and cleartext HTTP/2 is for this host alone"
        )
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)
