"""The files that Envoy reads, and how a change of mode reaches one that runs.

The filter comes by ECDS from a file, so that a change of mode replaces `failure_mode_allow` in
place, without a restart or a dropped connection.
"""

from pathlib import Path
from typing import Final

from authz.core.mode import Mode
from authz.envoy_config.filters import ext_authz_discovery
from authz.envoy_config.parts import to_yaml

BOOTSTRAP_FILE: Final = "envoy.yaml"
EXT_AUTHZ_FILE: Final = "ext_authz.yaml"


def write_mode(mode: Mode, decision_timeout_ms: int, directory: Path) -> None:
    """Write the filter for a mode. An Envoy that runs takes it over in place.

    Renamed over the old one: Envoy watches for that, and never reads half a file.
    """
    new = directory / f".{EXT_AUTHZ_FILE}.new"
    new.write_text(to_yaml(ext_authz_discovery(mode, decision_timeout_ms)))
    new.replace(directory / EXT_AUTHZ_FILE)
