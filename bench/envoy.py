"""The Envoy of the hot path: `authz envoy config`'s own, but for where a request ends.

- Envoy answers itself what was allowed (a direct_response behind ext_authz). An upstream would be
  one more process on the same processors, and its part would be in every figure: with the
  cheapest there is (`bench.upstream`) a do-nothing authorizer (`ceiling`) came to 8,500 requests a
  second and without it to 12,100, and so much closer together would all the others be.
- The mapping of local replies is left out: an answer of Envoy's own would pass through it, which
  no upstream's does.
- `/unasked/` answers the same without asking, for what asking adds.

Everything else is what the sidecar runs with: one worker, one connection to the authorizer, the
same limits and time-outs.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from authz import envoy_config
from authz.core.names import PROXY_PREFIX
from authz.envoy_config import EXT_AUTHZ, Config, EnvoyOptions
from authz.settings import ENVOY_ADMIN_SOCKET, Settings
from authz.supervisor import envoy_binary
from bench import processes
from bench.asked import UNASKED_PATH
from tests.e2e import sidecar

_UNASKED_PREFIX: Final = UNASKED_PATH[: UNASKED_PATH.index("/", 1) + 1]
_ANSWER: Final = {"status": 200, "body": {"inline_string": "ok\n"}}
_COUNTERS: Final = "ext_authz.sidecar."


class Envoy(NamedTuple):
    """A running one."""

    pid: int
    url: str
    admin: Path

    def answers(self) -> int:
        """How many decisions it has had so far."""
        counted = self._counted()
        return counted.get("ok", 0) + counted.get("denied", 0)

    def failures(self) -> int:
        """How often it had no answer in time, or one that it could not read."""
        return self._counted().get("error", 0)

    def _counted(self) -> dict[str, int]:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.admin))) as client:
            url = f"http://envoy/stats?format=json&filter=^http.sidecar.*{_COUNTERS}"
            listed = client.get(url).raise_for_status().json()["stats"]
        return {
            one["name"].rpartition(".")[2]: int(one["value"]) for one in listed if "value" in one
        }


@contextlib.contextmanager
def running(directory: Path, env: Mapping[str, str]) -> Iterator[Envoy]:
    """An Envoy before whatever listens on the ext_authz socket of this environment's sidecar."""
    port = sidecar.free_port()
    settings = Settings.from_env({**env, "PORT": str(port)})
    options = EnvoyOptions.of(settings)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    envoy_config.write_mode(options.mode, options.decision_timeout_ms, options.run_dir)
    config = directory / "envoy.yaml"
    config.write_text(envoy_config.to_yaml(bootstrap(options)))
    log = directory / "envoy.log"
    with processes.running(
        [
            str(envoy_binary(settings.envoy_bin)),
            *("--config-path", str(config)),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ],
        log,
        env={"PATH": os.environ["PATH"], "TZ": "UTC"},
    ) as process:
        envoy = Envoy(process.pid, f"http://127.0.0.1:{port}", options.run_dir / ENVOY_ADMIN_SOCKET)
        processes.wait_until(process, lambda: _is_ready(process, envoy), log)
        yield envoy


def bootstrap(options: EnvoyOptions) -> Config:
    """The sidecar's bootstrap, in which requests end."""
    config = envoy_config.bootstrap(options, options.run_dir)
    [listener] = config["static_resources"]["listeners"]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["local_reply_config"]
    [host] = manager["route_config"]["virtual_hosts"]
    routes: list[Config] = host["routes"]
    [asked] = [route for route in routes if route["match"].get("prefix") == PROXY_PREFIX]
    del asked["route"]
    asked["direct_response"] = _ANSWER
    disabled = routes[-1]["typed_per_filter_config"][EXT_AUTHZ]
    routes.insert(
        0,
        {
            "match": {"prefix": _UNASKED_PREFIX},
            "direct_response": _ANSWER,
            "typed_per_filter_config": {EXT_AUTHZ: disabled},
        },
    )
    return config


def _is_ready(process: subprocess.Popen[bytes], envoy: Envoy) -> bool:
    if process.poll() is not None:
        return False
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(envoy.url + UNASKED_PATH, timeout=1).status_code == 200
    return False
