"""What the world has in `namespaces`: HTTP on 80 and 8081, TLS on 443, TCP and UDP on 9000, DNS.

9001 sends without end, until whoever is between us is full.
Each address answers for itself. What arrives is written down, a JSON object a line. Run by itself,
in a namespace: no import of ours.
"""

import contextlib
import functools
import ipaddress
import json
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ADDRESSES = ("10.77.0.2", "10.77.0.3", "169.254.169.254", "fd77::2", "fd77::3")


def main(certificate: str, key: str, file: str, names: dict[str, list[str]]) -> None:
    """Serve until killed."""
    lock = threading.Lock()

    def write(**what: object) -> None:
        with lock, Path(file).open("a") as stream:
            stream.write(json.dumps(what) + "\n")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: dict[int, str] = {}

    def remember(connection: ssl.SSLObject, name: str | None, _: object) -> None:
        asked[id(connection)] = name or ""

    context.sni_callback = remember

    def http(connection: socket.socket, address: str, port: int) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(4096)
            if not more:
                return
            head += more
        text = head.decode("latin-1")
        write(kind="http", address=address, port=port, head=text)
        body = f"{address} says hello".encode()
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    def tls(connection: socket.socket, address: str, port: int) -> None:
        # Also a bare connection counts: it has reached this host.
        write(kind="tls", address=address, port=port)
        with context.wrap_socket(connection, server_side=True) as secure:
            said = asked.pop(id(secure), "")
            secure.sendall(f"{address} says hello, {secure.recv(100).decode()}, {said}".encode())

    def raw(connection: socket.socket, address: str, port: int) -> None:
        write(kind="tcp", address=address, port=port)
        connection.sendall(f"{address} says hello first".encode())

    def flood(connection: socket.socket, address: str, port: int) -> None:
        connection.settimeout(1)
        block, sent = b"x" * 65536, 0
        try:
            while True:
                sent += connection.send(block)
        except TimeoutError:
            # Whoever is between us is full.
            write(kind="flood", address=address, port=port, sent=sent)
            connection.settimeout(None)
            while connection.recv(4096):
                pass

    serve: dict[int, Callable[[socket.socket, str, int], None]] = {
        80: http, 8081: http, 443: tls, 9000: raw, 9001: flood,
    }  # fmt: skip
    for address in ADDRESSES:
        for port, handler in serve.items():
            if (address, port) != ("10.77.0.3", 8081):
                _listen(address, port, handler)
        _datagrams(address, 9000, functools.partial(_udp, write, address))
    _datagrams("10.77.0.2", 53, lambda query: answer(query, names))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


def _udp(write: Callable[..., None], address: str, data: bytes) -> bytes:
    write(kind="udp", address=address, data=data.decode("latin-1"))
    return data


def _listen(address: str, port: int, handler: Callable[[socket.socket, str, int], None]) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        # The other side may go at any time.
        with connection, contextlib.suppress(OSError):
            handler(connection, address, port)

    threading.Thread(target=accept, daemon=True).start()


def _datagrams(address: str, port: int, handler: Callable[[bytes], bytes]) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, port))

    def loop() -> None:
        while True:
            data, peer = server.recvfrom(4096)
            server.sendto(handler(data), peer)

    threading.Thread(target=loop, daemon=True).start()


def answer(query: bytes, names: dict[str, list[str]]) -> bytes:
    """A DNS answer (RFC 1035 §4): the addresses of a name, or that there is no such name."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += query[at] + 1
    name = ".".join(labels).lower()
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    version = {1: 4, 28: 6}.get(kind, 0)
    found: list[Any] = [ipaddress.ip_address(one) for one in names.get(name, ())]
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 1, len(one.packed)) + one.packed
        for one in found
        if one.version == version
    )
    count = sum(one.version == version for one in found)
    code = 0 if name in names else 3
    header = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, count, 0, 0)
    return header + question + records


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
