"""The environment, read once into a frozen `Settings`.

- All mistakes are reported together, each as `NAME: sentence`, never with the value.
- Secrets have a starred repr.
- An empty variable counts as unset: compose files write `${X}` for one that is not there.

`model` is all of them, of which groups have files of their own (`telemetry`); `checks` is what
single ones may be, `joint` what no single one can tell, `files` what is in those they point to.
"""

import os
from collections.abc import Mapping

from authz.settings.checks import HOW_TO_MAKE, MAX_NETWORKS, MIN_ADMIN_TOKEN, MIN_JWT_SECRET
from authz.settings.described import Variable, described
from authz.settings.files import read_jwks_file, read_mode_file
from authz.settings.model import DENIED_NETWORKS, Network, Settings, SettingsError
from authz.settings.paths import ENVOY_ADMIN_SOCKET, EXT_AUTHZ_SOCKET, HTTP_SOCKET
from authz.settings.trust import trusted_ca_file
from authz.settings.upstream import Endpoint, Upstream, parse_upstream

__all__ = [
    "DENIED_NETWORKS", "ENVOY_ADMIN_SOCKET", "EXT_AUTHZ_SOCKET", "HOW_TO_MAKE", "HTTP_SOCKET",
    "MAX_NETWORKS", "MIN_ADMIN_TOKEN", "MIN_JWT_SECRET", "Endpoint", "Network", "Settings",
    "SettingsError", "Upstream", "Variable", "described", "parse_upstream", "read_jwks_file",
    "read_mode_file", "settings_of", "trusted_ca_file",
]  # fmt: skip


def settings_of(env: Mapping[str, str], *names: str) -> Settings:
    """Settings of these variables alone, for what needs no others; the rest are defaults.

    Raises:
        SettingsError: one of these is not usable, JWT_SECRET only if it is among them.
    """
    chosen = {name: env[name] for name in names if name in env}
    if "JWT_SECRET" not in names:
        chosen["JWT_SECRET"] = "-" * MIN_JWT_SECRET
    if "AUTHZ_RUN_DIR" not in names:
        # The default lies below the working directory, whose path may be too long for a socket.
        chosen["AUTHZ_RUN_DIR"] = os.sep
    return Settings.from_env(chosen)
