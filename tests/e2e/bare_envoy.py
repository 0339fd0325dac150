"""An Envoy with a configuration of ours and no supervisor."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from authz.supervisor import envoy_binary
from tests.e2e.sidecar import PATIENCE_S


@contextlib.contextmanager
def process(path: Path, config: Path) -> Iterator[None]:
    """Run it until the block ends; what it says goes to `envoy.log` in `path`."""
    with (path / "envoy.log").open("w") as log:
        process = subprocess.Popen(
            [envoy_binary(None), "-c", config, "--disable-hot-restart",
             "--concurrency", "1", "-l", "warning", "--file-flush-interval-msec", "100"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def connects(client: httpx.Client) -> bool:
    """Somebody listens where the client asks."""
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True
