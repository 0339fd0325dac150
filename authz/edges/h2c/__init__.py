"""Unary gRPC over cleartext HTTP/2, for a peer on this host: the fast transport (DESIGN §5).

    bytes → reading.py (frames) → connection.py (streams, flow control)
          → requests.py (header blocks) → server.py (batches, one write a connection) → bytes

Only `server.py` knows of sockets, loops and clocks.
"""
