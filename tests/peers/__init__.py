"""The two transports with HTTP/2 that others wrote: grpcio's client, curl and h2load."""
