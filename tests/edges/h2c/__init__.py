"""Our HTTP/2 and gRPC against the RFCs: what a peer may break, what it hears, what is kept."""
