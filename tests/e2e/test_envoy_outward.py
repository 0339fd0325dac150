"""Envoy's configuration with the forward proxy and with capture, before the real binary."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authz import envoy_config
from authz.core.mode import Mode
from authz.envoy_config import EnvoyOptions
from authz.settings import Settings, parse_upstream
from authz.supervisor import envoy_binary
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import JWT_SECRET

FORWARD = ("127.0.0.1", 3128)
CAPTURE = (("127.0.0.1", 15_001), ("::1", 15_001))
#: Of each denied network Envoy says this, because of the file that its message is declared in.
KNOWN = "message 'xds.core.v3.CidrRange' is contained in proto file"


@pytest.mark.parametrize("more", [{}, {"access_log": True, "admin": False, "workers": 2}])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("forward", "capture"), [(FORWARD, ()), (None, CAPTURE[:1]), (FORWARD, CAPTURE)]
)
def test_the_real_binary_accepts_every_variant(
    forward: tuple[str, int] | None,
    capture: tuple[tuple[str, int], ...],
    mode: Mode,
    more: dict[str, Any],
) -> None:
    with starter.directory() as path:
        options = EnvoyOptions(
            "127.0.0.1", 3100, mode, parse_upstream("http://127.0.0.1:1"), path, None, 100,
            forward=forward, capture=capture, **more,
        )  # fmt: skip
        config = envoy_config.write(options, path)
        checked = subprocess.run(
            [envoy_binary(None), "--mode", "validate", "-l", "warning", "-c", config],
            capture_output=True,
            text=True,
            check=False,
        )
    assert checked.returncode == 0, checked.stderr
    assert [line for line in checked.stderr.splitlines() if line and KNOWN not in line] == []


def test_what_is_not_wanted_is_not_there() -> None:
    options = EnvoyOptions(
        "0.0.0.0", 3100, Mode.ENFORCE, parse_upstream("http://a.test"), Path("/r"), None, 100
    )
    made = envoy_config.bootstrap(options, Path("/r"))
    assert [one["name"] for one in made["static_resources"]["listeners"]] == ["sidecar"]
    assert "bootstrap_extensions" not in made
    assert "context_extensions" not in envoy_config.to_yaml(made)
    forward = envoy_config.bootstrap(replace(options, forward=FORWARD), Path("/r"))
    names = [one["name"] for one in forward["static_resources"]["listeners"]]
    assert names == ["sidecar", "forward"]


def test_the_settings_reach_it() -> None:
    settings = Settings.from_env(
        {
            "JWT_SECRET": JWT_SECRET, "AUTHZ_RUN_DIR": "/r", "PROXY_TARGET": "http://a.test",
            "FORWARD_PROXY_PORT": "3128", "FORWARD_PROXY_HOST": "::1", "CAPTURE_PORT": "15001",
            "SIDECAR_AGENT_ID": "a", "FORWARD_DENY_CIDRS": "192.0.2.0/24",
        }
    )  # fmt: skip
    options = EnvoyOptions.of(settings)
    assert options.forward == ("::1", 3128)
    assert options.capture[0] == ("127.0.0.1", 15_001)
    text = envoy_config.to_yaml(envoy_config.bootstrap(options, Path("/r")))
    # As itself, and as the IPv6 addresses behind which it could hide.
    for network in ("192.0.2.0", "::ffff:0:0", "64:ff9b::c000:200"):
        assert f"address_prefix: '{network}'" in text or f"address_prefix: {network}" in text
    assert "169.254.0.0" not in text
