"""The files that Envoy reads, and how a change of mode reaches one that runs.

The filter comes by ECDS from a file, so that a change of mode replaces `failure_mode_allow` in
place, without a restart or a dropped connection. Where Envoy has no admin endpoint the listeners
come by LDS from one too, so that there is a way to close them.
"""

from pathlib import Path
from typing import Final

from authz.core.mode import Mode
from authz.envoy_config.filters import ext_authz_discovery
from authz.envoy_config.parts import Config, to_yaml, type_url

BOOTSTRAP_FILE: Final = "envoy.yaml"
LISTENERS_FILE: Final = "listeners.yaml"
EXT_AUTHZ_FILE: Final = "ext_authz.yaml"


def write_mode(mode: Mode, decision_timeout_ms: int, directory: Path) -> None:
    """Write the filter for a mode. An Envoy that runs takes it over in place.

    Renamed over the old one: Envoy watches for that, and never reads half a file.
    """
    _replace(directory / EXT_AUTHZ_FILE, ext_authz_discovery(mode, decision_timeout_ms))


def listeners_discovery(listeners: list[Config]) -> Config:
    """The file with the listeners where there is no admin endpoint that could close them."""
    resources = [{"@type": type_url("config.listener.v3.Listener"), **one} for one in listeners]
    return {"resources": resources}


def _replace(path: Path, content: Config) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(to_yaml(content))
    new.replace(path)
