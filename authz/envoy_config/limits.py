"""What Envoy bounds: sizes, counts and times, each with its reason."""

from typing import Final

#: Concurrent ext_authz calls and upstream requests. One agent's sidecar serves a few dozen; the
#: rest is refused at once instead of queueing.
MAX_IN_FLIGHT: Final = 1024
#: Connections that may be open to the listener at once.
MAX_CONNECTIONS: Final = 1024
#: Bytes that Envoy buffers for one connection in each direction before it stops reading.
BUFFER_LIMIT: Final = 128 * 1024
#: The same where every connection may be a tunnel, which one that nobody reads fills both ways.
TUNNEL_BUFFER_LIMIT: Final = 32 * 1024
#: Connections to hosts of the agent's own choice at once, and as many that wait. Full both ways, so
#: many captured tunnels have some 60 MiB of the pod's 256. It is one agent; a browser has six to a
#: host.
MAX_OUTWARD: Final = 128
#: What a peer may send on an HTTP/2 stream, and on a connection, that nobody has read yet. Envoy's
#: own choice is 16 MiB, on the upstream's side, too: a few slow readers would take all the memory.
STREAM_WINDOW: Final = 65_536
CONNECTION_WINDOW: Final = 128 * 1024
#: Header size, KiB, and count. A token of 8 KiB and an agent's usual 20 headers fit thrice.
MAX_HEADERS_KIB: Final = 60
MAX_HEADERS: Final = 100
#: Seconds a client may take to send its headers (slow-loris), and a stream may be silent.
HEADERS_TIMEOUT: Final = "10s"
#: A model may think for minutes before its first byte.
IDLE_TIMEOUT: Final = "300s"
#: A connection without a request is closed after this, so that silent ones do not use up
#: MAX_CONNECTIONS.
CONNECTION_IDLE_TIMEOUT: Final = "60s"
#: No request lives longer, however lively.
MAX_DURATION: Final = "3600s"

#: Requests that the service answers itself: seconds for the answer, between two bytes of the
#: request, and in all; and how many at once, fewer than the service takes, so that the refusal is
#: Envoy's, in JSON.
SERVICE_TIMEOUT: Final = "5s"
SERVICE_IDLE_TIMEOUT: Final = "10s"
SERVICE_DURATION: Final = "30s"
SERVICE_MAX_IN_FLIGHT: Final = 200
#: Reading the audit trail takes longer: an export for as long as it moves, and who follows the
#: trail hears something every ten seconds. The service ends what it answers whole by itself.
READING_IDLE_TIMEOUT: Final = "60s"
#: An uploaded trail may take as long to come as it moves, and is then taken in without a byte
#: either way: longer than the service gives that (`edges.ingest.taker.WORK_S`), so that it says
#: what came of it.
INGEST_IDLE_TIMEOUT: Final = "300s"
#: Seconds that Envoy keeps an unused connection to the service: fewer than the service does, so
#: that it never sends on one that is being closed.
SERVICE_POOL_IDLE_S: Final = 30

#: Names whose addresses are kept, and seconds without use after which one is forgotten; names that
#: are being resolved at once, and seconds for each.
DNS_CACHE_HOSTS: Final = 1024
DNS_CACHE_UNUSED: Final = "300s"
DNS_CACHE_CALLS: Final = 256
DNS_TIMEOUT: Final = "5s"
#: Seconds that a captured connection may say nothing before it is judged by its address: where the
#: server speaks first nothing ever comes, and a TLS hello comes at once.
INSPECTION_TIMEOUT: Final = "2s"
