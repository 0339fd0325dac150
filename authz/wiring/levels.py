"""The log level at run time: of this process, and of the Envoy beside it."""

import http.client
import time
from typing import Final

from authz import logs
from authz.edges.http.log_level import LogLevel
from authz.settings import Settings
from authz.stores.versions import Versions
from authz.unix_http import UnixConnection

#: What Envoy's `misc` logger is kept at: it warns of each denied network (`supervisor._QUIET`).
_MISC: Final = "misc=error"
#: Seconds that Envoy may take for an answer of its own.
_PATIENCE_S: Final = 1.0


def log_level(settings: Settings, versions: Versions) -> LogLevel:
    """What changes it."""
    return LogLevel(
        settings.log_level,
        versions,
        use=logs.set_level,
        tell_envoy=lambda level: _tell_envoy(settings, level),
        now=time.time,
    )


def _tell_envoy(settings: Settings, level: str) -> bool:
    """By its admin socket, if it has one and it is here."""
    if settings.envoy_admin == "off":
        return False
    try:
        for asked in (f"level={logs.ENVOY_LEVELS[level]}", _MISC):
            connection = UnixConnection(settings.envoy_admin_socket, _PATIENCE_S)
            try:
                connection.request("POST", f"/logging?{asked}")
                if connection.getresponse().status != http.client.OK:
                    return False
            finally:
                connection.close()
    except (OSError, http.client.HTTPException):
        return False
    return True
