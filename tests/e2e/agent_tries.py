"""What an agent does on its own, without asking us; prints what it got as a JSON object.

    http ADDRESS PORT HOST [METHOD [PATH]]
    tls ADDRESS PORT [SNI]
    hello ADDRESS PORT SNI      (a hello of our own making, for names that libraries refuse to send)
    tcp ADDRESS PORT            (says nothing)
    say ADDRESS PORT TEXT
    unread ADDRESS PORT SNI N   (N hellos; reads nothing, and waits for its stdin to end)
    udp ADDRESS PORT
    resolve NAME

Run by itself, in a namespace: no import of ours.
"""

import json
import socket
import ssl
import struct
import sys

PATIENCE_S = 15.0


def received(connection: socket.socket) -> str:
    """All that the other side says until it ends."""
    said = b""
    while more := connection.recv(4096):
        said += more
    return said.decode("latin-1")


def hello(name: bytes) -> bytes:
    """A TLS 1.2 ClientHello (RFC 8446 §4.1.2) with this server name, whatever it is."""
    entry = b"\x00" + struct.pack(">H", len(name)) + name
    names = struct.pack(">H", len(entry)) + entry
    extension = struct.pack(">HH", 0, len(names)) + names
    # Groups and signatures that any server takes.
    for kind, content in ((10, b"\x00\x02\x00\x17"), (13, b"\x00\x02\x04\x03"), (11, b"\x01\x00")):
        extension += struct.pack(">HH", kind, len(content)) + content
    body = b"\x03\x03" + b"\x07" * 32 + b"\x00" + b"\x00\x02\xc0\x2b" + b"\x01\x00"
    body += struct.pack(">H", len(extension)) + extension
    handshake = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


def try_it(kind: str, *arguments: str) -> str:
    """Do it; what came back."""
    if kind == "resolve":
        return str(sorted({one[4][0] for one in socket.getaddrinfo(arguments[0], 80)}))
    address, port, *rest = arguments
    where = (address, int(port))
    if kind == "unread":
        connections = [socket.create_connection(where, PATIENCE_S) for _ in range(int(rest[1]))]
        for connection in connections:
            connection.sendall(hello(rest[0].encode()))
        sys.stdin.read()
        for connection in connections:
            connection.close()
        return str(len(connections))
    if kind == "udp":
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(PATIENCE_S)
            datagrams.connect(where)
            datagrams.send(b"anybody there?")
            return datagrams.recv(100).decode()
    with socket.create_connection(where, PATIENCE_S) as connection:
        if kind == "http":
            host, method, path = (*rest, *("GET", "/")[len(rest) - 1 :])[:3]
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            return received(connection)
        if kind == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            name = rest[0] if rest else None
            with context.wrap_socket(connection, server_hostname=name) as secure:
                secure.sendall(b"it is me")
                return received(secure)
        if kind == "hello":
            connection.sendall(hello(rest[0].encode("latin-1").decode("unicode_escape").encode()))
        if kind == "say":
            connection.sendall(rest[0].encode().decode("unicode_escape").encode())
        return received(connection)


if __name__ == "__main__":
    try:
        outcome = {"got": try_it(*sys.argv[1:])}
    except OSError as error:
        outcome = {"error": type(error).__name__, "said": str(error)}
    sys.stdout.write(json.dumps(outcome))
