"""The sockets in the run directory."""

from typing import Final

#: Linux: sizeof(sockaddr_un.sun_path) with its terminating NUL (unix(7)).
MAX_SOCKET_PATH: Final = 107
#: The sockets in the run directory: where Envoy asks, where it sends what we answer, and its own.
EXT_AUTHZ_SOCKET: Final = "ext_authz.sock"
HTTP_SOCKET: Final = "http.sock"
ENVOY_ADMIN_SOCKET: Final = "envoy-admin.sock"
